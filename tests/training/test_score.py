"""Score runs: given texts, a run's answers, and best of n against a scripted server."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import tiny

from workbench.datasets.versions import write_version
from workbench.errors import Conflict, DataProblem, NotFound, RunProblem, Stopped, UsageError
from workbench.job import RecordingJob
from workbench.records import Completion, Message, Preference, Prompt, RunState, Sampling, new_id, utc_now
from workbench.settings import get_settings
from workbench.store import answers as answer_store
from workbench.store import deletion
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.store.datasets import create_dataset
from workbench.store.lineage import trace
from workbench.training import reward
from workbench.training.reward_configs import RewardConfig
from workbench.training.reward_models import RewardScorer, get_reward_model
from workbench.training.reward_rows import render_answer
from workbench.training.score import ScoreConfig, check_what, read_scores, score_answers

WORDS = "red green blue sea wind poem Paris German morning sings".split()


def say(role, text):
    return (Message(role=role, content=text),)


@pytest.fixture
def settings(home, monkeypatch):
    monkeypatch.setenv("WORKBENCH_THREADS", "1")
    get_settings.cache_clear()
    return get_settings()


@pytest.fixture
def model(store, tmp_path):
    return tiny.register_model(store, tiny.make_model(tmp_path / "base"))


@pytest.fixture
def made(store, model):
    rows = [
        Preference(
            prompt=say("user", f"{number} {WORDS[number]}"),
            chosen=say("assistant", "sings sings"),
            rejected=say("assistant", WORDS[number]),
        )
        for number in range(8)
    ]
    version = write_version(store, create_dataset(store, "pairs", "preferences").id, rows)
    run = run_store.add_run(store, kind="reward", name="taste", slot="train", spec={})
    config = RewardConfig(dataset="pairs", model="tiny", preset="custom", max_steps=2, lora_r=4, answered_prompts=0)
    result = reward.train_reward(config, RecordingJob(store, store.settings.run_dir(run.id), run_id=run.id))
    run_store.update_run(
        store, run.id, state=RunState.FINISHED, result=json.loads(json.dumps(result)) | {"version_id": version.id}
    )
    return get_reward_model(store, "taste")


class Server:
    """Answers with a text made of the seed; refuses what `failing` says."""

    def __init__(self):
        self.asked, self.failing = [], set()
        outer, mutex = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):  # noqa: N802
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with mutex:
                    outer.asked.append((body["messages"][-1]["content"], body["seed"]))
                if body["seed"] in outer.failing:
                    self.send_error(400)
                    return
                text = " ".join(WORDS[(body["seed"] + k) % len(WORDS)] for k in range(1 + body["seed"] % 3))
                choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
                told = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
                told["usage"] = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
                content = json.dumps(told).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                return

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def close(self):
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def server():
    made = Server()
    yield made
    made.close()


class ServedJob(RecordingJob):
    def __init__(self, store, run, server=None, **options):
        super().__init__(store, store.settings.run_dir(run.id), run_id=run.id, **options)
        self.server = server

    def variant_endpoint(self, variant):
        return f"http://127.0.0.1:{self.server.http.server_address[1]}/v1", "key", variant.name

    def result(self, **values):
        super().result(**values)
        run_store.update_run(self.store, self.run_id, result=self.results)


def add_run(store):
    return run_store.add_run(store, kind="score", name="Score", slot="bulk", spec={})


def run_score(store, run, server=None, **config):
    job = ServedJob(store, run, server)
    result = score_answers(ScoreConfig(reward="taste", **config), job)
    run_store.update_run(store, run.id, state=RunState.FINISHED, result=job.results | result)
    return result, read_scores(store, run.id)


def test_given_texts_are_scored_as_the_scorer_scores_them(store, model, made):
    from workbench.datasets.render import load_renderer

    texts = ("sings sings", "red", "")
    result, told = run_score(store, add_run(store), prompt="1 green", answers=texts)
    renderer = load_renderer(model.path)
    rows = [render_answer(renderer, say("user", "1 green"), say("assistant", text))[0] for text in texts]
    expected = RewardScorer.load(made, model).score(rows)
    assert [each.reward for each in told.prompts[0].answers] == pytest.approx(expected, abs=1e-5)
    assert result["scored"] == 3
    assert result["best"] == pytest.approx(max(expected), abs=1e-5)
    assert told.mode == "texts" and not told.curve
    assert told.means["given"].n == 3


def test_answers_of_a_run_are_scored_and_kept_beside_them(store, model, made):
    asked = run_store.add_run(store, kind="answer", name="Ask", slot="bulk", spec={})
    variant = model_store.list_variants(store)[0]
    answers = [
        Completion(
            id=new_id("cmp"), variant_id=variant.id, prompt=say("user", f"q {number}"), text=WORDS[number],
            sampling=Sampling(), run_id=asked.id, row_id=f"row{number}", created_at=utc_now(),
        )
        for number in range(3)
    ]  # fmt: skip
    answer_store.add_completions(store, answers)
    run = add_run(store)
    result, told = run_score(store, run, answers_of=asked.id)
    kept = {score.completion_id: score for score in answer_store.list_scores(store, asked.id)}
    assert set(kept) == {each.id for each in answers}
    for prompt in told.prompts:
        (each,) = prompt.answers
        assert kept[each.completion_id].value == each.reward
        assert kept[each.completion_id].scorer == f"reward:{made.run_id}"
    assert told.means[variant.id].value == pytest.approx(result["mean"])
    lineage = trace(store, run.id)
    assert {asked.id, made.run_id} <= set(lineage.before)


def test_best_of_n_asks_each_prompt_n_times_and_shows_the_curve(store, model, made, server):
    rows = [Prompt(messages=say("user", f"tell {word}")) for word in WORDS[:3]]
    write_version(store, create_dataset(store, "asks", "prompts").id, rows)
    run = add_run(store)
    result, told = run_score(store, run, server, variant="tiny", prompts="asks", n=4, limit=2, seed=10)
    assert sorted(server.asked) == sorted((f"tell {word}", 10 + k) for word in WORDS[:2] for k in range(4))
    assert [prompt.prompt for prompt in told.prompts] == ["tell red", "tell green"]
    assert [len(prompt.answers) for prompt in told.prompts] == [4, 4]
    assert len(told.curve) == len(told.kl) == 4
    best = [max(each.reward for each in prompt.answers) for prompt in told.prompts]
    assert told.curve[-1].value == pytest.approx(sum(best) / 2)
    assert result["expected_best"] == told.curve[-1].value
    assert told.prompts[0].best.reward == pytest.approx(best[0])
    assert len(answer_store.list_scores(store, run.id)) == 8
    lineage = trace(store, run.id)
    assert {"asks@1", "tiny"} <= {lineage.node(key).title for key in lineage.before}


def test_a_stopped_best_of_n_goes_on_with_what_is_missing(store, model, made, server):
    run = add_run(store)
    config = ScoreConfig(reward="taste", variant="tiny", prompt="tell me", n=6, concurrency=1)
    with pytest.raises(Stopped):
        score_answers(config, ServedJob(store, run, server, stop_after=2))
    first = len(server.asked)
    assert 0 < first < 6
    score_answers(config, ServedJob(store, run, server))
    assert sorted(seed for _, seed in server.asked) == list(range(6))


def test_requests_that_fail_are_left_out_and_none_at_all_is_a_failure(store, model, made, server):
    server.failing = {1, 2}
    _, told = run_score(store, add_run(store), server, variant="tiny", prompt="tell me", n=4)
    assert len(told.prompts[0].answers) == 2
    server.failing = set(range(9))
    with pytest.raises(RunProblem, match=r"not one of 4 requests got an answer"):
        run_score(store, add_run(store), server, variant="tiny", prompt="tell me", n=4)


def test_what_cannot_be_scored_is_told(store, model, made):
    long = " ".join(WORDS * 200)
    _, told = run_score(store, add_run(store), prompt="hi", answers=(long, "red"))
    assert told.prompts[0].answers[0].note == "cut to 1024 tokens"
    with pytest.raises(RunProblem, match=r"not one of 1 answers could be scored: the prompt alone fills"):
        run_score(store, add_run(store), prompt=long, answers=("red",))


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({}, "one thing to score"),
        ({"answers": ("a",)}, "need the prompt"),
        ({"prompt": "q", "answers": ("a",), "variant": "tiny"}, "one thing to score"),
        ({"answers_of": "run_x", "prompt": "q"}, "prompts of their own"),
        ({"variant": "tiny"}, "either a prompt or a dataset"),
        ({"variant": "tiny", "prompt": "q", "prompts": "asks"}, "either a prompt or a dataset"),
    ],
)
def test_one_thing_is_scored_at_a_time(given, word):
    with pytest.raises(UsageError, match=word):
        check_what(ScoreConfig(reward="taste", **given))


def test_what_is_not_there_is_named(store, model, made):
    with pytest.raises(NotFound, match="no such reward model"):
        score_answers(ScoreConfig(reward="other", prompt="q", answers=("a",)), ServedJob(store, add_run(store)))
    empty = run_store.add_run(store, kind="sft", name="Tune", slot="train", spec={})
    with pytest.raises(DataProblem, match="has no answers"):
        run_score(store, add_run(store), answers_of=empty.id)
    with pytest.raises(NotFound, match="no scores"):
        read_scores(store, empty.id)


def test_a_reward_model_that_something_learned_from_is_not_deleted(store, model, made):
    learned = run_store.add_run(store, kind="rloo", name="Reinforced", slot="train", spec={})
    run_store.update_run(store, learned.id, state=RunState.FINISHED, result={"reward_run_id": made.run_id})
    assert learned.id in trace(store, made.run_id).after
    assert "pairs@1" in {node.title for node in trace(store, learned.id).nodes}
    with pytest.raises(Conflict, match=r"'Reinforced', which learned from its reward"):
        deletion.delete_run(store, made.run_id)
