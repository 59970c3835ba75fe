"""Export and Lineage in a real Chromium: an adapter is written, checked and taken away; made again, it is the same."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import end_runs
from test_main_flow import clean, click, settled, until

from tests import tiny
from workbench.api import Workspace
from workbench.datasets.versions import write_version
from workbench.models.fingerprints import digest_adapter
from workbench.records import Example, Message, Run

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "home"
    yield folder
    end_runs(folder)


def train(ws: Workspace, folder: Path) -> Run:
    """A real adapter of the tiny model on a few rows."""
    tiny.register_model(ws.store, tiny.make_model(folder / "tiny"))
    rows = [
        Example(messages=(Message(role="user", content=f"Say {n}"), Message(role="assistant", content="blue sea")))
        for n in range(12)
    ]
    write_version(ws.store, ws.new_dataset("Blue").id, rows)
    started = ws.train("sft", "Blue", model="tiny", name="Blue <b>adapter</b>", preset="quick", held_out=None)
    return ws.wait(started.id, timeout_s=120)


def test_an_adapter_is_exported_traced_and_made_again(
    home: Path, tmp_path: Path, start_app: Callable[[Path], Any], new_page: Callable[..., Any]
):
    ws = Workspace(home)
    run = train(ws, tmp_path)
    assert run.state.value == "finished", run.failure
    tuned = ws.variant(str(run.result["variant_id"]))
    app, page = start_app(home), new_page()

    page.goto(f"{app.address}/export?variant={tuned.id}")
    page.get_by_text("It will hold the adapter").wait_for()
    click(page, "export-launch")
    page.get_by_text("equal token for token").wait_for(timeout=120_000)
    settled(page)
    clean(page)
    (export,) = ws.runs(kinds=["export"])
    written = Path(str(export.result["path"]))
    assert page.locator("code", has_text=written.name).count()
    with zipfile.ZipFile(written) as archive:
        assert {"adapter_model.safetensors", "adapter_config.json", "README.md"} <= set(archive.namelist())

    page.get_by_role("link", name="Where it came from").click()
    page.get_by_text("The manifest names data, base, settings").wait_for()
    settled(page)
    clean(page)
    graph = page.locator("[data-testid=stGraphVizChart] svg")
    graph.wait_for()
    assert "Blue <b>adapter</b>" in graph.inner_html().replace("&lt;", "<").replace("&gt;", ">")
    assert graph.locator("b").count() == 0, "a name is text in the graph, too"
    with page.expect_download() as download:
        click(page, "lineage-manifest")
    manifest = json.loads(Path(download.value.path()).read_text())
    assert (manifest["adapter_digest"], manifest["data"]["rows"]) == (tuned.adapter_digest, 12)

    click(page, "lineage-reproduce")
    page.wait_for_url("**/runs?run=*")
    again = until(lambda: next((r for r in ws.runs(kinds=["sft"]) if r.id != run.id and not r.state.active), None))
    assert again.state.value == "finished", again.failure
    same = ws.variant(str(again.result["variant_id"]))
    assert digest_adapter(Path(str(same.adapter_path))) == tuned.adapter_digest
    page.get_by_text("Compare base and tuned").wait_for()
    clean(page)
    ws.store.close()


def test_export_and_lineage_fit_a_phone_and_a_dark_page(
    home: Path, start_app: Callable[[Path], Any], new_page: Callable[..., Any]
):
    ws = Workspace(home)
    ws.install_kit("assistant")
    ws.store.close()
    app = start_app(home)
    for width, dark in ((390, True), (1280, False)):
        page = new_page(width=width, dark=dark)
        for path, words in (("export", "There is nothing to share yet"), ("lineage", "Everything that is recorded")):
            page.goto(f"{app.address}/{path}")
            page.get_by_text(words).first.wait_for()
            settled(page)
            clean(page)
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1"), (path, width)
