"""What the tour's document says of a kit with rules and of one without; training and answering are stood in for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from workbench.evaluation.prompts import plan_answers, read_prompts
from workbench.job import Job, RecordingJob
from workbench.records import Completion, ModelSource, Run, RunState, Sampling, new_id, utc_now
from workbench.runs import tour
from workbench.scoring.scorers import score_completion
from workbench.store import answers as answer_store
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.store.database import Store


def finish(store: Store, kind: str, spec: dict[str, Any], **result: Any) -> Run:
    made = run_store.add_run(store, kind=kind, name=kind, slot="flow", spec=spec)
    run_store.update_run(store, made.id, state=RunState.FINISHED, result=result)
    return run_store.get_run(store, made.id)


def answer(store: Store, spec: dict[str, Any]) -> Run:
    """A base that repeats the question and a tuned one that gives the reference, really scored."""
    plan = plan_answers(store, prompts=spec["prompts"], variants=spec["variants"], limit=spec["limit"])
    run = finish(store, "answer", spec)
    for prompt in read_prompts(store, plan):
        for variant, text in zip(plan.variants, (prompt.question, str(prompt.reference)), strict=True):
            completion = Completion(
                id=new_id("cmp"),
                variant_id=variant,
                prompt=prompt.messages,
                text=text,
                sampling=Sampling(),
                fingerprint="fp_x",
                run_id=run.id,
                row_id=prompt.row_id,
                created_at=utc_now(),
            )
            scores = [score_completion(name, completion, prompt.reference) for name in plan.scorers]
            answer_store.add_completions(store, [completion])
            answer_store.add_scores(store, [score for score in scores if score is not None])
    return run


@pytest.fixture
def take(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = model_store.add_model(store, "tiny", ModelSource.LOCAL, "/nowhere")
    model_store.add_variant(store, "base", model_id=model.id)
    tuned = model_store.add_variant(store, "tuned", model_id=model.id, adapter_path="/adapter")

    def step(job: Job, key: str, kind: str, spec: dict[str, Any], name: str) -> Run:
        return finish(store, kind, spec, variant_id=tuned.id) if kind == "sft" else answer(store, spec)

    monkeypatch.setattr(tour, "run_part", step)

    def taken(kit: str) -> dict[str, Any]:
        config = tour.TourConfig(kit=kit, model=model.id, quick=True)
        return dict(tour.take_tour(config, RecordingJob(store, tmp_path / kit)))

    return taken


def test_a_kit_without_a_rule_scorer_has_no_share_and_a_mean_chrf_with_its_interval(take):
    document = take("translation")
    nothing = {"share": None, "low": None, "high": None, "n": 12}
    assert document["held_out"] == {"base": nothing, "tuned": nothing}
    base, tuned = document["chrf"]["base"], document["chrf"]["tuned"]
    assert 0 < base["low"] < base["share"] < base["high"] < 30 and base["n"] == 12
    assert tuned["share"] == pytest.approx(100)
    assert document["chrf_gain"]["share"] == pytest.approx(100 - base["share"], abs=0.01)
    assert len(document["answers"]) == 3 and document["adapter_fingerprint"] == "fp_x"


def test_a_kit_with_a_rule_scorer_has_its_shares(take):
    held_out = take("assistant")["held_out"]
    assert (held_out["base"]["share"], held_out["tuned"]["share"]) == (0.0, 1.0)
    assert held_out["tuned"]["n"] == 12
