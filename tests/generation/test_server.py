"""The engine behind HTTP: the OpenAI protocol, who may ask, and that leaving or falling idle has its effect."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch

from tests.tiny import make_adapter, make_model, register_model, register_variant
from workbench.datasets.render import load_renderer
from workbench.errors import GenerationProblem, Stopped
from workbench.generation.client import ChatClient
from workbench.generation.configs import ServeConfig
from workbench.generation.server import serve
from workbench.job import RecordingJob
from workbench.models.fingerprints import digest_adapter, digest_tokenizer, digest_weights, fingerprint
from workbench.records import Message, Sampling, Variant
from workbench.settings import Settings
from workbench.store import models as model_store
from workbench.store.database import Store, open_store


class ServingJob(RecordingJob):
    """A job that stops when the test says so."""

    def __init__(self, store: Store, folder: Path) -> None:
        super().__init__(store, folder)
        self.stop = threading.Event()

    def should_stop(self) -> bool:
        return self.stop.is_set()


class Served:
    """A tiny base with two adapters, served in a thread."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.store = open_store(Settings(home=folder / "home"))
        self.folder = make_model(folder / "model")
        self.model = register_model(self.store, self.folder)
        self.adapter = make_adapter(self.folder, folder / "adapter")
        self.tuned = register_variant(self.store, self.model, self.adapter)
        dora = make_adapter(self.folder, folder / "dora", seed=5, use_dora=True)
        self.dora = register_variant(self.store, self.model, dora, name="tiny dora")
        self.job = ServingJob(self.store, folder / "run")
        self.outcome: dict[str, Any] | Exception | None = None
        self.thread = threading.Thread(
            target=self._serve, args=(ServeConfig(model=self.model.id, threads=1, **config),), daemon=True
        )
        self.thread.start()
        self.endpoint = folder / "run" / "endpoint.json"
        deadline = time.monotonic() + 60
        while not self.endpoint.exists():
            assert self.thread.is_alive() and time.monotonic() < deadline, self.outcome
            time.sleep(0.02)
        self.told = json.loads(self.endpoint.read_text())
        self.http = httpx2.Client(
            base_url=self.told["base_url"],
            headers={"Authorization": f"Bearer {self.told['token']}"},
            trust_env=False,
            timeout=60,
        )

    def _serve(self, config: ServeConfig) -> None:
        try:
            self.outcome = serve(config, self.job)
        except Exception as error:
            self.outcome = error

    def close(self) -> None:
        self.http.close()
        self.job.stop.set()
        self.thread.join(60)
        self.store.close()
        assert not self.thread.is_alive()

    def client(self, variant: Variant) -> ChatClient:
        return ChatClient(self.told["base_url"], self.told["token"], variant.id, variant, verified=True)

    def ask(self, **more: Any) -> httpx2.Response:
        body = {"model": "tiny", "messages": [{"role": "user", "content": "Name three colours"}], "temperature": 0}
        return self.http.post("/chat/completions", json=body | {"max_tokens": 8} | more)

    def load(self) -> dict[str, Any]:
        url = self.told["base_url"].removesuffix("/v1") + "/health"
        return self.http.get(url).json()

    def wait_until_calm(self) -> None:
        deadline = time.monotonic() + 20
        while (load := self.load())["running"] or load["waiting"]:
            assert time.monotonic() < deadline, load
            time.sleep(0.02)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("served"))
    yield made
    made.close()


QUESTION = (Message(role="user", content="Name three colours"),)


def plain_text(served: Served, adapter: Path | None, tokens: int) -> str:
    """What plain transformers and PEFT answer."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from workbench.models.loading import quiet_peft

    renderer = load_renderer(served.folder)
    model = AutoModelForCausalLM.from_pretrained(served.folder, dtype=torch.float32)
    if adapter is not None:
        with quiet_peft():
            model = PeftModel.from_pretrained(model, adapter)
    ids = torch.tensor([renderer.prompt_ids(QUESTION)])
    with torch.inference_mode():
        out = model.eval().generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False
        )
    return renderer.decode(out[0, ids.shape[1] :].tolist())


def test_the_client_gets_the_text_that_plain_peft_writes_with_the_fingerprint_of_what_wrote_it(
    served: Served,
) -> None:
    sampling = Sampling(temperature=0, max_tokens=24)
    template = (served.folder / "chat_template.jinja").read_text()
    base = next(v for v in model_store.list_variants(served.store) if v.name == "tiny")
    for variant in (base, served.tuned, served.dora):
        folder = Path(variant.adapter_path) if variant.adapter_path else None
        client = served.client(variant)
        whole = client.complete(QUESTION, sampling)
        stream = client.stream(QUESTION, sampling)
        streamed = "".join(stream)
        assert whole.text == streamed == plain_text(served, folder, 24)
        assert stream.completion is not None
        expected = fingerprint(
            digest_weights(served.folder),
            digest_adapter(folder) if folder else None,
            digest_tokenizer(served.folder),
            template,
            "float32",
        )
        assert whole.fingerprint == stream.completion.fingerprint == expected
        assert whole.verified and whole.variant_id == variant.id
        assert whole.tokens == stream.completion.tokens > 0
        assert stream.completion.first_token_s is not None
        client.close()


def test_models_lists_the_variants_of_this_base(served: Served) -> None:
    entries = served.http.get("/models").json()["data"]
    assert {entry["name"] for entry in entries} >= {"tiny", "tiny tuned", "tiny dora"}
    assert served.tuned.id in {entry["id"] for entry in entries}


def test_only_who_has_the_token_and_names_this_host_is_answered(served: Served) -> None:
    wrong = served.http.get("/models", headers={"Authorization": "Bearer guess"})
    assert wrong.status_code == 401 and wrong.json()["error"]["code"] == "invalid_api_key"
    rebound = served.http.get("/models", headers={"Host": "evil.example"})
    assert rebound.status_code == 421
    assert served.endpoint.stat().st_mode & 0o777 == 0o600
    answer = served.http.options("/models", headers={"Origin": "http://evil.example"})
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    ("more", "status", "words"),
    [
        ({"model": "nobody"}, 404, "no such variant"),
        ({"temperature": 5}, 400, "temperature: input should be less than or equal to 2 (got 5)"),
        ({"n": 0}, 400, "n: input should be greater"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, 400, "role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "only text can be read"),
        ({"messages": [{"role": "user", "content": "word " * 900}]}, 400, "reads at most 512"),
        ({"logit_bias": {"5": 3}}, 400, "logit_bias"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format"),
        ({"max_tokens": "many"}, 400, "max_tokens"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_the_protocols_own_form(
    served: Served, more: dict[str, Any], status: int, words: str
) -> None:
    answer = served.ask(**more)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert words in error["message"] and set(error) - {"remedy"} == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "the body is not valid JSON."),
        (b'{"model": "MODEL", "prompt": ""}', "prompt: it is empty."),
        (b'{"model": "MODEL", "prompt": "\\ud800"}', "prompt: a prompt holds half of a character"),
        (b'{"model": "MODEL", "prompt": [1000000000]}', "outside the vocabulary"),
        (b'{"model": "\\ud800", "prompt": "x"}', "half of a character"),
    ],
)
def test_a_body_that_makes_no_sense_is_refused_and_not_called_too_long(served: Served, body: bytes, words: str) -> None:
    raw = body.replace(b"MODEL", served.model.id.encode())
    answer = served.http.post("/completions", content=raw, headers={"Content-Type": "application/json"})
    error = answer.json()["error"]
    assert (
        answer.status_code == 400 and words in error["message"] and error["code"] in ("invalid_value", "invalid_prompt")
    )


def test_a_body_that_is_not_json_and_an_unknown_path_are_refused_in_the_same_form(served: Served) -> None:
    assert "error" in served.http.post("/chat/completions", content=b"{", headers={"content-type": "a/json"}).json()
    missing = served.http.get("/nothing")
    assert missing.status_code == 404 and "error" in missing.json()


def test_n_stop_seed_and_logprobs_are_honoured(served: Served) -> None:
    sampled = {"temperature": 1.0, "n": 3, "seed": 5, "logprobs": True, "top_logprobs": 2}
    first, again = served.ask(**sampled).json(), served.ask(**sampled).json()
    texts = [choice["message"]["content"] for choice in first["choices"]]
    assert texts == [choice["message"]["content"] for choice in again["choices"]]
    assert len(texts) == 3 and len(set(texts)) > 1
    entry = first["choices"][0]["logprobs"]["content"][0]
    assert entry["logprob"] < 0 and len(entry["top_logprobs"]) == 2 and isinstance(entry["bytes"], list)
    whole = served.ask(max_tokens=30).json()["choices"][0]["message"]["content"]
    stop = whole[5:8]
    cut = served.ask(max_tokens=30, stop=[stop]).json()["choices"][0]
    assert cut["message"]["content"] == whole[: whole.find(stop)] and cut["finish_reason"] == "stop"
    assert served.ask(max_completion_tokens=3).json()["usage"]["completion_tokens"] == 3


def test_a_stream_is_made_of_chunks_that_end_with_usage_and_done(served: Served) -> None:
    lines = served.ask(stream=True, stream_options={"include_usage": True}).text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] == 8
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"
    assert all(chunk["object"] == "chat.completion.chunk" and chunk["system_fingerprint"] for chunk in chunks)
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1])
    assert text == served.ask().json()["choices"][0]["message"]["content"]


def test_plain_completions_take_text_and_tokens_and_several_prompts(served: Served) -> None:
    ids = load_renderer(served.folder).encode("The sea is")
    body = {"model": "tiny", "temperature": 0, "max_tokens": 6}

    def texts(prompt: Any) -> list[str]:
        answer = served.http.post("/completions", json=body | {"prompt": prompt})
        assert answer.status_code == 200, answer.text
        return [choice["text"] for choice in answer.json()["choices"]]

    assert texts("The sea is") == texts(ids) == texts([ids])
    both = texts(["The sea is", "one two"])
    assert both == texts("The sea is") + texts("one two")
    assert served.http.post("/completions", json=body | {"prompt": [99999]}).status_code == 400


def test_a_client_that_leaves_stops_the_writing(served: Served) -> None:
    stream = served.client(served.tuned).stream(QUESTION, Sampling(temperature=0, max_tokens=450, stop=("\0",)))
    next(stream)
    assert served.load()["running"] == 1
    stream.close()
    list(stream)
    assert stream.completion is not None and stream.completion.finish_reason == "cancelled"
    assert stream.completion.text
    served.wait_until_calm()


def test_a_client_that_leaves_while_it_waits_for_a_whole_answer_stops_the_writing_too(served: Served) -> None:
    before = served.load()["tokens"]
    with pytest.raises(httpx2.ReadTimeout):
        body = {"model": "tiny", "prompt": "The", "max_tokens": 500, "n": 16}
        served.http.post("/completions", json=body, timeout=0.15)
    served.wait_until_calm()
    assert served.load()["tokens"] - before < 16 * 500


def test_an_adapter_whose_files_change_is_loaded_anew_with_a_new_fingerprint(served: Served, tmp_path: Path) -> None:
    folder = tmp_path / "changing"
    shutil.copytree(served.adapter, folder)
    variant = register_variant(served.store, served.model, folder, name="changing")
    client, sampling = served.client(variant), Sampling(temperature=0, max_tokens=16)
    before = client.complete(QUESTION, sampling)
    make_adapter(served.folder, folder, seed=9)
    after = client.complete(QUESTION, sampling)
    assert before.fingerprint != after.fingerprint
    assert after.text == plain_text(served, folder, 16) != before.text
    (folder / "chat_template.jinja").write_text(
        "{% for message in messages %}{{ message['content'] }}{% endfor %}{% if add_generation_prompt %}!{% endif %}"
    )
    own = client.complete(QUESTION, sampling)
    assert own.fingerprint not in (before.fingerprint, after.fingerprint) and own.text != after.text
    (folder / "adapter_model.safetensors").write_bytes(b"gone")
    with pytest.raises(GenerationProblem, match="the model cannot be used: .*not a safetensors file") as problem:
        client.complete(QUESTION, sampling)
    assert problem.value.remedy.startswith("Fetch the file again") and "Fetch" not in problem.value.what
    shutil.rmtree(folder)
    with pytest.raises(GenerationProblem, match="the adapter's folder is gone") as problem:
        client.complete(QUESTION, sampling)
    assert problem.value.remedy == "Put it back, or clone the run that made it."


def test_idleness_ends_the_run_and_takes_the_endpoint_away(tmp_path: Path) -> None:
    made = Served(tmp_path, idle_s=0.6)
    try:
        assert made.ask().status_code == 200
        made.thread.join(30)
        assert made.outcome == {"requests": 1, "tokens": 8}
        assert not made.endpoint.exists()
        assert made.job.phases == ["loading the model", "serving"]
    finally:
        made.close()


def test_stop_ends_open_streams_with_a_reason_and_the_run_as_stopped(tmp_path: Path) -> None:
    made = Served(tmp_path)
    stream = made.client(made.tuned).stream(QUESTION, Sampling(temperature=0, max_tokens=490))
    try:
        next(stream)
        made.job.stop.set()
        list(stream)
        assert stream.completion is not None and stream.completion.finish_reason == "error"
        assert "closing" in (stream.completion.error or "")
        made.thread.join(30)
        assert isinstance(made.outcome, Stopped)
    finally:
        made.close()
