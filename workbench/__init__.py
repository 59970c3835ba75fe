"""The instruction-tuning workbench: what notebooks need, by name.

`Workspace` first; the rest are the records it takes and gives. Importing this loads nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from workbench.api import Workspace
    from workbench.errors import WorkbenchError
    from workbench.records import (
        Completion,
        Dataset,
        Example,
        Labelled,
        Message,
        Model,
        Preference,
        Prompt,
        Run,
        Sampling,
        Variant,
        Version,
    )

_HOMES = {"Workspace": "workbench.api", "WorkbenchError": "workbench.errors"}

__all__ = [
    "Completion",
    "Dataset",
    "Example",
    "Labelled",
    "Message",
    "Model",
    "Preference",
    "Prompt",
    "Run",
    "Sampling",
    "Variant",
    "Version",
    "WorkbenchError",
    "Workspace",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'workbench' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES.get(name, "workbench.records")), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
