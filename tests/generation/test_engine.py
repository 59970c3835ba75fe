"""The engine's promise: what it writes is what plain transformers and PEFT write, whoever else is in the batch."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from tests.tiny import END_ID, make_adapter, make_model
from workbench.errors import GenerationProblem, ModelProblem, UsageError
from workbench.generation.configs import Delta, Done, Failed, GenerationRequest
from workbench.generation.engine import Engine, Handle
from workbench.models.loading import quiet_peft
from workbench.records import Sampling

PROMPTS = [
    "What is the capital of France?",
    "Write a poem about the sea.",
    "Name three colours",
    "one",
    "The quick brown fox jumps over the lazy dog. " * 6,
    "Guten Morgen! Wie geht es Ihnen?",
]


class Setup:
    """A tiny base, adapters of several kinds, and engines made on fresh copies of them."""

    def __init__(self, folder: Path) -> None:
        self.model = make_model(folder / "model", layers=2)
        self.adapters: dict[str, Path] = {
            "plain": make_adapter(self.model, folder / "plain", seed=1),
            "wide": make_adapter(self.model, folder / "wide", seed=2, r=8, use_rslora=True),
            "some": make_adapter(self.model, folder / "some", seed=3, r=2, targets=["q_proj", "down_proj"]),
            "dora": make_adapter(self.model, folder / "dora", seed=4, use_dora=True),
        }
        self.tokenizer = Tokenizer.from_file(str(self.model / "tokenizer.json"))
        self.plain: dict[str | None, Any] = {}

    def load(self) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(self.model, dtype=torch.float32).eval()

    def load_peft(self, name: str | None) -> Any:
        from peft import PeftModel

        if name is None:
            return self.load()
        with quiet_peft():
            return PeftModel.from_pretrained(self.load(), self.adapters[name]).eval()

    def ids(self, prompt: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(prompt).ids)

    def expected(self, name: str | None, prompt: str, tokens: int) -> list[int]:
        """What `generate` of a freshly loaded model writes."""
        if name not in self.plain:
            self.plain[name] = self.load_peft(name)
        ids = torch.tensor([self.ids(prompt)])
        with torch.inference_mode():
            out = self.plain[name].generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False
            )
        answer = out[0, ids.shape[1] :].tolist()
        return answer[: answer.index(END_ID)] if END_ID in answer else answer

    def engine(self, **options: Any) -> Engine:
        engine = Engine(self.load(), self.tokenizer, threads=1, **options)
        for name, folder in self.adapters.items():
            stacked = engine.load_adapter(name, folder, partial(self._copy, name))
            assert stacked == (name != "dora")
        return engine

    def _copy(self, name: str) -> Any:
        return self.load_peft(name).get_base_model()

    def greedy(self, name: str | None, prompt: str, tokens: int, **more: Any) -> GenerationRequest:
        return GenerationRequest(
            prompt_ids=self.ids(prompt),
            sampling=Sampling(temperature=0, max_tokens=tokens),
            stop_ids=frozenset({END_ID}),
            adapter=name,
            **more,
        )


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return Setup(tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="module")
def engine(setup: Setup) -> Iterator[Engine]:
    made = setup.engine()
    yield made
    made.close()


def collect(handle: Handle) -> dict[int, tuple[list[int], str, str]]:
    """Tokens, text and finish reason of each choice."""
    ids: dict[int, list[int]] = {}
    texts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    for event in handle:
        match event:
            case Delta():
                ids.setdefault(event.choice, []).extend(event.token_ids)
                texts[event.choice] = texts.get(event.choice, "") + event.text
            case Done():
                reasons[event.choice] = event.finish_reason
                assert len(ids.get(event.choice, [])) == event.tokens
            case Failed():
                raise event.error
    return {choice: (ids.get(choice, []), texts.get(choice, ""), reason) for choice, reason in reasons.items()}


@pytest.mark.parametrize("name", [None, "plain", "wide", "some", "dora"])
def test_a_greedy_answer_alone_equals_plain_transformers_and_peft(engine: Engine, setup: Setup, name: str) -> None:
    for prompt in PROMPTS:
        ids, text, _ = collect(engine.submit(setup.greedy(name, prompt, 40)))[0]
        assert ids == setup.expected(name, prompt, 40)
        assert text == setup.tokenizer.decode(ids, skip_special_tokens=True)


def test_greedy_answers_are_the_same_while_others_join_leave_and_are_cancelled(engine: Engine, setup: Setup) -> None:
    wanted: list[tuple[Handle, list[int]]] = []
    cancelled: list[Handle] = []
    names = [None, "plain", "wide", "some", "dora"]
    for turn in range(40):
        name, prompt = names[turn % 5], PROMPTS[(turn * 7) % len(PROMPTS)]
        tokens = [3, 60, 17, 1, 33][(turn * 3) % 5]
        handle = engine.submit(setup.greedy(name, prompt, tokens))
        if turn % 6 == 5:
            cancelled.append(handle)
        else:
            wanted.append((handle, setup.expected(name, prompt, tokens)))
        if turn % 4 == 3:
            time.sleep(0.02)
        if turn % 9 == 8:
            for gone in cancelled:
                engine.cancel(gone)
    for handle, expected in wanted:
        assert collect(handle)[0][0] == expected
    for handle in cancelled:
        engine.cancel(handle)
        collect(handle)
    assert engine.load().running == 0


def test_the_same_holds_with_few_places_and_little_memory(setup: Setup) -> None:
    engine = setup.engine(max_rows=2, cache_mb=1)
    try:
        asked = [(name, prompt) for prompt in PROMPTS for name in (None, "wide")]
        handles = [engine.submit(setup.greedy(name, prompt, 12)) for name, prompt in asked]
        for handle, (name, prompt) in zip(handles, asked, strict=True):
            assert collect(handle)[0][0] == setup.expected(name, prompt, 12)
    finally:
        engine.close()


def test_prompts_longer_than_a_chunk_are_read_in_parts(tmp_path: Path) -> None:
    made = Setup.__new__(Setup)
    made.model = make_model(tmp_path / "model", context=2048)
    made.adapters, made.plain = {}, {}
    made.tokenizer = Tokenizer.from_file(str(made.model / "tokenizer.json"))
    engine = made.engine()
    try:
        long, short = "The sea is wide and the sea is blue. " * 110, "one"
        assert len(made.ids(long)) > 1024
        first = engine.submit(made.greedy(None, "Name three colours", 80))
        second, third = (engine.submit(made.greedy(None, prompt, 8)) for prompt in (long, short))
        for handle, (prompt, tokens) in zip(
            (first, second, third), (("Name three colours", 80), (long, 8), (short, 8)), strict=True
        ):
            assert collect(handle)[0][0] == made.expected(None, prompt, tokens)
    finally:
        engine.close()


def test_a_one_token_request_sent_during_a_long_answer_finishes_first(engine: Engine, setup: Setup) -> None:
    order: list[str] = []
    both = threading.Event()

    def sink(name: str, event: Any) -> None:
        if isinstance(event, Done):
            order.append(name)
            if len(order) == 2:
                both.set()

    ask = GenerationRequest(
        prompt_ids=setup.ids("Write a poem"), sampling=Sampling(temperature=0, max_tokens=300), stop_ids=frozenset()
    )
    engine.submit(ask, partial(sink, "long"))
    engine.submit(ask.model_copy(update={"sampling": Sampling(temperature=0, max_tokens=1)}), partial(sink, "short"))
    assert both.wait(60)
    assert order == ["short", "long"]


def test_rows_of_the_base_are_bit_identical_beside_adapter_rows(setup: Setup) -> None:
    from workbench.generation.lora import LoraBank, read_adapter

    model = setup.load()
    ids = torch.tensor([setup.ids("Write a poem about")] * 3)
    with torch.inference_mode():
        before = model(input_ids=ids).logits
        bank = LoraBank(model)
        for name in ("plain", "some"):
            pairs = read_adapter(setup.adapters[name], model)
            assert not isinstance(pairs, str)
            bank.add(name, pairs)
        bank.set_rows([None, "plain", "some"])
        after = model(input_ids=ids).logits
        bank.set_rows([None, None, None])
        again = model(input_ids=ids).logits
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1]) and not torch.equal(before[2], after[2])
    assert torch.equal(before, again)


def test_the_same_seed_gives_the_same_text_whatever_else_is_in_the_batch(engine: Engine, setup: Setup) -> None:
    ask = GenerationRequest(
        prompt_ids=setup.ids("Write a poem about the sea."),
        sampling=Sampling(temperature=0.9, top_p=0.9, top_k=40, max_tokens=30, seed=7, presence_penalty=0.5),
        adapter="plain",
    )
    alone = collect(engine.submit(ask))[0]
    company = [engine.submit(setup.greedy(name, PROMPTS[1], 50)) for name in (None, "wide", "some")]
    other = engine.submit(ask.model_copy(update={"sampling": ask.sampling.model_copy(update={"seed": 8})}))
    assert collect(engine.submit(ask))[0] == alone
    assert collect(other)[0] != alone
    for handle in company:
        collect(handle)


def test_several_answers_to_one_prompt_differ_and_the_first_is_that_of_n_1(engine: Engine, setup: Setup) -> None:
    ask = GenerationRequest(prompt_ids=setup.ids("Name"), sampling=Sampling(temperature=1, max_tokens=12, seed=3), n=4)
    answers = collect(engine.submit(ask))
    assert set(answers) == {0, 1, 2, 3}
    assert len({text for _, text, _ in answers.values()}) > 1
    assert answers[0] == collect(engine.submit(ask.model_copy(update={"n": 1})))[0]


def test_a_prompt_that_does_not_fit_is_refused_in_words_and_a_long_answer_ends_at_the_limit(
    engine: Engine, setup: Setup
) -> None:
    with pytest.raises(GenerationProblem, match="600 tokens long and this model reads at most 512") as problem:
        engine.submit(GenerationRequest(prompt_ids=(5,) * 600))
    assert "Shorten" in problem.value.remedy
    with pytest.raises(UsageError, match="empty"):
        engine.submit(GenerationRequest(prompt_ids=()))
    ids, _, reason = collect(
        engine.submit(GenerationRequest(prompt_ids=(5,) * 500, sampling=Sampling(temperature=0, max_tokens=100)))
    )[0]
    assert (len(ids), reason) == (12, "length")


def test_cancelling_ends_an_answer_soon_and_others_go_on(engine: Engine, setup: Setup) -> None:
    ask = GenerationRequest(prompt_ids=setup.ids("Write"), sampling=Sampling(temperature=0, max_tokens=480))
    handle, other = engine.submit(ask), engine.submit(setup.greedy(None, PROMPTS[0], 20))
    events = iter(handle)
    next(events)
    engine.cancel(handle)
    last = list(events)[-1]
    assert isinstance(last, Done) and last.finish_reason == "cancelled" and last.tokens < 480
    assert collect(other)[0][0] == setup.expected(None, PROMPTS[0], 20)


def test_a_step_that_raises_fails_its_requests_and_the_engine_goes_on(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = setup.engine()
    try:
        with monkeypatch.context() as patched:
            model = engine._base.model
            forward = model.forward

            def broken(*args: Any, **kwargs: Any) -> Any:
                if kwargs["input_ids"].shape[1] == 1:
                    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
                return forward(*args, **kwargs)

            patched.setattr(model, "forward", broken)
            with pytest.raises(GenerationProblem, match="not enough memory"):
                collect(engine.submit(setup.greedy(None, PROMPTS[0], 5)))
            dora = collect(engine.submit(setup.greedy("dora", PROMPTS[0], 5)))[0][0]
            assert dora == setup.expected("dora", PROMPTS[0], 5)
        assert collect(engine.submit(setup.greedy(None, PROMPTS[0], 5)))[0][0] == setup.expected(None, PROMPTS[0], 5)
    finally:
        engine.close()


def test_an_adapter_with_values_that_are_not_numbers_is_refused(engine: Engine, setup: Setup, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "broken"
    shutil.copytree(setup.adapters["plain"], folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(ModelProblem, match="not numbers"):
        engine.load_adapter("broken", folder, lambda: None)
    with pytest.raises(GenerationProblem, match="not loaded"):
        engine.submit(setup.greedy("broken", "one", 1))


def test_an_adapter_of_another_base_is_refused(engine: Engine, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", hidden=32)
    with pytest.raises(ModelProblem, match="does not fit this base"):
        engine.load_adapter("other", make_adapter(other, tmp_path / "adapter"), lambda: None)


def test_adapters_can_be_unloaded_and_loaded_again_while_answers_are_written(setup: Setup) -> None:
    engine = setup.engine()
    try:
        long = engine.submit(setup.greedy("wide", PROMPTS[1], 60))
        engine.unload_adapter("wide")
        engine.unload_adapter("plain")
        assert collect(long)[0][0] == setup.expected("wide", PROMPTS[1], 60)
        collect(engine.submit(setup.greedy(None, "one", 3)))
        assert engine.load().adapters == ("dora", "some")
        engine.load_adapter("wide", setup.adapters["wide"], lambda: None)
        assert collect(engine.submit(setup.greedy("wide", "one", 9)))[0][0] == setup.expected("wide", "one", 9)
    finally:
        engine.close()


def test_closing_ends_what_is_being_written_and_refuses_more(setup: Setup) -> None:
    engine = setup.engine()
    handle = engine.submit(
        GenerationRequest(prompt_ids=setup.ids("Write"), sampling=Sampling(temperature=0, max_tokens=480))
    )
    engine.close()
    assert [event for event in handle if isinstance(event, Done)][0].finish_reason == "cancelled"
    with pytest.raises(GenerationProblem, match="closing"):
        engine.submit(GenerationRequest(prompt_ids=(5,)))


def test_logprobs_are_those_of_the_model(engine: Engine, setup: Setup) -> None:
    events = list(engine.submit(setup.greedy(None, PROMPTS[0], 4, top_logprobs=3)))
    given = [item for event in events if isinstance(event, Delta) for item in event.logprobs]
    ids = list(setup.ids(PROMPTS[0])) + [item.token_id for item in given]
    with torch.inference_mode():
        scores = torch.log_softmax(setup.load()(input_ids=torch.tensor([ids])).logits[0], dim=-1)
    for place, item in enumerate(given):
        row = scores[len(ids) - len(given) + place - 1]
        assert item.logprob == pytest.approx(float(row[item.token_id]), abs=1e-4)
        assert [token for token, _ in item.top] == row.topk(3).indices.tolist()
