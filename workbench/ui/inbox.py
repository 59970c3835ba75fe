"""Files on their way to an import: uploads and pasted text, copied to disk in chunks and let go of afterwards.

Each gets a folder of its own, named by an id. The file keeps a cleaned form of its name, because people recognise it.
"""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path
from typing import IO

from workbench.errors import StoreProblem
from workbench.records import new_id
from workbench.settings import Settings

CHUNK = 4 * 2**20
KEEP_S = 7 * 86_400
SUFFIXES = ["jsonl", "ndjson", "json", "csv", "tsv", "parquet", "gz", "txt"]


def clean_name(name: str) -> str:
    """A file name of letters, digits, dots, dashes and underscores; no leading dot, at most 80 characters."""
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(name).name).lstrip("._")
    return cleaned[-80:].lstrip("._") or "file"


def save_upload(settings: Settings, name: str, stream: IO[bytes]) -> Path:
    """Copy an upload to the inbox, a chunk at a time.

    Raises:
        StoreProblem: the disk refuses.
    """
    folder = settings.inbox_dir / new_id("up")
    try:
        folder.mkdir(parents=True, mode=0o700)
        path = folder / clean_name(name)
        with path.open("wb") as target:
            shutil.copyfileobj(stream, target, CHUNK)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise StoreProblem(
            f"the upload cannot be kept: {error.strerror or error}",
            place=str(settings.inbox_dir),
            remedy="Free some space, or give the file's path instead.",
        ) from error
    return path


def is_ours(settings: Settings, path: Path) -> bool:
    """Whether a file lies in the inbox, so that it may be deleted after its import."""
    return settings.inbox_dir in path.parents


def discard(settings: Settings, path: Path) -> None:
    """Delete an upload with its folder; a file of the person's own is left alone."""
    if is_ours(settings, path):
        shutil.rmtree(path.parent, ignore_errors=True)


def sweep(settings: Settings) -> None:
    """Delete uploads that have lain for a week: imports that were never finished."""
    for folder in settings.inbox_dir.glob("up_*"):
        if time.time() - folder.stat().st_mtime > KEEP_S:
            shutil.rmtree(folder, ignore_errors=True)


def guess_suffix(text: str) -> str:
    """The ending under which pasted text is read: jsonl, json, tsv or csv."""
    start = text.lstrip()[:1]
    if start == "[":
        return "json"
    if start == "{":
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        whole = sum(line.startswith("{") and line.endswith("}") for line in lines)
        return "jsonl" if whole > len(lines) / 2 else "json"
    return "tsv" if "\t" in text.partition("\n")[0] else "csv"
