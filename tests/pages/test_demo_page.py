"""The Demo page: what is missing, the form, a real demo from its start to its stop, and the report's button."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest
from page_helpers import labels, open_page, words
from scripted_chat import ScriptedChat, scripted_chat
from streamlit.testing.v1 import AppTest

from workbench.api import Workspace
from workbench.evaluation.report import report_html
from workbench.records import Run, RunState
from workbench.store import runs as run_store
from workbench.ui import links

pytestmark = pytest.mark.filterwarnings("ignore:Series.values returning an ndarray that drops timezone")
ACTIVE = (RunState.QUEUED, RunState.STARTING, RunState.RUNNING)


@pytest.fixture
def ws(home: object) -> Iterator[Workspace]:
    workspace = Workspace()
    yield workspace
    for run in workspace.runs(states=ACTIVE):
        workspace.stop(run.id)
        workspace.wait(run.id, timeout_s=60)
    workspace.store.close()


@pytest.fixture
def chat() -> Iterator[ScriptedChat]:
    with scripted_chat() as server:
        yield server


def add_variants(ws: Workspace, chat: ScriptedChat, *models: str) -> list[str]:
    server = ws.add_server("lab", chat.url)
    return [ws.remote_variant(server.id, model).id for model in models]


def page() -> AppTest:
    return open_page(links.DEMO)


def until_serving(ws: Workspace) -> Run:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for run in ws.demos():
            if run.progress.phase == "serving":
                return run
        time.sleep(0.1)
    raise AssertionError([ws.log(run.id) for run in ws.demos(ended=True)])


def test_without_a_model_there_is_one_next_action(ws: Workspace) -> None:
    assert labels(page()) == ["Convert the bundled model"]


def test_with_one_variant_the_page_tells_what_is_missing(ws: Workspace, chat: ScriptedChat) -> None:
    add_variants(ws, chat, "echo")
    app = page()
    assert "A demo needs two variants" in words(app) and "Start the demo" not in labels(app)


def test_a_demo_is_started_shown_and_stopped_from_the_page(ws: Workspace, chat: ScriptedChat) -> None:
    echo, hostile = add_variants(ws, chat, "echo", "hostile")
    app = page()
    assert app.button(key="demo.start").disabled
    app.multiselect(key="demo.variants").set_value([echo, hostile])
    app.text_input(key="demo.title").set_value("Which *one*?")
    app.text_area(key="demo.examples").set_value("First\n\n  Second  \n").run()
    app.button(key="demo.start").click().run()
    assert not app.exception
    run = until_serving(ws)
    assert run.spec["examples"] == ["First", "Second"] and run.spec["modes"] == ["compare", "arena"]
    assert run.spec["bind"] == "127.0.0.1" and run.spec["title"] == "Which *one*?"

    app = page()
    address = str(run.result["address"])
    assert address in [block.value for block in app.code] and "0 visitors" in words(app)
    assert httpx.get(address, trust_env=False).status_code == 200
    app.button(key=f"demo.stop.{run.id}").click().run()
    assert ws.wait(run.id, timeout_s=30).state is RunState.STOPPED
    app = page()
    assert f"demo.again.{run.id}" in [button.key for button in app.button]
    assert address not in [block.value for block in app.code]


def test_beyond_this_machine_the_password_is_made_or_given_and_shown_to_the_owner(
    ws: Workspace, chat: ScriptedChat
) -> None:
    add_variants(ws, chat, "echo", "hostile")
    app = page()
    app.multiselect(key="demo.variants").set_value([variant.id for variant in ws.variants()])
    app.segmented_control(key="demo.where").set_value("My network").run()
    app.text_input(key="demo.password").set_value("short").run()
    app.button(key="demo.start").click().run()
    assert "has 5 characters" in words(app) and ws.demos(ended=True) == []
    app.text_input(key="demo.password").set_value("correct horse").run()
    app.button(key="demo.start").click().run()
    run = until_serving(ws)
    assert run.spec["bind"] == "0.0.0.0" and "correct horse" not in run.model_dump_json()
    assert "correct horse" in [block.value for block in page().code]


def test_a_demo_that_failed_says_why(ws: Workspace, chat: ScriptedChat) -> None:
    variants = add_variants(ws, chat, "echo", "hostile")
    first = ws.start_demo(variants)
    port = until_serving(ws).result["port"]
    second = ws.start_demo(variants, title="Second", port=port)
    assert ws.wait(second.id, timeout_s=60).state is RunState.FAILED
    told = words(page())
    assert "the port is in use" in told.replace("\\", "")
    assert ws.run(first.id).state is RunState.RUNNING


def test_the_report_is_a_button_on_the_answers_of_a_prompt_set(ws: Workspace, chat: ScriptedChat) -> None:
    echo, hostile = add_variants(ws, chat, "echo", "hostile")
    _, held_out = ws.install_kit()
    run = ws.wait(ws.answer_prompts(held_out.id, [echo, hostile], limit=3).id, timeout_s=120)
    app = open_page(links.PROMPT_SETS, run=run.id)
    assert not app.exception and not app.error
    assert [item.key for item in app.get("download_button") if "Report" in str(item.label)]
    page = report_html(ws.store, run_store.get_run(ws.store, run.id))
    assert "You said" in page and "<script>alert(1)" not in page
