"""The command line as a process: start-up, streams, exit codes, the app's port."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]


def workbench(*arguments: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "workbench", *arguments],
        cwd=home.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT), "WORKBENCH_HOME": str(home), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_no_help_text_loads_a_heavy_library(home: Path) -> None:
    script = (
        "import sys; from workbench.cli import COMMANDS, run\n"
        "run(['--help'])\n"
        "assert not {'sqlalchemy', 'pydantic', 'numpy', 'pandas'} & set(sys.modules), 'the first help is not light'\n"
        "for name in COMMANDS: run([name, '--help'])\n"
        "assert not {'torch', 'transformers', 'streamlit', 'trl', 'peft'} & set(sys.modules)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr


def test_json_is_the_only_thing_on_standard_output(home: Path) -> None:
    ended = workbench("data", "kit", "assistant", "--json", home=home)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["held_out"]["rows"] == 50
    ended = workbench("data", "show", "nothing", "--json", home=home)
    assert ended.returncode == 1
    assert json.loads(ended.stdout)["error"]["what"] == "no such dataset"


def test_a_terminal_without_unicode_gets_valid_output(home: Path) -> None:
    for arguments in (("data", "kit", "assistant"), ("data", "list"), ("doctor",)):
        ended = workbench(*arguments, home=home, PYTHONIOENCODING="ascii")
        assert ended.returncode == 0 and "Traceback" not in ended.stderr
    ended = workbench("data", "show", "größer", "--json", home=home, PYTHONIOENCODING="ascii")
    assert json.loads(ended.stdout)["error"]["value"] == "größer"


def test_wrong_use_leaves_with_2_in_words(home: Path) -> None:
    ended = workbench("train", "sft", "--learning-rate", home=home)
    assert ended.returncode == 2
    assert "--learning-rate" in ended.stderr and "Traceback" not in ended.stderr and ended.stdout == ""


def test_a_home_that_cannot_be_written_is_told_in_words(home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    ended = workbench("--home", str(tmp_path / "file" / "home"), "data", "list", home=home)
    assert ended.returncode == 1
    assert "WORKBENCH_HOME" in ended.stderr and "Traceback" not in ended.stderr


def test_a_reader_that_leaves_early_is_no_error_to_show(home: Path) -> None:
    command = f"{sys.executable} -m workbench train sft --help | head -1"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WORKBENCH_HOME": str(home)}
    ended = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in ended.stderr


def start_app(home: Path, port: int) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "workbench", "app", "--json", "--port", str(port)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "WORKBENCH_HOME": str(home)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("}"):
            break
    return process, json.loads("".join(lines))


@pytest.mark.slow
def test_the_app_takes_the_next_port_when_one_is_in_use_and_ends_cleanly(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process, told = start_app(home, port)
        try:
            assert told["port"] != port and told["address"].endswith(f":{told['port']}")
            assert httpx.get(f"{told['address']}/_stcore/health", trust_env=False).status_code == 200
            server = psutil.Process(told["pid"])
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.stdout is not None
            rest = process.stdout.read()
            process.stdout.close()
            code = process.wait(30)
    assert (code, rest) == (0, "")
    psutil.wait_procs([server], timeout=10)
    assert not server.is_running()
