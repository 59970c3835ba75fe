"""What nothing may leak from: prompt sets, and what training runs measured on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from workbench.errors import DataProblem, NotFound, UsageError
from workbench.records import Example, Labelled, Message, Payload, Preference, Prompt, Record, Row, Run, Version
from workbench.self_instruct.configs import AUTO
from workbench.store import datasets as dataset_store
from workbench.store import runs as run_store
from workbench.store.database import Store
from workbench.store.lineage import ALL_RUNS, read_inputs

MOST_SHARES = 100
"""Splits that `auto` guards at most, those of the newest runs."""


class HeldOutShare(Record):
    """Rows that training runs kept apart by a share: the same version, share and seed are the same rows."""

    version_id: str
    """What was trained on."""
    share: float
    """Share of its rows, above 0 and below 1."""
    seed: int
    """Seed of the split."""


def find_held_out(store: Store, references: Sequence[str], *, seeds: Version) -> list[Version]:
    """The versions that some references mean; `auto` means every prompt set and every dataset a run measured on.

    Rows that were held out by a share are found by `find_held_out_shares`.

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


def find_held_out_shares(store: Store, references: Sequence[str], *, seeds: Version) -> tuple[HeldOutShare, ...]:
    """The rows that training runs held out by a share of their own dataset, where `auto` is among the references.

    Args:
        store: the store.
        references: as for `find_held_out`; only `auto` means these.
        seeds: the version grown from, whose dataset is left out.
    """
    if AUTO not in references:
        return ()
    found: dict[HeldOutShare, None] = {}
    for run in run_store.list_runs(store, archived=True, limit=ALL_RUNS):
        share = _share_of(store, run)
        if share is None or share in found:
            continue
        try:
            version = dataset_store.get_version(store, share.version_id)
        except NotFound:
            continue
        if version.dataset_id != seeds.dataset_id:
            found[share] = None
        if len(found) == MOST_SHARES:
            break
    return tuple(found)


def _share_of(store: Store, run: Run) -> HeldOutShare | None:
    share, seed = run.spec.get("held_out"), run.spec.get("seed", 0)
    if not isinstance(share, float) or not 0 < share < 1 or not isinstance(seed, int):
        return None
    inputs = read_inputs(store, run.id)  # only a training run that began has pinned any
    version_id = inputs.get("version_id")
    if not isinstance(version_id, str) or inputs.get("held_out_version_id") is not None:
        return None
    return HeldOutShare(version_id=version_id, share=share, seed=seed)


def held_out_texts(store: Store, versions: Sequence[Version], shares: Sequence[HeldOutShare] = ()) -> Iterator[str]:
    """Questions and answers of held-out versions and rows, one by one.

    Args:
        store: the store.
        versions: what is held out whole.
        shares: splits whose held-out side counts; one whose version was deleted since guards nothing any more.
    """
    from workbench.datasets.versions import iter_rows

    for version in versions:
        for row in iter_rows(store, version):
            yield from (text for text in _texts(row.payload) if text.strip())
    whole = {version.id for version in versions}
    for share in shares:
        if share.version_id not in whole:
            for row in _rows_apart(store, share):
                yield from (text for text in _texts(row.payload) if text.strip())


def _rows_apart(store: Store, share: HeldOutShare) -> list[Row]:
    """The held-out side of a split, found as training found it."""
    from workbench.datasets.versions import iter_rows, split_held_out

    try:
        rows = list(iter_rows(store, dataset_store.get_version(store, share.version_id)))
        apart = set(split_held_out(rows, share.share, share.seed)[1])
    except (NotFound, DataProblem):  # deleted since, or of one prompt only, and then nothing was held out
        return []
    return [row for row in rows if row.row_id in apart]


def _texts(payload: Payload) -> list[str]:
    turns: tuple[Message, ...]
    if isinstance(payload, Preference):
        turns = (*payload.prompt, *payload.chosen)
    else:
        turns = (*payload.prompt, *payload.completion) if isinstance(payload, Labelled) else payload.messages
    roles = ("user", "assistant") if isinstance(payload, Example | Preference | Labelled) else ("user",)
    texts = [turn.content for turn in turns if turn.role in roles]
    if isinstance(payload, Prompt) and payload.reference is not None:
        texts.append(payload.reference)
    return texts
