"""The folder and the database that everything else works on."""

from __future__ import annotations

from pathlib import Path

from workbench.settings import Settings, get_settings
from workbench.store.database import Store


class Home:
    """One home folder with its datasets, models, runs and answers.

    Args:
        home: the folder; default `WORKBENCH_HOME` or `~/.workbench`.
        settings: all settings, instead of `home`.

    Raises:
        StoreProblem: the folder or the database cannot be used.
    """

    def __init__(self, home: Path | str | None = None, *, settings: Settings | None = None) -> None:
        if settings is None:
            settings = get_settings() if home is None else Settings(home=Path(home))
        self.settings = settings
        self.store = Store(settings)

    def __repr__(self) -> str:
        return f"Workspace({str(self.settings.home)!r})"
