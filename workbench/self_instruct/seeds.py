"""The tasks people wrote, from which everything grows: those that come with the workbench, or any dataset.

A row tells instruction and input apart by its kept columns where it has them (`instruction`, `input`,
`is_classification`, as rows made here and the starter seeds do); else the first paragraph is the instruction and the
rest its input.
"""

from __future__ import annotations

from collections.abc import Iterator

from workbench.datasets.readers import open_source, read_rows
from workbench.datasets.starter import KITS_FOLDER
from workbench.errors import DataProblem, NotFound
from workbench.records import Example, Message, Version
from workbench.self_instruct.prompts import SeedTask
from workbench.store.database import Store
from workbench.store.datasets import create_dataset, get_dataset, latest_version, withdrawn_on_failure

SEEDS_NAME = "Self-instruct seeds"
SEEDS_FILE = KITS_FOLDER / "seeds" / "seeds.jsonl"
ENOUGH = 8
"""Seeds that fill the first prompt; the paper had 175."""


def install_seeds(store: Store) -> Version:
    """Put the seed tasks that come with the workbench into the store, or find them there.

    Args:
        store: the store.

    Returns:
        The newest version of the dataset, so that a person's own seeds added to it count.
    """
    try:
        dataset = get_dataset(store, SEEDS_NAME)
    except NotFound:
        words = "Hand-written tasks of many kinds, one example each, to grow a dataset from."
        dataset = create_dataset(store, SEEDS_NAME, "instructions", description=words, tags=("starter", "seeds"))
    version = latest_version(store, dataset.id)
    if version is not None:
        return version
    from workbench.datasets.versions import write_version

    provenance = {"kit": "seeds", "file": SEEDS_FILE.name}
    with withdrawn_on_failure(store, dataset.id):
        return write_version(store, dataset.id, _shipped(), message="Seed tasks", provenance=provenance)


def _shipped() -> Iterator[Example]:
    for row in read_rows(open_source(SEEDS_FILE)):
        values = dict(row.values)
        output = str(values.pop("output"))
        yield as_example(str(values["instruction"]), str(values.get("input") or ""), output, **values)


def as_example(instruction: str, given: str, output: str, /, **meta: object) -> Example:
    """A task with one example as a row to train on; the input stands after an empty line, as imports put it.

    Args:
        instruction: what to do.
        given: what to do it to; may be empty.
        output: the answer.
        meta: kept columns.
    """
    asked = f"{instruction}\n\n{given}" if given.strip() else instruction
    turns = (Message(role="user", content=asked), Message(role="assistant", content=output))
    return Example.model_validate({"messages": turns, "meta": {**meta, "instruction": instruction, "input": given}})


def read_seeds(store: Store, version: Version) -> list[SeedTask]:
    """The tasks of a version; rows without a question or an answer are passed over.

    Args:
        store: the store.
        version: instructions.

    Raises:
        DataProblem: it holds something else, or no task at all.
    """
    from workbench.datasets.versions import iter_rows

    dataset = get_dataset(store, version.dataset_id)
    if dataset.kind != "instructions":
        raise DataProblem(
            f"seeds are instructions with answers, but this dataset holds {dataset.kind}",
            place=dataset.name,
            remedy="Choose a dataset of instructions.",
        )
    seeds = [
        seed
        for row in iter_rows(store, version)
        if isinstance(row.payload, Example) and (seed := _as_seed(row.row_id, row.payload)) is not None
    ]
    if not seeds:
        raise DataProblem("no row has both a question and an answer", place=dataset.name, remedy="Add seed tasks.")
    return seeds


def _as_seed(row_id: str, example: Example) -> SeedTask | None:
    asked = next((turn.content for turn in example.messages if turn.role == "user"), "")
    answer = next((turn.content for turn in example.messages if turn.role == "assistant"), "")
    instruction, given = example.meta.get("instruction"), example.meta.get("input")
    if not isinstance(instruction, str) or not asked.startswith(instruction):  # the row was edited since
        instruction, _, given = asked.strip().partition("\n\n")
    if not instruction.strip() or not answer.strip():
        return None
    flag = example.meta.get("is_classification")
    return SeedTask(
        row_id=row_id,
        instruction=instruction.strip(),
        input=given.strip() if isinstance(given, str) else "",
        output=answer.strip(),
        is_classification=flag if isinstance(flag, bool) else None,
    )
