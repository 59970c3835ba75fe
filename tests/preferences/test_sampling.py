"""Answers sampled for ranking: who is asked what, and the queue that comes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.generation.scripted import Exchange, ScriptedServer
from workbench.datasets.versions import write_version
from workbench.errors import RunProblem, Stopped, UsageError
from workbench.evaluation.prompts import GridPrompt
from workbench.evaluation.sampling import SampleConfig, plan_requests, sample_answers
from workbench.job import RecordingJob
from workbench.records import Message, Prompt, Variant, utc_now
from workbench.runs.kinds import KINDS, parse_config
from workbench.store import answers as answer_store
from workbench.store import datasets as dataset_store
from workbench.store import models as model_store
from workbench.store import rankings as rank_store
from workbench.store import runs as run_store
from workbench.store.database import Store


def variants(count: int) -> list[Variant]:
    return [Variant(id=f"var_{n}", name=f"v{n}", model_id=None, created_at=utc_now()) for n in range(count)]


def prompts(count: int) -> list[GridPrompt]:
    return [GridPrompt(row_id=f"r{n}", messages=(Message(role="user", content=f"Q{n}"),)) for n in range(count)]


def test_variants_take_turns_and_give_equally_many_answers() -> None:
    config = SampleConfig(prompts="p", variants=("a", "b", "c"), answers=4, seed=7)
    requests = plan_requests(config, prompts(6), variants(3))
    assert Counter(request.variant.id for request in requests) == {"var_0": 8, "var_1": 8, "var_2": 8}
    for number in range(6):
        mine = [request for request in requests if request.prompt.row_id == f"r{number}"]
        assert len(mine) == 4 == len({(each.variant.id, each.sampling) for each in mine})
        assert sorted({each.sampling.seed for each in mine}) == [7, 8]


def test_settings_take_turns_alike_for_every_variant() -> None:
    config = SampleConfig(prompts="p", variants=("a", "b"), answers=6, temperatures=(0.2, 1.0))
    requests = plan_requests(config, prompts(1), variants(2))
    told = {each: [r.sampling.temperature for r in requests if r.variant.id == each] for each in ("var_0", "var_1")}
    assert told == {"var_0": [0.2, 1.0, 0.2], "var_1": [0.2, 1.0, 0.2]}


def test_greedy_answers_that_cannot_differ_are_refused() -> None:
    with pytest.raises(UsageError, match="at temperature 0"):
        parse_config("sample", {"prompts": "p", "variants": ["a"], "answers": 4, "temperature": 0})
    assert parse_config("sample", {"prompts": "p", "variants": ["a", "b"], "answers": 2, "temperature": 0})
    with pytest.raises(UsageError, match="temperature lies"):
        parse_config("sample", {"prompts": "p", "variants": ["a"], "temperatures": [3]})
    assert KINDS["sample"].load_work() is sample_answers


def says_model_and_seed(exchange: Exchange) -> None:
    body = exchange.body
    if body["messages"][-1]["content"] == "refused":
        exchange.json(400, {"error": {"message": "this one is refused"}})
    elif body["messages"][-1]["content"] == "same":
        says(exchange, "always the same", body)
    else:
        says(exchange, f"{body['model']} {body['seed']}", body)


def says(exchange: Exchange, text: str, body: dict[str, Any]) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": 7, "total_tokens": 10}
    exchange.json(200, {"id": "c", "object": "chat.completion", "created": 1, "model": body["model"],
                        "choices": [choice], "usage": usage})  # fmt: skip


class ServedJob(RecordingJob):
    """A recording job whose variants answer at the scripted server; its results reach the run as a worker's do."""

    def __init__(self, store: Store, folder: Path, url: str, run_id: str, stop_after: int | None = None) -> None:
        super().__init__(store, folder, run_id=run_id, stop_after=stop_after)
        self._url = url

    def variant_endpoint(self, variant: Variant) -> tuple[str, str, str]:
        return self._url, "key", variant.name

    def result(self, **values: Any) -> None:
        super().result(**values)
        run_store.update_run(self.store, self.run_id, result=self.results)


@pytest.fixture
def url() -> Iterator[str]:
    with ScriptedServer(says_model_and_seed) as server:
        yield server.url


def a_set(store: Store, *questions: str) -> None:
    dataset = dataset_store.create_dataset(store, "Questions", "prompts")
    write_version(store, dataset.id, [Prompt(messages=(Message(role="user", content=each),)) for each in questions])
    for name in ("m1", "m2"):
        model_store.add_variant(store, name)


def test_a_run_makes_a_queue_of_mixed_answers_and_merges_the_same(store: Store, tmp_path: Path, url: str) -> None:
    a_set(store, "one", "same", "refused", "two")
    config = SampleConfig(
        prompts="Questions", variants=("m1", "m2"), answers=4, guidelines="Be kind.", overlap=2, concurrency=2
    )
    run = run_store.add_run(store, kind="sample", name="s", slot="bulk", spec=config.model_dump(mode="json"))
    told = sample_answers(config, ServedJob(store, tmp_path / "run", url, run.id))
    assert (told["items"], told["sampled"], told["failed"]) == (2, 12, 4)
    assert told["left_out"] == {"failed": 0, "alone": 0, "identical": 1}
    queue = rank_store.get_queue(store, "Questions")
    assert (queue.id, queue.guidelines, queue.overlap) == (told["queue_id"], "Be kind.", 2)
    items = rank_store.list_items(store, [queue.id])
    assert [len(item.completions) for item in items] == [4, 4] and all(item.row_id for item in items)
    who = rank_store.completion_variants(store, items[0].completions)
    assert sorted(Counter(who.values()).values()) == [2, 2]
    # A second start, as after a kill at the very end, makes no second queue and asks only what failed.
    again = sample_answers(config, ServedJob(store, tmp_path / "run", url, run.id))
    assert again["queue_id"] == queue.id and len(rank_store.list_queues(store)) == 1
    assert len([each for each in answer_store.list_completions(store, run_id=run.id) if each.error is None]) == 12


def test_a_stopped_run_goes_on_where_it_was(store: Store, tmp_path: Path, url: str) -> None:
    a_set(store, *(f"q{n}" for n in range(8)))
    config = SampleConfig(prompts="Questions", variants=("m1", "m2"), answers=2, concurrency=1, queue="Mine")
    run = run_store.add_run(store, kind="sample", name="s", slot="bulk", spec=config.model_dump(mode="json"))
    with pytest.raises(Stopped):
        sample_answers(config, ServedJob(store, tmp_path / "run", url, run.id, stop_after=3))
    kept = {each.id for each in answer_store.list_completions(store, run_id=run.id)}
    assert 0 < len(kept) < 16 and rank_store.list_queues(store) == []
    told = sample_answers(config, ServedJob(store, tmp_path / "run", url, run.id))
    assert told["sampled"] == 16 and told["queue"] == "Mine"
    assert kept < {each.id for each in answer_store.list_completions(store, run_id=run.id)}


def test_nothing_to_rank_and_no_answers_at_all_are_said(store: Store, tmp_path: Path, url: str) -> None:
    a_set(store, "same")
    config = SampleConfig(prompts="Questions", variants=("m1",), answers=2)
    run = run_store.add_run(store, kind="sample", name="s", slot="bulk", spec=config.model_dump(mode="json"))
    with pytest.raises(UsageError, match="1 prompts whose answers are all the same"):
        sample_answers(config, ServedJob(store, tmp_path / "run", url, run.id))
    dataset = dataset_store.create_dataset(store, "Refused", "prompts")
    write_version(store, dataset.id, [Prompt(messages=(Message(role="user", content="refused"),))])
    refused = config.model_copy(update={"prompts": "Refused"})
    run = run_store.add_run(store, kind="sample", name="s", slot="bulk", spec=refused.model_dump(mode="json"))
    with pytest.raises(RunProblem, match="not one of 2 requests"):
        sample_answers(refused, ServedJob(store, tmp_path / "run", url, run.id))
