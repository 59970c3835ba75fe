from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.pages.scripted_chat import ScriptedChat, scripted_chat


@pytest.fixture
def chat() -> Iterator[ScriptedChat]:
    with scripted_chat() as server:
        yield server
