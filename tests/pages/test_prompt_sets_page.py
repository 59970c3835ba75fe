"""Prompt sets: from the form to the grid, with answers a real worker got from a real HTTP server."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from scripted_chat import ScriptedChat, scripted_chat
from streamlit.testing.v1 import AppTest

from workbench.api import Workspace
from workbench.records import Run, RunState
from workbench.ui.grid import difference_text, export_bytes, share_text, summary_table

APP = str(Path(__file__).resolve().parents[2] / "app.py")
# pyarrow reads time zones from pandas 3 in a way that pandas 4 will change.
pytestmark = pytest.mark.filterwarnings("ignore:Series.values returning an ndarray that drops timezone")
PAGE = "pages/compare/prompt_sets.py"


@pytest.fixture
def ws(home: Path) -> Iterator[Workspace]:
    workspace = Workspace()
    yield workspace
    workspace.store.close()


@pytest.fixture
def chat() -> Iterator[ScriptedChat]:
    with scripted_chat() as server:
        yield server


def add_variants(ws: Workspace, chat: ScriptedChat, *models: str) -> list[str]:
    server = ws.add_server("lab", chat.url)
    return [ws.remote_variant(server.id, model).id for model in models]


def open_page(**query: str) -> AppTest:
    app = AppTest.from_file(APP, default_timeout=60).run()
    app.switch_page(PAGE)
    for name, value in query.items():
        app.query_params[name] = value
    app.run()
    assert not app.exception
    return app


def answered(ws: Workspace, variants: list[str], **options: object) -> Run:
    _, held_out = ws.install_kit()
    run = ws.answer_prompts(ws.dataset(held_out.dataset_id).name, variants, **options)
    return ws.wait(run.id, timeout_s=120)


def test_without_a_variant_there_is_one_next_action(ws: Workspace) -> None:
    assert [button.label for button in open_page().button] == ["Convert the bundled model"]


def test_without_a_prompt_set_the_starter_kit_is_one_click_away(ws: Workspace, chat: ScriptedChat) -> None:
    add_variants(ws, chat, "echo")
    app = open_page()
    app.button(key="prompt_sets.kit").click().run()
    assert (
        not app.exception and app.selectbox(key="prompt_sets.prompts").value == "Assistant in a house format (held out)"
    )


def test_the_form_launches_a_run_and_opens_its_page(ws: Workspace, chat: ScriptedChat) -> None:
    echo, hostile = add_variants(ws, chat, "echo", "hostile")
    ws.install_kit()
    app = open_page()
    app.multiselect(key="prompt_sets.variants").set_value([echo, hostile])
    app.number_input(key="prompt_sets.limit").set_value(3).run()
    assert any("6 answers" in item.value for item in app.caption)
    app.button(key="prompt_sets.launch").click().run()
    assert not app.exception
    (run,) = ws.runs(kinds=["answer"])
    assert app.query_params["run"] == run.id
    assert run.spec["limit"] == 3 and run.spec["variants"] == [echo, hostile]
    assert ws.wait(run.id, timeout_s=120).state is RunState.FINISHED


def test_a_finished_run_shows_figures_with_intervals_and_answers_as_text(ws: Workspace, chat: ScriptedChat) -> None:
    run = answered(ws, add_variants(ws, chat, "echo", "hostile"), limit=12)
    app = open_page(run=run.id)
    table = app.dataframe[0].value
    assert list(table["Answers"]) == [12, 12] and table["Pass all rules"].str.contains("n = 12").all()
    assert len(app.get("plotly_chart")) == 3  # answers that pass, rules kept, chrF
    texts = [item.value for item in app.text]
    assert len([text for text in texts if text.startswith("<script>")]) == 10  # a page of ten prompts
    assert not any("<script" in item.value for item in (*app.markdown, *app.caption, *app.html))
    app.text_input(key=f"grid.q.{run.id}").set_value("no prompt says this").run()
    assert any(item.value == "No prompt fits." for item in app.caption)


def test_one_row_opens_in_full_with_its_reference(ws: Workspace, chat: ScriptedChat) -> None:
    run = answered(ws, add_variants(ws, chat, "echo"), limit=2)
    app = open_page(run=run.id)
    next(button for button in app.button if button.label == "Open").click().run()
    assert not app.exception and any(item.value == "**Reference**" for item in app.markdown)


def test_the_answers_leave_as_csv_json_lines_and_parquet(ws: Workspace, chat: ScriptedChat) -> None:
    run = answered(ws, add_variants(ws, chat, "echo", "hostile"), limit=2)
    grid = ws.answers(run.id)
    lines = export_bytes(grid, "jsonl").decode().splitlines()
    assert len(lines) == 4 and json.loads(lines[0])["variant"] == "echo on lab"
    assert len(pd.read_csv(io.BytesIO(export_bytes(grid, "csv")))) == 4
    assert len(pd.read_parquet(io.BytesIO(export_bytes(grid, "parquet")))) == 4


def test_a_run_that_answered_no_prompts_says_so(ws: Workspace) -> None:
    run = ws.launch("add_model", {"source": "local", "reference": "/nowhere"})
    ws.wait(run.id, timeout_s=60)
    assert any("answered no prompt set" in item.value for item in open_page(run=run.id).error)


def test_figures_are_told_with_interval_and_number() -> None:
    from workbench.evaluation.aggregate import VariantSummary
    from workbench.records import Interval

    share = Interval(value=0.5, low=0.25, high=0.75, n=8)
    assert share_text(share) == "50% (25%–75%), n = 8"
    gain = Interval(value=0.12, low=-0.05, high=0.2, n=8)
    assert difference_text(gain, "pass all rules", True) == "+12 points (-5 to +20) pass all rules, n = 8"
    table = summary_table([VariantSummary(variant_id="v", name="a", n=8, share=share)])
    assert list(table.columns) == ["Variant", "Answers", "Pass all rules"]
