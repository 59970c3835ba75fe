import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import RunProblem
from workbench.job import RecordingJob
from workbench.records import Example, Message, Preference, Prompt
from workbench.training.rl_prompts import AskedPrompt, plan_prompts, prompt_of
from workbench.training.rl_rewards import Answer, Scored, apply_end_rule, score_answers
from workbench.training.rl_watch import (
    HeldOutPoint,
    RLReporter,
    find_over_optimisation,
    interval_of_mean,
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
    found = find_over_optimisation(points((0, 0.0, low), (8, 3.0, high), (16, 9.0, low)))
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
    assert find_over_optimisation(points(*measured)) is None


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
