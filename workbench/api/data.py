"""Datasets: import, read, check, write by hand, remove."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.api.models import ModelMethods
from workbench.errors import RunProblem, UsageError
from workbench.notebook.shown import ShownDataset, ShownVersion
from workbench.records import Dataset, DatasetKind, Payload, Run, Version
from workbench.settings import typed_path
from workbench.store import datasets as dataset_store

if TYPE_CHECKING:
    from workbench.datasets.checks import CheckReport
    from workbench.datasets.importing import ImportPreview
    from workbench.datasets.inspecting import InspectedRow
    from workbench.datasets.merging import Change, Choice, Saved
    from workbench.datasets.purging import PurgeReport
    from workbench.datasets.render import Renderer
    from workbench.datasets.replacing import ReplacePreview
    from workbench.datasets.statistics import Statistics
    from workbench.datasets.versions import RowPage


class DataMethods(ModelMethods):
    """Datasets: import, read, check, write by hand, remove."""

    def datasets(self, *, kind: DatasetKind | None = None, archived: bool = False) -> list[Dataset]:
        """Datasets, newest first."""
        found = dataset_store.list_datasets(self.store, kind=kind, archived=archived)
        return [ShownDataset.of(dataset, self.store) for dataset in found]

    def dataset(self, name_or_id: str) -> Dataset:
        """The dataset of this name or id."""
        return ShownDataset.of(dataset_store.get_dataset(self.store, name_or_id), self.store)

    def _called(self, reference: str) -> str:
        """A prompt set as people call it; a mistyped name is told at once, not by a run that fails."""
        dataset, version = dataset_store.find_version(self.store, reference)
        return dataset.name if reference in (dataset.id, version.id) else reference

    def versions(self, name_or_id: str) -> list[Version]:
        """Versions of a dataset, newest first."""
        found = dataset_store.list_versions(self.store, self.dataset(name_or_id).id)
        return [ShownVersion.of(version, self.store) for version in found]

    def version(self, reference: str) -> Version:
        """The version meant by `name`, `name@3` or a version id."""
        return ShownVersion.of(dataset_store.find_version(self.store, reference)[1], self.store)

    def preview_import(self, source: Path | str, **options: Any) -> ImportPreview:
        """What an import would make of a file: format, encoding, mapping, first rows, problems. Stores nothing."""
        from workbench.datasets.importing import preview

        return preview(Path(source), **options)

    def import_data(self, source: Path | str, dataset: str, **options: Any) -> Run:
        """Import a file as a run; see `ImportConfig` for the options.

        Args:
            source: path of the file.
            dataset: name of a new dataset, or of one that gets a new version.
            options: fields of `ImportConfig`.
        """
        path = typed_path(source)  # the run works in another folder than the caller
        return self.launch("import", {"source": str(path), "dataset": dataset, **options}, name=f"Import {dataset}")

    def install_kit(self, name: str = "assistant") -> tuple[Version, Version]:
        """Put a starter kit's training rows and held-out prompts into the store; once only."""
        from workbench.datasets.starter import install_kit

        train, held_out = install_kit(self.store, name)
        return ShownVersion.of(train, self.store), ShownVersion.of(held_out, self.store)

    def rows(self, reference: str, *, offset: int = 0, limit: int = 50, search: str = "") -> RowPage:
        """A page of a version's rows, optionally only those that contain a text."""
        from workbench.datasets.versions import read_page

        return read_page(self.store, self.version(reference), offset=offset, limit=limit, search=search)

    def statistics(self, reference: str) -> Statistics:
        """Lengths, turns, duplicates of a version."""
        from workbench.datasets.statistics import describe

        return describe(self.store, self.version(reference))

    def export_data(self, reference: str, path: Path | str, format: str = "jsonl") -> Path:
        """Write a version as JSON Lines, CSV or Parquet that imports again as the same rows."""
        from workbench.datasets.exporting import export_version

        return export_version(self.store, self.version(reference), Path(path), format)

    def renderer(self, model: str) -> Renderer:
        """The one render for a base model: chat template and tokenizer.

        Raises:
            RunProblem: the model is still being added.
        """
        from workbench.datasets.render import load_renderer

        record = self.model(model)
        if record.path is None:
            remedy = "Wait for its run to finish, or start it: `workbench models add bundled`, or the Models page."
            raise RunProblem("the model is not ready yet", value=record.name, remedy=remedy)
        return load_renderer(Path(record.path))

    def inspect(self, payload: Payload, model: str) -> list[InspectedRow]:
        """The tokens a model would see for a row, each marked as supervised or not; one entry per training row."""
        from workbench.datasets.inspecting import inspect_payload
        from workbench.notebook.results import ShownTokens

        return [ShownTokens.of(row, self.store) for row in inspect_payload(payload, self.renderer(model))]

    def check_data(self, reference: str, model: str = "bundled", *, max_length: int | None = None) -> CheckReport:
        """What a training run on this version would find before it starts: rows that teach nothing or harm."""
        from workbench.datasets.checks import check_rows
        from workbench.datasets.versions import iter_rows

        return check_rows(iter_rows(self.store, self.version(reference)), self.renderer(model), max_length)

    def new_dataset(self, name: str, kind: DatasetKind = "instructions", *, description: str = "") -> Dataset:
        """An empty dataset to write rows for."""
        made = dataset_store.create_dataset(self.store, name, kind, description=description)
        return ShownDataset.of(made, self.store)

    def save_changes(
        self, dataset: str, changes: Sequence[Change], *, choices: Sequence[Choice] = (), message: str = ""
    ) -> Saved:
        """Make one version of many changes, merged row by row with what others saved since the rows were read.

        Args:
            dataset: name or id.
            changes: at most one a row, each with the version in which the row was read.
            choices: what to do about rows that somebody else changed too.
            message: what changed.

        Returns:
            The version; or the conflicts that wait for a choice, with nothing stored.
        """
        from workbench.datasets.merging import save_changes

        return save_changes(self.store, self.dataset(dataset).id, changes, choices=choices, message=message)

    def revert(self, dataset: str, number: int | None = None, *, message: str = "") -> Version:
        """Bring an older version's rows back as a new version; those of the one before the newest when None."""
        from workbench.datasets.merging import revert_version

        versions = self.versions(dataset)
        if number is None and len(versions) < 2:
            raise UsageError("there is no version before the newest", place=dataset, remedy="Nothing to go back to.")
        wanted = versions[1].number if number is None else number
        return revert_version(self.store, self.version(f"{self.dataset(dataset).id}@{wanted}"), message=message)

    def preview_replacement(self, reference: str, find: str, replace: str = "", **options: Any) -> ReplacePreview:
        """What find and replace would change in a version, text by text; nothing is stored.

        Args:
            reference: `name`, `name@3` or a version id.
            find: text, or a regular expression.
            replace: what to put there.
            options: `regex`, `match_case` and `scope`, as in `Replacement`.
        """
        from workbench.datasets.replacing import Replacement, preview_replacement
        from workbench.datasets.versions import iter_rows

        rows = ((row.row_id, row.payload) for row in iter_rows(self.store, self.version(reference)))
        return preview_replacement(rows, Replacement(find=find, replace=replace, **options))

    def delete_dataset(self, name_or_id: str) -> None:
        """Delete a dataset that nothing refers to, for good."""
        from workbench.store.deletion import delete_dataset

        delete_dataset(self.store, name_or_id)

    def delete_version(self, reference: str) -> None:
        """Delete a version that nothing refers to, for good."""
        from workbench.store.deletion import delete_version

        delete_version(self.store, self.version(reference).id)

    def purge_row(self, dataset: str, row_id: str) -> PurgeReport:
        """Remove a person's row from every version, answer, ranking, log and draft, and leave a mark."""
        from workbench.datasets.purging import purge_row

        self.runs(limit=1)  # what vanished is no longer at work
        return purge_row(self.store, dataset, row_id)
