"""InstructGPT's protocol on a kit: what is split, ranked, trained on and told. Training and asking are stood in for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.runs.test_tour_document import finish
from workbench.datasets.versions import iter_rows
from workbench.errors import DataProblem
from workbench.evaluation.prompts import plan_answers, read_prompts
from workbench.job import Job, RecordingJob
from workbench.preferences.queues import create_queue_from
from workbench.records import Completion, ModelSource, Preference, Run, Sampling, new_id, utc_now
from workbench.runs import protocol
from workbench.runs.tour import TourConfig, take_tour
from workbench.scoring.scorers import score_completion
from workbench.store import answers as answer_store
from workbench.store import models as model_store
from workbench.store import rankings as rank_store
from workbench.store import runs as run_store
from workbench.store.database import Store
from workbench.store.datasets import find_version

WHOLE = "Answer: Yes.\n- One.\n- Two.\nNext: More?"


def keep(store: Store, run: Run, plan: Any, texts: Any) -> list[Completion]:
    made = []
    for prompt in read_prompts(store, plan):
        for number, (variant, text) in enumerate(texts(prompt, plan.variants)):
            made.append(
                Completion(
                    id=new_id("cmp"), variant_id=variant, prompt=prompt.messages, text=text,
                    sampling=Sampling(seed=number), run_id=run.id, row_id=prompt.row_id, created_at=utc_now(),
                )
            )  # fmt: skip
            answer_store.add_completions(store, made[-1:])
            scores = [score_completion(name, made[-1], prompt.reference) for name in plan.scorers]
            answer_store.add_scores(store, [score for score in scores if score is not None])
    return made


class StandIn:
    """Each part as its real run would leave the store."""

    def __init__(self, store: Store, variants: dict[str, str], *, drawn: tuple[str, ...]) -> None:
        self.store, self.variants, self.drawn = store, variants, drawn
        self.specs: dict[str, dict[str, Any]] = {}
        self.runs: dict[str, Run] = {}

    def __call__(self, job: Job, key: str, kind: str, spec: dict[str, Any], name: str) -> Run:
        if key not in self.runs:  # as a resumed flow finds the runs of before
            self.specs[key] = spec
            self.runs[key] = self._run(kind, spec, "rloo_2" if key == "reinforcing_2" else kind)
        return self.runs[key]

    def _run(self, kind: str, spec: dict[str, Any], stage: str) -> Run:
        if kind == "sample":
            plan = plan_answers(
                self.store, prompts=spec["prompts"], variants=spec["variants"], limit=spec["limit"],
                scorers=tuple(spec["scorers"]),
            )  # fmt: skip
            run = finish(self.store, kind, spec)
            made = keep(self.store, run, plan, lambda _, ids: [(ids[-1], text) for text in self.drawn])
            queue = create_queue_from(self.store, spec["queue"], made, source={"run": run.id})
            run_store.update_run(self.store, run.id, result={"queue_id": queue.id, "answers": plan.model_dump()})
            return run_store.get_run(self.store, run.id)
        if kind == "answer":
            plan = plan_answers(
                self.store, prompts=spec["prompts"], variants=spec["variants"], limit=spec["limit"],
                scorers=tuple(spec["scorers"]),
            )  # fmt: skip
            run = finish(self.store, kind, spec, answers=plan.model_dump(mode="json"))
            good = {self.variants["rloo"], self.variants["dpo"]}
            keep(self.store, run, plan, lambda _, ids: [(each, WHOLE if each in good else "no") for each in ids])
            return run
        if kind == "kl":
            return finish(self.store, kind, spec, kl_sequence={"value": 1.5, "low": 1.0, "high": 2.0}, kl_token=0.1)
        if kind == "reward":
            told = {"accuracy": {"value": 0.9, "low": 0.8, "high": 0.95, "n": 20}, "bias": 0.3, "pairs": 9}
            return finish(self.store, kind, spec, reward=told, seconds=3.0)
        return finish(self.store, kind, spec, variant_id=self.variants[stage], seconds=2.0)


@pytest.fixture
def stand_in(store: Store, monkeypatch: pytest.MonkeyPatch):
    model = model_store.add_model(store, "tiny", ModelSource.LOCAL, "/nowhere")
    model_store.add_variant(store, "base", model_id=model.id)
    variants = {
        kind: model_store.add_variant(store, kind, model_id=model.id, adapter_path=f"/{kind}").id
        for kind in ("sft", "rloo", "rloo_2", "dpo")
    }

    def make(drawn: tuple[str, ...] = ("no", WHOLE, "Answer: Yes.")) -> StandIn:
        made = StandIn(store, variants, drawn=drawn)
        monkeypatch.setattr(protocol, "run_part", made)
        return made

    return make


CONFIG = TourConfig(protocol="instructgpt", model="tiny", ranked_prompts=20, prompts=8, rounds=1)


def test_each_stage_is_told_with_its_interval_its_kl_and_its_gain(store: Store, stand_in, tmp_path: Path) -> None:
    parts = stand_in()
    told = take_tour(CONFIG, RecordingJob(store, tmp_path / "run"))
    stages = {stage["stage"]: stage for stage in told["stages"]}
    assert list(stages) == ["base", "sft", "rloo", "dpo"]
    assert stages["sft"]["share"]["value"] == 0 and stages["rloo"]["share"] == {**stages["rloo"]["share"], "value": 1.0}
    assert stages["rloo"]["score"]["value"] == 100 and stages["rloo"]["score"]["n"] == 8
    assert stages["base"]["kl_sequence"] is None and stages["dpo"]["kl_sequence"]["value"] == 1.5
    assert told["gains"]["rloo"]["value"] > 0 and set(told["gains"]) == {"rloo", "dpo"}
    assert told["reward"]["accuracy"]["value"] == 0.9
    assert told["rankings"]["source"] == "scorer" and told["rankings"]["rankings"] == 20
    assert parts.specs["kl_sft"]["reference"] == told["variants"]["base"]
    assert parts.specs["kl_dpo"]["reference"] == told["variants"]["sft"] == parts.specs["dpo"]["adapter"]
    assert len(told["samples"]) == 3 and told["samples"][0]["rloo"] == WHOLE


def test_a_second_round_ranks_the_policy_before_and_learns_from_all_rankings(
    store: Store, stand_in, tmp_path: Path
) -> None:
    parts = stand_in()
    told = take_tour(CONFIG.model_copy(update={"rounds": 2}), RecordingJob(store, tmp_path / "run"))
    assert [stage["stage"] for stage in told["stages"]] == ["base", "sft", "rloo", "rloo_2", "dpo"]
    assert set(told["gains"]) == {"rloo", "rloo_2", "dpo"}
    assert parts.specs["sampling"]["variants"] == [told["variants"]["sft"]]
    assert parts.specs["sampling_2"]["variants"] == [told["variants"]["sft"], told["variants"]["rloo"]]
    assert parts.specs["sampling_2"]["seed"] != parts.specs["sampling"]["seed"]
    assert parts.specs["reinforcing_2"]["reward"] == parts.runs["reward_2"].id
    assert parts.specs["reinforcing_2"]["adapter"] == told["variants"]["sft"] == parts.specs["kl_rloo_2"]["reference"]
    first, second = (each["rankings"] for each in told["rounds"])
    assert (first["rankings"], second["rankings"]) == (20, 40) and second["pairs"] > first["pairs"]
    assert parts.specs["reward_2"]["dataset"] == second["version"] == parts.specs["dpo"]["dataset"]


def test_no_prompt_is_in_two_parts_and_the_held_out_ones_in_none(store: Store, stand_in, tmp_path: Path) -> None:
    parts = stand_in()
    take_tour(CONFIG, RecordingJob(store, tmp_path / "run"))

    def asked(reference: str) -> set[str]:
        rows = iter_rows(store, find_version(store, reference)[1])
        return {
            (row.payload.prompt if isinstance(row.payload, Preference) else row.payload.messages)[0].content
            for row in rows
        }

    shown, ranked = asked(parts.specs["training"]["dataset"]), asked(parts.specs["sampling"]["prompts"])
    held_out = asked(parts.specs["answering"]["prompts"])
    assert not shown & ranked and not (shown | ranked) & held_out
    pairs, aside = asked(parts.specs["reward"]["dataset"]), asked(parts.specs["reward"]["held_out"])
    assert pairs and aside and not pairs & aside and pairs | aside <= ranked
    assert parts.specs["reinforcing"]["dataset"] == parts.specs["sampling"]["prompts"]


def test_going_on_after_a_stop_makes_nothing_twice(store: Store, stand_in, tmp_path: Path) -> None:
    stand_in()
    job = RecordingJob(store, tmp_path / "run")
    first = take_tour(CONFIG, job)
    queue = str(first["rankings"]["queue"])
    votes = len(rank_store.list_rankings(store, queue_ids=[queue]))
    second = take_tour(CONFIG, RecordingJob(store, tmp_path / "run"))
    assert len(rank_store.list_rankings(store, queue_ids=[queue])) == votes
    assert second | {"seconds": 0} == first | {"seconds": 0}


def test_rankings_that_are_all_ties_end_the_tour_in_words(store: Store, stand_in, tmp_path: Path) -> None:
    stand_in(drawn=("no", "never", "nothing"))
    with pytest.raises(DataProblem, match="none of 20 rankings prefers"):
        take_tour(CONFIG, RecordingJob(store, tmp_path / "run"))
