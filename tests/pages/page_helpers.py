"""Open a page of the app in AppTest, and fill a store with runs as real ones leave them."""

from __future__ import annotations

import socket
from datetime import timedelta
from pathlib import Path

from streamlit.testing.v1 import AppTest

from workbench.records import Attempt, Failure, Metric, Progress, Run, RunState, utc_now
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.store.database import Store
from workbench.training.configs import SFTConfig
from workbench.ui import links

APP = str(Path(__file__).resolve().parents[2] / "app.py")


def open_page(path: str, **query: str) -> AppTest:
    """The page of this path; fails on an exception, but not on an error box."""
    app = AppTest.from_file(APP, default_timeout=30).run()
    if path != links.HOME:
        app.switch_page(path)
    for name, value in query.items():
        app.query_params[name] = value
    app.run()
    assert not app.exception
    return app


def labels(app: AppTest) -> list[str]:
    """Labels of all buttons."""
    return [button.label for button in app.button]


def press(app: AppTest, label: str) -> AppTest:
    """Press the button of this label."""
    next(button for button in app.button if button.label == label).click().run()
    assert not app.exception
    return app


def words(app: AppTest) -> str:
    """Everything that is shown as text, one piece a line."""
    parts = [*app.title, *app.subheader, *app.markdown, *app.caption, *app.text, *app.error, *app.warning, *app.success]
    return "\n".join(str(part.value) for part in parts)


def add_sft(store: Store, name: str, state: RunState, *, steps: int = 30, **fields: object) -> Run:
    """A training run in some state, with metrics, a sample answer and a log."""
    spec = SFTConfig.model_validate({"dataset": "rows", "name": name, **fields}).model_dump(mode="json")
    run = run_store.add_run(store, kind="sft", name=name, slot="train", spec=spec)
    began = utc_now() - timedelta(minutes=5)
    changes: dict[str, object] = {"state": state, "attempt": 1, "started_at": began}
    if state.active:
        changes["progress"] = Progress(phase="training", done=steps, total=2 * steps, unit="steps", eta_s=90)
    else:
        changes["ended_at"] = utc_now()
    if state is RunState.FAILED:
        changes["failure"] = Failure(error="RunProblem", message="memory ran out", remedy="Lower tokens_per_batch.")
    run_store.update_run(store, run.id, **changes)
    # A run of another machine is left alone by the look for vanished processes.
    run_store.put_attempt(
        store, Attempt(run_id=run.id, number=1, host=f"not-{socket.gethostname()}", boot_id="b", started_at=began)
    )
    points = [
        Metric(attempt=1, step=step, name=metric, value=value / step, at=began)
        for step in range(1, steps + 1)
        for metric, value in (("loss", 3.0), ("learning_rate", 0.001), ("tokens_per_s", 900.0), ("memory_mb", 1200.0))
    ]
    points += [Metric(attempt=1, step=steps, name="eval_loss", value=1.25, at=began)]
    run_store.add_metrics(store, run.id, points)
    run_store.add_sample(store, run.id, attempt=1, step=steps, slot=0, prompt="Say hi", text="<script>hi</script>")
    folder = store.settings.run_dir(run.id)
    folder.mkdir(parents=True)
    (folder / "worker.log").write_text("12:00:00 step 1\n")
    return run_store.get_run(store, run.id)


def finish_with_variant(store: Store, name: str) -> tuple[Run, str, str]:
    """A finished run with its variant beside the bundled model's own: run, base id, tuned id."""
    from workbench.models.adding import ensure_bundled

    model = ensure_bundled(store)
    run = add_sft(store, name, RunState.FINISHED)
    known = [item for item in model_store.list_variants(store, model_id=model.id) if item.adapter_path is None]
    base = known[0] if known else model_store.add_variant(store, model.name, model_id=model.id)
    tuned = model_store.add_variant(store, name, model_id=model.id, adapter_path="/nowhere", run_id=run.id)
    run_store.update_run(store, run.id, result={"variant_id": tuned.id, "eval_loss": 1.25})
    return run_store.get_run(store, run.id), base.id, tuned.id
