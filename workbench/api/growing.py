"""Self-instruct: a dataset grown from seed tasks, and its review."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.api.data import DataMethods
from workbench.api.models import find_variant
from workbench.records import Run, Version

if TYPE_CHECKING:
    from workbench.self_instruct.diversity import Diversity
    from workbench.self_instruct.review import CandidatePage, Funnel, Include
    from workbench.store.candidates import Review, Verdict


class GrowingMethods(DataMethods):
    """Self-instruct: a dataset grown from seed tasks, and its review."""

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

        return undo_review(self.store, self.run(run_id).id, reviewer)

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
