"""Fetches a model of the hub into a folder, and says in words what stands in the way.

Small files come first, so that a model that is refused is refused before its weights are fetched. What was fetched
stays in a partial folder; a second attempt goes on from there.
"""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from workbench.errors import ModelProblem, UsageError, WorkbenchError
from workbench.job import Job
from workbench.models.convert import MARKER, check_space, convert_tokenizer, finish_folder, is_complete, one_at_a_time
from workbench.models.inspecting import check_config, check_tokenizer_files, examine_folder, read_json

SMALL_FILES = ("*.json", "*.jinja", "*.model", "vocab.txt", "merges.txt", "README.md", "LICENSE*")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def check_hub_id(reference: str) -> None:
    """Whether a text has the form of a hub id.

    Raises:
        UsageError: it does not.
    """
    if not re.fullmatch(r"[\w][\w.-]*(/[\w][\w.-]*)?", reference) or ".." in reference or "--" in reference:
        raise UsageError(
            "this is not a hub id", place="reference", value=reference, remedy="Write it as owner/name, without https."
        )


def fetch_model(repo: str, revision: str | None, folder: Path, job: Job) -> tuple[Path, str]:
    """Fetch the files that are needed and nothing else.

    Args:
        repo: hub id.
        revision: branch, tag or commit; the newest when None.
        folder: where the model shall be; it takes that name when complete.
        job: told of the progress; asked between files whether to stop.

    Returns:
        The folder and the commit it holds.

    Raises:
        ModelProblem: the hub refuses, cannot be reached, or the model is refused.
    """
    check_hub_id(repo)
    partial = folder.with_name(f".{folder.name}.partial")
    with one_at_a_time(folder):
        if is_complete(folder):
            return folder, str(read_json(folder / MARKER).get("commit", ""))
        job.progress("asking the hub", done=0, unit="MB")
        with hub_in_words(repo, revision, job.settings.hub_token is not None):
            files, commit = _list_files(repo, revision, job)
        _check_listing(repo, files)
        partial.mkdir(parents=True, exist_ok=True)
        small = sorted(name for name in files if any(fnmatch(name, pattern) for pattern in SMALL_FILES))
        weights = _choose_weights(files)
        total = sum(files[name] for name in small + weights) / 1e6
        done = _fetch(repo, commit, small, files, partial, job, 0.0, total)
        check_config(partial, read_json(partial / "config.json"))
        fast = check_tokenizer_files(partial)
        missing = [name for name in weights if not (partial / name).exists()]
        check_space(partial, sum(files[name] for name in missing))
        _fetch(repo, commit, weights, files, partial, job, done, total)
        if not fast:
            convert_tokenizer(partial, partial)
        examine_folder(partial)
        shutil.rmtree(partial / ".cache", ignore_errors=True)
        finish_folder(partial, {"hub_id": repo, "commit": commit})
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    return folder, commit


def _list_files(repo: str, revision: str | None, job: Job) -> tuple[dict[str, int], str]:
    """Sizes in bytes of the files at the top of the repository, and the commit."""
    from huggingface_hub import HfApi

    token = job.settings.hub_token
    api = HfApi(endpoint=job.settings.hub_endpoint, token=token.get_secret_value() if token else False)
    info = api.model_info(repo, revision=revision, files_metadata=True, timeout=30)
    files = {file.rfilename: int(file.size or 0) for file in info.siblings or [] if "/" not in file.rfilename}
    return files, str(info.sha or revision or "main")


def _check_listing(repo: str, files: dict[str, int]) -> None:
    if "adapter_config.json" in files and "config.json" not in files:
        raise ModelProblem("this is an adapter, not a base model", place=repo, remedy="Add its base model.")
    if "config.json" not in files:
        raise ModelProblem("config.json is missing", place=repo, remedy="Choose a model in the transformers layout.")
    if not any(name.endswith(".safetensors") for name in files):
        pickles = sorted(name for name in files if any(fnmatch(name, pattern) for pattern in PICKLES))
        if pickles:
            raise ModelProblem(
                "the weights are pickled, which can run code when opened",
                place=repo,
                value=pickles[0],
                remedy="Choose a release with .safetensors files.",
            )
        raise ModelProblem("there are no safetensors weights", place=repo, remedy="Choose another release.")


def _choose_weights(files: dict[str, int]) -> list[str]:
    """`model*.safetensors`: some repositories keep the same weights a second time under another name."""
    named = sorted(name for name in files if re.fullmatch(r"model(-\d+-of-\d+)?\.safetensors", name))
    return named or sorted(name for name in files if name.endswith(".safetensors"))


def _fetch(
    repo: str, commit: str, names: list[str], sizes: dict[str, int], folder: Path, job: Job, done: float, total: float
) -> float:
    from huggingface_hub import hf_hub_download

    token = job.settings.hub_token
    for name in names:
        job.checkpoint_or_stop()
        job.progress("fetching", done=round(done, 1), total=round(total, 1), unit="MB", note=name)
        with hub_in_words(repo, commit, token is not None):
            hf_hub_download(
                repo,
                name,
                revision=commit,
                local_dir=folder,
                endpoint=job.settings.hub_endpoint,
                token=token.get_secret_value() if token else False,
                tqdm_class=_telling_bar(job, done),
            )
        done += sizes[name] / 1e6
    job.progress("fetching", done=round(done, 1), total=round(total, 1), unit="MB")
    return done


def _telling_bar(job: Job, before: float) -> type:
    """A progress bar that draws nothing: it tells the job how far one file is, and ends it when Stop was pressed."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            self.fetched = float(options.get("initial") or 0)
            super().__init__(*args, **(options | {"disable": True}))

        def update(self, n: float | None = 1) -> bool | None:
            self.fetched += n or 0
            job.progress(done=round(before + self.fetched / 1e6, 1))
            job.checkpoint_or_stop()
            return None

    return Bar


@contextmanager
def hub_in_words(repo: str, revision: str | None, has_token: bool) -> Iterator[None]:
    """Turn what the hub's client raises into `ModelProblem`."""
    try:
        yield
    except WorkbenchError:
        raise
    except Exception as error:
        found = _explain(error, revision, has_token)
        if found is None:
            raise
        what, remedy, value = found
        raise ModelProblem(what, place=repo, value=value, remedy=remedy) from error


def _explain(error: Exception, revision: str | None, has_token: bool) -> tuple[str, str, Any] | None:
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    licence = "Accept its licence on the model's page, set HF_TOKEN to a token of that account, and start again."
    if isinstance(error, errors.GatedRepoError):
        return "the model is gated: its owner asks for consent first", licence, None
    if isinstance(error, errors.RevisionNotFoundError):
        return "the model has no such revision", "Leave the revision empty for the newest.", revision
    if isinstance(error, errors.RepositoryNotFoundError):
        remedy = "Check the spelling." if has_token else "Check the spelling; for a private model set HF_TOKEN."
        return "the hub has no such model, or does not show it to you", remedy, None
    if status in (401, 403):
        what = "the hub refuses the token" if has_token else "the hub asks for a token"
        return what, licence, status
    if isinstance(error, (errors.EntryNotFoundError, errors.HFValidationError)):
        return "the hub does not have what was asked for", "Check the spelling.", str(error).splitlines()[0]
    if isinstance(error, errors.OfflineModeIsEnabled):
        return (
            "the hub's client is set to work offline",
            "Unset HF_HUB_OFFLINE, or add the model from a folder on this machine.",
            None,
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full", "Free some space and start again; what was fetched is kept.", None
    if status is not None:
        return "the hub answered with an error", "Try again later.", status
    # By name: the hub's client has changed the HTTP library it raises these from.
    transport = any(kind.__name__ == "TransportError" for kind in type(error).__mro__)
    if transport or isinstance(error, (ConnectionError, TimeoutError, errors.LocalEntryNotFoundError)):
        return (
            "the hub cannot be reached",
            "Check the network or set HF_ENDPOINT to a mirror; a folder on this machine works without network.",
            type(error).__name__,
        )
    if isinstance(error, OSError):
        return f"the file cannot be fetched: {error.strerror or error}", "Try again.", None
    return None
