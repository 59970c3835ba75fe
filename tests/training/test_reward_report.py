"""From people's rankings to a reward model's report: agreement, who wrote what, and the lineage back to the raters."""

import json

import pytest
import tiny

from workbench.errors import NotFound
from workbench.job import RecordingJob
from workbench.preferences.pairs import build_preferences
from workbench.records import Completion, Message, RunState, Sampling, new_id, utc_now
from workbench.settings import get_settings
from workbench.store import answers as answer_store
from workbench.store import models as model_store
from workbench.store import rankings as rank_store
from workbench.store import runs as run_store
from workbench.store.lineage import trace
from workbench.training import reward
from workbench.training.reward_configs import RewardConfig
from workbench.training.reward_report import measure_raters, read_report

WORDS = "red green blue sea wind poem Paris German morning capital".split()


@pytest.fixture
def settings(home, monkeypatch):
    monkeypatch.setenv("WORKBENCH_THREADS", "1")
    get_settings.cache_clear()
    return get_settings()


def rank_answers(store, variant):
    """Eight prompts, a variant's answers to which two raters ranked, who disagree on the first."""
    items = []
    for number in range(8):
        asked = (Message(role="user", content=f"{number} tell {WORDS[number]}"),)
        answers = [
            Completion(
                id=new_id("cmp"), variant_id=variant.id, prompt=asked, text=" ".join(["sings"] * (3 - place)) + " sea",
                sampling=Sampling(seed=place), created_at=utc_now(),
            )
            for place in range(3)
        ]  # fmt: skip
        answer_store.add_completions(store, answers)
        items.append(rank_store.NewItem(prompt=asked, completions=tuple(each.id for each in answers)))
    queue = rank_store.create_queue(store, "ranked", items, overlap=2, source={})
    for rater in ("ann", "bob"):
        for place, item in enumerate(rank_store.list_items(store, [queue.id])):
            order = list(item.completions)
            if rater == "bob" and place == 0:
                order.reverse()
            rank_store.submit_ranking(
                store, item.id, rater, nonce=new_id("nonce"), tiers=[(each,) for each in order], confidence=4
            )
    return queue, build_preferences(store, ["ranked"], "pairs", held_out=0.0)


def train_taste(store, **changes):
    """A finished reward run on these rankings."""
    run = run_store.add_run(store, kind="reward", name="Taste", slot="train", spec={"dataset": "pairs"})
    job = RecordingJob(store, store.settings.run_dir(run.id), run_id=run.id)
    config = RewardConfig(
        **{"dataset": "pairs", "model": "tiny", "preset": "custom", "held_out": 0.3, "max_steps": 2, "lora_r": 4}
        | {"answered_prompts": 2}
        | changes
    )
    result = reward.train_reward(config, job)
    run_store.update_run(store, run.id, state=RunState.FINISHED, result=json.loads(json.dumps(job.results | result)))
    return run


@pytest.fixture
def trained(store, tmp_path):
    """A reward run on rankings of the base's own answers."""
    tiny.register_model(store, tiny.make_model(tmp_path / "base"))
    variant = model_store.list_variants(store)[0]
    queue, built = rank_answers(store, variant)
    return train_taste(store), queue, built, variant


def test_the_report_shows_what_raters_reach_with_each_other_and_who_wrote_what(store, trained):
    run, _, _, variant = trained
    report = read_report(store, run.id)
    assert (report.agreement.raters, report.agreement.items) == (2, 8)
    assert report.agreement.same.value == pytest.approx(21 / 24)
    assert set(report.by_confidence) == {"4"}
    assert set(report.by_k) == {"3"}
    # The rankings tell who wrote each answer, so nobody has to be asked anew.
    groups = {"demonstrations", "best-ranked, held out", "other answers, held out", f"by {variant.name}"}
    assert set(report.distributions) == groups
    assert report.distributions["demonstrations"].mean.value == pytest.approx(0, abs=1e-5)
    assert report.prompts + report.training_prompts == 8
    assert not any("ranked by two people" in note for note in report.notes)


def test_a_scorer_is_no_rater_people_are_measured_against(store, trained):
    _, queue, *_ = trained
    before = measure_raters(store, [queue.id])
    for item in rank_store.list_items(store, [queue.id]):
        for scorer in ("scorer: rules", "scorer: other"):
            rank_store.submit_ranking(
                store, item.id, scorer, nonce=new_id("n"), source="scorer", shown=item.completions,
                tiers=[(each,) for each in reversed(item.completions)],
            )  # fmt: skip
    assert measure_raters(store, [queue.id]) == before and before.raters == 2


def test_base_and_tuned_always_appear_and_only_who_did_not_write_is_asked(store, settings, tmp_path):
    model = tiny.register_model(store, tiny.make_model(tmp_path / "base"))
    base = model_store.list_variants(store)[0]
    tuned = tiny.register_variant(store, model, tiny.make_adapter(tmp_path / "base", tmp_path / "adapter"))
    rank_answers(store, tuned)

    def writers(**changes):
        shown = read_report(store, train_taste(store, **changes)).distributions
        return {name: len(group.scores) for name, group in shown.items() if name.startswith("by ")}

    asked = writers(adapter=tuned.name)
    assert set(asked) == {f"by {tuned.name}", f"by {model.name}, greedy"}
    assert asked[f"by {model.name}, greedy"] == 2, "a few prompts, and no more than the settings say"
    other = tiny.register_variant(
        store, model, tiny.make_adapter(tmp_path / "base", tmp_path / "other", seed=2), name="other tuned"
    )
    assert set(writers(adapter=other.name)) == {
        f"by {tuned.name}", f"by {model.name}, greedy", f"by {other.name}, greedy"
    }  # fmt: skip
    assert set(writers(adapter=tuned.name, answered_prompts=0)) == {f"by {tuned.name}"}
    assert base.name == model.name


def test_every_held_out_pair_is_kept_the_worst_first(store, trained):
    run, *_ = trained
    path = store.settings.run_dir(run.id) / "held_out_rows.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    report = read_report(store, run.id)
    assert len(lines) == report.pairs
    assert [line["margin"] for line in lines] == sorted(line["margin"] for line in lines)
    assert {"row_id", "loss", "tokens", "chosen_reward", "rejected_reward"} <= set(lines[0])
    right = sum(len(line["row_ids"]) * (line["margin"] > 0) for line in lines)
    assert right / sum(len(line["row_ids"]) for line in lines) == pytest.approx(report.accuracy.value)


def test_a_reward_model_is_traced_back_to_the_rankings_and_their_raters(store, trained):
    run, queue, built, _ = trained
    lineage = trace(store, run.id)
    assert {built.train.id, queue.id} <= set(lineage.before)
    assert lineage.node(queue.id).detail["raters"] == {"ann": 8, "bob": 8}


def test_a_run_that_has_not_finished_has_no_report(store, trained):
    other = run_store.add_run(store, kind="reward", name="Soon", slot="train", spec={})
    with pytest.raises(NotFound, match="has no report"):
        read_report(store, other)
