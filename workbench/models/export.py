"""Putting a variant into a form that others can use: an adapter folder, one zip file of it, a repository on the hub.

What is written opens without the workbench. Merged weights are `merging`'s, the folder for Ollama `ollama`'s, the words
of the model card `model_card`'s. Whether an export still gives the same answers is checked by `workbench.evaluation`.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workbench.errors import Conflict, ModelProblem, UsageError
from workbench.models.adapters import BASE, CONFIG, TOKENIZER_FILES, WEIGHTS
from workbench.models.hub import check_hub_id, hub_in_words
from workbench.models.inspecting import read_json
from workbench.settings import Settings, typed_path

EPOCH = (1980, 1, 1, 0, 0, 0)
"""Time of every entry of a zip, so that the same files give the same zip."""
CHUNK = 1 << 20


def write_adapter(source: Path, target: Path, *, base_name: str) -> None:
    """Copy what a plain PEFT folder needs, and nothing that a trainer left beside it.

    Args:
        source: a published adapter.
        target: folder to write into.
        base_name: what the base is called elsewhere: its hub id, or its name; never a path of this machine.

    Raises:
        ModelProblem: the adapter's files are gone.
    """
    for name in (CONFIG, WEIGHTS):
        if not (source / name).is_file():
            raise ModelProblem(f"{name} is missing", place=str(source), remedy="Put the adapter's folder back.")
    for name in (CONFIG, WEIGHTS, BASE, *TOKENIZER_FILES):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    config = read_json(target / CONFIG) | {"base_model_name_or_path": base_name}
    (target / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def write_zip(folder: Path, target: Path) -> Path:
    """One zip file of a folder, the same bytes for the same files whenever and wherever it is made.

    Weights do not get smaller by compression, so that nothing is compressed and no version of zlib matters. The file
    appears whole or not at all.

    Args:
        folder: what to put into it, with everything below.
        target: the file.

    Raises:
        ModelProblem: it cannot be written.
    """
    aside = target.with_name(f".{target.name}.part")
    try:
        with zipfile.ZipFile(aside, "w", zipfile.ZIP_STORED, strict_timestamps=True) as archive:
            for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
                if path.is_file():
                    entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), EPOCH)
                    entry.create_system, entry.external_attr = 3, 0o100644 << 16
                    entry.file_size = path.stat().st_size  # decides whether the entry needs 64-bit sizes
                    with path.open("rb") as source, archive.open(entry, "w") as sink:
                        shutil.copyfileobj(source, sink, CHUNK)
        os.replace(aside, target)
    except OSError as error:
        raise ModelProblem(
            f"the file cannot be written: {error.strerror or error}",
            place=str(target),
            remedy="Check free space and permissions, then start again.",
        ) from error
    finally:
        aside.unlink(missing_ok=True)
    return target


def check_target(target: Path, *, replace: bool) -> Path:
    """Where an export goes, made absolute; its parent is created when the export is written.

    Raises:
        Conflict: something is there already and `replace` is off.
        UsageError: the path cannot hold an export.
    """
    target = typed_path(target)
    if target.exists():
        if not replace:
            raise Conflict(
                "there is something at this path already",
                place=str(target),
                remedy="Choose another folder, or set replace.",
            )
        if target.is_dir() and any(target.iterdir()) and not is_export(target):
            raise Conflict(
                "the folder holds something else than an export, and would be replaced as a whole",
                place=str(target),
                remedy="Choose a folder that does not exist yet.",
            )
    if target.parent.exists() and not os.access(target.parent, os.W_OK):
        raise UsageError("the folder cannot be written", place=str(target.parent), remedy="Choose another.")
    return target


def is_export(folder: Path) -> bool:
    """Whether a folder was written by an export."""
    return (folder / "README.md").is_file() and any(
        (folder / n).is_file() for n in (CONFIG, "config.json", "Modelfile")
    )


def push_folder(folder: Path, repo: str, *, private: bool, settings: Settings, message: str) -> str:
    """Create a model repository on the hub where it is missing, and upload a folder as one commit.

    Args:
        folder: what to upload, with everything below.
        repo: owner/name.
        private: whether a new repository is private; one that exists keeps what it is.
        settings: token and address of the hub.
        message: of the commit.

    Returns:
        The address of the repository.

    Raises:
        UsageError: the id has not the form owner/name, or no token is set.
        ModelProblem: the hub refuses or cannot be reached.
    """
    check_repo(repo, settings)
    token = settings.hub_token.get_secret_value() if settings.hub_token else None
    from huggingface_hub import HfApi

    api = HfApi(endpoint=settings.hub_endpoint, token=token)
    with push_in_words(repo):
        api.create_repo(repo, repo_type="model", private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, repo_type="model", folder_path=folder, commit_message=message)
    return f"{settings.hub_endpoint.rstrip('/')}/{repo}"


def check_repo(repo: str, settings: Settings) -> None:
    """What can be told of a push before anything is computed.

    Raises:
        UsageError: the id has not the form owner/name, or no token is set.
    """
    check_hub_id(repo)
    if "/" not in repo:
        raise UsageError("the owner is missing", place="repo", value=repo, remedy="Write it as owner/name.")
    if settings.hub_token is None or not settings.hub_token.get_secret_value().strip():
        raise UsageError(
            "the hub asks for a token",
            place="HF_TOKEN",
            remedy="Set HF_TOKEN to a token that may write, and try again.",
        )


@contextmanager
def push_in_words(repo: str) -> Iterator[None]:
    """`hub_in_words` for uploads: tells a token that is unknown from one that may not write."""
    with hub_in_words(repo, None, True):
        try:
            yield
        except Exception as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            if status == 401:
                what, remedy = "the hub does not know this token", "Make a new one on the hub, set HF_TOKEN to it"
            elif status == 403:
                what, remedy = "this token may not write there", "Use one with write access, of the repository's owner"
            else:
                raise
            raise ModelProblem(what, place=repo, remedy=f"{remedy}, and try again.") from error
