"""A run's page in a real Chromium, while somebody else does something with the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rank_homes import open_home
from test_main_flow import clean, settled

from tests.pages.page_helpers import add_sft
from workbench.records import RunState
from workbench.store import runs as run_store

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


def test_a_page_that_shows_a_stopped_run_notices_that_it_was_resumed_elsewhere(
    tmp_path: Path, start_app: Callable[[Path], Any], new_page: Callable[..., Any]
):
    store = open_home(tmp_path / "home")
    run = add_sft(store, "Stopped", RunState.STOPPED)
    app, page = start_app(tmp_path / "home"), new_page()
    page.goto(f"{app.address}/runs?run={run.id}")
    page.get_by_role("button", name="Resume").wait_for()
    settled(page)
    run_store.update_run(store, run.id, state=RunState.RUNNING)
    page.get_by_role("button", name="Stop", exact=True).wait_for()
    assert page.get_by_role("button", name="Resume").count() == 0
    clean(page)
    store.close()
