import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.errors import RunProblem
from workbench.training import checkpoints
from workbench.training.checkpoints import is_whole, latest_checkpoint, list_checkpoints, write_checkpoint

FILES = {"weights.bin": lambda: b"w" * 1000, "state.json": lambda: b"{}"}


def write(folder, step, keep=2, files=FILES):
    return write_checkpoint(folder, step, files, keep=keep)


def test_a_checkpoint_lists_its_files_with_size_and_digest(tmp_path):
    path = write(tmp_path, 5)
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["step"] == 5
    assert {name: entry["size"] for name, entry in manifest["files"].items()} == {"weights.bin": 1000, "state.json": 2}
    assert latest_checkpoint(tmp_path) == path


def test_older_ones_go_only_once_the_new_one_is_there(tmp_path):
    for step in (1, 2, 10, 11):
        write(tmp_path, step)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-10", "checkpoint-11"]


def test_writing_the_same_step_again_keeps_the_whole_one(tmp_path):
    path = write(tmp_path, 3)
    before = (path / "weights.bin").stat().st_mtime_ns
    assert write(tmp_path, 3) == path
    assert (path / "weights.bin").stat().st_mtime_ns == before


@pytest.mark.parametrize("harm", ["flip", "cut", "missing", "manifest"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, harm):
    good, bad = write(tmp_path, 1), write(tmp_path, 2)
    weights = bad / "weights.bin"
    if harm == "flip":
        weights.write_bytes(b"w" * 999 + b"x")
    elif harm == "cut":
        weights.write_bytes(b"w" * 500)
    elif harm == "missing":
        weights.unlink()
    else:
        (bad / "manifest.json").write_text("{")
    assert not is_whole(bad)
    assert latest_checkpoint(tmp_path) == good
    assert is_whole(write(tmp_path, 2)), "the damaged one is written anew"


def test_a_partial_folder_is_no_checkpoint_and_is_cleared_by_the_next(tmp_path):
    good = write(tmp_path, 1)
    (tmp_path / "checkpoint-2.partial").mkdir()
    (tmp_path / "checkpoint-2.partial" / "weights.bin").write_bytes(b"w")
    assert latest_checkpoint(tmp_path) == good
    write(tmp_path, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-3"]


def test_a_damaged_one_does_not_push_out_a_good_one(tmp_path):
    good, bad = write(tmp_path, 1), write(tmp_path, 2)
    (bad / "weights.bin").unlink()
    write(tmp_path, 3)
    assert good.is_dir()


def test_no_folder_has_no_checkpoint(tmp_path):
    assert latest_checkpoint(tmp_path / "none") is None


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_full_disk_says_so_and_leaves_the_one_before(tmp_path, monkeypatch, at):
    good = write(tmp_path, 1)
    real, calls = checkpoints._write_file, []

    def full(path: Path, content: bytes):
        calls.append(path)
        if len(calls) > at:
            path.write_bytes(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, content)

    monkeypatch.setattr(checkpoints, "_write_file", full)
    with pytest.raises(RunProblem, match=r"disk is full.*Free some space"):
        write(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    assert latest_checkpoint(tmp_path) == good


def test_an_error_while_making_a_file_leaves_nothing_behind(tmp_path):
    good = write(tmp_path, 1)

    def broken() -> bytes:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError):
        write(tmp_path, 2, files={"a": lambda: b"1", "b": broken})
    assert [path.name for path in tmp_path.iterdir()] == [good.name]


KILLED = """
import os, signal, sys
from pathlib import Path
from workbench.training.checkpoints import write_checkpoint

def die():
    os.kill(os.getpid(), signal.SIGKILL)

folder = Path(sys.argv[1])
write_checkpoint(folder, 1, {"a": lambda: b"1" * 4096, "b": lambda: b"2"}, keep=1)
write_checkpoint(folder, 2, {"a": lambda: b"3" * 4096, "b": die}, keep=1)
"""


def test_a_kill_in_the_middle_of_a_write_leaves_the_older_one_usable(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], timeout=60)
    assert done.returncode == -9
    assert (tmp_path / "checkpoint-2.partial").is_dir()
    found = latest_checkpoint(tmp_path)
    assert found is not None and found.name == "checkpoint-1"
    assert (found / "a").read_bytes() == b"1" * 4096
