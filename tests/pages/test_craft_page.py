"""Craft: rows are written and edited, drafts survive, changes are reviewed and saved, conflicts are settled."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from page_helpers import labels, open_page, press, words
from scripted_chat import ScriptedChat, scripted_chat
from streamlit.testing.v1 import AppTest

from tests.tiny import make_tokenizer
from workbench.api import Workspace
from workbench.datasets.merging import Change
from workbench.datasets.row_drafts import ChangeDraft, Drafts, draft_row, list_unsaved
from workbench.datasets.versions import iter_rows
from workbench.records import Dataset, Example, Message, Preference, Prompt, Sampling
from workbench.store import answers as answer_store
from workbench.store import models as model_store
from workbench.ui import links
from workbench.ui.craft_answer import asked_messages, put_answer
from workbench.ui.streams import STREAMS

HOSTILE = "<script>alert(1)</script> **bold** $x^2$"


@pytest.fixture
def ws(home) -> Iterator[Workspace]:
    workspace = Workspace()
    yield workspace
    workspace.store.close()


@pytest.fixture
def chat() -> Iterator[ScriptedChat]:
    with scripted_chat() as server:
        yield server


def example(question: str, answer: str = "an answer", **meta) -> Example:
    return Example(
        messages=(Message(role="user", content=question), Message(role="assistant", content=answer)), meta=meta
    )


@pytest.fixture
def dataset(ws: Workspace) -> Dataset:
    made = ws.new_dataset("mine")
    ws.save_changes("mine", [Change(payload=example(f"question {n}")) for n in range(3)])
    return made


def row_ids(ws: Workspace) -> list[str]:
    return [row.row_id for row in ws.rows("mine").rows]


def asked(ws: Workspace) -> list[str]:
    return [row.payload.messages[0].content for row in iter_rows(ws.store, ws.version("mine"))]


def again(app: AppTest) -> AppTest:
    """The page opened anew at the same address, as after a refresh."""
    query = {name: values[0] if isinstance(values, list) else values for name, values in app.query_params.items()}
    return open_page(links.CRAFT, **query)


def field(app: AppTest, row: str, part: str):
    return app.text_area(key=f"craft.field.{row}.{part}")


def write(app: AppTest, row: str, part: str, text: str) -> AppTest:
    field(app, row, part).set_value(text).run()
    assert not app.exception
    return app


def to_changes(app: AppTest) -> AppTest:
    app.session_state["craft.view"] = "Changes"
    app.run()
    assert not app.exception
    return app


def save(app: AppTest) -> AppTest:
    app.button(key="craft.save").click().run()
    assert not app.exception
    return app


def the_row(app: AppTest) -> str:
    value = app.query_params["row"]
    return value[0] if isinstance(value, list) else value


def test_an_empty_workbench_offers_to_begin_and_the_first_row_becomes_version_one(ws: Workspace) -> None:
    app = open_page(links.CRAFT)
    assert "Nothing to edit yet" in words(app)
    app.text_input(key="craft.new_dataset.name").set_value("mine")
    app = press(app, "Begin")
    assert "No rows yet" in words(app)
    app.button(key="craft.new").click().run()
    row = the_row(app)
    assert "Turn 1 (user) is empty" in words(app).replace("\\", "")
    keys = [area.key for area in app.text_area if area.key.endswith(".content")]
    app.text_area(key=keys[0]).set_value("Why is the sea salty?").run()
    app.text_area(key=keys[1]).set_value("Rivers carry salt.").run()
    assert "is empty" not in words(app)
    app = save(to_changes(app))
    assert "Saved as version 1" in words(app)
    assert asked(ws) == ["Why is the sea salty?"] and row.startswith("new-")
    assert not list_unsaved(ws.store, ws.dataset("mine").id)


def test_many_edits_are_one_version_and_a_refresh_loses_none(ws: Workspace, dataset: Dataset) -> None:
    first, second, third = row_ids(ws)
    app = open_page(links.CRAFT, dataset=dataset.id, row=first)
    app = write(app, first, "t0.content", HOSTILE)
    app.button(key=f"craft.open.{second}").click().run()
    app.button(key="craft.delete").click().run()
    app.button(key=f"craft.open.{third}").click().run()
    app.button(key="craft.duplicate").click().run()
    app = again(app)
    assert "Review 3 changes" in labels(app)
    app = to_changes(app)
    assert "3 changes → save as version 2" in labels(app)
    assert all("<script" not in item.value for item in app.html)
    app.text_input(key="craft.message").set_value("by hand").run()
    app = save(app)
    assert asked(ws) == [HOSTILE, "question 2", "question 2"]
    assert ws.version("mine").number == 2 and ws.version("mine").message == "by hand"
    assert "No changes are waiting" in words(app)


def test_a_draft_that_was_left_is_offered_to_whoever_comes_next(ws: Workspace, dataset: Dataset) -> None:
    first, *_ = row_ids(ws)
    write(open_page(links.CRAFT, dataset=dataset.id, row=first), first, "t1.content", "better")
    app = open_page(links.CRAFT, dataset=dataset.id)
    assert "Unsaved changes" in words(app)
    app = press(app, "Go on with them")
    assert "1 change → save as version 2" in labels(app)
    other = press(open_page(links.CRAFT, dataset=dataset.id), "Forget them")
    assert "Unsaved changes" not in words(other) and not list_unsaved(ws.store, dataset.id)


def test_a_row_that_is_again_what_was_saved_is_no_change(ws: Workspace, dataset: Dataset) -> None:
    first, *_ = row_ids(ws)
    app = write(open_page(links.CRAFT, dataset=dataset.id, row=first), first, "t0.content", "other")
    assert "Review 1 change" in labels(app)
    app = write(app, first, "t0.content", "question 0")
    assert not [label for label in labels(app) if label.startswith("Review")]


def test_deleting_discarding_and_removing_a_turn_can_be_undone(ws: Workspace, dataset: Dataset) -> None:
    first, *_ = row_ids(ws)
    app = write(open_page(links.CRAFT, dataset=dataset.id, row=first), first, "t0.content", "other")
    app.button(key="craft.delete").click().run()
    assert "Deleted with the next save" in words(app)
    app.button(key="craft.undelete").click().run()
    assert field(app, first, "t0.content").value == "other"
    app.button(key="craft.remove.t1").click().run()
    assert "nothing to learn" in words(app)
    app.button(key="craft.undo").click().run()
    assert field(app, first, "t1.content").value == "an answer"
    app.button(key="craft.discard").click().run()
    assert field(app, first, "t0.content").value == "question 0"
    assert not list_unsaved(ws.store, dataset.id)


def test_turns_are_added_moved_and_given_other_roles(ws: Workspace, dataset: Dataset) -> None:
    first, *_ = row_ids(ws)
    app = open_page(links.CRAFT, dataset=dataset.id, row=first)
    app.button(key="craft.add.system").click().run()
    key = next(area.key for area in app.text_area if area.key.endswith(".content"))
    app.text_area(key=key).set_value("Be kind.").run()
    app.button(key="craft.add.turns").click().run()
    assert "is empty" in words(app)
    app.selectbox(key=f"craft.field.{first}.t0.role").set_value("tool").run()
    assert "tool turn" in words(app)
    app.selectbox(key=f"craft.field.{first}.t0.role").set_value("user").run()
    app.button(key="craft.down.t0").click().run()
    contents = [area.value for area in app.text_area if area.key.endswith(".content")]
    assert contents[:3] == ["Be kind.", "an answer", "question 0"]


def test_tools_are_json_and_broken_json_is_kept_and_told(ws: Workspace, dataset: Dataset) -> None:
    first, *_ = row_ids(ws)
    app = open_page(links.CRAFT, dataset=dataset.id, row=first)
    app.toggle(key=f"craft.tools.{first}").set_value(True).run()
    app = write(app, first, "tools", "[{oops")
    assert "not valid JSON" in words(app).replace("\\", "")
    app = again(app)
    assert field(app, first, "tools").value == "[{oops"
    app = to_changes(app)
    assert "1 row is not ready" in words(app) and app.button(key="craft.save").disabled
    app.session_state["craft.view"] = "Rows"
    app.run()
    tools = [{"type": "function", "function": {"name": "f"}}]
    app = save(to_changes(write(app, first, "tools", json.dumps(tools))))
    assert ws.rows("mine").rows[0].payload.tools == tools


def test_tags_and_kept_columns_stay_with_the_row(ws: Workspace, dataset: Dataset) -> None:
    ws.save_changes("mine", [Change(payload=example("tagged", topic="sea"))])
    row = row_ids(ws)[-1]
    app = open_page(links.CRAFT, dataset=dataset.id, row=row)
    app.multiselect(key=f"craft.field.{row}.tags").set_value(["good"]).run()
    save(to_changes(app))
    assert ws.rows("mine").rows[-1].payload.meta == {"topic": "sea", "tags": ["good"]}


def test_a_preference_and_a_prompt_are_edited_in_their_own_fields(ws: Workspace) -> None:
    pair = Preference(
        prompt=(Message(role="user", content="q"),),
        chosen=(Message(role="assistant", content="good"),),
        rejected=(Message(role="assistant", content="bad"),),
    )
    ws.new_dataset("pairs", "preferences")
    ws.save_changes("pairs", [Change(payload=pair)])
    row = ws.rows("pairs").rows[0].row_id
    app = write(open_page(links.CRAFT, dataset="pairs", row=row), row, "r0.content", "good")
    assert "Both answers are the same" in words(app)
    save(to_changes(write(app, row, "r0.content", "worse")))
    assert ws.rows("pairs").rows[0].payload.rejected[0].content == "worse"
    ws.new_dataset("prompts", "prompts")
    ws.save_changes("prompts", [Change(payload=Prompt(messages=(Message(role="user", content="q"),)))])
    row = ws.rows("prompts").rows[0].row_id
    save(to_changes(write(open_page(links.CRAFT, dataset="prompts", row=row), row, "reference", "42")))
    assert ws.rows("prompts").rows[0].payload.reference == "42"


def test_a_labelled_answer_is_written_and_its_label_turned(ws: Workspace) -> None:
    app = open_page(links.CRAFT, dataset=ws.new_dataset("told", "labels").id)
    app = app.button(key="craft.new").click().run()
    row = the_row(app)
    fields = [item.key.removeprefix(f"craft.field.{row}.") for item in app.text_area]
    app = write(write(app, row, fields[0], "Name a colour"), row, fields[1], "Tuesday")
    app.toggle(key=f"craft.field.{row}.label").set_value(False).run()
    save(to_changes(app))
    told = ws.rows("told").rows[0].payload
    assert (told.prompt[0].content, told.completion[0].content, told.label) == ("Name a colour", "Tuesday", False)
    row = ws.rows("told").rows[0].row_id
    app = open_page(links.CRAFT, dataset="told", row=row)
    assert app.toggle(key=f"craft.field.{row}.label").value is False
    app.number_input(key=f"craft.field.{row}.weight").set_value(0.0).run()
    assert "greater than 0" in words(app)
    app.number_input(key=f"craft.field.{row}.weight").set_value(2.5).run()
    app.toggle(key=f"craft.field.{row}.label").set_value(True).run()
    save(to_changes(app))
    told = ws.rows("told").rows[0].payload
    assert (told.label, told.weight) == (True, 2.5)


def test_a_megabyte_in_one_turn_is_kept_and_its_tokens_wait_to_be_asked_for(ws: Workspace, dataset: Dataset) -> None:
    first, *_ = row_ids(ws)
    app = write(open_page(links.CRAFT, dataset=dataset.id, row=first), first, "t1.content", "x" * 1_000_000)
    assert any("Show the tokens" in toggle.label for toggle in app.toggle)
    save(to_changes(app))
    assert len(ws.rows("mine").rows[0].payload.messages[1].content) == 1_000_000


def test_tokens_are_counted_while_editing(ws: Workspace, dataset: Dataset) -> None:
    folder = make_tokenizer(ws.settings.models_dir / "tok")
    model_store.update_model(ws.store, ws.model("bundled").id, path=str(folder))
    first, *_ = row_ids(ws)
    app = open_page(links.CRAFT, dataset=dataset.id, row=first)
    before = next(item.value for item in app.markdown if "learned" in item.value)
    app = write(app, first, "t1.content", "a much longer answer than before")
    assert next(item.value for item in app.markdown if "learned" in item.value) != before
    assert "longer" not in before and any("<span" in item.value for item in app.html)


# ---- two people ----


def test_rows_that_others_changed_are_merged_and_the_same_row_asks_for_a_choice(
    ws: Workspace, dataset: Dataset
) -> None:
    first, second, _ = row_ids(ws)
    base = ws.version("mine").id
    app = write(open_page(links.CRAFT, dataset=dataset.id, row=first), first, "t0.content", "mine")
    theirs = [
        Change(row_id=first, base_id=base, payload=example("theirs")),
        Change(row_id=second, base_id=base, payload=example("their other row")),
    ]
    ws.save_changes("mine", theirs)
    app.run()
    assert "changed this row too" in words(app)
    app = to_changes(app)
    assert app.button(key="craft.save").disabled and "somebody else too" in words(app)
    assert "version 2 was saved" in app.info[0].value
    choice = next(control for control in app.get("button_group") if str(control.key).startswith("craft.take."))
    choice.set_value("both").run()
    app = again(app)
    app = to_changes(app)
    assert not app.button(key="craft.save").disabled
    save(app)
    assert asked(ws) == ["theirs", "their other row", "question 2", "mine"]


def test_a_version_made_between_the_look_and_the_save_stops_the_save(ws: Workspace, dataset: Dataset) -> None:
    first, *_ = row_ids(ws)
    base = ws.version("mine").id
    app = to_changes(write(open_page(links.CRAFT, dataset=dataset.id, row=first), first, "t0.content", "mine"))
    ws.save_changes("mine", [Change(row_id=first, base_id=base, payload=example("theirs"))])
    app = save(app)
    assert "Somebody saved while you did" in words(app)
    assert asked(ws)[0] == "theirs" and app.button(key="craft.save").disabled
    assert "mine" in "".join(item.value for item in app.html)


def test_an_open_row_that_somebody_deleted_is_told_and_mine_is_kept(ws: Workspace, dataset: Dataset) -> None:
    first, *_ = row_ids(ws)
    base = ws.version("mine").id
    app = write(open_page(links.CRAFT, dataset=dataset.id, row=first), first, "t0.content", "mine")
    ws.save_changes("mine", [Change(row_id=first, base_id=base)])
    app.run()
    assert "Somebody deleted this row" in words(app)
    assert field(app, first, "t0.content").value == "mine"
    gone = open_page(links.CRAFT, dataset=dataset.id, row=first)
    assert "not there any more" in words(gone)


def test_another_tab_s_edit_shows_at_the_next_look_and_neither_is_lost(ws: Workspace, dataset: Dataset) -> None:
    first, *_ = row_ids(ws)
    one = write(open_page(links.CRAFT, dataset=dataset.id, row=first), first, "t0.content", "from tab one")
    two = write(again(one), first, "t1.content", "from tab two")
    one = write(one, first, "t0.content", "tab one again")
    assert field(one, first, "t1.content").value == "from tab two"
    two.run()
    assert field(two, first, "t0.content").value == "tab one again"


# ---- find and replace ----


def replace(app: AppTest, find: str, put: str = "", *, regex: bool = False) -> AppTest:
    app.session_state["craft.view"] = "Find and replace"
    app.run()
    app.text_area(key="craft.bulk.find").set_value(find)
    app.text_area(key="craft.bulk.put").set_value(put)
    app.checkbox(key="craft.bulk.regex").set_value(regex)
    app = press(app, "Preview")
    return app


def test_a_replacement_is_shown_before_it_is_taken_and_rows_can_be_left_out(ws: Workspace, dataset: Dataset) -> None:
    first, *_ = row_ids(ws)
    app = replace(open_page(links.CRAFT, dataset=dataset.id), "question", "<b>task</b>")
    assert "3 places in 3 rows" in words(app) and "Add to my changes (3)" in labels(app)
    shown = "".join(item.value for item in app.html)
    assert "<del" in shown and "&lt;b&gt;task" in shown and "<b>task" not in shown
    app.checkbox(key=f"craft.bulk.on.{first}").set_value(False).run()
    app = press(app, "Add to my changes (2)")
    assert "2 changes → save as version 2" in labels(app)
    save(app)
    assert asked(ws) == ["question 0", "<b>task</b> 1", "<b>task</b> 2"]


@pytest.mark.parametrize(
    ("find", "put", "told"),
    [
        ("(", "", "not a regular expression"),
        ("question", r"\7", "cannot be filled in"),
        ("", "", "nothing to find"),
        ("zebra", "", "Nothing found in 3 rows"),
        (r"[\s\S]+", "", "would break the rules"),
    ],
)
def test_what_cannot_be_replaced_is_told_in_words(ws: Workspace, dataset: Dataset, find: str, put: str, told: str):
    app = replace(open_page(links.CRAFT, dataset=dataset.id), find, put, regex=True)
    assert told.lower() in words(app).lower()
    assert not [label for label in labels(app) if label.startswith("Add to my changes")]


def test_replacing_looks_at_what_is_drafted_and_more_than_a_draft_holds_is_saved_at_once(
    ws: Workspace, dataset: Dataset, monkeypatch
) -> None:
    first, *_ = row_ids(ws)
    app = write(open_page(links.CRAFT, dataset=dataset.id, row=first), first, "t0.content", "drafted question")
    app = replace(app, "question", "task")
    assert "drafted " in "".join(item.value for item in app.html)
    monkeypatch.setattr("workbench.ui.craft_bulk.MOST_CHANGES", 2)
    app = replace(app, "an answer", "the answer")
    app = press(app, "Save 3 rows as version 2")
    assert ws.version("mine").number == 2


# ---- models and the Playground ----


def wait_for_draft(app: AppTest) -> AppTest:
    for _ in range(400):
        with STREAMS._lock:
            live = any(stream.live for stream in STREAMS._streams.values())
        if not live:
            break
        time.sleep(0.02)
    app.run()
    assert not app.exception
    return app


def test_a_drafted_answer_lands_in_the_editor_and_can_be_undone(
    ws: Workspace, dataset: Dataset, chat: ScriptedChat
) -> None:
    ws.remote_variant(ws.add_server("lab", chat.url).id, "echo")
    first, *_ = row_ids(ws)
    app = open_page(links.CRAFT, dataset=dataset.id, row=first)
    app.button(key="craft.draft").click().run()
    app = wait_for_draft(app)
    assert field(app, first, "t1.content").value == "You said question 0"
    assert chat.asked[-1]["messages"] == [{"role": "user", "content": "question 0"}]
    app.button(key="craft.undo").click().run()
    assert field(app, first, "t1.content").value == "an answer"


def test_stop_keeps_what_was_written_and_a_refusal_is_told(ws: Workspace, dataset: Dataset, chat: ScriptedChat) -> None:
    server = ws.add_server("lab", chat.url).id
    ws.remote_variant(server, "slow")
    first, second, _ = row_ids(ws)
    app = open_page(links.CRAFT, dataset=dataset.id, row=first)
    app.button(key="craft.draft").click().run()
    for _ in range(400):
        if any(view.text for stream in STREAMS._streams.values() if stream.live for view in [stream.view()]):
            break
        time.sleep(0.02)
    app = again(app)
    app.button(key="craft.stop").click().run()
    app = wait_for_draft(app)
    assert field(app, first, "t1.content").value.strip() == "You"
    refuse = ws.remote_variant(server, "refuse")
    app = open_page(links.CRAFT, dataset=dataset.id, row=second)
    app.selectbox(key="craft.variant").set_value(refuse).run()
    app.button(key="craft.draft").click().run()
    app = wait_for_draft(app)
    assert "context length" in " ".join(item.value for item in app.error).replace("\\", "")
    assert field(app, second, "t1.content").value == "an answer"
    assert {info.changes for info in list_unsaved(ws.store, dataset.id)} == {1}


def test_what_a_drafted_answer_answers_and_where_it_goes() -> None:
    talk = Example(
        messages=(
            Message(role="user", content="a"), Message(role="assistant", content="b"), Message(role="user", content="c")
        )
    )  # fmt: skip
    assert asked_messages(talk) == list(talk.messages)
    assert [m.content for m in asked_messages(example("a", "old"))] == ["a"]
    assert asked_messages(example(" ", "old")) == [] and asked_messages(None) == []
    assert [t.content for t in put_answer(draft_row(talk), "instructions", "new").turns] == ["a", "b", "c", "new"]
    assert [t.content for t in put_answer(draft_row(example("a", "old")), "instructions", "new").turns] == ["a", "new"]
    prompt = Prompt(messages=(Message(role="user", content="a"),))
    assert put_answer(draft_row(prompt), "prompts", "new").reference == "new"


def test_a_playground_answer_opens_as_an_example(ws: Workspace, chat: ScriptedChat) -> None:
    variant = ws.remote_variant(ws.add_server("lab", chat.url).id, "echo")
    conversation = answer_store.create_conversation(
        ws.store, title="t", system="Be kind.", variants=[variant.id], sampling=Sampling()
    )
    answer_store.update_conversation(ws.store, conversation.id, user_turns=("hello",))
    answer = ws.generate(variant.id, "hello", system="Be kind.").model_copy(
        update={"conversation_id": conversation.id, "turn": 0, "pane": 0}
    )
    answer_store.add_completions(ws.store, [answer])
    playground = open_page(links.PLAYGROUND, conversation=conversation.id)
    assert "Make an example" in labels(playground)
    app = open_page(links.CRAFT, **{"from": answer.id})
    assert "You said hello" in words(app)
    app = press(app, "Open in the editor")
    contents = [area.value for area in app.text_area if area.key.endswith(".content")]
    assert contents == ["Be kind.", "hello", "You said hello"]
    save(to_changes(app))
    assert len(ws.rows("My examples").rows) == 1
    lost = open_page(links.CRAFT, **{"from": "cmp_nothing"})
    assert lost.error


def test_addresses_that_fit_nothing_are_told_or_ignored(ws: Workspace, dataset: Dataset) -> None:
    assert "No such dataset" in open_page(links.CRAFT, dataset="nothing").error[0].value
    app = open_page(links.CRAFT, dataset=dataset.id, draft="../../x", row="nothing")
    assert "not there any more" in words(app) and "draft" not in app.query_params
    Drafts(ws.store, dataset.id, "instructions", "drf_x").put_many({"new-1": ChangeDraft(action="new")})
    assert not open_page(links.CRAFT, dataset=dataset.id, draft="drf_x", row="new-1").exception
