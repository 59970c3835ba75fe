"""`workbench rank …` and `workbench leaderboard`, called as `main` calls them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from workbench.api import Workspace
from workbench.cli import run
from workbench.runs.kinds import parse_config
from workbench.runs.snippets import as_command

Call = Callable[..., tuple[int, str, str]]
ROWS = [
    {
        "prompt": f"Question {n}?",
        "answers": [{"text": f"good {n}", "model": "名前"}, {"text": f"bad {n}", "model": "base"}],
    }
    for n in range(6)
]


@pytest.fixture
def call(home: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def queue(call: Call, tmp_path: Path) -> str:
    path = tmp_path / "to rank.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS), "utf-8")
    return str(document(call("rank", "import", str(path), "--json"))["id"])


def document(told: tuple[int, str, str], code: int = 0) -> Any:
    assert told[0] == code, told
    return json.loads(told[1])


def rank_all(call: Call, rater: str) -> None:
    while (item := document(call("rank", "next", "to rank", "--rater", rater, "--json")))["item_id"]:
        letters = sorted(item["answers"], key=lambda answer: answer["text"].startswith("bad"))
        order = " ".join(answer["letter"] for answer in letters)
        document(call("rank", "submit", item["item_id"], order, "--rater", rater, "--json"))


def test_a_queue_is_ranked_item_by_item_and_concluded(call: Call, queue: str) -> None:
    code, out, err = call("rank", "next", queue, "--rater", "Zoë")
    assert code == 0 and "[A]" in out and "[B]" in out and "rank submit" in err and "名前" not in out
    rank_all(call, "Zoë")
    listed = document(call("rank", "queues", "--json"))
    assert [(told["name"], told["total"], told["done"], told["votes"]) for told in listed] == [("to rank", 6, 6, 6)]
    board = document(call("leaderboard", "--json"))
    assert board["names"][board["ratings"][0]["variant_id"]] == "名前 (imported)"
    assert board["conclusions"][0].startswith("名前 (imported) is preferred to base (imported): 100% of 6 votes")
    code, out, _ = call("leaderboard", "to rank")
    assert code == 0 and "名前" in out and "6 on 6 prompts by 1 raters" in out
    assert "Nothing is left" in call("rank", "next", queue, "--rater", "Zoë")[1]


def test_a_vote_is_given_once_taken_back_and_given_anew(call: Call, queue: str) -> None:
    item = document(call("rank", "next", queue, "--rater", "Ada", "--json"))["item_id"]
    document(call("rank", "submit", item, "B A", "--rater", "Ada", "--confidence", "4", "--json"))
    told = document(call("rank", "submit", item, "A B", "--rater", "Ada", "--json"), code=1)
    assert told["error"]["kind"] == "Conflict" and "already" in told["error"]["what"]
    assert document(call("rank", "undo", queue, "--rater", "Ada", "--json"))["item_id"] == item
    assert document(call("rank", "next", queue, "--rater", "Ada", "--json"))["item_id"] == item
    document(call("rank", "submit", item, "--skip", "odd", "--rater", "Ada", "--json"))
    second = document(call("rank", "next", queue, "--rater", "Ada", "--json"))["item_id"]
    assert document(call("rank", "submit", second, "--all-bad", "--rater", "Ada", "--json"))["all_bad"]
    for wrong in (["A"], ["A C"], ["A B", "--all-bad"], []):
        third = document(call("rank", "next", queue, "--rater", "Ada", "--json"))["item_id"]
        assert call("rank", "submit", third, *wrong, "--rater", "Ada")[0] == 2, wrong


def test_rankings_are_exported_imported_and_made_into_datasets(call: Call, queue: str, tmp_path: Path) -> None:
    rank_all(call, "Ada")
    for form, keys in (("rankings", "answers"), ("dpo", "chosen"), ("kto", "label"), ("sft", "messages")):
        path = tmp_path / f"{form}.jsonl"
        assert document(call("rank", "export", queue, "--to", str(path), "--as", form, "--json"))["path"] == str(path)
        assert keys in json.loads(path.read_text("utf-8").splitlines()[0])
    back = document(call("rank", "import", str(tmp_path / "rankings.jsonl"), "--name", "Back", "--json"))
    assert back["name"] == "Back"
    assert call("rank", "import", str(tmp_path / "rankings.jsonl"), "--name", "Back")[0] == 1
    built = document(call("rank", "dataset", queue, "--name", "Votes", "--held-out", "0", "--json"))
    assert built["rows"] == 6 and built["held_out"] is None
    best = document(call("rank", "dataset", queue, "Back", "--name", "Best", "--kind", "examples", "--json"))
    assert best["held_out"] is not None
    told = document(call("rank", "dataset", queue, "--name", "Told", "--kind", "labels", "--held-out", "0", "--json"))
    assert told["rows"] == 12
    shown = document(call("data", "show", "Told", "--json"))
    assert shown["dataset"]["kind"] == "labels" and shown["rows"][0]["payload"]["label"] is True
    assert document(call("data", "stats", "Told", "--json"))["good"] == 6
    assert document(call("data", "list", "--kind", "labels", "--json"))[0]["name"] == "Told"
    kto = tmp_path / "kto.jsonl"
    seen = document(call("data", "import", str(kto), "--dry-run", "--json"))
    assert (seen["kind"], seen["warnings"]) == ("labels", [])
    assert "labels" in call("data", "import", str(kto), "--dry-run")[1]
    code, out, _ = call("data", "list")
    assert code == 0 and "Votes" in out and "Best (held out)" in out
    assert call("rank", "export", queue, "Back", "--to", str(tmp_path / "x"), "--as", "rankings")[0] == 2


def test_a_scorers_votes_are_kept_apart_from_peoples(call: Call, queue: str) -> None:
    assert document(call("rank", "score", queue, "--scorer", "assistant", "--json"))["ranked"] == 6
    (told,) = document(call("rank", "queues", "--json"))
    assert (told["done"], told["votes"], told["raters"], told["by_scorers"]) == (0, 0, 0, 6)
    alone = document(call("leaderboard", queue, "--json"))
    assert (alone["sources"], alone["votes"]) == ("scorers", 6)
    assert "Made by a scorer, not by people." in call("leaderboard", queue)[1]
    rank_all(call, "Zoë")  # is handed all six
    people = document(call("leaderboard", queue, "--json"))
    assert (people["sources"], people["votes"], people["raters"]) == ("people", 6, ["Zoë"])
    both = document(call("leaderboard", queue, "--sources", "all", "--json"))
    assert both["votes"] == 12 and both["voted"] == {"rank": 6, "scorer": 6}
    assert call("leaderboard", queue, "--sources", "robots")[0] == 2
    built = document(call("rank", "dataset", queue, "--name", "Votes", "--held-out", "0", "--json"))
    assert built["sources"] == {"rank": 6}


def test_unknown_names_and_empty_stores_are_told(call: Call) -> None:
    assert "No queues yet" in call("rank", "queues")[1]
    assert call("leaderboard")[0] == 1
    assert call("rank", "next", "nothing")[0] == 1
    assert call("rank", "submit", "nothing", "A B")[0] == 1
    assert call("rank", "create")[0] == 2
    assert call("rank", "create", "nothing", "--variants", "base")[0] == 1
    code, _, err = call("rank", "create", "--from-run", "run_x", "--temperature", "1")
    assert code == 2 and "--temperature" in err
    assert call("rank", "create", "--from-run", "run_x")[0] == 1


def test_a_sampling_run_is_launched_with_its_settings(call: Call, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    document(call("data", "kit", "assistant", "--json"))
    workspace = Workspace(home)
    from workbench.store import models as model_store

    for name in ("one", "two"):
        model_store.add_variant(workspace.store, name)
    held_out = "Assistant in a house format (held out)"
    monkeypatch.setattr("workbench.runs.launch.dispatch", lambda *_, **__: None)
    told = document(
        call("rank", "create", held_out, "--variants", "one", "--variants", "two", "--answers", "5", "--json")
    )
    assert (told["kind"], told["spec"]["answers"], len(told["spec"]["variants"])) == ("sample", 5, 2)
    workspace.store.close()


def test_a_runs_command_gives_the_run_again() -> None:
    config = {"prompts": "my prompts", "variants": ["a", "b"], "answers": 3, "temperatures": [0.2, 1.0]}
    told = as_command("sample", config)
    assert told.startswith("workbench rank create ") and "--temperatures 0.2" in told and "--answers 3" in told
    assert parse_config("sample", config).model_dump()["overlap"] == 1
