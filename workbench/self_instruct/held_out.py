"""What nothing may leak from: prompt sets, and what training runs measured on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from workbench.errors import UsageError
from workbench.records import Example, Message, Payload, Preference, Prompt, Version
from workbench.self_instruct.configs import AUTO
from workbench.store import datasets as dataset_store
from workbench.store import runs as run_store
from workbench.store.database import Store
from workbench.store.lineage import ALL_RUNS, read_inputs


def find_held_out(store: Store, references: Sequence[str], *, seeds: Version) -> list[Version]:
    """The versions that some references mean; `auto` means every prompt set and everything a run held out.

    Args:
        store: the store.
        references: dataset names, `name@version`, ids, or `auto`.
        seeds: the version grown from, which `auto` leaves out.

    Raises:
        NotFound: there is no such dataset or version.
        UsageError: the seeds themselves are named.
    """
    found: dict[str, Version] = {}
    for reference in references:
        if reference == AUTO:
            versions = [each for each in _automatic(store) if each.dataset_id != seeds.dataset_id]
        else:
            versions = [dataset_store.find_version(store, reference)[1]]
            if versions[0].dataset_id == seeds.dataset_id:
                remedy = "Take it out of the held-out datasets, or grow from other seeds."
                raise UsageError("the seeds cannot be held out, too", place="held_out", value=reference, remedy=remedy)
        found |= {version.id: version for version in versions}
    return list(found.values())


def _automatic(store: Store) -> list[Version]:
    newest = [dataset_store.latest_version(store, each.id) for each in dataset_store.list_datasets(store)
              if each.kind == "prompts"]  # fmt: skip
    measured = {
        inputs["held_out_version_id"]
        for run in run_store.list_runs(store, archived=True, limit=ALL_RUNS)
        if isinstance((inputs := read_inputs(store, run.id)).get("held_out_version_id"), str)
    }
    known = [
        version
        for dataset in dataset_store.list_datasets(store, archived=True)
        for version in dataset_store.list_versions(store, dataset.id)
        if version.id in measured
    ]
    return [version for version in (*newest, *known) if version is not None]


def held_out_texts(store: Store, versions: Sequence[Version]) -> Iterator[str]:
    """Questions and answers of held-out versions, one by one.

    Args:
        store: the store.
        versions: what is held out.
    """
    from workbench.datasets.versions import iter_rows

    for version in versions:
        for row in iter_rows(store, version):
            yield from (text for text in _texts(row.payload) if text.strip())


def _texts(payload: Payload) -> list[str]:
    turns: tuple[Message, ...]
    turns = (*payload.prompt, *payload.chosen) if isinstance(payload, Preference) else payload.messages
    roles = ("user", "assistant") if isinstance(payload, Example | Preference) else ("user",)
    texts = [turn.content for turn in turns if turn.role in roles]
    if isinstance(payload, Prompt) and payload.reference is not None:
        texts.append(payload.reference)
    return texts
