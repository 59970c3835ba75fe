"""Records as `Workspace` gives them: equal to the plain ones, and shown by notebooks as what they stand for now.

A record knows no store; these remember the one they came from and read it anew each time they are displayed. Where the
store cannot be read any more, they show what they hold. They pickle, copy and compare as the plain records do.
Cards are imported when something is shown: pages and the command line get these records too, and show none.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self, cast

from pydantic import BaseModel, PrivateAttr

from workbench.errors import WorkbenchError
from workbench.records import Completion, Dataset, Record, Run, Version, utc_now
from workbench.runs.curves import MOST_POINTS
from workbench.store import datasets as dataset_store
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.store.database import Store


class Source:
    """Where a shown record came from. Copies share it; a pickle leaves it behind."""

    __slots__ = ("store",)

    def __init__(self, store: Store | None = None) -> None:
        self.store = store

    def __deepcopy__(self, memo: dict[int, Any]) -> Source:
        return self

    def __reduce__(self) -> tuple[type[Source], tuple[()]]:
        return Source, ()


class Shown(Record):
    """What all shown records have in common."""

    noun: ClassVar[type[Record]] = Record
    """The plain record."""
    _source: Source = PrivateAttr(default_factory=Source)

    @classmethod
    def of(cls, record: Record, store: Store) -> Self:
        """A record with the store it came from."""
        made = cast("Self", cls.model_construct(record.model_fields_set, **dict(record)))
        made._source = Source(store)
        return made

    def __eq__(self, other: object) -> bool:
        # A plain record of the same content is the same thing, whichever way it was asked for.
        return isinstance(other, BaseModel) and isinstance(other, self.noun) and dict(self) == dict(other)

    def __repr_name__(self) -> str:
        return self.noun.__name__

    def _repr_html_(self) -> str:
        try:
            store = self._source.store
            return self._held("") if store is None else self._html(store)
        except WorkbenchError as problem:
            # What is gone or out of reach must not turn a cell's value into a traceback.
            return self._held(f"As it was when it was asked for: {problem.sentence()}")

    def _html(self, store: Store) -> str:
        return self._held("")

    def _held(self, note: str) -> str:
        raise NotImplementedError


class ShownRun(Shown, Run):
    """A run; displayed again, it shows how it stands then."""

    noun: ClassVar[type[Record]] = Run

    def _html(self, store: Store) -> str:
        from workbench.notebook import cards
        from workbench.runs.liveness import reap

        reap(store)
        run = run_store.get_run(store, self.id)
        return cards.run_card(run, run_store.list_metrics(store, run.id, most=MOST_POINTS), now=utc_now())

    def _held(self, note: str) -> str:
        from workbench.notebook import cards

        return cards.run_card(self, note=note)


class ShownDataset(Shown, Dataset):
    """A dataset; shows the head of its newest version."""

    noun: ClassVar[type[Record]] = Dataset

    def _html(self, store: Store) -> str:
        return _dataset_html(store, dataset_store.get_dataset(store, self.id), None)

    def _held(self, note: str) -> str:
        from workbench.notebook import cards

        return cards.dataset_card(self.model_copy(update={"description": note or self.description}), None, ())


class ShownVersion(Shown, Version):
    """A version; shows its head."""

    noun: ClassVar[type[Record]] = Version

    def _html(self, store: Store) -> str:
        return _dataset_html(store, dataset_store.get_dataset(store, self.dataset_id), self)

    def _held(self, note: str) -> str:
        from workbench.notebook import cards

        gone = Dataset(id=self.dataset_id, name=self.dataset_id, kind="instructions", created_at=self.created_at)
        return cards.dataset_card(gone.model_copy(update={"description": note}), self, (), versions=self.number)


def _dataset_html(store: Store, dataset: Dataset, version: Version | None) -> str:
    from workbench.datasets.versions import read_page
    from workbench.notebook import cards

    versions = dataset_store.list_versions(store, dataset.id)
    version = version or (versions[0] if versions else None)
    if version is None:
        return cards.dataset_card(dataset, None, ())
    rows = read_page(store, version, limit=cards.HEAD_ROWS).rows
    return cards.dataset_card(dataset, version, rows, versions=len(versions))


class ShownAnswer(Shown, Completion):
    """An answer with the name of who gave it."""

    noun: ClassVar[type[Record]] = Completion

    def _html(self, store: Store) -> str:
        from workbench.notebook import cards

        return cards.answer_card(self, model_store.get_variant(store, self.variant_id).name)

    def _held(self, note: str) -> str:
        from workbench.notebook import cards

        return cards.answer_card(self, self.variant_id)
