"""Datasets: list, starter kit, import with its problems, rows with the token inspector, details."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from page_helpers import labels, open_page, press, words
from streamlit.testing.v1 import AppTest

from workbench.api import Workspace
from workbench.datasets.inspecting import inspect_payload
from workbench.datasets.render import load_renderer
from workbench.notebook.tokens import chips_html
from workbench.records import Example, Message, ModelSource, Preference, Row
from workbench.store import datasets as dataset_store
from workbench.store import models as model_store
from workbench.store.database import Store
from workbench.store.drafts import load_draft
from workbench.ui import links
from workbench.ui.dataset_page import row_table

MIXED = (
    '{"instruction": "Name a colour", "output": "Blue"}\n'
    '{"instruction": "", "output": "nothing"}\n'
    "not json at all\n"
    '{"instruction": "Name a fruit", "output": "<script>alert(1)</script>"}\n'
)


def test_an_empty_list_offers_an_import_and_every_starter_kit(store: Store) -> None:
    app = open_page(links.DATASETS)
    assert [button.label for button in app.button if button.proto.type == "primary"] == ["Import data"]
    assert labels(app).count("Install") == 3
    app = app.button(key="kit.assistant").click().run()
    assert app.title[0].value.replace("\\", "").endswith("(train)")
    assert len(app.dataframe[0].value) == 25


def test_the_list_shows_rows_and_versions(store: Store) -> None:
    Workspace().install_kit("assistant")
    table = open_page(links.DATASETS).dataframe[0].value
    assert set(table["kind"]) == {"instructions", "prompts"}
    assert 260 in list(table["rows"])


def test_an_unknown_dataset_is_told_in_words(store: Store) -> None:
    assert "No such dataset" in open_page(links.DATASETS, dataset="nothing").error[0].value


def test_rows_are_searched_and_paged_in_the_store(store: Store) -> None:
    train, _ = Workspace().install_kit("assistant")
    app = open_page(links.DATASETS, dataset=train.dataset_id)
    assert app.dataframe[0].value["#"][0] == 1
    app.session_state["dataset.rows_page"] = 11
    app.run()
    assert list(app.dataframe[0].value["#"]) == list(range(251, 261))
    app.text_input(key="dataset.search").set_value("pasta").run()
    found = app.dataframe[0].value
    assert 0 < len(found) < 25
    app.text_input(key="dataset.search").set_value("no such words anywhere").run()
    assert "No row holds these words." in words(app)


@pytest.mark.parametrize("tab", ["Rows", "Figures", "Versions", "Details"])
def test_every_tab_of_a_dataset_can_be_opened(store: Store, tab: str) -> None:
    train, _ = Workspace().install_kit("assistant")
    app = open_page(links.DATASETS, dataset=train.dataset_id)
    app.session_state["dataset.tabs"] = tab
    app.run()
    assert not app.exception
    assert not app.error


def test_a_dataset_is_renamed_tagged_and_archived(store: Store) -> None:
    train, _ = Workspace().install_kit("assistant")
    app = open_page(links.DATASETS, dataset=train.dataset_id)
    app.session_state["dataset.tabs"] = "Details"
    app.run()
    app.text_input[0].set_value("House style")
    app.form_submit_button[0].click().run()
    assert dataset_store.get_dataset(store, train.dataset_id).name == "House style"
    app.session_state["dataset.tabs"] = "Details"
    app.run()
    app = press(app, "Archive")
    assert dataset_store.get_dataset(store, train.dataset_id).archived_at is not None


def upload(content: bytes, name: str = "mixed.jsonl"):
    app = open_page(links.DATASETS, view="import")
    app.file_uploader[0].upload(name, content)
    app.run()
    assert not app.exception
    return app


def test_an_upload_shows_what_it_would_become_and_every_problem_in_one_table(store: Store) -> None:
    app = upload(MIXED.encode())
    problems = app.dataframe[1].value
    assert list(problems["Row"]) == [2, 3]
    assert all(problems["What to do"])
    assert "Blue" in [text.value for text in app.text]
    assert "Import the good rows and save the bad ones" in labels(app)
    assert not dataset_store.list_datasets(store)


def finish_import(app: AppTest) -> AppTest:
    for _ in range(120):
        if app.success or app.error:
            return app
        time.sleep(0.25)
        app.run()
    return app


def fix(app: AppTest, **cells: str) -> AppTest:
    """Type into the editor of the chosen row and apply it."""
    for label, text in cells.items():
        next(area for area in app.text_area if area.label == label).set_value(text)
    return press(app, "Apply the correction")


def test_bad_rows_are_corrected_in_place_and_imported(store: Store) -> None:
    app = upload(MIXED.encode())
    assert [area.label for area in app.text_area] == ["instruction", "output"]
    app = fix(app, instruction="", output="still no question")
    assert list(app.dataframe[1].value["Row"]) == [2, 3] and "1 row corrected" in words(app)
    app = fix(app, instruction="What is still missing?")
    assert list(app.dataframe[1].value["Row"]) == [3]
    assert app.text_area[0].value == "not json at all"
    app.text_area[0].set_value('{"instruction": ')
    app = press(app, "Apply the correction")
    assert "Not valid JSON" in app.error[0].value or "not valid JSON" in app.error[0].value

    app = open_page(links.DATASETS, view="import")  # a refresh keeps what was corrected
    assert "1 row corrected" in words(app) and list(app.dataframe[1].value["Row"]) == [3]
    app.text_area[0].set_value('{"instruction": "Name a tree", "output": "Oak"}')
    app = press(app, "Apply the correction")
    assert "2 rows corrected" in words(app) and len(app.dataframe) == 1
    app = finish_import(press(app, "Import 4 rows"))
    assert "4 rows imported." in app.success[0].value
    (dataset,) = dataset_store.list_datasets(store)
    rows = [row.payload.messages for row in Workspace().rows(dataset.name).rows]
    assert [(turns[0].content, turns[1].content) for turns in rows[1:3]] == [
        ("What is still missing?", "still no question"), ("Name a tree", "Oak")
    ]  # fmt: skip


KTO = (
    '{"prompt": "Name a colour", "completion": "Blue", "label": true}\n'
    '{"prompt": "Name a colour", "completion": "Tuesday", "label": false}\n'
    '{"prompt": "Name a fruit", "completion": "Stone", "label": "rather not"}\n'
)


def test_answers_told_good_or_bad_are_imported_as_labels_and_shown_with_them(store: Store) -> None:
    app = upload(KTO.encode(), "told.jsonl")
    assert "Automatic: labels" in app.selectbox(key="import.format").options[0]
    assert "**Good answer**" in [item.value for item in app.markdown] and not app.warning
    (problem,) = app.dataframe[1].value.to_dict("records")
    assert (problem["Row"], problem["Column"], problem["Value"]) == (3, "label", "rather not")
    app = finish_import(press(app, "Import the good rows and save the bad ones"))
    assert "2 rows imported" in app.success[0].value
    (dataset,) = dataset_store.list_datasets(store)
    assert dataset.kind == "labels"
    app = open_page(links.DATASETS, dataset=dataset.id)
    assert list(app.dataframe[0].value["Label"]) == ["good", "bad"]
    assert list(app.dataframe[0].value["Answer"]) == ["Blue", "Tuesday"] and "Train on it" in labels(app)
    app.session_state["dataset.tabs"] = "Figures"
    app.run()
    assert {metric.label: metric.value for metric in app.metric}["Good answers"] == "1"


def test_a_file_with_one_label_alone_is_warned_of_before_and_after(store: Store) -> None:
    app = upload(KTO.splitlines(keepends=True)[0].encode(), "told.jsonl")
    assert "All 1 answers are labelled good" in app.warning[0].value
    app = finish_import(press(app, "Import 1 row"))
    assert app.success and "All 1 answers are labelled good" in app.warning[0].value


def test_bad_answers_chosen_to_become_examples_are_warned_of(store: Store) -> None:
    app = upload("".join(KTO.splitlines(keepends=True)[:2]).encode(), "told.jsonl")
    app.selectbox(key="import.format").set_value("prompt_completion").run()
    assert "calls some of these answers bad" in app.warning[0].value


def test_bad_rows_are_dropped_and_brought_back(store: Store) -> None:
    app = upload(MIXED.encode())
    app = press(app, "Drop this row")
    assert list(app.dataframe[1].value["Row"]) == [3] and "1 row dropped" in words(app)
    app = press(app, "Undo the last")
    app = press(app, "Drop these 2 rows")
    assert "2 rows dropped" in words(app) and "Import 2 rows" in labels(app)
    app = press(app, "Undo all")
    assert list(app.dataframe[1].value["Row"]) == [2, 3]


def test_a_refresh_keeps_the_upload(store: Store) -> None:
    upload(MIXED.encode())
    app = open_page(links.DATASETS, view="import")
    assert "mixed" in words(app)
    assert len(app.dataframe) == 2


def test_cancel_forgets_the_upload_and_deletes_its_copy(store: Store) -> None:
    app = upload(MIXED.encode())
    (copy,) = store.settings.inbox_dir.glob("up_*/mixed.jsonl")
    press(app, "Cancel")
    assert not copy.exists()
    assert load_draft(store, "import") is None


def test_the_good_rows_are_imported_and_the_bad_ones_kept_in_a_file(store: Store) -> None:
    app = press(upload(MIXED.encode()), "Import the good rows and save the bad ones")
    finish_import(app)
    assert "2 rows imported, 2 rows left out." in app.success[0].value
    assert [button.label for button in app.get("download_button")] == ["Problems (CSV)", "Bad rows (JSON Lines)"]
    assert not list(store.settings.inbox_dir.glob("up_*"))
    app = press(app, "Open the dataset")
    assert app.title[0].value == "mixed"


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"", "empty.jsonl"),
        (b"\x00\x01\x02\xff\xfe" * 50, "binary.csv"),
        (b'[{"a": 1}, {"b"', "broken.json"),
        (b"x,y\n1,2\n3,4\n", "odd columns.csv"),
        ("prompt;antwort\nGrüße;ja\n".encode("cp1252"), "latin.csv"),
    ],
)
def test_a_file_that_cannot_be_used_is_explained_without_a_traceback(store: Store, content: bytes, name: str) -> None:
    app = upload(content, name)
    assert app.error or app.warning or app.dataframe
    assert not any("went wrong" in error.value for error in app.error)
    assert "Choose another" in labels(app)


def test_a_path_that_is_not_there_is_told(store: Store) -> None:
    app = open_page(links.DATASETS, view="import")
    app.segmented_control(key="import.way").set_value("Path on this machine").run()
    app.text_input(key="import.path").set_value("/nowhere/rows.jsonl")
    app.form_submit_button[0].click().run()
    assert "There is no file at" in app.error[0].value


def test_a_file_given_by_its_path_is_never_deleted(store: Store, tmp_path: Path) -> None:
    own = tmp_path / "mine.csv"
    own.write_text("instruction,output\na,b\n")
    app = open_page(links.DATASETS, view="import")
    app.segmented_control(key="import.way").set_value("Path on this machine").run()
    app.text_input(key="import.path").set_value(str(own))
    app.form_submit_button[0].click().run()
    press(app, "Cancel")
    assert own.exists()


def test_pasted_rows_are_looked_at(store: Store) -> None:
    app = open_page(links.DATASETS, view="import")
    app.segmented_control(key="import.way").set_value("Paste text").run()
    app = press(app, "Look at it")
    assert app.warning
    app.text_area(key="import.text").set_value(MIXED)
    app = press(app, "Look at it")
    assert "pasted.jsonl" in words(app).replace("\\", "")


def test_a_column_is_mapped_by_hand(store: Store) -> None:
    app = upload(b"q,a\nWhat?,That.\n", "odd.csv")
    assert app.warning
    app.selectbox(key="import.format").set_value("alpaca").run()
    app.selectbox(key="import.map.instruction").set_value("q").run()
    app.selectbox(key="import.map.output").set_value("a").run()
    assert "That." in [text.value for text in app.text]
    assert "Import 1 row" in labels(app)


def test_chips_escape_what_a_row_holds_and_mark_what_is_learned(tmp_path: Path) -> None:
    from tiny import make_tokenizer

    row = Example(
        messages=(Message(role="user", content="<img src=x>"), Message(role="assistant", content="<b>no</b>"))
    )
    (inspected,) = inspect_payload(row, load_renderer(make_tokenizer(tmp_path / "tok")))
    html = chips_html(inspected.chips)
    assert "<img" not in html and "<b>" not in html
    assert html.count("rgba(16,158,140") == inspected.supervised > 0


def test_a_ready_model_is_offered_to_the_inspector(store: Store, tmp_path: Path) -> None:
    from tiny import make_tokenizer

    def script() -> None:
        from workbench.records import Example, Message
        from workbench.ui.inspector import show_inspector
        from workbench.ui.store import workspace

        turns = (Message(role="user", content="Say hi"), Message(role="assistant", content="hi"))
        show_inspector(workspace(), Example(messages=turns))

    from streamlit.testing.v1 import AppTest

    app = AppTest.from_function(script).run()
    assert "once a base model is ready" in app.caption[0].value
    model = model_store.add_model(store, "tiny", ModelSource.LOCAL, "x")
    model_store.update_model(store, model.id, path=str(make_tokenizer(tmp_path / "tok")))
    app.run()
    assert not app.exception
    assert "learned" in app.markdown[0].value
    assert len(app.html) == 1


def test_a_preference_shows_both_answers_in_the_table() -> None:
    user, good = Message(role="user", content="q"), Message(role="assistant", content="good")
    payload = Preference(prompt=(user,), chosen=(good,), rejected=(Message(role="assistant", content="bad"),))
    table = row_table([Row(row_id="r", row_hash="h", payload=payload)], 0)
    assert list(table.iloc[0]) == [1, "q", "good", "bad"]
