"""The folder and the database that everything else works on."""

from __future__ import annotations

from pathlib import Path

from workbench.settings import Settings, get_settings
from workbench.store.database import Store


class Home:
    """The settings and the store; see `Workspace` for what it is opened with."""

    def __init__(self, home: Path | str | None = None, *, settings: Settings | None = None) -> None:
        if settings is None:
            settings = get_settings() if home is None else Settings(home=Path(home))
        self.settings = settings
        self.store = Store(settings)

    def __repr__(self) -> str:
        return f"Workspace({str(self.settings.home)!r})"
