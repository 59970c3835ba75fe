"""The Playground, driven against a real HTTP server that is added as a remote one."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted_chat import HOSTILE, ScriptedChat, scripted_chat
from streamlit.testing.v1 import AppTest

from workbench.api import Workspace
from workbench.records import Conversation
from workbench.store import answers as answer_store
from workbench.store import models as model_store
from workbench.store import rankings
from workbench.ui.conversation import as_json, as_markdown, load_answers
from workbench.ui.history import rename
from workbench.ui.streams import STREAMS

APP = str(Path(__file__).resolve().parents[2] / "app.py")
PAGE = "pages/compare/playground.py"


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
    app = AppTest.from_file(APP, default_timeout=30).run()
    app.switch_page(PAGE)
    for name, value in query.items():
        app.query_params[name] = value
    app.run()
    assert not app.exception
    return app


def finish(app: AppTest) -> AppTest:
    for _ in range(400):
        conversation = app.query_params.get("conversation")
        if conversation and not STREAMS.live(str(conversation)):
            break
        time.sleep(0.02)
    app.run()
    assert not app.exception
    return app


def ask(app: AppTest, text: str) -> AppTest:
    app.chat_input[0].set_value(text).run()
    assert not app.exception
    return app


def the_conversation(ws: Workspace) -> Conversation:
    (conversation,) = ws.conversations()
    assert isinstance(conversation, Conversation)
    return conversation


def texts(app: AppTest) -> list[str]:
    return [item.value for item in app.text]


def test_without_a_model_there_is_one_next_action(ws: Workspace) -> None:
    app = open_page()
    assert [button.label for button in app.button] == ["Convert the bundled model"]
    assert not app.chat_input


def test_every_pane_answers_and_the_answers_are_kept_once(ws: Workspace, chat: ScriptedChat) -> None:
    echo, hostile = add_variants(ws, chat, "echo", "hostile")
    app = finish(ask(open_page(variants=f"{echo},{hostile}"), "hello there"))
    assert texts(app) == ["hello there", "You said hello there", HOSTILE]
    conversation = the_conversation(ws)
    kept = answer_store.list_completions(ws.store, conversation_id=conversation.id)
    assert sorted((item.pane, item.turn, item.finish_reason) for item in kept) == [(0, 0, "stop"), (1, 0, "stop")]
    assert conversation.variants == (echo, hostile) and conversation.title == "hello there"
    assert {item["seed"] for item in chat.asked} == {0}
    assert sum("unverified" in item.value for item in app.markdown) == 2


def test_rank_these_opens_at_these_answers_although_the_queue_holds_older_ones(
    ws: Workspace, chat: ScriptedChat
) -> None:
    echo, hostile = add_variants(ws, chat, "echo", "hostile")
    told: dict[str, str] = {}
    for question in ("the first", "the second"):
        app = finish(ask(open_page(variants=f"{echo},{hostile}"), question))
        app.button(key="playground.rank").click().run()
        assert not app.exception and not app.error
        assert any("only=1" in code.value for code in app.code), "the queue's page"
        told = {name: "".join(app.query_params[name]) for name in ("queue", "item")}
    older, newest = rankings.list_items(ws.store, [told["queue"]])
    assert newest.prompt[-1].content == "the second" and told["item"] == newest.id
    app = AppTest.from_file(APP, default_timeout=30).run()
    app.switch_page("pages/rank/rank.py")
    for name, value in {**told, "rater": "Ada"}.items():  # the browser tells who ranks otherwise
        app.query_params[name] = value
    app.run()
    assert not app.exception and not app.error
    assert [each.item for each in rankings.next_items(ws.store, told["queue"], "Ada", 6)] == [newest, older]


def test_what_a_model_writes_is_shown_as_text_only(ws: Workspace, chat: ScriptedChat) -> None:
    (hostile,) = add_variants(ws, chat, "hostile")
    app = finish(ask(open_page(variants=hostile), "go"))
    assert HOSTILE in texts(app)
    assert not any("<script" in str(item.value) for item in (*app.markdown, *app.html, *app.caption))


def test_the_essay_on_hamlet_is_among_the_ready_prompts_and_one_click_asks_it(
    ws: Workspace, chat: ScriptedChat
) -> None:
    (echo,) = add_variants(ws, chat, "echo")
    app = open_page(variants=echo)
    essay = "Write an essay about the main themes of Hamlet"
    app.get("pills")[0].set_value(essay).run()
    assert f"You said {essay}" in texts(finish(app))


def test_each_pane_remembers_its_own_answers(ws: Workspace, chat: ScriptedChat) -> None:
    echo, hostile = add_variants(ws, chat, "echo", "hostile")
    app = finish(ask(open_page(variants=f"{echo},{hostile}"), "one"))
    app.text_area(key="playground.system").set_value("Be brief.")
    finish(ask(app, "two"))
    second = {item["model"]: [m["content"] for m in item["messages"]] for item in chat.asked if "two" in str(item)}
    assert second == {
        "echo": ["Be brief.", "one", "You said one", "two"],
        "hostile": ["Be brief.", "one", HOSTILE, "two"],
    }


def test_stop_ends_all_answers_and_keeps_what_was_written(ws: Workspace, chat: ScriptedChat) -> None:
    (slow,) = add_variants(ws, chat, "slow")
    app = ask(open_page(variants=slow), "hello")
    for _ in range(400):
        if STREAMS.views(str(app.query_params["conversation"]))[slow].text:
            break
        time.sleep(0.01)
    assert app.run().chat_input[0].disabled
    app.button(key="playground.stop").click().run()
    (kept,) = answer_store.list_completions(ws.store, conversation_id=the_conversation(ws).id)
    assert (kept.text, kept.finish_reason, kept.fingerprint, kept.verified) == (
        "You ",
        "cancelled",
        "fp_claimed",
        False,
    )
    assert not finish(app).chat_input[0].disabled


def test_another_tab_finds_the_answer_that_is_being_written(ws: Workspace, chat: ScriptedChat) -> None:
    (slow,) = add_variants(ws, chat, "slow")
    first = ask(open_page(variants=slow), "hello")
    conversation = str(first.query_params["conversation"])
    second = open_page(conversation=conversation)
    assert second.chat_input[0].disabled
    chat.gate.set()
    assert "You said hello" in texts(finish(second))
    assert len(answer_store.list_completions(ws.store, conversation_id=conversation)) == 1


def test_a_prompt_beyond_the_context_is_told_in_words_and_can_be_asked_again(ws: Workspace, chat: ScriptedChat) -> None:
    refuse, echo = add_variants(ws, chat, "refuse", "echo")
    app = finish(ask(open_page(variants=f"{refuse},{echo}"), "long"))
    assert "too long for this model" in app.error[0].value and "You said long" in texts(app)
    before = len(chat.asked)
    app.button(key=f"playground.retry.0.{refuse}").click().run()
    finish(app)
    assert [item["model"] for item in chat.asked[before:]] == ["refuse"]


def test_editing_the_last_prompt_asks_again_and_shows_no_old_answer(ws: Workspace, chat: ScriptedChat) -> None:
    (echo,) = add_variants(ws, chat, "echo")
    app = finish(ask(open_page(variants=echo), "first words"))
    app.button(key="playground.edit").click().run()
    app.text_area[-1].set_value("other words")
    next(button for button in app.button if button.label == "Send again").click().run()
    assert texts(finish(app)) == ["other words", "You said other words"]
    assert the_conversation(ws).title == "other words"


def test_a_variant_that_joins_answers_the_earlier_prompts_too(ws: Workspace, chat: ScriptedChat) -> None:
    echo, hostile = add_variants(ws, chat, "echo", "hostile")
    app = finish(ask(finish(ask(open_page(variants=echo), "one")), "two"))
    app.multiselect(key="playground.variants").set_value([echo, hostile]).run()
    finish(app)
    conversation = the_conversation(ws)
    assert set(load_answers(ws.store, conversation)) == {(0, echo), (1, echo), (0, hostile), (1, hostile)}


def test_the_settings_reach_every_request(ws: Workspace, chat: ScriptedChat) -> None:
    (echo,) = add_variants(ws, chat, "echo")
    app = open_page(variants=echo)
    app.number_input(key="playground.sampling.temperature").set_value(0.0)
    app.number_input(key="playground.sampling.max_tokens").set_value(12)
    app.number_input(key="playground.sampling.seed").set_value(99)
    finish(ask(app, "hello"))
    sent = chat.asked[-1]
    assert (sent["temperature"], sent["max_tokens"], sent["seed"]) == (0.0, 12, 99)
    assert open_page(conversation=the_conversation(ws).id).number_input(key="playground.sampling.seed").value == 99


def test_a_conversation_of_before_opens_by_its_address_with_its_difference(ws: Workspace, chat: ScriptedChat) -> None:
    echo, hostile = add_variants(ws, chat, "echo", "hostile")
    finish(ask(open_page(variants=f"{echo},{hostile}"), "hello"))
    app = open_page(conversation=the_conversation(ws).id)
    app.toggle(key="playground.diff").set_value(True).run()
    assert not app.exception and "<del" in app.html[0].value and "<script" not in app.html[0].value


def test_an_address_of_a_conversation_that_is_gone_says_so(ws: Workspace, chat: ScriptedChat) -> None:
    add_variants(ws, chat, "echo")
    app = open_page(conversation="cnv_gone")
    assert "No such conversation" in app.error[0].value and app.chat_input


def test_a_conversation_leaves_as_json_and_as_markdown_whatever_it_holds(ws: Workspace, chat: ScriptedChat) -> None:
    (echo,) = add_variants(ws, chat, "echo")
    finish(ask(open_page(variants=echo), "```\n# broken out"))
    conversation = the_conversation(ws)
    answers, variants = load_answers(ws.store, conversation), {item.id: item for item in ws.variants()}
    document = json.loads(as_json(conversation, answers, variants))
    assert document["turns"][0]["answers"][0]["text"] == "You said ```\n# broken out"
    assert "````text\n```\n# broken out\n````" in as_markdown(conversation, answers, variants)


def test_regenerating_asks_again_with_the_same_seed_or_a_new_one_and_keeps_both(
    ws: Workspace, chat: ScriptedChat
) -> None:
    (echo,) = add_variants(ws, chat, "echo")
    app = finish(ask(open_page(variants=echo), "hello"))
    for choice in ("With the same seed", "With a new seed"):
        app.get("menu_button")[0].click(choice).run()
        finish(app)
    seeds = [item["seed"] for item in chat.asked]
    assert seeds[:2] == [0, 0] and seeds[2] != 0
    kept = answer_store.list_completions(ws.store, conversation_id=the_conversation(ws).id)
    assert [item.sampling.seed for item in kept] == seeds


def test_a_conversation_can_be_renamed_and_put_away(ws: Workspace, chat: ScriptedChat) -> None:
    (echo,) = add_variants(ws, chat, "echo")
    finish(ask(open_page(variants=echo), "hello"))
    conversation = the_conversation(ws)
    rename(ws, conversation, "  About   hello ")
    assert the_conversation(ws).title == "About hello"
    app = open_page()
    next(button for button in app.button if button.label == "History").click().run()
    app.button(key=f"playground.archive.{conversation.id}").click().run()
    assert not app.exception and ws.conversations() == []


def test_a_server_that_is_down_fails_in_its_own_pane_only(ws: Workspace, chat: ScriptedChat) -> None:
    (echo,) = add_variants(ws, chat, "echo")
    gone = model_store.add_server(ws.store, "gone", "http://127.0.0.1:9/v1", {"models": ["m"]})
    down = ws.remote_variant(gone.id, "m").id
    app = finish(ask(open_page(variants=f"{echo},{down}"), "hello"))
    assert "cannot be reached" in app.error[0].value and "You said hello" in texts(app)
