"""What an export writes: zip files, merged weights, Ollama's folder, the model card, the push to a hub on loopback."""

import json
import re
import shutil
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import tiny
from pydantic import SecretStr

from workbench.datasets.template import ChatTemplate
from workbench.errors import Conflict, ModelProblem, TemplateProblem, UsageError
from workbench.models import export, ollama
from workbench.models.merging import write_merged
from workbench.models.model_card import CardFacts, DataFact, Figure, write_card
from workbench.records import Interval, Message
from workbench.settings import Settings
from workbench.store.database import Store

sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))
from chat_models import Fixture, all_fixtures  # noqa: E402

# ---- zip ----


def test_the_same_files_give_the_same_zip_whatever_their_dates_and_order(tmp_path: Path) -> None:
    made = []
    for number, names in enumerate((("b.txt", "a/c.txt"), ("a/c.txt", "b.txt"))):
        folder = tmp_path / f"folder{number}"
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)
            (folder / name).chmod(0o600 + 0o44 * number)
        made.append(export.write_zip(folder, tmp_path / f"{number}.zip").read_bytes())
    assert made[0] == made[1]
    with zipfile.ZipFile(tmp_path / "0.zip") as archive:
        assert archive.namelist() == ["a/c.txt", "b.txt"] and archive.testzip() is None


def test_an_export_does_not_replace_what_is_no_export(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear diary")
    with pytest.raises(Conflict, match="something at this path"):
        export.check_target(tmp_path / "mine", replace=False)
    with pytest.raises(Conflict, match="something else than an export"):
        export.check_target(tmp_path / "mine", replace=True)
    assert export.check_target(tmp_path / "new", replace=False) == tmp_path / "new"


# ---- merging ----


@pytest.mark.filterwarnings("ignore:Setting .save_embedding_layers.", "ignore:Model has .tie_word_embeddings")
@pytest.mark.parametrize(
    "options", [{}, {"use_rslora": True}, {"use_dora": True}, {"targets": ["q_proj", "embed_tokens"]}]
)
@pytest.mark.parametrize("tied", [False, True])
def test_merged_weights_answer_as_base_and_adapter_do(store: Store, tmp_path: Path, options: Any, tied: bool) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from workbench.models.loading import load_base, load_with_adapter

    model = tiny.register_model(store, tiny.make_model(tmp_path / "base", tied=tied))
    adapter = tiny.make_adapter(tmp_path / "base", tmp_path / "adapter", **options)
    (tmp_path / "merged").mkdir()
    write_merged(model, adapter, tmp_path / "merged", dtype="float32")
    ids = torch.tensor([[3, 60, 61, 99, 7, 12]])
    with torch.no_grad():
        wanted = load_with_adapter(load_base(model), adapter)(input_ids=ids).logits
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
        assert torch.allclose(merged(input_ids=ids).logits, wanted, atol=2e-4)
        assert not torch.allclose(load_base(model)(input_ids=ids).logits, wanted, atol=1e-2)
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (tmp_path / "merged" / name).is_file()


def test_merged_weights_are_w_plus_s_times_ba(store: Store, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    model = tiny.register_model(store, tiny.make_model(tmp_path / "base"))
    adapter = tiny.make_adapter(tmp_path / "base", tmp_path / "adapter", r=4)
    for dtype in ("float32", "bfloat16"):
        (tmp_path / dtype).mkdir()
        write_merged(model, adapter, tmp_path / dtype, dtype=dtype)
        base, lora = (
            load_file(tmp_path / "base" / "model.safetensors"),
            load_file(adapter / "adapter_model.safetensors"),
        )
        found = load_file(tmp_path / dtype / "model.safetensors")
        layer = "model.layers.1.self_attn.v_proj"
        a, b = (lora[f"base_model.model.{layer}.lora_{side}.weight"] for side in "AB")
        wanted = (base[f"{layer}.weight"] + 2.0 * b @ a).to(getattr(torch, dtype))
        assert found[f"{layer}.weight"].dtype == wanted.dtype
        assert torch.allclose(
            found[f"{layer}.weight"].float(), wanted.float(), atol=1e-6 if dtype == "float32" else 1e-2
        )


# ---- Ollama ----


def fill(template: str, messages: list[Message]) -> str:
    """What Go's text/template gives for the few actions our templates use."""
    parts = re.split(r"(\{\{.*?\}\})", template)
    system = "\n\n".join(message.content for message in messages if message.role == "system")

    def run(position: int, message: Message | None, live: bool) -> tuple[str, int, str]:
        text = ""
        while position < len(parts):
            part = parts[position]
            position += 1
            if not part.startswith("{{"):
                text += part if live else ""
                continue
            action = part[2:-2].strip()
            if action == ".Content":
                text += message.content if live and message else ""
            elif action.startswith('"'):
                text += json.loads(action) if live else ""
            elif action == "end" or action.startswith("else"):
                return text, position, action
            elif action == "range .Messages":
                for each in messages:
                    inner, after, _ = run(position, each, live)
                    text += inner
                position = after
            else:
                assert action.startswith("if ")
                done, word = False, action[3:]
                while True:
                    role = re.fullmatch(r'eq \.Role "(\w+)"', word)
                    holds = message is not None and message.role == role[1] if role else not system
                    assert role or word == "not .System"
                    inner, position, ended = run(position, message, live and holds and not done)
                    text += inner
                    done = done or holds
                    if ended == "end":
                        break
                    word = ended.removeprefix("else if ")
        return text, position, "whole"

    return run(0, None, True)[0]


TALK = [
    Message(role="system", content="Be brief."),
    Message(role="user", content="Hello {{ .System }}"),
    Message(role="assistant", content="Hi."),
    Message(role="user", content="And\nnow?"),
]
MOST_KNOWN = {"own_smollm2", "own_chatml", "own_mistral", "llama3", "llama3_2", "qwen2_5", "qwen3", "phi3", "gemma3"}


@pytest.mark.parametrize("fixture", all_fixtures(), ids=lambda fixture: fixture.name)
def test_a_template_is_translated_into_the_same_text_or_refused_in_words(fixture: Fixture) -> None:
    template = ChatTemplate(fixture.source, special_tokens={"bos_token": "<s>", "eos_token": "</s>"})

    def apply(messages: Any, begin: bool) -> str:
        return template.apply(messages, None, add_generation_prompt=begin)

    try:
        shape = ollama.read_shape(apply)
    except TemplateProblem as problem:
        assert fixture.name not in MOST_KNOWN and problem.sentence()
        return
    written = ollama.go_template(shape)
    for talk in (TALK, TALK[1:], TALK[:2], TALK[1:2]):
        assert fill(written, talk) == apply(talk, True)


def chatml(messages: Any, begin: bool) -> str:
    text = "".join(f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in messages)
    return text + ("<|im_start|>assistant\n" if begin else "")


def llama3(messages: Any, begin: bool) -> str:
    def head(role: str) -> str:
        return f"<|start_header_id|>{role}<|end_header_id|>\n\n"

    text = "<|begin_of_text|>" + "".join(f"{head(m.role)}{m.content}<|eot_id|>" for m in messages)
    return text + (head("assistant") if begin else "")


def test_chatml_and_llama_3_become_the_templates_ollama_knows() -> None:
    shape = ollama.read_shape(chatml)
    assert shape.user == ("<|im_start|>user\n", "<|im_end|>\n")
    assert shape.assistant == ("<|im_start|>assistant\n", "<|im_end|>\n")
    assert shape.system == ("<|im_start|>system\n", "<|im_end|>\n") and shape.without_system == ""
    shape = ollama.read_shape(llama3).without_prefix("<|begin_of_text|>")
    assert "begin_of_text" not in ollama.go_template(shape)
    assert shape.user == ("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>")
    assert fill(ollama.go_template(shape), TALK) == llama3(TALK, True).removeprefix("<|begin_of_text|>")


def test_a_template_that_moves_the_system_text_into_the_question_is_refused() -> None:
    def moved(messages: Any, begin: bool) -> str:
        system = messages[0].content + "\n\n" if messages[0].role == "system" else ""
        turns = [m for m in messages if m.role != "system"]
        text = ""
        for number, m in enumerate(turns):
            words = f"[INST] {system if number == len(turns) - 1 else ''}{m.content} [/INST]"
            text += words if m.role == "user" else f"{m.content}</s>"
        return text

    with pytest.raises(TemplateProblem, match="cannot be written as one of Ollama's"):
        ollama.read_shape(moved)


def test_a_modelfile_holds_weights_adapter_template_and_stops() -> None:
    made = ollama.Modelfile(
        adapter="./adapter", template=ollama.go_template(ollama.read_shape(chatml)), stops=("<|im_end|>", '"'),
        context_length=512, licence="apache-2.0",
    )  # fmt: skip
    text = made.text()
    assert "FROM ./model\nADAPTER ./adapter\n" in text and 'PARAMETER stop "<|im_end|>"\n' in text
    assert 'PARAMETER stop "\\""' in text and "PARAMETER num_ctx 512" in text
    template = re.search(r'TEMPLATE """(.*?)"""', text, re.DOTALL)
    assert template and fill(template[1], TALK) == chatml(TALK, True)


# ---- the card ----


def test_a_card_says_what_was_recorded_and_that_the_rest_is_not_known() -> None:
    data = DataFact(
        use="trained on", name="my | rows@2", rows=1200, content_hash="ab" * 32, source="rows.csv", raters=2
    )
    figure = Figure(
        measure="follows all rules", variant="tuned", percent=True, prompts="kit@1",
        value=Interval(value=0.5, low=0.3664, high=0.6336, n=50),
    )  # fmt: skip
    facts = CardFacts(
        name='Evil\n"name"', weights="adapter", base_name="SmolLM2", base_id="owner/base", base_licence="apache-2.0",
        adapter_digest="cd" * 32, data=(data,), figures=(figure,), settings={"learning_rate": 0.001},
    )  # fmt: skip
    card = write_card(facts)
    header = card.split("---\n")[1]
    import yaml

    assert yaml.safe_load(header)["base_model"] == "owner/base" and yaml.safe_load(header)["license"] == "apache-2.0"
    assert "50.0% | 36.6% to 63.4% | 50 | kit@1" in card and "ab" * 32 in card and "ranked by 2 raters" in card
    assert "my \\| rows@2" in card and "not stated" in card and "| learning_rate | 0.001 |" in card
    bare = write_card(CardFacts(name="x", weights="merged", base_name="b", adapter_digest="e"))
    assert "not known here" in bare and "No answers of it were measured" in bare


# ---- the hub ----


class Hub(ThreadingHTTPServer):
    """Takes what `create_repo` and `upload_folder` send, as the hub does for small and large files."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.status: int | None = None
        self.repos: dict[str, Any] = {}
        self.files: dict[str, Any] = {}
        self.tokens: set[str] = set()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class HubHandler(BaseHTTPRequestHandler):
    server: Hub

    def _answer(self, answer: Any, status: int = 200) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if self.server.status:
            return self._answer({"error": "Repository not found"}, 404)
        self._answer({"id": "owner/tiny", "sha": "a" * 40, "siblings": [], "tags": []})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.tokens.add(self.headers.get("Authorization", ""))
        if self.server.status:
            self._answer({"error": "no"}, self.server.status)
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            self.server.repos[f"{asked.get('organization')}/{asked['name']}"] = asked
            self._answer({"url": f"{self.server.address}/owner/tiny"})
        elif self.path.endswith("/api/validate-yaml"):
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            asked = json.loads(body)
            self._answer(
                {
                    "files": [
                        {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                        for file in asked["files"]
                    ]
                }
            )
        elif "/commit/" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.server.files[entry["value"]["path"]] = entry["value"]["content"]
            self._answer(
                {"commitUrl": f"{self.server.address}/owner/tiny/commit/a", "commitOid": "a" * 40, "success": True}
            )
        else:
            self._answer({"error": self.path}, 404)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Any:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def push(tmp_path: Path, hub: Hub | None, token: str | None = "hf_good", repo: str = "owner/tiny") -> str:
    folder = tmp_path / "push"
    folder.mkdir(exist_ok=True)
    (folder / "README.md").write_text("---\nlibrary_name: peft\n---\nhello")
    (folder / "adapter_config.json").write_text("{}")
    address = hub.address if hub else "http://127.0.0.1:9"
    settings = Settings(home=tmp_path / "h", HF_ENDPOINT=address, HF_TOKEN=SecretStr(token) if token else None)  # type: ignore[call-arg]
    return export.push_folder(folder, repo, private=True, settings=settings, message="Add it")


def test_a_folder_is_pushed_to_the_hub_that_the_settings_name(tmp_path: Path, hub: Hub) -> None:
    assert push(tmp_path, hub) == f"{hub.address}/owner/tiny"
    assert set(hub.files) == {"README.md", "adapter_config.json"}
    asked = hub.repos["owner/tiny"]
    assert asked.get("private") is True or asked.get("visibility") == "private"
    assert hub.tokens == {"Bearer hf_good"}


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "does not know this token"), (403, "may not write there"), (500, "answered with an error")],
)
def test_a_refused_push_is_told_in_words(tmp_path: Path, hub: Hub, status: int, words: str) -> None:
    hub.status = status
    with pytest.raises(ModelProblem, match=words) as told:
        push(tmp_path, hub)
    assert "hf_good" not in told.value.sentence()


def test_a_push_without_token_owner_or_network_is_refused_in_words(tmp_path: Path, hub: Hub) -> None:
    with pytest.raises(UsageError, match="asks for a token"):
        push(tmp_path, hub, token=None)
    with pytest.raises(UsageError, match="owner is missing"):
        push(tmp_path, hub, repo="tiny")
    with pytest.raises(ModelProblem, match="cannot be reached"):
        push(tmp_path, None)


def test_an_exported_adapter_names_its_base_without_a_path_of_this_machine(tmp_path: Path) -> None:
    tiny.make_model(tmp_path / "base")
    source = tiny.make_adapter(tmp_path / "base", tmp_path / "adapter")
    (source / "training_args.bin").write_bytes(b"x")
    shutil.copytree(source, source / "ref")
    (tmp_path / "out").mkdir()
    export.write_adapter(source, tmp_path / "out", base_name="owner/base")
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["base_model_name_or_path"] == "owner/base"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
