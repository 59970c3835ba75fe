"""One output of a notebook cell that is redrawn while something goes on."""

from __future__ import annotations

import sys
from typing import Any


class CellOutput:
    """A place in the cell's output; outside a notebook it shows nothing."""

    def __init__(self) -> None:
        # Inside a notebook IPython is loaded already. It is no dependency of the workbench.
        ipython: Any = sys.modules.get("IPython")
        shell = ipython.get_ipython() if ipython is not None else None
        self._display = ipython.display.display if hasattr(shell, "kernel") else None
        self._handle: Any = None

    def show(self, value: object) -> None:
        """Show a value in place of the one before."""
        if self._handle is not None:
            self._handle.update(value)
        elif self._display is not None:
            self._handle = self._display(value, display_id=True)
