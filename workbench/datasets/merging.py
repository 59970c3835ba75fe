"""How edits become a version, and how two people's edits come together, row by row.

`Edits` says what one person did to one version. Saved over a newer version, a row that only one side touched is taken
as it is; one that both changed is a conflict for a person to settle, so that no words are dropped without a say.
Writing the version is left to `versions`, the rules of a row to `editing`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from workbench.datasets.editing import require_sound
from workbench.datasets.payloads import decode_payload, encode_payload
from workbench.datasets.versions import VersionWriter, edit_version, iter_encoded, write_version
from workbench.errors import Conflict, NotFound, UsageError
from workbench.records import Payload, Record, Version
from workbench.store.database import Store
from workbench.store.datasets import get_dataset, get_version, latest_version

TRIES = 5
"""How often a save is merged anew because somebody else was quicker, before it gives up."""


class Edits(Record):
    """What one person did to a version."""

    replaced: dict[str, Payload] = {}
    """Row id → what the row says now."""
    removed: tuple[str, ...] = ()
    """Row ids that were deleted."""
    appended: tuple[Payload, ...] = ()
    """New rows, in order."""

    def __len__(self) -> int:
        return len(self.replaced) + len(self.removed) + len(self.appended)

    def told(self) -> str:
        """`2 edited, 1 new, 1 deleted`."""
        counts = ((len(self.replaced), "edited"), (len(self.appended), "new"), (len(self.removed), "deleted"))
        return ", ".join(f"{number:,} {word}" for number, word in counts if number)


class Change(Record):
    """What was done to one row, and where the row was read."""

    row_id: str | None = None
    """The row; None for a new one."""
    base_id: str | None = None
    """The version in which the row was read; not needed for a new one."""
    payload: Payload | None = None
    """What the row says now; None where it was deleted."""


class RowConflict(Record):
    """A row that both sides changed, each in another way."""

    row_id: str
    """The row."""
    base: Payload
    """What both started from."""
    mine: Payload | None
    """What I made of it; None where I deleted it."""
    theirs: Payload | None
    """What stands in the newest version; None where it was deleted there."""
    theirs_hash: str | None
    """Its row hash, so that a choice holds only for what was seen."""


class Choice(Record):
    """What a person decides about a conflict."""

    row_id: str
    """The row."""
    take: Literal["mine", "theirs", "both"]
    """`both` keeps theirs and adds mine as a new row. Mine over a row deleted meanwhile comes back as a new row."""
    theirs_hash: str | None = None
    """The newest version's row hash as it was seen; the choice does not count for any other."""


class Merge(Record):
    """Edits of one version brought over a newer one."""

    clean: Edits = Edits()
    """What can be applied as it is."""
    conflicts: tuple[RowConflict, ...] = ()
    """What a person must choose."""
    same: tuple[str, ...] = ()
    """Rows that need nothing: both sides did the same, or nothing changed."""


class Saved(Record):
    """What became of a save."""

    version: Version | None
    """The version that holds the changes; None while conflicts wait for a choice, and then nothing was stored."""
    over: Version | None
    """The newest version that the changes were brought over."""
    applied: Edits = Edits()
    """What was applied to it."""
    conflicts: tuple[RowConflict, ...] = ()
    """Rows that wait for a choice."""


def rows_by_id(store: Store, version: Version, ids: Iterable[str]) -> dict[str, tuple[str, Payload]]:
    """Row hash and payload of the rows of these ids that the version has.

    Raises:
        DataProblem: a file is missing or damaged.
    """
    wanted, kind = set(ids), get_dataset(store, version.dataset_id).kind
    found: dict[str, tuple[str, Payload]] = {}
    for row_id, row_hash, text in iter_encoded(store, version) if wanted else ():
        if row_id in wanted:
            found[row_id] = (row_hash, decode_payload(kind, text))
    return found


def merge_edits(store: Store, base: Version | None, mine: Edits, latest: Version | None) -> Merge:
    """Bring edits of one version over a newer one of the same dataset, row by row.

    Args:
        store: the store.
        base: the version that the edits were made on; None where they only append.
        mine: the edits.
        latest: the newest version, perhaps `base` itself; None for a dataset without any.

    Raises:
        UsageError: the versions belong to different datasets, or a row is both replaced and removed.
        NotFound: `base` has no such row.
    """
    touched: dict[str, Payload | None] = {**mine.replaced, **dict.fromkeys(mine.removed)}
    if len(touched) < len(mine.replaced) + len(set(mine.removed)):
        raise UsageError("a row cannot be replaced and removed at once")
    if not touched:
        return Merge(clean=mine)
    if base is None or latest is None or base.dataset_id != latest.dataset_id:
        raise UsageError("edits are merged between versions of one dataset", value=base.id if base else None)
    before = rows_by_id(store, base, touched)
    if missing := sorted(touched.keys() - before.keys()):
        raise NotFound("no such row in this version", value=missing[0], remedy="Look at the version's rows again.")
    now = before if latest.id == base.id else rows_by_id(store, latest, touched)
    replaced: dict[str, Payload] = {}
    removed, same, conflicts = [], [], []
    for row_id, payload in touched.items():
        was, row = before[row_id], now.get(row_id)
        theirs = row[0] if row else None
        made = None if payload is None else encode_payload(payload)[1]
        if made in (was[0], theirs):
            same.append(row_id)
        elif theirs == was[0]:
            if payload is None:
                removed.append(row_id)
            else:
                replaced[row_id] = payload
        else:
            other = row[1] if row else None
            conflicts.append(RowConflict(row_id=row_id, base=was[1], mine=payload, theirs=other, theirs_hash=theirs))
    clean = Edits(replaced=replaced, removed=tuple(removed), appended=mine.appended)
    return Merge(clean=clean, conflicts=tuple(conflicts), same=tuple(same))


def apply_choices(merge: Merge, choices: Iterable[Choice]) -> Merge:
    """A merge with the conflicts that a person has decided moved to its clean edits.

    A choice made over another state of their row than the one that stands there now does not count.

    Raises:
        UsageError: `both` was chosen for a row that one side deleted.
    """
    chosen = {choice.row_id: choice for choice in choices}
    replaced, removed, appended = dict(merge.clean.replaced), [*merge.clean.removed], [*merge.clean.appended]
    left = []
    for conflict in merge.conflicts:
        choice = chosen.get(conflict.row_id)
        if choice is None or choice.theirs_hash != conflict.theirs_hash:
            left.append(conflict)
        elif choice.take == "both" and (conflict.mine is None or conflict.theirs is None):
            raise UsageError(
                "one side deleted this row, so that there are not two to keep", place=f"row {conflict.row_id}",
                remedy="Take mine or theirs.",
            )  # fmt: skip
        elif choice.take == "theirs":
            continue
        elif conflict.mine is None:
            removed.append(conflict.row_id)
        elif choice.take == "both" or conflict.theirs is None:
            appended.append(conflict.mine)
        else:
            replaced[conflict.row_id] = conflict.mine
    clean = Edits(replaced=replaced, removed=tuple(removed), appended=tuple(appended))
    return merge.model_copy(update={"clean": clean, "conflicts": tuple(left)})


def merge_changes(store: Store, changes: Sequence[Change], latest: Version | None) -> Merge:
    """Changes whose rows were read in different versions, brought over the newest one.

    Raises:
        UsageError: a row is changed twice.
        NotFound: a row is not in the version where it is said to have been read.
    """
    bases: dict[str | None, list[Change]] = {}
    seen: set[str] = set()
    for change in changes:
        if change.row_id in seen:
            raise UsageError("a row is changed twice", value=change.row_id, remedy="Put its changes into one.")
        if change.row_id is not None:
            seen.add(change.row_id)
        bases.setdefault(change.base_id if change.row_id is not None else None, []).append(change)
    replaced: dict[str, Payload] = {}
    removed: list[str] = []
    conflicts: list[RowConflict] = []
    same: list[str] = []
    for base_id, group in bases.items():
        part = merge_edits(store, get_version(store, base_id) if base_id else None, _edits(group), latest)
        replaced |= part.clean.replaced
        removed += part.clean.removed
        conflicts += part.conflicts
        same += part.same
    appended = tuple(c.payload for c in changes if c.row_id is None and c.payload is not None)
    clean = Edits(replaced=replaced, removed=tuple(removed), appended=appended)
    return Merge(clean=clean, conflicts=tuple(conflicts), same=tuple(same))


def _edits(changes: Iterable[Change]) -> Edits:
    replaced: dict[str, Payload] = {}
    removed = []
    for change in changes:
        if change.row_id is None:
            continue
        if change.payload is None:
            removed.append(change.row_id)
        else:
            replaced[change.row_id] = change.payload
    return Edits(replaced=replaced, removed=tuple(removed))


def save_changes(
    store: Store, dataset_id: str, changes: Sequence[Change], *, choices: Iterable[Choice] = (), message: str = ""
) -> Saved:
    """Make a version of changes, merged with what others saved meanwhile; also when they save at the same moment.

    Args:
        store: the store.
        dataset_id: the dataset; it may have no version yet.
        changes: at most one a row.
        choices: what to do about rows that both sides changed.
        message: what changed; counts where empty.

    Returns:
        The version; or, with nothing stored, the conflicts that no choice settles. Changes that come to nothing give
        the newest version as it is.

    Raises:
        DataProblem: a row breaks the rules, is of another kind, or nothing would be left.
        UsageError: there is nothing to save, or a row is changed twice.
        Conflict: others save so fast that the merge never got its turn.
        StoreProblem: the disk or the database refuses; nothing is stored.
    """
    if not changes:
        raise UsageError("there is nothing to save", remedy="Change a row first.")
    choices = tuple(choices)
    for number, change in enumerate(changes, start=1):
        if change.payload is not None:
            require_sound(change.payload, place=f"row {change.row_id}" if change.row_id else f"change {number}")
    tries = TRIES
    while True:
        latest, tries = latest_version(store, dataset_id), tries - 1
        merge = apply_choices(merge_changes(store, changes, latest), choices)
        if merge.conflicts:
            return Saved(version=None, over=latest, applied=merge.clean, conflicts=merge.conflicts)
        words = message.strip() or merge.clean.told()
        try:
            version = _write(store, dataset_id, latest, merge.clean, words)
            return Saved(version=version, over=latest, applied=merge.clean)
        except Conflict:
            if not tries:
                raise


def _write(store: Store, dataset_id: str, latest: Version | None, edits: Edits, message: str) -> Version:
    if latest is None:
        return write_version(store, dataset_id, edits.appended, message=message, provenance={"crafted": True})
    return edit_version(
        store, latest, replaced=edits.replaced, removed=edits.removed, appended=edits.appended, message=message
    )


def revert_version(store: Store, version: Version, *, message: str = "") -> Version:
    """Bring the rows of an older version back as the newest, under their own ids; what lies between is kept.

    Args:
        store: the store.
        version: the version whose rows are wanted.
        message: what changed; names the version where empty.

    Returns:
        The new version; the newest one where it says the same already.

    Raises:
        Conflict: somebody else added a version meanwhile.
        StoreProblem: the disk or the database refuses; nothing is stored.
    """
    latest = latest_version(store, version.dataset_id)
    if latest is None or latest.content_hash == version.content_hash:
        return latest or version
    with VersionWriter(store, parent=latest, match=False) as writer:
        for row_id, row_hash, text in iter_encoded(store, version):
            writer.add_encoded(text, row_hash, row_id)
        words = message.strip() or f"Back to version {version.number}"
        return writer.commit(version.dataset_id, message=words, provenance={"reverted_to": version.id})
