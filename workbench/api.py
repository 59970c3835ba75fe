"""The workbench as a library: what the pages, the command line and notebooks call.

`Workspace` is a thin front over the floors below: one method per thing a person can do, nothing decided here that a
lower floor could decide. Everything heavy is imported where it is used, so that `import workbench` stays light and the
page process never loads torch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import NotFound, RunProblem, UsageError
from workbench.notebook.shown import ShownAnswer, ShownDataset, ShownRun, ShownVersion
from workbench.records import (
    Completion,
    Dataset,
    DatasetKind,
    Message,
    Metric,
    Model,
    ModelSource,
    Payload,
    Ranking,
    RankQueue,
    Run,
    RunConfig,
    RunState,
    Sampling,
    Server,
    Variant,
    Version,
    new_id,
    utc_now,
)
from workbench.settings import Settings, get_settings, typed_path
from workbench.store import answers as answer_store
from workbench.store import datasets as dataset_store
from workbench.store import models as model_store
from workbench.store import rankings as rank_store
from workbench.store import runs as run_store
from workbench.store.database import Store

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
    from workbench.evaluation.aggregate import AnswerGrid
    from workbench.generation.client import ChatClient, StreamHandle
    from workbench.preferences.leaderboard import Leaderboard
    from workbench.preferences.pairs import Built
    from workbench.preferences.queues import BlindItem
    from workbench.runs.comparing import Comparison
    from workbench.runs.engines import Endpoint
    from workbench.runs.reproduce import Finding, Manifest
    from workbench.self_instruct.diversity import Diversity
    from workbench.self_instruct.review import CandidatePage, Funnel, Include
    from workbench.store.candidates import Review, Verdict
    from workbench.store.lineage import Lineage
    from workbench.store.rankings import HandedItem, QueueProgress
    from workbench.training.forecast import Forecast
    from workbench.training.reward_diagnostics import RewardReport
    from workbench.training.reward_models import RewardModel
    from workbench.training.score import ScoreReport


class Workspace:
    """One home folder with its datasets, models, runs and answers.

    Args:
        home: the folder; default `WORKBENCH_HOME` or `~/.workbench`.
        settings: all settings, instead of `home`.

    Raises:
        StoreProblem: the folder or the database cannot be used.
    """

    def __init__(self, home: Path | str | None = None, *, settings: Settings | None = None) -> None:
        if settings is None:
            settings = get_settings() if home is None else Settings(home=Path(home))
        self.settings = settings
        self.store = Store(settings)

    def __repr__(self) -> str:
        return f"Workspace({str(self.settings.home)!r})"

    # Data ------------------------------------------------------------------------------------------------------

    def datasets(self, *, kind: DatasetKind | None = None, archived: bool = False) -> list[Dataset]:
        """Datasets, newest first."""
        found = dataset_store.list_datasets(self.store, kind=kind, archived=archived)
        return [ShownDataset.of(dataset, self.store) for dataset in found]

    def dataset(self, name_or_id: str) -> Dataset:
        """The dataset of this name or id."""
        return ShownDataset.of(dataset_store.get_dataset(self.store, name_or_id), self.store)

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

    # Craft -----------------------------------------------------------------------------------------------------

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

    # Models ----------------------------------------------------------------------------------------------------

    def models(self, *, archived: bool = False) -> list[Model]:
        """Base models, oldest first; the bundled one is always there."""
        from workbench.models.adding import ensure_bundled

        ensure_bundled(self.store)
        return model_store.list_models(self.store, archived=archived)

    def model(self, name_or_id: str) -> Model:
        """The base model of this name or id; `bundled` means the bundled one."""
        if name_or_id == "bundled":
            from workbench.models.adding import ensure_bundled

            return ensure_bundled(self.store)
        return model_store.get_model(self.store, name_or_id)

    def add_model(self, source: str, reference: str = "", *, name: str | None = None, **options: Any) -> Run:
        """Add a base model as a run: `bundled`, a `hub` id, a `local` folder or a `gguf` file."""
        if source in (ModelSource.LOCAL, ModelSource.GGUF) and reference:
            reference = str(typed_path(reference))  # the run works in another folder than the caller
        config = {"source": source, "reference": reference, "name": name, **options}
        return self.launch("add_model", config, name=f"Add {name or reference or 'the bundled model'}")

    def variants(self, *, archived: bool = False) -> list[Variant]:
        """What can answer, oldest first."""
        return model_store.list_variants(self.store, archived=archived)

    def variant(self, name_or_id: str) -> Variant:
        """The variant of this name or id."""
        return model_store.get_variant(self.store, name_or_id)

    def import_adapter(self, folder: Path | str, model: str, name: str) -> Variant:
        """Take in a PEFT LoRA folder made elsewhere, after checking that it fits the base."""
        from workbench.models.adapters import import_adapter

        return import_adapter(self.store, Path(folder), self.model(model), name)

    def servers(self) -> list[Server]:
        """Remote servers."""
        return model_store.list_servers(self.store)

    def add_server(self, name: str, base_url: str, key: str = "") -> Server:
        """Add an OpenAI-compatible server after probing it; the key goes to a 0600 file."""
        from workbench.generation.servers import add_server

        return add_server(self.store, name, base_url, key)

    def remote_variant(self, server: str, model: str) -> Variant:
        """The variant for one model of a remote server."""
        from workbench.generation.servers import remote_variant

        return remote_variant(self.store, model_store.get_server(self.store, server), model)

    # Runs ------------------------------------------------------------------------------------------------------

    def launch(self, kind: str, config: RunConfig | Mapping[str, Any], *, name: str | None = None) -> Run:
        """Start a run of a kind, or queue it when its slot is taken.

        Args:
            kind: a key of `workbench.runs.kinds.KINDS`.
            config: the kind's config, or its fields.
            name: shown name; made from the config when None.

        Raises:
            UsageError: the kind is unknown or the config does not hold.
            NotFound: a training run names a dataset, model, variant or reward model that is not there.
        """
        from workbench.runs.kinds import parse_config
        from workbench.runs.launch import launch_run
        from workbench.training.configs import TrainingConfig
        from workbench.training.rows import check_named

        config = parse_config(kind, config)
        if isinstance(config, TrainingConfig):
            check_named(self.store, config)  # a mistyped name is told at once, not by a run that fails
        return ShownRun.of(launch_run(self.store, kind, config, name=name), self.store)

    def train(
        self, method: str, dataset: str, *, model: str = "bundled", name: str | None = None, **options: Any
    ) -> Run:
        """Train an adapter or a reward model on a dataset, in the background.

        Args:
            method: sft, reward, dpo, kto, rloo or grpo: a kind of run that trains.
            dataset: a name, a name@version or an id.
            model: the base model.
            name: of the run and of what it makes.
            options: further fields of the method's config, as `workbench train METHOD --help` lists them.

        Raises:
            UsageError: no such method, or a setting does not hold.
            NotFound: dataset, model or reward model are not there.
        """
        from workbench.runs.kinds import training_kinds

        methods = [kind.name for kind in training_kinds()]
        if method not in methods:
            remedy = f"Choose one of {', '.join(methods)}."
            raise UsageError("no such method of training", place="method", value=method, remedy=remedy)
        config = {"dataset": dataset, "model": self.model(model).id, "name": name or "", **options}
        return self.launch(method, config, name=name)

    def forecast(self, kind: str, config: RunConfig | Mapping[str, Any]) -> Forecast:
        """Memory and time a training run will need, with the parts."""
        from workbench.runs.kinds import parse_config
        from workbench.training.forecast import forecast_run

        return forecast_run(self.store, parse_config(kind, config))

    def runs(self, **filters: Any) -> list[Run]:
        """Runs, newest first; what vanished is told as interrupted. Filters as in `workbench.store.runs.list_runs`."""
        from workbench.runs.liveness import reap

        reap(self.store)
        return [ShownRun.of(run, self.store) for run in run_store.list_runs(self.store, **filters)]

    def run(self, run_id: str) -> Run:
        """The run of this id, its state made truthful first."""
        from workbench.runs.liveness import reap

        reap(self.store)
        return ShownRun.of(run_store.get_run(self.store, run_id), self.store)

    def metrics(self, run_id: str, names: Sequence[str] | None = None, *, most: int | None = None) -> list[Metric]:
        """Metric points of a run; with `most`, about so many of each series."""
        return run_store.list_metrics(self.store, run_id, names, most=most)

    def samples(self, run_id: str) -> list[dict[str, Any]]:
        """Sample answers drawn while the model learned."""
        return run_store.list_samples(self.store, run_id)

    def log(self, run_id: str, *, tail_bytes: int = 65_536) -> str:
        """The end of a run's log."""
        path = self.settings.run_dir(run_store.get_run(self.store, run_id).id) / "worker.log"
        if not path.exists():
            return ""
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - tail_bytes))
            return stream.read().decode("utf-8", "replace")

    def stop(self, run_id: str) -> Run:
        """Ask a run to write its checkpoint and stop; a queued one is stopped at once."""
        from workbench.runs.launch import stop_run

        return ShownRun.of(stop_run(self.store, run_id), self.store)

    def resume(self, run_id: str) -> Run:
        """Continue a stopped, failed or interrupted run from its last checkpoint."""
        from workbench.runs.launch import resume_run

        return ShownRun.of(resume_run(self.store, run_id), self.store)

    def clone(self, run_id: str, *, name: str | None = None, **changes: Any) -> Run:
        """Launch a run with another run's config, some fields changed."""
        run = run_store.get_run(self.store, run_id)
        return self.launch(run.kind, {**run.spec, **changes}, name=name or f"{run.name} copy")

    def edit_run(
        self,
        run_id: str,
        *,
        name: str | None = None,
        tags: Sequence[str] | None = None,
        notes: str | None = None,
        archived: bool | None = None,
    ) -> Run:
        """Change a run's name, tags, notes, or put it away."""
        from workbench.runs.launch import archive_run

        if name is not None:
            run_store.rename_run(self.store, run_id, name)
        if tags is not None:
            run_store.tag_run(self.store, run_id, tags)
        if notes is not None:
            run_store.update_run(self.store, run_id, notes=notes)
        if archived is not None:
            archive_run(self.store, run_id, archived)
        return ShownRun.of(run_store.get_run(self.store, run_id), self.store)

    def wait(self, run_id: str, *, timeout_s: float | None = None, poll_s: float = 0.3) -> Run:
        """Block until a run has ended.

        Raises:
            RunProblem: it is still at work after `timeout_s`.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while (run := self.run(run_id)).state.active:
            if deadline is not None and time.monotonic() > deadline:
                raise RunProblem("the run is still at work", place=run.name, value=run.state.value)
            time.sleep(poll_s)
        return run

    # Text ------------------------------------------------------------------------------------------------------

    def client(self, variant: str) -> ChatClient:
        """The client for a variant; finds or starts the local engine of its base."""
        from workbench.runs.engines import client_for

        return client_for(self.store, self.variant(variant))

    def engine(self, model: str) -> Endpoint:
        """Where a base model's local engine listens; starts it where needed."""
        from workbench.runs.engines import ensure_engine

        return ensure_engine(self.store, self.model(model).id)

    def generate(
        self, variant: str, prompt: str | Sequence[Message], *, system: str = "", **sampling: Any
    ) -> Completion:
        """Answer a prompt with a variant and wait for the whole text.

        Args:
            variant: name or id.
            prompt: a user turn, or a conversation that ends with one.
            system: system prompt, for a plain-text prompt.
            sampling: fields of `Sampling`.
        """
        asked = as_messages(prompt, system), as_sampling(sampling)  # told before an engine is started for it
        with closing(self.client(variant)) as client:
            return ShownAnswer.of(client.complete(*asked), self.store)

    def compare(
        self, variants: Sequence[str], prompt: str | Sequence[Message], *, system: str = "", **sampling: Any
    ) -> Comparison:
        """Answer a prompt with several variants at once; one that fails says so in its pane.

        Args:
            variants: names or ids; `base` is the bundled model.
            prompt: a user turn, or a conversation that ends with one.
            system: system prompt, for a plain-text prompt.
            sampling: fields of `Sampling`, for all alike.
        """
        from workbench.notebook.results import ShownComparison
        from workbench.runs.comparing import compare_answers

        asked = as_messages(prompt, system), as_sampling(sampling)
        chosen = [find_variant(self, name) for name in dict.fromkeys(variants)]
        if not chosen:
            raise UsageError("no variant was chosen", place="variants", remedy="Choose at least one.")
        return ShownComparison.of(compare_answers(self.store, chosen, *asked), self.store)

    def stream(
        self, variant: str, prompt: str | Sequence[Message], *, system: str = "", **sampling: Any
    ) -> StreamHandle:
        """Answer a prompt piece by piece."""
        asked = as_messages(prompt, system), as_sampling(sampling)
        return self.client(variant).stream(*asked)

    # Prompt sets -----------------------------------------------------------------------------------------------

    def answer_prompts(self, prompts: str, variants: Sequence[str], **options: Any) -> Run:
        """Answer a prompt set with several variants, in the background; see `AnswerConfig` for the options."""
        ids = [self.variant(name).id for name in variants]
        if not ids:
            raise UsageError("no variant was chosen", place="variants", remedy="Choose at least one.")
        name = f"Answers to {self._called(prompts)}"
        return self.launch("answer", {"prompts": prompts, "variants": ids, **options}, name=name)

    def answers(self, run_id: str) -> AnswerGrid:
        """A prompt set's answers as a grid, with scores and intervals where there is a scorer."""
        from workbench.evaluation.aggregate import load_grid
        from workbench.notebook.results import ShownGrid

        return ShownGrid.of(load_grid(self.store, run_store.get_run(self.store, run_id)), self.store)

    def conversations(self, **filters: Any) -> list[Any]:
        """Playground conversations, newest first."""
        return list(answer_store.list_conversations(self.store, **filters))

    # Self-instruct ---------------------------------------------------------------------------------------------

    def install_seeds(self) -> Version:
        """Put the hand-written seed tasks that come with the workbench into the store, or find them there."""
        from workbench.self_instruct.seeds import install_seeds

        return install_seeds(self.store)

    def self_instruct(self, variant: str, *, seeds: str | None = None, name: str | None = None, **options: Any) -> Run:
        """Grow a dataset from seed tasks with a variant, in the background; see `SelfInstructConfig` for the options.

        Args:
            variant: who writes, by name or id; `base` is the bundled model itself.
            seeds: tasks by people, a dataset by name, `name@version` or id; those that ship when None.
            name: shown name of the run.
            options: other fields of `SelfInstructConfig`.
        """
        chosen = find_variant(self, variant)
        for reference in (seeds, *(each for each in options.get("held_out", ()) if each != "auto")):
            if reference is not None:
                self.version(reference)  # a mistyped name is told at once, not by a run that fails
        config = {"variant": chosen.id, "seeds": seeds, **options}
        return self.launch("self_instruct", config, name=name or f"Grow tasks with {chosen.name}")

    def candidates(self, run_id: str, *, threshold: float | None = None, **filters: Any) -> CandidatePage:
        """A page of what a self-instruct run wrote, with decisions and reviews.

        Args:
            run_id: the run.
            threshold: decide novelty again under this ROUGE-L F1, without generating; the run's own when None.
            filters: state, reason, review, search, offset and limit, as in `review.page_candidates`.
        """
        from workbench.notebook.growing import ShownCandidates
        from workbench.self_instruct.review import load_board, page_candidates

        page = page_candidates(load_board(self.store, run_id, threshold=threshold), **filters)
        return ShownCandidates.of(page, self.store)

    def funnel(self, run_id: str, *, threshold: float | None = None) -> Funnel:
        """What became of everything a self-instruct run wrote: read, passed, answered, kept, accepted, and why not."""
        from workbench.notebook.growing import ShownFunnel
        from workbench.self_instruct.review import load_board, measure_funnel

        board = load_board(self.store, run_id, threshold=threshold)
        return ShownFunnel.of(measure_funnel(board, self.store), self.store)

    def diversity(self, run_id: str, *, threshold: float | None = None, include: Include = "unrejected") -> Diversity:
        """Verbs and nouns of a self-instruct run's tasks, all that nobody rejected or those accepted only."""
        from workbench.notebook.growing import ShownDiversity
        from workbench.self_instruct.review import board_diversity, load_board

        board = load_board(self.store, run_id, threshold=threshold)
        return ShownDiversity.of(board_diversity(board, include=include), self.store)

    def review_candidate(self, candidate_id: str, verdict: Verdict, reviewer: str, **edit: Any) -> Review:
        """Say of a candidate that it is accepted, edited or rejected; see `review.review_candidate`.

        Args:
            candidate_id: the candidate.
            verdict: accept, edit or reject.
            reviewer: who says so.
            edit: instruction and instances of an edit; nonce.
        """
        from workbench.self_instruct.review import review_candidate

        return review_candidate(self.store, candidate_id, verdict, reviewer, **edit)

    def undo_review(self, run_id: str, reviewer: str) -> Review | None:
        """Take back a person's last review in a self-instruct run; the one before it counts again."""
        from workbench.store.candidates import undo_review

        return undo_review(self.store, run_id, reviewer)

    def self_instruct_version(
        self, run_id: str, name: str, *, threshold: float | None = None, include: Include = "accepted"
    ) -> Version:
        """Make an instructions dataset of a self-instruct run's tasks, or a new version of it.

        Args:
            run_id: the run.
            name: of the dataset.
            threshold: ROUGE-L F1 above which a task is not new; the run's own when None.
            include: `accepted` by a person only, or all that was kept and nobody rejected.
        """
        from workbench.self_instruct.review import make_version

        return make_version(self.store, run_id, name, threshold=threshold, include=include)

    # Rank ------------------------------------------------------------------------------------------------------

    def rank_queues(self, *, archived: bool = False) -> list[RankQueue]:
        """Queues of answers to rank, newest first."""
        return rank_store.list_queues(self.store, archived=archived)

    def rank_queue(self, name_or_id: str) -> RankQueue:
        """The queue of this name or id."""
        return rank_store.get_queue(self.store, name_or_id)

    def edit_queue(self, name_or_id: str, **changes: Any) -> RankQueue:
        """Change a queue's name, guidelines, overlap or repeats; `archived` puts it away or brings it back."""
        if "archived" in changes:
            changes["archived_at"] = utc_now() if changes.pop("archived") else None
        return rank_store.update_queue(self.store, self.rank_queue(name_or_id).id, **changes)

    def sample_answers(self, prompts: str, variants: Sequence[str], **options: Any) -> Run:
        """Sample several answers to each prompt and make a queue of them, in the background; see `SampleConfig`."""
        ids = [find_variant(self, name).id for name in variants]
        if not ids:
            raise UsageError("no variant was chosen", place="variants", remedy="Choose at least one.")
        name = f"Sample {self._called(prompts)} to rank"
        return self.launch("sample", {"prompts": prompts, "variants": ids, **options}, name=name)

    def _called(self, reference: str) -> str:
        """A prompt set as people call it; a mistyped name is told at once, not by a run that fails."""
        dataset, version = dataset_store.find_version(self.store, reference)
        return dataset.name if reference in (dataset.id, version.id) else reference

    def queue_from_run(self, run_id: str, name: str, **options: Any) -> RankQueue:
        """Make a queue of the answers a run got to a prompt set; options are guidelines, overlap and repeats."""
        from workbench.preferences.queues import queue_from_run

        return queue_from_run(self.store, run_id, name, **options)

    def queue_from_answers(self, completions: Sequence[Completion], name: str, **options: Any) -> RankQueue:
        """Make a queue of answers that are in the store, as those of a Playground conversation."""
        from workbench.preferences.queues import create_queue_from

        return create_queue_from(self.store, name, completions, **options)

    def import_rankings(self, path: Path | str, name: str, *, guidelines: str = "") -> RankQueue:
        """Read rankings from a file into a new queue: trees, plain lines, pairs, or what `export_rankings` wrote."""
        from workbench.preferences.imports import import_rankings

        return import_rankings(self.store, path, name, guidelines=guidelines)

    def next_to_rank(self, queue: str, rater: str) -> HandedItem | None:
        """Hand a rater the next item of a queue; None where nothing is left."""
        return rank_store.next_item(self.store, self.rank_queue(queue).id, rater)

    def blind_item(self, handed: HandedItem) -> BlindItem:
        """What a rater sees of an item: letters and texts."""
        from workbench.preferences.queues import blind_item

        return blind_item(self.store, handed.item, handed.shown)

    def submit_ranking(self, item_id: str, rater: str, *, nonce: str | None = None, **vote: Any) -> Ranking:
        """Store a rater's ranking; see `workbench.store.rankings.submit_ranking` for what a vote holds.

        Args:
            item_id: the item.
            rater: who ranks.
            nonce: the same one again stores nothing and gives what was stored; a new one when None.
            vote: tiers, unusable, all_bad, skipped, confidence, comment, edited, …
        """
        return rank_store.submit_ranking(self.store, item_id, rater, nonce=nonce or new_id("nonce"), **vote)

    def undo_ranking(self, queue: str, rater: str) -> Ranking | None:
        """Take back a rater's last ranking in a queue; the item is handed to them again."""
        return rank_store.undo_last(self.store, self.rank_queue(queue).id, rater)

    def rankings(self, queue: str, **filters: Any) -> list[Ranking]:
        """Rankings of a queue, oldest first. Filters as in `workbench.store.rankings.list_rankings`."""
        return rank_store.list_rankings(self.store, queue_ids=[self.rank_queue(queue).id], **filters)

    def rank_by_scorer(self, queue: str, scorer: str) -> int:
        """Let a scorer rank a queue's items, told apart from people's rankings; returns how many are new.

        Raises:
            UsageError: no such scorer, or it says nothing of these answers.
        """
        from workbench.evaluation.rank_by_scorer import rank_by_scorer

        return rank_by_scorer(self.store, queue, scorer)

    def rank_progress(self, queue: str, rater: str | None = None) -> QueueProgress:
        """How far a queue is, and one rater in it."""
        return rank_store.queue_progress(self.store, self.rank_queue(queue).id, rater)

    def build_preferences(self, queues: str | Sequence[str], name: str, **options: Any) -> Built:
        """Make a preference dataset of rankings, or a new version of it; options are scheme, held_out and seed."""
        from workbench.preferences.pairs import build_preferences

        return build_preferences(self.store, _several(queues), name, **options)

    def build_examples(self, queues: str | Sequence[str], name: str, **options: Any) -> Built:
        """Make an instructions dataset of the best answers and of raters' own versions, or a new version of it."""
        from workbench.preferences.pairs import build_examples

        return build_examples(self.store, _several(queues), name, **options)

    def export_for_trl(
        self, queues: str | Sequence[str], path: Path | str, trainer: str = "dpo", **options: Any
    ) -> Path:
        """Write rankings as a file that a TRL trainer takes as it is: `dpo`, `reward`, `kto` or `sft`."""
        from workbench.preferences.exports import export_for_trl

        return export_for_trl(self.store, _several(queues), path, trainer, **options)

    def export_rankings(self, queue: str, path: Path | str) -> Path:
        """Write a queue with its rankings as JSON Lines that import again as they were."""
        from workbench.preferences.exports import export_rankings

        return export_rankings(self.store, queue, path)

    def leaderboard(self, queues: str | Sequence[str] | None = None, **options: Any) -> Leaderboard:
        """First conclusions from the votes of queues, of all where none is named: ratings, win rates, agreement."""
        from workbench.notebook.results import ShownBoard
        from workbench.preferences.leaderboard import load_leaderboard

        return ShownBoard.of(
            load_leaderboard(self.store, None if queues is None else _several(queues), **options), self.store
        )

    # Reward models ---------------------------------------------------------------------------------------------

    def reward_models(self, *, archived: bool = False) -> list[RewardModel]:
        """Reward models that were trained here, newest first."""
        from workbench.training.reward_models import list_reward_models

        return list_reward_models(self.store, archived=archived)

    def reward_report(self, reference: str) -> RewardReport:
        """What is known of a reward model, by its run's id or name: accuracy, calibration, length, mistakes."""
        from workbench.notebook.results import ShownReward
        from workbench.training.reward_models import get_reward_model
        from workbench.training.reward_report import read_report

        return ShownReward.of(read_report(self.store, get_reward_model(self.store, reference).run_id), self.store)

    def score(self, reward: str, *, name: str | None = None, **what: Any) -> Run:
        """Score answers with a reward model, in the background; `scores` tells what came of it.

        Args:
            reward: the reward model: its run's id or name.
            name: shown name of the run.
            what: fields of `ScoreConfig`: `prompt` with `answers`; or `answers_of`, a run; or `variant` with `prompt`
                or `prompts`, which answers n times to see what keeping the best would bring.

        Raises:
            NotFound: reward model, run, variant or dataset are not there.
            UsageError: not one thing to score is named.
        """
        from workbench.runs.kinds import parse_config
        from workbench.training.reward_models import get_reward_model
        from workbench.training.score import ScoreConfig, check_what

        made = get_reward_model(self.store, reward)  # a mistyped name is told at once, not by a run that fails
        if what.get("variant"):
            what["variant"] = find_variant(self, what["variant"]).id
        if what.get("prompts"):
            self.version(what["prompts"])
        if what.get("answers_of"):
            what["answers_of"] = self.run(what["answers_of"]).id
        verb = "Best of n" if what.get("variant") else "Score"
        config = parse_config("score", {"reward": made.run_id, **what})
        if isinstance(config, ScoreConfig):
            check_what(config)
        return self.launch("score", config, name=name or f"{verb} with {made.name}"[:200])

    def scores(self, run_id: str) -> ScoreReport:
        """What a score run found: rewards of answers, means, and the curve of best of n."""
        from workbench.training.score import read_scores

        return read_scores(self.store, self.run(run_id).id)

    def measure_kl(
        self, variant: str, prompts: str, *, reference: str | None = None, name: str | None = None, **options: Any
    ) -> Run:
        """Measure in the background how far a variant has moved from another: KL in nats, on answers it draws.

        The run's result tells `kl_sequence` (nats an answer, with an interval) and `kl_token`.

        Args:
            variant: who answers, by name or id; `base` is the bundled model itself.
            prompts: dataset of any kind whose prompts are answered: a name, name@version or id.
            reference: the variant of the same base it is held against; its base model when None.
            name: shown name of the run.
            options: other fields of `KLConfig`: limit, max_tokens and seed.

        Raises:
            NotFound: a variant or the dataset is not there.
            UsageError: a setting does not hold.
        """
        answering = find_variant(self, variant)
        other = None if reference is None else find_variant(self, reference)
        self.version(prompts)  # a mistyped name is told at once, not by a run that fails
        config = {"variant": answering.id, "reference": other.id if other else None, "prompts": prompts, **options}
        against = other.name if other else "its base"
        return self.launch("kl", config, name=name or f"KL of {answering.name} from {against}"[:200])

    # Show ------------------------------------------------------------------------------------------------------

    def start_demo(
        self, variants: Sequence[str], *, password: str = "", name: str | None = None, **options: Any
    ) -> Run:
        """Start a page for visitors, as a run; its result tells the address. See `DemoConfig` for the options.

        Args:
            variants: two to four, by name or id.
            password: what visitors have to know. Beyond this machine one is made where none is given.
            name: shown name of the run; made from the title when None.
            options: other fields of `DemoConfig`.
        """
        from workbench.demo.configs import check_password, write_password
        from workbench.records import new_id
        from workbench.runs.kinds import parse_config
        from workbench.runs.launch import launch_run

        given = {"variants": [self.variant(each).id for each in variants], **options}
        config = parse_config("demo", given)
        run_id = new_id("run")
        if password:
            write_password(self.settings, run_id, check_password(password))
        title = config.model_dump()["title"]
        run = launch_run(self.store, "demo", config, name=name or f"Demo: {title}", run_id=run_id)
        return ShownRun.of(run, self.store)

    def demos(self, *, ended: bool = False) -> list[Run]:
        """Demos at work, newest first; with `ended` those of before, too."""
        return [run for run in self.runs(kinds=["demo"]) if ended or run.state.active]

    def demo_password(self, run_id: str) -> str | None:
        """What visitors of a demo have to know; None where nothing, or where it is not made yet."""
        from workbench.demo.configs import read_password

        return read_password(self.settings, run_store.get_run(self.store, run_id).id)

    def report(self, run_id: str, path: Path | str) -> Path:
        """Write a prompt set's answers as one HTML file that needs nothing else."""
        from workbench.evaluation.report import write_report

        return write_report(self.store, run_store.get_run(self.store, run_id), Path(path))

    # Share -----------------------------------------------------------------------------------------------------

    def export(self, variant: str, form: str = "adapter_zip", *, name: str | None = None, **options: Any) -> Run:
        """Put a variant into a form others can use, in the background, and check that it answers as before.

        Args:
            variant: name or id.
            form: adapter_zip, merged, ollama or hub.
            name: shown name of the run.
            options: other fields of `ExportConfig`.

        Raises:
            UsageError: variant, form and place do not go together.
            Conflict: something is at the place already.
        """
        from workbench.evaluation.export_run import FORMS, ExportConfig, check_export
        from workbench.runs.kinds import parse_config

        chosen = self.variant(variant)
        if options.get("folder"):
            options["folder"] = str(typed_path(options["folder"]))  # the run works in another folder
        config = parse_config("export", {"variant": chosen.id, "form": form, **options})
        if isinstance(config, ExportConfig):
            check_export(self.store, self.settings, config)
        return self.launch("export", config, name=name or f"{FORMS.get(form, form)}: {chosen.name}"[:200])

    def lineage(self, reference: str) -> Lineage:
        """What a variant, run, dataset version, model or queue was made from, and what was made from it."""
        from workbench.store.lineage import trace

        return trace(self.store, reference)

    def manifest(self, variant: str) -> Manifest:
        """Everything an adapter was made from, as needed to make it again."""
        from workbench.runs.reproduce import make_manifest

        return make_manifest(self.store, self.variant(variant))

    def check_manifest(self, manifest: Manifest | Path | str) -> list[Finding]:
        """What a manifest needs and is missing here, and what differs from when the adapter was made."""
        from workbench.runs.reproduce import check_manifest

        return check_manifest(self.store, _as_manifest(manifest))

    def reproduce(self, manifest: Manifest | Path | str) -> Run:
        """Launch the run that makes a manifest's adapter again.

        Raises:
            NotFound: base or data is not here.
        """
        from workbench.runs.reproduce import reproduce

        return ShownRun.of(reproduce(self.store, _as_manifest(manifest)), self.store)

    def delete_dataset(self, name_or_id: str) -> None:
        """Delete a dataset that nothing refers to, for good."""
        from workbench.store.deletion import delete_dataset

        delete_dataset(self.store, name_or_id)

    def delete_version(self, reference: str) -> None:
        """Delete a version that nothing refers to, for good."""
        from workbench.store.deletion import delete_version

        delete_version(self.store, self.version(reference).id)

    def delete_variant(self, name_or_id: str) -> None:
        """Delete a variant that nothing refers to, with its adapter, for good."""
        from workbench.store.deletion import delete_variant

        delete_variant(self.store, name_or_id)

    def delete_model(self, name_or_id: str) -> None:
        """Delete a base model that nothing was made with, for good; the bundled one can only be put away."""
        from workbench.store.deletion import delete_model

        self.runs(limit=1)  # what vanished is no longer at work
        delete_model(self.store, self.model(name_or_id).id)

    def delete_run(self, run_id: str) -> None:
        """Delete a run whose results nothing refers to, with its folder, for good."""
        from workbench.store.deletion import delete_run

        delete_run(self.store, self.run(run_id).id)

    def delete_server(self, name_or_id: str) -> None:
        """Delete a remote server without variants, and forget its key."""
        from workbench.generation.servers import save_server_key
        from workbench.store.deletion import delete_server

        save_server_key(self.settings, delete_server(self.store, name_or_id), "")

    def purge_row(self, dataset: str, row_id: str) -> PurgeReport:
        """Remove a person's row from every version, answer, ranking, log and draft, and leave a mark."""
        from workbench.datasets.purging import purge_row

        self.runs(limit=1)  # what vanished is no longer at work
        return purge_row(self.store, dataset, row_id)

    # The tour --------------------------------------------------------------------------------------------------

    def tour(self, *, quick: bool = False, **options: Any) -> Run:
        """Start the tour: kit, LoRA on the bundled model, held-out prompts answered by base and tuned.

        A tour that is under way already is given instead of a second one.

        Args:
            quick: a short form for a look around.
            options: other fields of `TourConfig`.
        """
        active = [RunState.QUEUED, RunState.STARTING, RunState.RUNNING]
        for run in self.runs(kinds=["tour"], states=active):
            return run
        return self.launch("tour", {"quick": quick, **options}, name="Tour")

    def watch(self, run_id: str) -> Run:
        """Wait for a run and show it in the notebook meanwhile, redrawn as it goes; elsewhere only wait.

        Interrupting the cell leaves the run at work.
        """
        from workbench.notebook.watching import CellOutput

        output = CellOutput()
        for run in self.iter_progress(run_id):
            output.show(run)
        return run

    def iter_progress(self, run_id: str, *, poll_s: float = 0.3) -> Iterator[Run]:
        """Yield the run each time something about it changed, until it has ended; the last one has ended."""
        last: Run | None = None
        while True:
            run = self.run(run_id)
            if last is None or run.model_copy(update={"heartbeat_at": last.heartbeat_at}) != last:
                yield run
                last = run
            if not run.state.active:
                return
            time.sleep(poll_s)


def as_messages(prompt: str | Sequence[Message], system: str = "") -> list[Message]:
    """A plain text as a conversation; a conversation as it is.

    Raises:
        UsageError: the prompt is empty, is no text, or does not end with a turn that can be answered.
    """
    try:
        for text in (system, *([prompt] if isinstance(prompt, str) else (turn.content for turn in prompt))):
            text.encode()
    except UnicodeEncodeError as error:
        what = "the prompt holds half of a character, which no model can read"
        raise UsageError(what, place="prompt", remedy="Write it anew, in UTF-8.") from error
    if isinstance(prompt, str):
        if not prompt.strip():
            raise UsageError("the prompt is empty", place="prompt", remedy="Write something to answer.")
        turns = [Message(role="user", content=prompt)]
        return [Message(role="system", content=system), *turns] if system.strip() else turns
    if not prompt or prompt[-1].role not in ("user", "tool"):
        raise UsageError("the conversation must end with a user turn", place="prompt")
    return list(prompt)


def as_sampling(settings: Mapping[str, Any]) -> Sampling:
    """Fields of `Sampling`, checked.

    Raises:
        UsageError: a field is unknown or out of bounds.
    """
    from pydantic import ValidationError

    from workbench.runs.kinds import config_problem

    try:
        return Sampling(**settings)
    except ValidationError as error:
        raise config_problem(error) from error


def _several(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _as_manifest(manifest: Manifest | Path | str) -> Manifest:
    from workbench.runs.reproduce import Manifest, read_manifest

    return manifest if isinstance(manifest, Manifest) else read_manifest(Path(manifest))


def find_variant(workspace: Workspace, name_or_id: str) -> Variant:
    """A variant by name or id, where `base` means the bundled model itself."""
    if name_or_id == "base":
        for variant in workspace.variants():
            if variant.adapter_path is None and variant.model_id == workspace.model("bundled").id:
                return variant
        raise NotFound("the bundled model is not ready yet", remedy="`workbench models add bundled` converts it once.")
    return workspace.variant(name_or_id)
