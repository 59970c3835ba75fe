"""Ranking: queues, votes, what becomes of them, and first conclusions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.api.data import DataMethods
from workbench.api.models import find_variant
from workbench.errors import UsageError
from workbench.records import Completion, Ranking, RankQueue, Run, new_id, utc_now
from workbench.store import rankings as rank_store

if TYPE_CHECKING:
    from workbench.preferences.leaderboard import Leaderboard
    from workbench.preferences.pairs import Built
    from workbench.preferences.queues import BlindItem
    from workbench.store.rankings import HandedItem, QueueProgress


class RankMethods(DataMethods):
    """Ranking: queues, votes, what becomes of them, and first conclusions."""

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
        """Let a scorer rank a queue's items; returns how many are new.

        Its rankings are kept apart from people's: people are still handed every item, and what counts people (progress,
        `leaderboard`, agreement) leaves them out. `build_preferences` takes them where nobody ranked the item.

        Raises:
            UsageError: no such scorer, or it says nothing of these answers.
        """
        from workbench.evaluation.rank_by_scorer import rank_by_scorer

        return rank_by_scorer(self.store, queue, scorer)

    def rank_progress(self, queue: str, rater: str | None = None) -> QueueProgress:
        """How far people are with a queue, and one rater in it."""
        return rank_store.queue_progress(self.store, self.rank_queue(queue).id, rater)

    def build_preferences(self, queues: str | Sequence[str], name: str, **options: Any) -> Built:
        """Make a preference dataset of rankings, or a new version of it; options are scheme, held_out and seed."""
        from workbench.preferences.pairs import build_preferences

        return build_preferences(self.store, _several(queues), name, **options)

    def build_labels(self, queues: str | Sequence[str], name: str, **options: Any) -> Built:
        """Make a dataset of answers labelled good or bad of rankings, for KTO; options are held_out and seed."""
        from workbench.preferences.pairs import build_labels

        return build_labels(self.store, _several(queues), name, **options)

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
        """First conclusions from the votes of queues, of all where none is named: ratings, win rates, agreement.

        Args:
            queues: names or ids.
            options: sources (`people`, only demo `visitors`, `scorers` or `all`; people's when left out, or scorers'
                where nobody else voted), rounds and seed of the bootstrap.
        """
        from workbench.notebook.results import ShownBoard
        from workbench.preferences.leaderboard import load_leaderboard

        return ShownBoard.of(
            load_leaderboard(self.store, None if queues is None else _several(queues), **options), self.store
        )


def _several(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)
