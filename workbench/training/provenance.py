"""What a training run's outcome rests on beside its settings: code, pinned packages, libraries, threads, device.

Recorded when a run starts, so that a manifest made later says what was true then. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import JsonValue

from workbench.records import Model, canonical_json
from workbench.settings import Settings

LIBRARIES = ("torch", "transformers", "trl", "peft", "tokenizers")
LOCK = Path(__file__).resolve().parents[2] / "requirements.lock"


def made_with(settings: Settings) -> dict[str, JsonValue]:
    """Versions of code and libraries, digest of the lock file where there is one, machine and threads."""
    from workbench import __version__

    found: dict[str, JsonValue] = {"workbench": __version__, "lock": lock_digest(), "threads": settings.threads}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    found["python"] = platform.python_version()
    found["machine"] = f"{platform.system()} {platform.machine()}"
    return found


def digest_reading(model: Model) -> str:
    """Digest of what turns a conversation into a model's tokens: its tokenizer and its chat template.

    Raises:
        ModelProblem: the model's folder or a file of it is gone.
        TemplateProblem: the template has a mistake.
    """
    from workbench.datasets.template import load_template
    from workbench.models.fingerprints import digest_tokenizer
    from workbench.models.loading import model_folder

    folder = model_folder(model)
    template = load_template(folder)
    parts = [digest_tokenizer(folder), template.source, template.tool_source]
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def lock_digest(path: Path = LOCK) -> str | None:
    """SHA-256 of the file that pins every package; None where the code is installed without it."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
