"""`workbench demo` and `workbench report`: real runs, variants answered by a scripted server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.pages.scripted_chat import scripted_chat
from workbench.api import Workspace
from workbench.cli import run as cli


@pytest.fixture
def variants(home: Path) -> Iterator[list[str]]:
    with scripted_chat() as chat:
        workspace = Workspace()
        server = workspace.add_server("lab", chat.url)
        yield [workspace.remote_variant(server.id, model).name for model in ("echo", "hostile")]
        for run in workspace.demos():
            workspace.stop(run.id)
            workspace.wait(run.id, timeout_s=30)
        workspace.store.close()


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    capsys.readouterr()
    code = cli([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def start(capsys: pytest.CaptureFixture[str], variants: list[str], *more: str) -> tuple[int, Any]:
    return told(capsys, "demo", "start", *(part for name in variants for part in ("--variants", name)), *more)


def test_a_demo_is_started_listed_and_stopped(
    variants: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    secret = tmp_path / "password.txt"
    secret.write_text("correct horse\n")
    code, document = start(capsys, variants, "--password-file", str(secret), "--title", "Which?", "--modes", "arena")
    assert code == 0 and document["password"] == "correct horse" and document["title"] == "Which?"
    assert httpx.get(f"{document['address']}/config", trust_env=False).status_code == 401
    code, listed = told(capsys, "demo", "list")
    assert [each["run_id"] for each in listed] == [document["run_id"]] and listed[0]["questions"] == 0
    code, stopped = told(capsys, "demo", "stop", document["run_id"])
    assert code == 0 and stopped["state"] == "stopped"
    assert told(capsys, "demo", "list")[1] == [] and len(told(capsys, "demo", "list", "--ended")[1]) == 1


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--modes", "race"), "--modes"),
        (("--bind", "nowhere"), "--bind"),
        (("--port", "99999"), "--port"),
        (("--password-file", "/nonexistent/file"), "/nonexistent/file"),
    ],
)
def test_a_demo_that_cannot_be_is_refused(
    variants: list[str], capsys: pytest.CaptureFixture[str], more: tuple[str, ...], words: str
) -> None:
    code, document = start(capsys, variants, *more)
    assert code in (1, 2) and words in document["error"]["place"]
    assert told(capsys, "demo", "list", "--ended")[1] == []


def test_a_demo_that_fails_says_why_and_leaves_with_one(
    variants: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, first = start(capsys, variants)
    code, second = start(capsys, variants, "--port", first["address"].rpartition(":")[2])
    assert code == 1 and "port is in use" in second["error"]["what"]


def test_a_report_is_written(variants: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    workspace = Workspace()
    _, held_out = workspace.install_kit()
    run = workspace.wait(workspace.answer_prompts(held_out.id, variants, limit=2).id, timeout_s=120)
    code, document = told(capsys, "report", run.id, str(tmp_path / "r.html"))
    assert code == 0 and Path(document["path"]).stat().st_size == document["bytes"]
    code, document = told(capsys, "report", run.id, str(tmp_path / "no" / "r.html"))
    assert code == 1 and "cannot be written" in document["error"]["what"]
    workspace.store.close()
