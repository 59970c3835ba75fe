"""Training of every kind, reward models and what they say, how far a model moved, and the tour."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from workbench.api.data import DataMethods
from workbench.api.models import find_variant
from workbench.errors import UsageError
from workbench.records import Run, RunConfig, RunState

if TYPE_CHECKING:
    from workbench.training.forecast import Forecast
    from workbench.training.reward_diagnostics import RewardReport
    from workbench.training.reward_models import RewardModel
    from workbench.training.score import ScoreReport


class TrainingMethods(DataMethods):
    """Training of every kind, reward models and what they say, how far a model moved, and the tour."""

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
        from workbench.training.reward_models import get_reward_model

        made = get_reward_model(self.store, reward)  # a mistyped name is told at once, not by a run that fails
        if what.get("variant"):
            what["variant"] = find_variant(self, what["variant"]).id
        if what.get("answers_of"):
            what["answers_of"] = self.run(what["answers_of"]).id
        verb = "Best of n" if what.get("variant") else "Score"
        config = {"reward": made.run_id, **what}
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
        config = {"variant": answering.id, "reference": other.id if other else None, "prompts": prompts, **options}
        against = other.name if other else "its base"
        return self.launch("kl", config, name=name or f"KL of {answering.name} from {against}"[:200])

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
