"""A server on loopback that answers as the hub does stands in for the hub; its client is the real one."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import tiny

from workbench.errors import ModelProblem, Stopped
from workbench.job import RecordingJob
from workbench.models.adding import AddModelConfig, add_model, hub_id
from workbench.models.loading import load_base
from workbench.records import ModelSource
from workbench.settings import get_settings
from workbench.store import models as model_store
from workbench.store.database import Store, open_store

COMMIT = "a" * 40


class Hub(ThreadingHTTPServer):
    """Serves one folder as the repository `owner/tiny`."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.refusal: tuple[int, str] | None = None
        self.fetched: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def _answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self) -> None:
        if self.server.refusal:
            status, code = self.server.refusal
            self._answer(b"{}", status, X_Error_Code=code, X_Error_Message=code)
        elif self.path.startswith("/api/models/owner/tiny"):
            files = [
                {"rfilename": str(file.relative_to(self.server.folder)), "size": file.stat().st_size}
                for file in sorted(self.server.folder.rglob("*"))
                if file.is_file()
            ]
            answer: dict[str, Any] = {"id": "owner/tiny", "sha": COMMIT, "siblings": files, "tags": []}
            self._answer(json.dumps(answer).encode(), Content_Type="application/json")
        elif self.path.startswith(f"/owner/tiny/resolve/{COMMIT}/"):
            name = self.path.rsplit("/", 1)[1].partition("?")[0]
            body = (self.server.folder / name).read_bytes()
            if self.command == "GET":
                self.server.fetched.append(name)
            self._answer(body, ETag=f'"{hashlib.sha256(body).hexdigest()}"')
        else:
            self._answer(b"{}", 404, X_Error_Code="RepoNotFound")

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    server = Hub(tiny.make_model(tmp_path / "repository"))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def job(hub: Hub, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RecordingJob]:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    get_settings.cache_clear()
    store: Store = open_store(get_settings())
    yield RecordingJob(store, tmp_path / "run")
    store.close()


CONFIG = AddModelConfig(source=ModelSource.HUB, reference="owner/tiny")


def test_a_hub_model_is_fetched_with_what_it_needs_and_nothing_else(hub: Hub, job: RecordingJob) -> None:
    for name in ("pytorch_model.bin", "consolidated.safetensors", "modeling.py"):
        (hub.folder / name).write_bytes(b"not needed")
    (hub.folder / "onnx").mkdir()
    (hub.folder / "onnx" / "config.json").write_text("{}")
    result = add_model(CONFIG, job)
    model = model_store.get_model(job.store, "tiny")
    assert model.info["revision"] == COMMIT and hub_id(model) == "owner/tiny"
    names = {file.name for file in Path(result["path"]).iterdir() if not file.name.startswith(".")}
    assert names == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
        "workbench-model.json",
    }
    assert load_base(model).num_parameters() == result["parameters"]
    assert job.phases == ["asking the hub", "fetching", "checking the weights"]


def test_a_second_attempt_goes_on_where_the_first_was_stopped(hub: Hub, job: RecordingJob) -> None:
    job._left = 5
    with pytest.raises(Stopped):
        add_model(CONFIG, job)
    fetched = list(hub.fetched)
    assert len(fetched) > 1 and "model.safetensors" not in fetched
    assert model_store.list_models(job.store) == []
    job._left = None
    hub.fetched.clear()
    add_model(CONFIG, job)
    # The file that was under way may be asked for again, those that were whole are not.
    assert not set(fetched[:-1]) & set(hub.fetched) and "model.safetensors" in hub.fetched
    assert job.told.done == job.told.total


def test_a_model_with_its_own_code_is_refused_before_its_weights_are_fetched(hub: Hub, job: RecordingJob) -> None:
    config = json.loads((hub.folder / "config.json").read_text()) | {"auto_map": {"AutoConfig": "evil.Config"}}
    (hub.folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelProblem, match="its own code"):
        add_model(CONFIG, job)
    assert "model.safetensors" not in hub.fetched


def test_a_repository_of_pickles_is_refused_from_its_listing(hub: Hub, job: RecordingJob) -> None:
    (hub.folder / "model.safetensors").rename(hub.folder / "pytorch_model.bin")
    with pytest.raises(ModelProblem, match=r"pickled.*pytorch_model\.bin"):
        add_model(CONFIG, job)
    assert hub.fetched == []


@pytest.mark.parametrize(
    "status,code,words",
    [
        (403, "GatedRepo", "gated.*Accept its licence on the model's page, set HF_TOKEN"),
        (401, "RepoNotFound", "no such model.*for a private model set HF_TOKEN"),
        (404, "RepoNotFound", "no such model"),
        (404, "RevisionNotFound", "no such revision"),
        (403, "", "asks for a token"),
        (500, "", "answered with an error.*500"),
    ],
)
def test_what_the_hub_refuses_is_told_in_words(hub: Hub, job: RecordingJob, status: int, code: str, words: str) -> None:
    hub.refusal = (status, code)
    with pytest.raises(ModelProblem, match=words):
        add_model(CONFIG, job)


def test_a_hub_that_cannot_be_reached_is_told_in_words(job: RecordingJob) -> None:
    away = job.settings.model_copy(update={"hub_endpoint": "http://127.0.0.1:9"})
    job.settings = away
    with pytest.raises(ModelProblem, match="cannot be reached.*HF_ENDPOINT"):
        add_model(CONFIG, job)


def test_working_offline_is_told_with_the_variable_that_says_so(
    job: RecordingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelProblem, match="Unset HF_HUB_OFFLINE"):
        add_model(CONFIG, job)
