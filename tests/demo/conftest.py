from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1] / "pages")
)  # the scripted server lives beside the page tests

from scripted_chat import ScriptedChat, scripted_chat  # noqa: E402


@pytest.fixture
def chat() -> Iterator[ScriptedChat]:
    with scripted_chat() as server:
        yield server
