"""No page imports torch or transformers, whatever it shows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

VISIT = """
import sys
sys.path[:0] = [{pages!r}, {tests!r}]
from page_helpers import add_sft, finish_with_variant, open_page
from workbench.api import Workspace
from workbench.records import RunState
from workbench.ui import links
ws = Workspace()
train, _ = ws.install_kit("assistant")
run, base, tuned = finish_with_variant(ws.store, "One")
failed = add_sft(ws.store, "Two", RunState.FAILED)
from test_reward_page import add_reward_model
add_reward_model(ws.store)
from tiny import make_tokenizer
from workbench.store import models as model_store
folder = make_tokenizer(ws.settings.models_dir / "tok")
for entries in links.SECTIONS.values():
    for entry in entries:
        if links.has_page(entry.path):
            app = open_page(entry.path)
            assert app.title, entry.path
for path, query in (
    (links.RUNS, {{"run": run.id}}),
    (links.RUNS, {{"run": failed.id}}),
    (links.DATASETS, {{"dataset": train.dataset_id}}),
    (links.DATASETS, {{"view": "import"}}),
    (links.NEW_RUN, {{"clone": run.id}}),
):
    open_page(path, **query)
from workbench.ui.inspector import model_renderer
model_store.update_model(ws.store, ws.model("bundled").id, path=str(folder))
ws.inspect(ws.rows(train.id, limit=1).rows[0].payload, "bundled")
open_page(links.NEW_RUN)
loaded = {{name.partition(".")[0] for name in sys.modules}}
heavy = sorted(loaded & {{"torch", "transformers", "trl", "peft", "datasets"}})
print("HEAVY", heavy)
"""


def test_no_page_loads_torch_or_transformers(tmp_path: Path) -> None:
    script = VISIT.format(pages=str(ROOT / "tests" / "pages"), tests=str(ROOT / "tests"))
    environment = {**os.environ, "WORKBENCH_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "HEAVY []" in done.stdout
