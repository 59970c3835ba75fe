"""Where things live and how the workbench binds, read from `WORKBENCH_…` variables.

Nothing here touches the disk except `Settings.prepare`. Secrets (hub token, server keys) are read from the
environment or 0600 files and never reach the store.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from workbench.errors import StoreProblem, UsageError


def typed_path(text: str | Path) -> Path:
    """A path as a person wrote it: `~` resolved, absolute.

    Raises:
        UsageError: no file can have this path.
    """
    try:
        path = Path(text).expanduser().resolve()
        path.exists()
        return path
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError("this cannot be a path", place="path", value=str(text), remedy="Check it.") from error


def _absolute(path: Path) -> Path:
    return path.expanduser().resolve()


class Settings(BaseSettings):
    """Every setting of the workbench that is not part of one run's config."""

    model_config = SettingsConfigDict(
        env_prefix="WORKBENCH_", extra="ignore", use_attribute_docstrings=True, populate_by_name=True
    )

    home: Annotated[Path, AfterValidator(_absolute)] = Path("~/.workbench")
    """Folder that holds the database, datasets, runs and models."""
    db: str | None = None
    """SQLAlchemy address of the store. Default: SQLite in the home folder."""
    bind: str = "127.0.0.1"
    """Address that servers listen on."""
    port: int = Field(default=8501, ge=0, le=65535)
    """Port of the app; the next free one is taken and printed when it is in use."""
    hub_token: SecretStr | None = Field(default=None, validation_alias="HF_TOKEN")
    """Token for gated or private models."""
    hub_endpoint: str = Field(default="https://huggingface.co", validation_alias="HF_ENDPOINT")
    """Address of the model hub or of a mirror."""
    engine_idle_s: float = Field(default=600.0, gt=0)
    """Seconds without a request after which a local engine ends."""
    stop_grace_s: float = Field(default=60.0, gt=0)
    """Seconds a run gets to write its checkpoint after Stop before it is killed."""
    start_timeout_s: float = Field(default=60.0, gt=0)
    """Seconds after which a run that is still `starting` counts as lost."""
    train_slots: int = Field(default=1, ge=1)
    """Training runs at once; one per device."""
    kinds: str | None = None
    """`module:attribute` of further run kinds, a sequence of `workbench.runs.kinds.Kind`; for one's own jobs."""
    threads: int = Field(default_factory=lambda: max(1, os.cpu_count() or 1), ge=1)
    """CPU threads a heavy run may use."""

    @property
    def database_url(self) -> str:
        """The SQLAlchemy address in force."""
        return self.db or f"sqlite:///{self.home / 'workbench.db'}"

    @property
    def datasets_dir(self) -> Path:
        """Parquet segments, one folder per dataset id."""
        return self.home / "datasets"

    @property
    def runs_dir(self) -> Path:
        """One folder per run id: spec, log, checkpoints, adapter."""
        return self.home / "runs"

    @property
    def models_dir(self) -> Path:
        """Converted models, one folder per model id."""
        return self.home / "models"

    @property
    def inbox_dir(self) -> Path:
        """Uploads on their way to an import run."""
        return self.home / "inbox"

    @property
    def keys_file(self) -> Path:
        """Keys of remote servers, by server id; mode 0600."""
        return self.home / "keys.json"

    def run_dir(self, run_id: str) -> Path:
        """Folder of one run."""
        return self.runs_dir / run_id

    def prepare(self) -> Settings:
        """Create the home folder and its rooms.

        Raises:
            StoreProblem: the folder cannot be created or written.
        """
        try:
            for folder in (self.home, self.datasets_dir, self.runs_dir, self.models_dir, self.inbox_dir):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not os.access(self.home, os.W_OK):
                raise PermissionError(13, "not writable")
        except OSError as error:
            raise StoreProblem(
                f"the workbench's folder cannot be used: {error.strerror or error}",
                place=str(self.home),
                remedy="Set WORKBENCH_HOME to a folder you can write to.",
            ) from error
        return self


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The process's settings, read once from the environment."""
    return Settings()
