"""Commands, called as `main` calls them: what they print, as JSON and for people, and how they leave."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.generation.scripted import ScriptedServer, says, whole
from workbench.api import Workspace
from workbench.cli import run
from workbench.records import Failure, ModelSource, RunState
from workbench.runs.kinds import parse_config
from workbench.runs.snippets import as_command
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.store.database import Store

Call = Callable[..., tuple[int, str, str]]
KIT = "Assistant in a house format"
TRAIN, HELD_OUT = f"{KIT} (train)", f"{KIT} (held out)"


@pytest.fixture
def call(home: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def document(told: tuple[int, str, str], code: int = 0) -> Any:
    assert told[0] == code, told
    return json.loads(told[1])


def test_a_kit_is_installed_listed_shown_and_counted(call: Call) -> None:
    parts = document(call("data", "kit", "assistant", "--json"))
    assert parts["train"]["name"] == TRAIN
    listed = document(call("data", "list", "--json"))
    assert {told["name"]: told["rows"] for told in listed} == {TRAIN: 260, HELD_OUT: 50}
    shown = document(call("data", "show", TRAIN, "--rows", "2", "--search", "Moon", "--json"))
    assert len(shown["rows"]) <= 2 and shown["total"] < 260
    assert document(call("data", "stats", HELD_OUT, "--json"))["rows"] == 50
    code, out, _ = call("data", "list")
    assert code == 0 and TRAIN in out and "instructions" in out


def test_a_file_is_imported_and_exported_again(call: Call, tmp_path: Path) -> None:
    source = tmp_path / "talks.jsonl"
    rows = [{"instruction": f"Say {n}", "output": f"{n}."} for n in range(3)]
    source.write_text("\n".join(map(json.dumps, rows)))
    told = document(call("data", "import", str(source), "--description", "numbers", "--json"))
    assert (told["rows"], told["problem_rows"]) == (3, [])
    assert document(call("data", "list", "--json"))[0]["description"] == "numbers"
    target = tmp_path / "out.csv"
    written = document(call("data", "export", "talks", str(target), "--json"))
    assert (written["format"], written["rows"]) == ("csv", 3)
    assert "Say 2" in target.read_text()
    preview = document(call("data", "import", str(target), "--dry-run", "--json"))
    assert (preview["rows_estimate"], preview["problems"]) == (3, [])


def test_a_bad_file_is_told_row_by_row_and_its_good_rows_can_be_kept(call: Call, tmp_path: Path) -> None:
    source = tmp_path / "bad.jsonl"
    source.write_text('{"instruction": "a", "output": "b"}\nnot json\n{"instruction": "", "output": "c"}\n')
    told = document(call("data", "import", "--source", str(source), "--json"), code=1)
    assert [problem["row"] for problem in told["problems"]] == ["2", "3"]
    assert "--keep-good" in told["error"]["remedy"]
    assert document(call("data", "list", "--json")) == []
    code, out, err = call("data", "import", str(source))
    assert code == 1 and out == "" and "not valid JSON" in err and "Traceback" not in err
    kept = document(call("data", "import", str(source), "--keep-good", "--json"))
    assert kept["rows"] == 1 and Path(kept["bad_rows_path"]).is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("data", "import", "/no/such/file.jsonl"), 1, "no such file"),
        (("data", "import", "~nobody-of-this-name/x.jsonl"), 2, "cannot be a path"),
        (("data", "import"), 2, "a file is needed"),
        (("data", "import", "x", "--source", "y"), 2, "given twice"),
        (("data", "show", "nothing"), 1, "no such dataset"),
        (("data", "export", "nothing", "x.csv"), 1, "no such dataset"),
        (("data", "kit", "nothing"), 1, "no such starter kit"),
        (("data", "list", "--kind", "cats"), 2, "cats"),
        (("train", "sft"), 2, "--dataset"),
        (("train", "sft", "--dataset", "nothing"), 1, "no such dataset"),
        (("train", "sft", "--spec", "/no/spec.yaml"), 2, "--spec"),
        (("runs", "show", "run_x"), 1, "no such run"),
        (("runs", "logs", "run_x"), 1, "no such run"),
        (("runs", "stop", "run_x"), 1, "no such run"),
        (("models", "add", "moon"), 2, "--source"),
        (("models", "add", "local", "/no/such/folder"), 1, "/no/such/folder"),
        (("models", "add", "local", "a" * 5000), 2, "cannot be a path"),
        (("models", "add", "hub"), 2, "--reference"),
        (("models", "show", "nothing"), 1, "no such model"),
        (("servers", "add", "s", "not an address"), 2, "begins with http"),
        (("servers", "add", "s", "http://127.0.0.1:9", "--key-file", "/no/key"), 2, "--key-file"),
        (("generate", "hi", "--variant", "nobody"), 1, "no such variant"),
        (("generate", "hi", "--temperature", "9"), 2, "--temperature"),
        (("compare",), 2, "--prompts"),
        (("compare", "hi", "--limit", "2"), 2, "--limit"),
        (("compare", "hi", "--variants", "nobody"), 1, "no such variant"),
        (("answers", "show", "run_x"), 1, "no such run"),
        (("serve", "--max-rows", "none"), 2, "--max-rows"),
        (("data", "lst"), 2, "lst"),
        (("nonsense",), 2, "nonsense"),
        (("data", "list", "--nonsense"), 2, "--nonsense"),
    ],
)
def test_what_cannot_be_done_is_told_in_words_and_in_one_document(
    call: Call, arguments: tuple[str, ...], code: int, words: str
) -> None:
    told, out, err = call(*arguments)
    assert told == code, err
    assert words in err and out == "" and "Traceback" not in err
    error = document(call(*arguments, "--json"), code)["error"]
    assert set(error) == {"kind", "what", "place", "value", "remedy"}
    assert words in json.dumps(error)


def test_a_setting_out_of_bounds_is_told_with_its_option(call: Call) -> None:
    call("data", "kit", "assistant")
    error = document(call("train", "sft", "--dataset", TRAIN, "--learning-rate", "7", "--json"), 2)["error"]
    assert error["place"] == "--learning-rate" and error["value"] == "7"
    error = document(call("train", "sft", "--dataset", TRAIN, "--held-out", "3", "--json"), 2)["error"]
    assert error["place"] == "--held-out"
    assert document(call("runs", "list", "--json")) == []


def test_a_spec_file_fills_what_no_option_says(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call("data", "kit", "assistant")
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump({"kind": "sft", "dataset": TRAIN, "epochs": 7, "lora_r": 4}))
    seen: list[tuple[str, Any]] = []

    def launch(self: Workspace, kind: str, config: Any, *, name: str | None = None) -> Any:
        seen.append((kind, config))
        return run_store.add_run(self.store, kind=kind, name="x", slot="train", spec={})

    monkeypatch.setattr(Workspace, "launch", launch)
    made = document(call("train", "sft", "--spec", str(spec), "--lora-r", "8", "--json"))
    assert made["kind"] == "sft"
    kind, config = seen[0]
    assert (kind, config["epochs"], config["lora_r"], config["model"]) == ("sft", 7, "8", "mdl_smollm2_135m")
    spec.write_text("kind: answer\ndataset: x\n")
    assert call("train", "sft", "--spec", str(spec))[0] == 2
    spec.write_text("- a list\n")
    assert call("train", "sft", "--spec", str(spec))[0] == 2


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (
            "sft",
            {"dataset": TRAIN, "learning_rate": 3e-4, "held_out": None, "use_dora": True, "max_steps": 5},
        ),
        (
            "sft",
            {"dataset": TRAIN, "target_modules": ("q_proj", "v_proj"), "sample_prompts": ("Hi, you", "Go")},
        ),
        (
            "sft",
            {"dataset": TRAIN, "held_out": HELD_OUT, "preset": "thorough", "name": "it's mine"},
        ),
        (
            "import",
            {"source": "{tmp}/my file.csv", "dataset": "mine", "mapping": {"instruction": "q", "output": "a b"}},
        ),
        ("import", {"source": "{tmp}/my file.csv", "dataset": "mine", "keep_good": True, "kind": "prompts"}),
        ("add_model", {"source": "hub", "reference": "someone/model", "revision": "main"}),
        ("tour", {"quick": True, "max_tokens": 900}),
    ],
)
def test_the_command_line_that_a_run_offers_for_copying_launches_the_same_config(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, fields: dict[str, Any]
) -> None:
    call("data", "kit", "assistant")
    (tmp_path / "my file.csv").write_text("q,a b\n1,2\n")
    fields = {name: value.format(tmp=tmp_path) if name == "source" else value for name, value in fields.items()}
    wanted = parse_config(kind, fields)
    seen: list[Any] = []

    def launch(self: Workspace, kind: str, config: Any, *, name: str | None = None) -> Any:
        seen.append(parse_config(kind, config))
        made = run_store.add_run(self.store, kind=kind, name="x", slot="io", spec={})
        run_store.update_run(self.store, made.id, state=RunState.FINISHED)
        return run_store.get_run(self.store, made.id)

    monkeypatch.setattr(Workspace, "launch", launch)
    words = shlex.split(as_command(kind, wanted).replace("\\\n", " "))
    code, _, err = call(*words[1:], "--json", *(["--no-wait"] if kind == "import" else []))
    assert code == 0, err
    assert seen == [wanted]


def test_the_tour_prints_its_result_document(call: Call, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    held_out = {"share": 0.9, "low": 0.8, "high": 0.95, "n": 50}
    result = {"held_out": {"base": None, "tuned": held_out}, "answers": [{"prompt": "P?", "base": "b", "tuned": "t"}]}
    made = run_store.add_run(store, kind="tour", name="Tour", slot="flow", spec={})
    run_store.update_run(store, made.id, state=RunState.FINISHED, result=result)
    monkeypatch.setattr(Workspace, "tour", lambda self, **options: run_store.get_run(self.store, made.id))
    assert document(call("tour", "--json")) == result
    code, out, _ = call("tour")
    assert code == 0 and "90% (80% to 95%, n = 50)" in out and "no figure" in out
    failure = Failure(error="X", message="it broke", remedy="mend it")
    run_store.update_run(store, made.id, state=RunState.FAILED, failure=failure)
    error = document(call("tour", "--json"), 1)["error"]
    assert (error["what"], error["remedy"]) == ("it broke", "mend it")


def test_the_tour_of_a_kit_without_rules_prints_mean_chrf(
    call: Call, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = {"share": None, "low": None, "high": None, "n": 50}
    base, tuned = ({"share": mean, "low": mean - 2, "high": mean + 2, "n": 50} for mean in (12.0, 34.56))
    gain = {"share": 22.56, "low": 20.0, "high": 25.0, "n": 50}
    figures = {"held_out": {"base": none, "tuned": none}, "chrf": {"base": base, "tuned": tuned}, "chrf_gain": gain}
    made = run_store.add_run(store, kind="tour", name="Tour", slot="flow", spec={})
    run_store.update_run(store, made.id, state=RunState.FINISHED, result=figures)
    monkeypatch.setattr(Workspace, "tour", lambda self, **options: run_store.get_run(self.store, made.id))
    assert document(call("tour", "--json")) == figures
    code, out, _ = call("tour")
    assert code == 0 and "12.0 (10.0 to 14.0, n = 50)" in out and "34.6 (32.6 to 36.6, n = 50)" in out
    assert "mean chrF" in out and "+22.6 points (+20.0 to +25.0, n = 50)" in out
    assert "format" not in out and "no figure" not in out


def test_runs_are_listed_shown_cloned_and_put_away(call: Call, store: Store) -> None:
    made = run_store.add_run(store, kind="import", name="Old import", slot="io", spec={"source": "/x", "dataset": "d"})
    run_store.update_run(store, made.id, state=RunState.STOPPED)
    assert [told["id"] for told in document(call("runs", "list", "--state", "stopped", "--json"))] == [made.id]
    assert document(call("runs", "show", made.id, "--json"))["spec"]["dataset"] == "d"
    assert "Old import" in call("runs", "show", made.id)[1]
    assert document(call("runs", "logs", made.id, "--json"))["log"] == ""
    error = document(call("runs", "clone", made.id, "--set", "colour=red", "--json"), 2)["error"]
    assert error["place"] == "--set" and "keep_good" in error["remedy"]
    watched = document(call("runs", "watch", made.id, "--json"), 1)
    assert watched["run"]["state"] == "stopped" and "resume" in watched["error"]["remedy"]
    assert document(call("runs", "archive", made.id, "--json"))["archived_at"] is not None
    assert document(call("runs", "list", "--json")) == []
    assert "No runs yet" in call("runs", "list")[1]


def test_a_server_answers_one_prompt_and_two_variants_side_by_side(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_SERVER_KEY", "secret-key")
    models = [{"id": "m1"}, {"id": "m2"}]
    with ScriptedServer(says(200, whole("An answer.\x1b[2J")), models=models) as server:
        added = document(call("servers", "add", "near", server.url, "--model", "m1", "--model", "m2", "--json"))
        names = [variant["name"] for variant in added["variants"]]
        assert "secret-key" not in json.dumps(added) and len(names) == 2
        headers = {name.lower(): value for name, value in server.seen[-1]["headers"].items()}
        assert headers["authorization"] == "Bearer secret-key"
        assert document(call("servers", "list", "--json"))[0]["base_url"] == server.url
        assert len(document(call("models", "variants", "--json"))) == 2
        told = document(call("generate", "Hello?", "--variant", names[0], "--max-tokens", "9", "--json"))
        assert told["text"].startswith("An answer.") and told["sampling"]["max_tokens"] == 9
        code, out, _ = call("generate", "Hello?", "--variant", names[0])
        assert code == 0 and out.strip() == "An answer.[2J"
        both = document(call("compare", "Hello?", "--variants", names[0], "--variants", names[1], "--json"))
        assert [answer["variant"] for answer in both["answers"]] == names
        assert {answer["sampling"]["temperature"] for answer in both["answers"]} == {0.0}
        server.script = [says(500, {})]
        error = document(call("generate", "Hello?", "--variant", names[0], "--json"), 1)["error"]
        assert error["kind"] == "GenerationProblem"


def test_models_are_listed_before_any_is_converted(call: Call) -> None:
    listed = document(call("models", "list", "--json"))
    assert [told["id"] for told in listed] == ["mdl_smollm2_135m"]
    assert "not ready yet" in call("models", "list")[1]
    assert document(call("models", "show", "bundled", "--json"))["variants"] == []


def test_the_doctor_says_what_it_found_and_what_to_do(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    found = document(call("doctor", "--json"))
    checks = {told["check"]: told for told in found["checks"]}
    assert found["ok"] is True
    assert {"python", "packages", "home", "disk", "store", "memory", "bundled model", "chromium", "gpu"} <= set(checks)
    monkeypatch.setenv("WORKBENCH_PORT", "many")
    sick = document(call("doctor", "--json"), 1)
    home = next(told for told in sick["checks"] if told["check"] == "home")
    assert home["verdict"] == "fail" and home["remedy"]


def test_an_environment_variable_that_does_not_hold_is_named(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_TRAIN_SLOTS", "0")
    error = document(call("data", "list", "--json"), 2)["error"]
    assert error["place"] == "WORKBENCH_TRAIN_SLOTS" and error["value"] == "0"


def test_comparing_keeps_good_answers_when_another_variant_fails(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_SERVER_KEY", "k")
    names = []
    with (
        ScriptedServer(says(200, whole("An answer.")), models=[{"id": "good"}]) as near,
        ScriptedServer(says(400, {"error": {"message": "too long"}}), models=[{"id": "bad"}]) as far,
    ):
        for name, model, server in (("near", "good", near), ("far", "bad", far)):
            added = document(call("servers", "add", name, server.url, "--model", model, "--json"))
            names.append(added["variants"][0]["name"])
        asked = ("compare", "Hello?", "--variants", names[1], "--variants", names[0])
        code, out, err = call(*asked)
        assert code == 1 and "An answer." in out and "too long" in out and f"Error: {names[1]}: no whole answer" in err
        told = document(call(*asked, "--json"), 1)
    assert told["error"]["place"] == names[1] and [each["variant"] for each in told["answers"]] == names[::-1]
    assert told["answers"][1]["text"] == "An answer." and "too long" in told["answers"][0]["problem"]


def test_a_base_model_is_deleted_unless_it_is_in_use_or_bundled(call: Call, store: Store) -> None:
    model = model_store.add_model(store, "mine", ModelSource.LOCAL, "/nowhere")
    assert document(call("models", "delete", "bundled", "--json"), 1)["error"]["kind"] == "Conflict"
    run = run_store.add_run(store, kind="sft", name="Tune", slot="train", spec={"model": model.id})
    run_store.update_run(store, run.id, state=RunState.STOPPED)
    assert "'Tune'" in document(call("models", "delete", "mine", "--json"), 1)["error"]["what"]
    run_store.update_run(store, run.id, spec={"model": "another"})
    assert document(call("models", "delete", "mine", "--json")) == {"deleted": model.id}
    assert call("models", "delete", "mine")[0] == 1
