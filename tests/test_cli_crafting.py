"""`workbench craft`: rows from options and from JSON, merged with what others saved, told as JSON and for people."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from workbench.cli import run

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    def call(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def document(told: tuple[int, str, str], code: int = 0) -> Any:
    assert told[0] == code, told
    return json.loads(told[1])


def rows(call: Call, reference: str = "mine") -> list[dict[str, Any]]:
    return document(call("data", "show", reference, "--rows", "100", "--json"))["rows"]


@pytest.fixture
def mine(call: Call) -> list[str]:
    texts = [
        {"messages": [{"role": "user", "content": f"q{n}"}, {"role": "gpt", "content": f"cat {n}"}]} for n in (1, 2)
    ]
    made = call("craft", "add", "mine", "--create", "instructions", "--stdin", "--json", stdin=json.dumps(texts))
    assert document(made)["version"] == 1
    return [row["row_id"] for row in rows(call)]


def test_a_dataset_is_begun_with_a_row_from_options(call: Call) -> None:
    made = document(
        call(
            "craft", "add", "mine", "--system", "Be brief.", "--user", "Hi <b>", "--assistant", "Hello 🌍",
            "--tag", "greeting", "--create", "instructions", "--message", "begin", "--json",
        )
    )  # fmt: skip
    assert (made["version"], made["rows"], made["new"], made["message"]) == (1, 1, 1, "begin")
    (row,) = rows(call)
    assert [turn["role"] for turn in row["payload"]["messages"]] == ["system", "user", "assistant"]
    assert row["payload"]["meta"] == {"tags": ["greeting"]}
    code, out, _ = call("craft", "add", "mine", "--user", "x", "--assistant", "y")
    assert code == 0 and "1 new: version 2" in out


@pytest.mark.parametrize(
    ("kind", "options", "field"),
    [
        ("preferences", ("--user", "q", "--chosen", "good", "--rejected", "bad"), "chosen"),
        ("prompts", ("--user", "q", "--reference", "42"), "reference"),
        ("labels", ("--user", "q", "--assistant", "a", "--label", "good"), "label"),
    ],
)
def test_preferences_and_prompts_are_added_too(call: Call, kind: str, options: tuple[str, ...], field: str) -> None:
    document(call("craft", "add", "mine", *options, "--create", kind, "--json"))
    assert rows(call)[0]["payload"][field]


def test_a_label_is_needed_turned_and_refused_where_there_is_none(call: Call, mine: list[str]) -> None:
    asked = ("craft", "add", "told", "--user", "q", "--assistant", "a", "--create", "labels", "--json")
    assert "--label" in document(call(*asked), code=2)["error"]["place"]
    document(call(*asked, "--label", "bad"))
    (row,) = rows(call, "told")
    assert row["payload"]["label"] is False
    document(call("craft", "edit", "told", row["row_id"], "--label", "good", "--assistant", "better", "--json"))
    (row,) = rows(call, "told")
    assert row["payload"]["label"] is True and row["payload"]["completion"][0]["content"] == "better"
    code, out, _ = call("data", "show", "told")
    assert code == 0 and "better" in out and "good" in out
    assert call("craft", "edit", "mine", mine[0], "--label", "good")[0] == 2


def test_a_row_is_edited_tagged_duplicated_deleted_and_brought_back(call: Call, mine: list[str]) -> None:
    first, second = mine
    edited = document(call("craft", "edit", "mine", first, "--assistant", "better", "--tag", "checked", "--json"))
    assert (edited["version"], edited["edited"], edited["message"]) == (2, 1, "1 edited")
    payload = rows(call)[0]["payload"]
    assert payload["messages"][-1]["content"] == "better" and payload["meta"] == {"tags": ["checked"]}
    document(call("craft", "edit", "mine", first, "--untag", "checked", "--system", "New.", "--json"))
    assert rows(call)[0]["payload"]["messages"][0]["content"] == "New."
    assert rows(call)[0]["payload"]["meta"] == {}
    document(call("craft", "duplicate", "mine", second, "--json"))
    assert len(rows(call)) == 3
    document(call("craft", "delete", "mine", first, second, "--json"))
    assert len(rows(call)) == 1
    assert document(call("craft", "revert", "mine", "--json"))["rows"] == 3
    assert [row["row_id"] for row in rows(call)][:2] == mine
    whole = {"messages": [{"role": "user", "content": "new q"}, {"role": "assistant", "content": "new a"}]}
    document(call("craft", "edit", "mine", second, "--stdin", "--json", stdin=json.dumps(whole)))
    assert rows(call)[1]["payload"]["messages"][0]["content"] == "new q"
    assert "says this already" in call("craft", "edit", "mine", second, "--assistant", "new a")[1]


def test_replacing_shows_first_and_stores_only_when_asked(call: Call, mine: list[str]) -> None:
    shown = document(call("craft", "replace", "mine", "cat", "fox", "--json"))
    assert (shown["places"], len(shown["changed"]), shown["rows"]) == (2, 2, 2)
    assert shown["changed"][0]["turns"][0]["after"] == "fox 1"
    assert rows(call)[0]["payload"]["messages"][1]["content"] == "cat 1"
    code, out, _ = call("craft", "replace", "mine", "cat", "fox")
    assert code == 0 and "2 places in 2 of 2 rows" in out
    saved = document(call("craft", "replace", "mine", r"cat (\d)", r"\1 foxes", "--regex", "--save", "--json"))
    assert saved["version"] == 2 and saved["preview"]["places"] == 2
    assert rows(call)[1]["payload"]["messages"][1]["content"] == "2 foxes"
    nothing = document(call("craft", "replace", "mine", r"[\s\S]+", "--regex", "--save", "--json"))
    assert not nothing["changed"] and len(nothing["refused"]) == 2
    assert "Left as it is" in call("craft", "replace", "mine", r"[\s\S]+", "--regex")[1]


def test_two_who_edit_at_once_are_merged_row_by_row_and_asked_about_the_same_row(call: Call, mine: list[str]) -> None:
    first, second = mine
    document(call("craft", "edit", "mine@1", first, "--assistant", "theirs", "--json"))
    document(call("craft", "edit", "mine@1", second, "--assistant", "other row", "--json"))
    assert [row["payload"]["messages"][1]["content"] for row in rows(call)] == ["theirs", "other row"]
    told = document(call("craft", "edit", "mine@1", first, "--assistant", "mine", "--json"), code=1)
    assert told["error"]["kind"] == "Conflict" and "--take" in told["error"]["remedy"]
    assert told["conflicts"][0]["theirs"]["messages"][1]["content"] == "theirs"
    code, out, err = call("craft", "delete", "mine@1", first)
    assert code == 1 and out == "" and "(deleted)" in err
    document(call("craft", "edit", "mine@1", first, "--assistant", "mine", "--take", "both", "--json"))
    assert [row["payload"]["messages"][1]["content"] for row in rows(call)] == ["theirs", "other row", "mine"]


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "words"),
    [
        (("add", "mine"), "", 2, "either from options or from standard input"),
        (("add", "mine", "--stdin"), "", 1, "no JSON"),
        (("add", "mine", "--stdin"), "{nope", 1, "not valid JSON"),
        (("add", "mine", "--stdin"), '{"messages": [{"role": "robot", "content": "x"}]}', 1, "unknown role"),
        (("add", "mine", "--stdin"), '{"messages": [{"role": "user", "content": "x"}]}', 1, "nothing to learn"),
        (("add", "mine", "--stdin"), '{"messages": [{"role":"user","content":"x"}], "tools": "{"}', 1, "not JSON"),
        (("add", "mine", "--user", "x"), "", 1, "turn 2 (assistant) is empty"),
        (("add", "mine", "--user", "x", "--chosen", "y"), "", 2, "no such part"),
        (("add", "mine", "--assistant", "x"), "", 2, "what the user says"),
        (("add", "other", "--user", "x", "--assistant", "y"), "", 1, "no such dataset"),
        (("edit", "mine", "nothing", "--user", "x"), "", 1, "no such row"),
        (("delete", "mine", "nothing"), "", 1, "no such row"),
        (("replace", "mine", "(", "x", "--regex"), "", 2, "not a regular expression"),
        (("replace", "mine", "q", r"\9", "--regex"), "", 2, "cannot be filled in"),
        (("replace", "mine", ""), "", 2, "nothing to find"),
        (("revert", "mine"), "", 2, "no version before"),
        (("revert", "mine", "--to", "9"), "", 1, "no such version"),
    ],
)
def test_bad_input_is_told_in_words_and_changes_nothing(
    call: Call, mine: list[str], arguments: tuple[str, ...], stdin: str, code: int, words: str
) -> None:
    error = document(call("craft", *arguments, "--json", stdin=stdin), code)["error"]
    assert words in f"{error['place']}: {error['what']}", error
    assert len(document(call("data", "show", "mine", "--json"))["versions"]) == 1


def test_a_broken_first_row_leaves_no_empty_dataset_behind(call: Call) -> None:
    told = call("craft", "add", "fresh", "--user", "only", "--create", "instructions", "--json")
    assert "empty" in document(told, 1)["error"]["what"]
    assert document(call("data", "list", "--json")) == []
