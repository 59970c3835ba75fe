"""What went wrong, told once: the library raises, this file puts it into the page.

A `WorkbenchError` becomes place, what happened, value and remedy. Anything else is a fault of the app: one sentence in
the page, the traceback in `app.log` of the home folder. Streamlit's control flow (`st.stop`, `st.rerun`) passes
through.
`app.py` wraps the whole page; a fragment wraps its own body, because it also runs without the page around it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path

import streamlit as st
from pydantic import ValidationError

from workbench.errors import WorkbenchError
from workbench.settings import get_settings
from workbench.ui.text import plain

_LOG = logging.getLogger("workbench.app")


@contextmanager
def shown_errors() -> Iterator[None]:
    """Show what the body raises instead of a traceback."""
    try:
        yield
    except WorkbenchError as error:
        show_problem(error)
    except Exception as error:
        place = _write_down(error)
        st.error(
            f"Something in the app went wrong ({type(error).__name__}). Nothing you saved is lost; runs go on. "
            f"Reload the page. The details are in {plain(str(place))}.",
            icon=":material/bug_report:",
        )


def show_problem(error: WorkbenchError) -> None:
    """One error box: what happened and where, then what to do."""
    head = f"**{plain(error.place)}**: " if error.place else ""
    body = error.what[:1].upper() + error.what[1:] if not error.place else error.what
    if error.value is not None:
        shown = repr(error.value)
        body += f" (got {shown if len(shown) <= 120 else shown[:117] + '…'})"
    body = plain(body if body[-1:] in (".", "!", "?") else f"{body}.")
    remedy = f"\n\n{plain(error.remedy)}" if error.remedy else ""
    st.error(head + body + remedy, icon=":material/error:")


def field_problems(error: ValidationError) -> dict[str, str]:
    """Field name to sentence, for a config that does not hold; the key is empty for what concerns several fields."""
    problems: dict[str, str] = {}
    for detail in error.errors():
        name = str(detail["loc"][0]) if detail["loc"] else ""
        sentence = detail["msg"].removeprefix("Value error, ")
        problems.setdefault(name, sentence[:1].upper() + sentence[1:])
    return problems


def _write_down(error: Exception) -> Path:
    path = get_settings().home / "app.log"
    try:
        if not _LOG.handlers:
            handler = RotatingFileHandler(path, maxBytes=2_000_000, backupCount=1, delay=True, encoding="utf-8")
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
            _LOG.addHandler(handler)
        _LOG.error("the page failed", exc_info=error)
    except OSError:
        _LOG.addHandler(logging.NullHandler())
    return path
