import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import RunProblem, UsageError
from workbench.job import RecordingJob
from workbench.records import Example, Message, Preference, Prompt
from workbench.training.rl_configs import RLOOConfig
from workbench.training.rl_prompts import AskedPrompt, plan_prompts, prompt_of, reference_of
from workbench.training.rl_rewards import Answer, Scored, apply_end_rule, score_answers
from workbench.training.rl_watch import (
    HeldOutPoint,
    RLReporter,
    find_blind_spots,
    find_outwitting,
    find_over_optimisation,
    interval_of_mean,
    measure_yardsticks,
    reward_series,
)

USER, ANSWER = Message(role="user", content="q"), Message(role="assistant", content="a")


def answer(tokens=3, ended=True, text="a"):
    prompt = AskedPrompt("row_1", (USER,), None, "q", (1, 2))
    return Answer(prompt, tuple(range(tokens)), text, ended)


def points(*measured):
    return [HeldOutPoint(step=step, rewards=tuple(rewards), kl=kl) for step, kl, rewards in measured]


def test_reward_that_falls_while_kl_climbs_is_called_over_optimisation():
    high, low = [1.0 + 0.1 * n for n in range(10)], [0.2 + 0.1 * n for n in range(10)]
    (found,) = find_over_optimisation(points((0, 0.0, low), (8, 3.0, high), (16, 9.0, low)))
    assert "since step 8 KL has climbed from 3.00 to 9.00" in found
    assert "fallen from 1.450 to 0.650" in found and "larger beta" in found


@pytest.mark.parametrize(
    "measured",
    [
        [(0, 0.0, [0.0] * 10)],
        [(0, 0.0, [0.0] * 10), (8, 3.0, [1.0] * 10)],  # still rising
        [(0, 0.0, [1.0] * 10), (8, 3.0, [1.0] * 10)],  # no change at all
        [(8, 3.0, [1.0] * 10), (16, 2.0, [0.0] * 10)],  # worse, but nearer to the reference
        [(8, 3.0, [1.0] * 4), (16, 9.0, [0.0] * 4)],  # too few prompts to tell
        [(8, 3.0, [1.0, -1.0] * 5), (16, 9.0, [-1.0, 0.9] * 5)],  # within chance
        [(8, 3.0, [1.0] * 10), (16, 9.0, [0.0] * 11)],  # other prompts
    ],
)
def test_what_is_not_over_optimisation_is_not_called_so(measured):
    assert find_over_optimisation(points(*measured)) == []


# Yardsticks that have no part in the reward ---------------------------------------------------------------------------


def measured(*points, scorer="assistant"):
    """Points of (step, KL, reward of every prompt, yardstick of each prompt)."""
    return [
        HeldOutPoint(step=step, kl=kl, rewards=(reward,) * len(figures), yardsticks={scorer: tuple(figures)})
        for step, kl, reward, figures in points
    ]


def rules(mean, prompts=20):
    """Shares of rules kept that scatter by 20 points about a mean."""
    return [mean + (20 if place % 2 else -20) for place in range(prompts)]


def test_a_yardstick_that_falls_while_the_reward_rises_is_called_over_optimisation():
    found = measured((0, 0.0, -0.95, rules(51)), (15, 3.0, 0.2, rules(47)), (30, 6.8, 0.91, [39.0] * 20))
    assert find_over_optimisation(found) == []  # the reward itself sees nothing
    (warning,) = find_outwitting(found)
    assert "since step 0 KL has climbed from 0.00 to 6.80" in warning
    assert "assistant (rules kept, %) has fallen from 51.0 to 39.0" in warning
    assert "while the held-out reward has risen from -0.950 to 0.910" in warning and "larger beta" in warning


def test_a_yardstick_that_rose_first_is_held_against_its_best():
    found = measured((0, 0.0, 0.0, [40.0] * 20), (8, 2.0, 1.0, [60.0] * 20), (16, 5.0, 0.5, [45.0] * 20))
    assert find_outwitting(found[:2]) == []
    (warning,) = find_outwitting(found)
    assert "since step 8" in warning and "and so has the held-out reward from 1.000 to 0.500" in warning


@pytest.mark.parametrize(
    "series",
    [
        [],
        [(0, 0.0, 0.0, [50.0] * 20)],
        [(0, 0.0, 0.0, [50.0] * 20), (8, 2.0, 1.0, [60.0] * 20)],  # it rises
        [(0, 0.0, 0.0, [50.0] * 20), (8, 2.0, 1.0, [50.0] * 20)],  # it stays
        [(0, 1.0, 0.0, [50.0] * 20), (8, 0.5, 1.0, [40.0] * 20)],  # nearer to the reference
        [(0, 0.0, 0.0, [50.0] * 7), (8, 2.0, 1.0, [0.0] * 7)],  # too few prompts to tell
        [(0, 0.0, 0.0, rules(51)), (8, 2.0, 1.0, rules(51)[::-1])],  # within chance
        [(0, 0.0, 0.0, [None] * 20), (8, 2.0, 1.0, [None] * 20)],  # no references
    ],
)
def test_what_a_yardstick_does_not_say_is_not_called_so(series):
    assert find_outwitting(measured(*series)) == []


def test_prompts_without_a_reference_do_not_count_in_a_yardstick():
    half = [None] * 10
    found = measured((0, 0.0, 0.0, [50.0] * 10 + half), (8, 2.0, 1.0, [30.0] * 10 + half), scorer="chrf")
    assert found[0].figure("chrf") == 50 and found[0].figure("exact_match") is None
    assert "chrf (chrf against the reference) has fallen from 50.0 to 30.0" in find_outwitting(found)[0]


def test_yardsticks_measure_the_held_out_answers():
    whole = "Answer: Yes.\n- One.\n- Two.\nNext: More?"
    answers = [answer(text=whole), answer(text="the sea")]
    found = measure_yardsticks(answers, ("assistant", "chrf"))
    assert found["assistant"][0] == 100 > found["assistant"][1] and found["chrf"] == (None, None)
    known = Answer(AskedPrompt("r", (USER,), None, "q", (1,), reference="the sea"), (1,), "the sea", True)
    assert measure_yardsticks([known], ("chrf",))["chrf"] == (pytest.approx(100),)


def test_a_watch_that_cannot_see_says_so():
    assert "Nothing is held out" in find_blind_spots([], ("assistant",))[0]
    (few,) = find_blind_spots([None] * 7, ("assistant", "chrf"))
    assert "Only 7 of the prompts are held out" in few
    assert find_blind_spots([None] * 8, ("assistant",)) == find_blind_spots(["a"] * 8, ("chrf",)) == []
    (bare,) = find_blind_spots(["a"] * 3 + [None] * 9, ("chrf", "assistant"))
    assert "chrf compares answers with references, which 3 of 12 held-out prompts have" in bare


def test_the_reference_of_a_row_is_the_answer_to_its_prompt():
    again = Message(role="user", content="and?")
    assert reference_of(Prompt(messages=(USER,), reference="r")) == "r"
    last = Message(role="assistant", content="last")
    assert reference_of(Example(messages=(USER, ANSWER, again, last))) == "last"
    assert reference_of(Example(messages=(USER,))) is None
    assert reference_of(Preference(prompt=(USER,), chosen=(ANSWER,), rejected=(ANSWER,))) is None


def test_a_scorer_that_is_not_there_is_refused_by_name():
    fields = {"dataset": "d", "reward": "r"}
    with pytest.raises(UsageError, match=r"watch_scorers: no such scorer \(got 'taste'\).*assistant.*chrf"):
        RLOOConfig(**fields, watch_scorers=("chrf", "taste"))
    assert RLOOConfig(**fields, watch_scorers=("chrf", "chrf")).watch_scorers == ("chrf",)


@given(st.lists(st.tuples(st.floats(-5, 5), st.booleans()), max_size=20), st.none() | st.floats(-5, 5))
def test_the_end_rule_replaces_scores_of_answers_that_do_not_end_and_no_other(answers, missing):
    scores, ended = [score for score, _ in answers], [done for _, done in answers]
    found = apply_end_rule(scores, ended, missing)
    for score, done, reward in zip(scores, ended, found, strict=True):
        assert reward == (score if done or missing is None else missing)


class Fixed:
    def __init__(self, *scores):
        self.scores = scores

    def score(self, answers):
        for score in self.scores:
            if isinstance(score, Exception):
                raise score
        return list(self.scores)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_no_number_names_the_prompt_and_the_answer(bad):
    with pytest.raises(RunProblem, match=r"prompt row_1: the reward of an answer is no number \(got 'odd'\)"):
        score_answers(Fixed(0.5, bad), [answer(), answer(text="odd")], -1.0)


@pytest.mark.parametrize("raised", [OSError("gone"), RuntimeError("broke"), RunProblem("no such", remedy="Look.")])
def test_a_reward_that_fails_is_told_with_what_to_do(raised):
    with pytest.raises(RunProblem, match=r"reward could not be asked: .*resume; nothing learned so far is lost"):
        score_answers(Fixed(raised), [answer()], -1.0)


def test_a_score_too_few_is_no_reward():
    with pytest.raises(RunProblem, match="1 scores came back for 2 answers"):
        score_answers(Fixed(0.5), [answer(), answer()], -1.0)


def test_the_series_of_a_step_are_counted_by_hand():
    answers = (answer(2), answer(4, ended=False), answer(6), answer(8))
    scored = Scored(answers, raw=(1.0, 5.0, 0.5, 0.5), rewards=(1.0, -1.0, 0.5, 0.5))
    found = reward_series(scored, 2)
    assert found["reward"] == 0.25
    assert found["reward_before_end_rule"] == 1.75
    assert (found["reward_low"], found["reward_high"]) == (-1.0, 1.0)
    assert found["same_reward"] == 0.5  # the second prompt's answers are worth the same
    assert found["answer_tokens"] == 5
    assert found["ended"] == 0.75


def test_the_interval_of_a_mean_is_the_normal_one():
    low, high = interval_of_mean([0.0, 1.0])
    assert (low, high) == pytest.approx((0.5 - 1.96 * 0.5, 0.5 + 1.96 * 0.5))
    assert interval_of_mean([2.0]) == (2.0, 2.0)


def test_the_prompt_of_a_row_ends_with_the_last_question():
    again = Message(role="user", content="and?")
    system = Message(role="system", content="s")
    assert prompt_of(Prompt(messages=(system, USER))) == (system, USER)
    assert prompt_of(Example(messages=(USER, ANSWER, again, ANSWER))) == (USER, ANSWER, again)
    assert prompt_of(Example(messages=(USER,))) == (USER,)
    assert prompt_of(Preference(prompt=(USER,), chosen=(ANSWER,), rejected=(ANSWER,))) == (USER,)
    assert prompt_of(Example(messages=(ANSWER,))) == ()
    assert prompt_of(Prompt(messages=(system,))) == ()


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=20),
    size=st.integers(1, 7),
    iterations=st.integers(1, 3),
    epochs=st.integers(1, 3),
    steps=st.none() | st.integers(1, 20),
)
def test_a_plan_asks_each_prompt_as_often_as_any_other_and_repeats_sets_for_each_iteration(
    lengths, size, iterations, epochs, steps
):
    arguments = {"answers_per_prompt": 4, "iterations": iterations, "seed": 5, "epochs": epochs, "max_steps": steps}
    plan = plan_prompts(lengths, prompts_per_step=size, **arguments)
    assert plan == plan_prompts(lengths, prompts_per_step=size, **arguments)
    assert plan.steps == (steps or max(1, epochs * len(lengths) // size) * iterations)
    assert all(len(batch) == size for batch in plan.batches)
    drawn = plan.batches[::iterations]
    assert plan.batches == tuple(batch for batch in drawn for _ in range(iterations))[: plan.steps]
    asked = [row for batch in drawn for row in batch]
    counts = [asked.count(row) for row in range(len(lengths))]
    assert max(counts) - min(counts) <= 1
    assert plan.tokens_after[0] == 4 * sum(lengths[row] for row in plan.batches[0])


def test_a_checkpoint_waits_until_the_answers_are_used_up(store, tmp_path):
    job = RecordingJob(store, tmp_path / "run")
    plan = plan_prompts([3] * 8, prompts_per_step=2, answers_per_prompt=2, iterations=3, seed=0, epochs=1)
    reporter = RLReporter(
        job, plan, iterations=3, eval_every=None, save_every=2, sample_every=None, evaluate=print, sample=print
    )
    assert [reporter.end_step(step)[0] for step in range(1, 7)] == [False, False, True, False, False, True]


def test_a_stop_waits_until_the_answers_are_used_up(store, tmp_path):
    job = RecordingJob(store, tmp_path / "run", stop_after=0)
    plan = plan_prompts([3] * 8, prompts_per_step=2, answers_per_prompt=2, iterations=3, seed=0, epochs=1)
    reporter = RLReporter(
        job, plan, iterations=3, eval_every=None, save_every=0, sample_every=None, evaluate=print, sample=print
    )
    assert [reporter.end_step(step) for step in (1, 2)] == [(False, False)] * 2 and not reporter.stopped
    assert reporter.end_step(3) == (True, True) and reporter.stopped
