"""Starter kits: listed, installed once, refused in words when broken."""

from __future__ import annotations

import json

import pytest

from workbench.datasets.starter import install_kit, list_kits
from workbench.datasets.versions import edit_version, iter_rows
from workbench.errors import DataProblem, NotFound
from workbench.store.datasets import get_dataset, list_datasets


@pytest.fixture
def kits(tmp_path):
    folder = tmp_path / "kits" / "tiny"
    folder.mkdir(parents=True)
    (folder / "kit.json").write_text(
        json.dumps({"name": "tiny", "title": "Tiny", "description": "d", "licence": "CC0"})
    )
    rows = [{"id": f"r{n}", "topic": "t", "instruction": f"q{n}", "response": f"a{n}"} for n in range(4)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
    (folder / "held_out.jsonl").write_text(json.dumps(rows[3]) + "\n")
    return folder.parent


def test_a_kit_is_listed_with_its_rows(kits):
    (kit,) = list_kits(kits)
    assert (kit.name, kit.title, kit.train_rows, kit.held_out_rows) == ("tiny", "Tiny", 3, 1)
    assert kit.details == {"licence": "CC0"}


def test_a_kit_becomes_two_datasets_and_only_once(store, kits):
    train, held_out = install_kit(store, "tiny", folder=kits)
    assert install_kit(store, "tiny", folder=kits) == (train, held_out)
    assert {(dataset.name, dataset.kind) for dataset in list_datasets(store)} == {
        ("Tiny (train)", "instructions"), ("Tiny (held out)", "prompts"),
    }  # fmt: skip
    example = next(iter_rows(store, train)).payload
    assert [message.content for message in example.messages] == ["q0", "a0"] and example.meta == {
        "id": "r0",
        "topic": "t",
    }
    prompt = next(iter_rows(store, held_out)).payload
    assert prompt.reference == "a3" and prompt.meta["topic"] == "t" and prompt.messages[-1].role == "user"


def test_an_edited_kit_is_found_as_it_is(store, kits):
    train, _ = install_kit(store, "tiny", folder=kits)
    edited = edit_version(store, train, removed={next(iter_rows(store, train)).row_id})
    assert install_kit(store, "tiny", folder=kits)[0] == edited


def test_an_unknown_or_broken_kit_is_told(store, kits):
    with pytest.raises(NotFound, match="no such starter kit"):
        install_kit(store, "nothing", folder=kits)
    (kits / "tiny" / "train.jsonl").write_text('{"instruction": "q"}\n')
    with pytest.raises(DataProblem, match="train.jsonl, row 1: 'response' is missing"):
        install_kit(store, "tiny", folder=kits)
    (kits / "tiny" / "kit.json").write_text("{")
    with pytest.raises(DataProblem, match="cannot be read"):
        list_kits(kits)


def conversation(*roles: str) -> list[dict[str, str]]:
    return [{"role": role, "content": f"{role} {place}"} for place, role in enumerate(roles)]


def write_conversations(kits, train, held_out) -> None:
    (kits / "tiny" / "train.jsonl").write_text(json.dumps(train) + "\n")
    (kits / "tiny" / "held_out.jsonl").write_text(json.dumps(held_out) + "\n")


def test_a_kit_of_conversations_keeps_every_turn(store, kits):
    whole, asked = conversation("system", "user", "assistant", "user", "assistant"), conversation("system", "user")
    write_conversations(
        kits, {"id": "c1", "topic": "t", "messages": whole}, {"id": "d1", "messages": asked, "reference": "a"}
    )
    train, held_out = install_kit(store, "tiny", folder=kits)
    example, prompt = next(iter_rows(store, train)).payload, next(iter_rows(store, held_out)).payload
    assert [message.as_dict() for message in example.messages] == whole
    assert example.meta == {"id": "c1", "topic": "t"}
    assert [message.as_dict() for message in prompt.messages] == asked
    assert (prompt.reference, prompt.meta) == ("a", {"id": "d1"})


ANSWERED, ASKED = conversation("user", "assistant"), conversation("user")


@pytest.mark.parametrize(
    ("train", "held_out", "told"),
    [
        ({"messages": ASKED}, {}, "train.jsonl, row 1: 'messages' must end with the turn of the assistant"),
        ({"messages": []}, {}, "train.jsonl, row 1: 'messages' must end"),
        ({"messages": "hello"}, {}, "train.jsonl, row 1: 'messages' must end"),
        ({"messages": [{"role": "wizard"}]}, {}, "train.jsonl, row 1: its messages cannot be read"),
        ({"messages": [1]}, {}, "train.jsonl, row 1: its messages cannot be read"),
        ({"messages": ANSWERED}, {"messages": ASKED}, "held_out.jsonl, row 1: 'reference' is missing"),
        ({"messages": ANSWERED}, {"messages": ANSWERED, "reference": "a"}, "must end with the turn of the user"),
    ],
)
def test_a_conversation_that_cannot_be_used_is_told_with_its_row(store, kits, train, held_out, told):
    write_conversations(kits, train, held_out)
    with pytest.raises(DataProblem, match=told):
        install_kit(store, "tiny", folder=kits)


def test_every_kit_that_comes_with_the_workbench_installs(store):
    for kit in list_kits():
        train, held_out = install_kit(store, kit.name)
        assert (train.rows, held_out.rows) == (kit.train_rows, kit.held_out_rows)
        assert get_dataset(store, f"{kit.title} (train)").id == train.dataset_id
