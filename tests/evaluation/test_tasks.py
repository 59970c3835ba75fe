"""Answering prompt sets: against a scripted server that speaks the OpenAI protocol."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from workbench.datasets.versions import write_version
from workbench.errors import DataProblem, NotFound, RunProblem, Stopped, UsageError
from workbench.evaluation.aggregate import load_grid, wilson
from workbench.evaluation.tasks import AnswerConfig, answer_prompts
from workbench.job import RecordingJob
from workbench.records import Example, Message, ModelSource, Preference, Prompt, Run, Variant, Version
from workbench.store import answers as answer_store
from workbench.store import datasets as dataset_store
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.store.database import Store

FORMED = "Answer: It is so.\n- One fact.\n- Another fact.\nNext: Is that all?"


class ScriptedServer:
    """Answers as told by model and question, counts the requests, and fails where asked to."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.failing: set[str] = set()
        self._mutex = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:  # noqa: N802
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer._mutex:
                    outer.requests.append(body)
                question = body["messages"][-1]["content"]
                if question in outer.failing or "everything" in outer.failing:
                    self._send(400, b'{"error": {"message": "this one is refused"}}', "application/json")
                    return
                text = FORMED if "tuned" in body["model"] else f"Plain words on {question}"
                if body.get("stream"):
                    self._send(200, outer._stream(body["model"], text), "text/event-stream")
                else:
                    self._send(200, outer._whole(body["model"], text), "application/json")

            def _send(self, status: int, content: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def asked(self) -> list[tuple[str, str]]:
        return [(body["model"], body["messages"][-1]["content"]) for body in self.requests]

    def _head(self, model: str, kind: str) -> dict[str, Any]:
        return {"id": "c", "object": kind, "created": 1, "model": model, "system_fingerprint": f"fp_{model}"}

    def _usage(self) -> dict[str, int]:
        return {"prompt_tokens": 3, "completion_tokens": 7, "total_tokens": 10}

    def _whole(self, model: str, text: str) -> bytes:
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        body = self._head(model, "chat.completion") | {"choices": [choice], "usage": self._usage()}
        return json.dumps(body).encode()

    def _stream(self, model: str, text: str) -> bytes:
        head = self._head(model, "chat.completion.chunk")
        parts: list[dict[str, Any]] = [
            {"choices": [{"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
            {"choices": [], "usage": self._usage()},
        ]
        return b"".join(b"data: " + json.dumps(head | part).encode() + b"\n\n" for part in parts) + b"data: [DONE]\n\n"


class ServedJob(RecordingJob):
    """A recording job whose variants answer at the scripted server; its results reach the run as a worker's do."""

    def __init__(
        self, store: Store, folder: Path, server: ScriptedServer, run: Run, *, stop_after: int | None = None
    ) -> None:
        super().__init__(store, folder, run_id=run.id, stop_after=stop_after)
        self._base_url = server.base_url

    def variant_endpoint(self, variant: Variant) -> tuple[str, str, str]:
        return self._base_url, "key", variant.name

    def result(self, **values: Any) -> None:
        super().result(**values)
        run_store.update_run(self.store, self.run_id, result=self.results)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    scripted = ScriptedServer()
    yield scripted
    scripted.close()


@pytest.fixture
def variants(store: Store) -> list[Variant]:
    model = model_store.add_model(store, "tiny", ModelSource.LOCAL, "/nowhere")
    return [model_store.add_variant(store, name, model_id=model.id) for name in ("base", "tuned")]


def user(text: str) -> Message:
    return Message(role="user", content=text)


def make_prompts(store: Store, count: int = 5, *, name: str = "held out", kit: str | None = "assistant") -> Version:
    dataset = dataset_store.create_dataset(store, name, "prompts")
    rows = [Prompt(messages=(user(f"question {n}"),), reference=FORMED, meta={"topic": "x"}) for n in range(count)]
    return write_version(store, dataset.id, rows, provenance={"kit": kit} if kit else {})


def start(store: Store, **fields: Any) -> tuple[AnswerConfig, Run]:
    config = AnswerConfig(**({"prompts": "held out", "variants": ("base", "tuned")} | fields))
    spec = config.model_dump(mode="json")
    return config, run_store.add_run(store, kind="answer", name="Answers", slot="bulk", spec=spec)


def test_every_prompt_is_answered_by_every_variant_and_scored(
    store: Store, variants: list[Variant], server: ScriptedServer, tmp_path: Path
) -> None:
    make_prompts(store)
    config, run = start(store)
    job = ServedJob(store, tmp_path / "run", server, run)
    result = answer_prompts(config, job)
    base, tuned = (result["summary"][variant.id] for variant in variants)
    everything = wilson(5, 5)
    assert (tuned["share"], tuned["low"], tuned["high"], tuned["n"]) == (1.0, everything.low, 1.0, 5)
    assert (base["share"], base["n"], result["failed"]) == (0.0, 5, 0)
    assert tuned["chrf"] == pytest.approx(100.0) and base["chrf"] < 50
    assert tuned["rules"]["four_lines"] == 1.0
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert (job.told.done, job.told.total, job.told.unit) == (10, 10, "answers")
    grid = load_grid(store, run_store.get_run(store, run.id))
    assert len(grid.cells) == 10
    assert [prompt.question for prompt in grid.prompts] == [f"question {n}" for n in range(5)]
    kept = answer_store.list_completions(store, run_id=run.id)
    assert {completion.tokens for completion in kept} == {7}


def test_prompts_of_all_variants_are_asked_in_turn(
    store: Store, variants: list[Variant], server: ScriptedServer, tmp_path: Path
) -> None:
    make_prompts(store)
    config, run = start(store, concurrency=1)
    answer_prompts(config, ServedJob(store, tmp_path / "run", server, run))
    assert server.asked()[:4] == [
        ("base", "question 0"),
        ("tuned", "question 0"),
        ("base", "question 1"),
        ("tuned", "question 1"),
    ]


def test_a_stopped_run_goes_on_with_what_is_missing_only(
    store: Store, variants: list[Variant], server: ScriptedServer, tmp_path: Path
) -> None:
    make_prompts(store)
    config, run = start(store, concurrency=1)
    with pytest.raises(Stopped):
        answer_prompts(config, ServedJob(store, tmp_path / "run", server, run, stop_after=3))
    before = len(server.requests)
    assert 0 < before < 10
    assert len(answer_store.list_completions(store, run_id=run.id)) == before
    result = answer_prompts(config, ServedJob(store, tmp_path / "run", server, run))
    assert sorted(server.asked()) == sorted((name, f"question {n}") for n in range(5) for name in ("base", "tuned"))
    assert [figures["n"] for figures in result["summary"].values()] == [5, 5]


def test_a_resumed_run_keeps_to_the_version_it_began_with(
    store: Store, variants: list[Variant], server: ScriptedServer, tmp_path: Path
) -> None:
    first = make_prompts(store)
    config, run = start(store, concurrency=1)
    with pytest.raises(Stopped):
        answer_prompts(config, ServedJob(store, tmp_path / "run", server, run, stop_after=1))
    write_version(store, first.dataset_id, [Prompt(messages=(user("another"),))], parent=first)
    result = answer_prompts(config, ServedJob(store, tmp_path / "run", server, run))
    assert result["answers"]["version_id"] == first.id
    assert ("base", "another") not in server.asked()


def test_a_finished_run_asks_nothing_again(
    store: Store, variants: list[Variant], server: ScriptedServer, tmp_path: Path
) -> None:
    make_prompts(store, 2)
    config, run = start(store)
    first = answer_prompts(config, ServedJob(store, tmp_path / "run", server, run))
    again = answer_prompts(config, ServedJob(store, tmp_path / "run", server, run))
    assert len(server.requests) == 4
    assert first == again


def test_a_failing_prompt_is_kept_with_its_reason_and_asked_again_on_resume(
    store: Store, variants: list[Variant], server: ScriptedServer, tmp_path: Path
) -> None:
    make_prompts(store, 3)
    server.failing = {"question 1"}
    config, run = start(store)
    result = answer_prompts(config, ServedJob(store, tmp_path / "run", server, run))
    assert result["failed"] == 2
    assert [figures["n"] for figures in result["summary"].values()] == [2, 2]
    grid = load_grid(store, run_store.get_run(store, run.id))
    cell = grid.cell(grid.prompts[1].row_id, variants[0].id)
    assert cell is not None and "refused" in str(cell.completion.error)
    server.failing = set()
    result = answer_prompts(config, ServedJob(store, tmp_path / "run", server, run))
    assert (result["failed"], [figures["n"] for figures in result["summary"].values()]) == (0, [3, 3])


def test_a_run_without_a_single_answer_fails_and_says_why(
    store: Store, variants: list[Variant], server: ScriptedServer, tmp_path: Path
) -> None:
    make_prompts(store, 2)
    server.failing = {"everything"}
    config, run = start(store)
    with pytest.raises(RunProblem, match="not one of 4 requests.*refused"):
        answer_prompts(config, ServedJob(store, tmp_path / "run", server, run))


def test_the_limit_and_the_system_prompt_reach_the_server(
    store: Store, variants: list[Variant], server: ScriptedServer, tmp_path: Path
) -> None:
    make_prompts(store)
    config, run = start(store, limit=2, variants=("base",), system="Be brief.", max_tokens=33, seed=5)
    answer_prompts(config, ServedJob(store, tmp_path / "run", server, run))
    assert len(server.requests) == 2
    assert server.requests[0]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert server.requests[0]["seed"] == 5
    assert 33 in server.requests[0].values()


def test_instructions_are_asked_up_to_their_last_answer_which_is_the_reference(
    store: Store, variants: list[Variant], server: ScriptedServer, tmp_path: Path
) -> None:
    dataset = dataset_store.create_dataset(store, "talks", "instructions")
    talk = (
        user("first"),
        Message(role="assistant", content="one"),
        user("second"),
        Message(role="assistant", content="two"),
    )
    write_version(store, dataset.id, [Example(messages=talk)])
    config, run = start(store, prompts="talks")
    answer_prompts(config, ServedJob(store, tmp_path / "run", server, run))
    grid = load_grid(store, run_store.get_run(store, run.id))
    assert grid.prompts[0].reference == "two"
    assert [turn["content"] for turn in server.requests[0]["messages"]] == ["first", "one", "second"]
    assert grid.scorers == ("chrf",)


def test_a_grid_is_there_before_the_first_answer(store: Store, variants: list[Variant]) -> None:
    make_prompts(store, 3)
    _, run = start(store)
    grid = load_grid(store, run)
    assert grid.cells == {}
    assert grid.summary[variants[0].id].missing == 3


def test_what_cannot_be_answered_is_refused_in_words(
    store: Store, variants: list[Variant], server: ScriptedServer, tmp_path: Path
) -> None:
    dataset = dataset_store.create_dataset(store, "votes", "preferences")
    answer = (Message(role="assistant", content="a"),)
    other = (Message(role="assistant", content="b"),)
    write_version(store, dataset.id, [Preference(prompt=(user("q"),), chosen=answer, rejected=other)])
    make_prompts(store)
    for fields, error, words in (
        ({"prompts": "votes"}, UsageError, "preferences cannot be answered"),
        ({"prompts": "nothing here"}, NotFound, "no such dataset"),
        ({"variants": ("nobody",)}, NotFound, "no such variant"),
        ({"scorers": ("bleurt",)}, UsageError, "no such scorer"),
    ):
        config, run = start(store, **fields)
        with pytest.raises(error, match=words):
            answer_prompts(config, ServedJob(store, tmp_path / "run", server, run))
    _, other_run = start(store)
    with pytest.raises(UsageError, match="answered no prompt set"):
        load_grid(store, other_run.model_copy(update={"spec": {}, "kind": "sft"}))
    assert server.requests == []


def test_rows_that_end_without_a_question_are_left_out(store: Store, variants: list[Variant]) -> None:
    dataset = dataset_store.create_dataset(store, "odd", "instructions")
    lonely = Example(messages=(Message(role="system", content="s"), Message(role="assistant", content="a")))
    write_version(store, dataset.id, [lonely])
    _, run = start(store, prompts="odd")
    with pytest.raises(DataProblem, match="no row can be answered"):
        load_grid(store, run)


@pytest.mark.parametrize(
    "fields", [{"variants": ()}, {"temperature": 3}, {"limit": 0}, {"concurrency": 0}, {"colour": 1}]
)
def test_settings_out_of_bounds_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AnswerConfig(**({"prompts": "x", "variants": ("a",)} | fields))
