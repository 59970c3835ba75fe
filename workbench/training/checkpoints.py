"""Checkpoints that are whole or not there: written aside, synced to disk, listed in a manifest, then renamed.

What goes into one is the trainer's business; it comes here as bytes by file name. A folder `checkpoint-N` counts only
if its `manifest.json` names its files with their sizes and SHA-256 and all of them agree, so a kill, a full disk or a
flipped bit costs at most the steps since the one before.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from workbench.errors import RunProblem

MANIFEST = "manifest.json"
_NAME = re.compile(r"checkpoint-(\d+)")


def write_checkpoint(folder: Path, step: int, files: Mapping[str, Callable[[], bytes]], *, keep: int) -> Path:
    """Write `checkpoint-<step>` so that it is either whole or absent, then drop the oldest beyond `keep`.

    Args:
        folder: the run's checkpoints folder; made if absent.
        step: optimizer steps done.
        files: for each file name, what gives its bytes; called one after the other to hold only one in memory.
        keep: whole checkpoints that stay, at least 1.

    Raises:
        RunProblem: the disk is full or refuses; the checkpoints from before are untouched.
    """
    target = folder / f"checkpoint-{step}"
    if is_whole(target):
        return target
    aside = folder / f"checkpoint-{step}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        listed = {name: _write_file(aside / name, make()) for name, make in files.items()}
        manifest = json.dumps({"step": step, "files": listed}, indent=1).encode()
        _write_file(aside / MANIFEST, manifest)
        _sync_folder(aside)
        shutil.rmtree(target, ignore_errors=True)
        os.rename(aside, target)
        _sync_folder(folder)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise RunProblem(
            "the disk is full, so the checkpoint could not be written"
            if full
            else f"the checkpoint could not be written: {error.strerror or error}",
            place=str(target),
            remedy="Free some space and resume the run; it goes on from the checkpoint before."
            if full
            else "Check the folder's permissions and resume the run; it goes on from the checkpoint before.",
        ) from error
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    rotate_checkpoints(folder, keep=keep)
    return target


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint; partial and damaged ones are passed over."""
    for path in reversed(list_checkpoints(folder)):
        if is_whole(path):
            return path
    return None


def list_checkpoints(folder: Path) -> list[Path]:
    """Folders named `checkpoint-N`, oldest first, whole or not."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def checkpoint_step(path: Path) -> int:
    """The step a checkpoint's name tells."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise RunProblem("not a checkpoint folder", place=str(path))
    return int(match[1])


def is_whole(path: Path) -> bool:
    """Whether every file of the manifest is there with its size and digest."""
    try:
        listed = json.loads((path / MANIFEST).read_bytes())["files"]
        return bool(listed) and all(_agrees(path / name, entry) for name, entry in listed.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def rotate_checkpoints(folder: Path, *, keep: int) -> None:
    """Remove left-over partial folders and all but the `keep` newest whole checkpoints."""
    for path in folder.glob("checkpoint-*.partial"):
        shutil.rmtree(path, ignore_errors=True)
    # The one just written is whole; a damaged older one must not push out a good one, so only whole ones are counted.
    whole = 0
    for path in reversed(list_checkpoints(folder)):
        if whole >= keep:
            shutil.rmtree(path, ignore_errors=True)
        elif is_whole(path):
            whole += 1


def _agrees(path: Path, entry: Mapping[str, object]) -> bool:
    if path.stat().st_size != entry["size"]:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == entry["sha256"]


def _write_file(path: Path, content: bytes) -> dict[str, object]:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
