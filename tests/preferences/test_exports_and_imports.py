"""Files: TRL's trainers take them as they are, rankings come back as they were, foreign files are read or refused."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.preferences.voting import make_answers, make_queue, rank
from workbench.errors import Conflict, DataProblem, NotFound, UsageError
from workbench.preferences.exports import export_for_trl, export_rankings
from workbench.preferences.imports import import_rankings
from workbench.preferences.leaderboard import load_leaderboard
from workbench.preferences.queues import create_queue_from
from workbench.records import Ranking, new_id, utc_now
from workbench.store import models as model_store
from workbench.store import rankings as rank_store
from workbench.store.answers import list_completions
from workbench.store.database import Store


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def write(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    return path


@pytest.fixture
def ranked(store: Store) -> str:
    queue = make_queue(store, prompts=4)
    items = rank_store.list_items(store, [queue.id])
    rank(store, items[0], [[0], [1], [2]])
    rank(store, items[1], [[2], [0, 1]], edited="Mine.")
    rank(store, items[2], [], all_bad=True)
    rank(store, items[3], [[1]], unusable=[items[3].completions[0], items[3].completions[2]])
    return queue.id


# ---- for TRL ----


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("trainer", ["dpo", "reward", "kto"])
def test_a_download_trains_one_step_as_it_is(
    store: Store, ranked: str, tmp_path: Path, trainer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    import trl
    from datasets import disable_progress_bars, load_dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    from tests.tiny import make_model
    from workbench.models.loading import quiet_peft

    torch.set_num_threads(1)
    disable_progress_bars()
    path = export_for_trl(store, [ranked], tmp_path / "rows.jsonl", trainer)
    data = load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    folder = make_model(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    common = {
        "output_dir": str(tmp_path / "out"), "max_steps": 1, "per_device_train_batch_size": 2, "report_to": [],
        "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "logging_steps": 1, "max_length": 128,
    }  # fmt: skip
    with quiet_peft():
        if trainer == "reward":
            model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32)
            config = trl.RewardConfig(**common)
            made = trl.RewardTrainer(model=model, args=config, train_dataset=data, processing_class=tokenizer)
        else:
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
            config = {"dpo": trl.DPOConfig, "kto": trl.KTOConfig}[trainer](**common)
            cls = {"dpo": trl.DPOTrainer, "kto": trl.KTOTrainer}[trainer]
            made = cls(model=model, args=config, train_dataset=data, processing_class=tokenizer)
        result = made.train()
    assert result.global_step == 1 and result.training_loss == result.training_loss


def test_downloads_hold_the_columns_of_their_trainer(store: Store, ranked: str, tmp_path: Path) -> None:
    forms = {form: read(export_for_trl(store, [ranked], tmp_path / form, form)) for form in ("dpo", "kto", "sft")}
    assert set(forms["dpo"][0]) == {"prompt", "chosen", "rejected"} and len(forms["dpo"]) == 3 + 2 + 2
    assert set(forms["kto"][0]) == {"prompt", "completion", "label"}
    assert sum(not row["label"] for row in forms["kto"]) == 1 + 2 + 3 + 2
    assert [row["messages"][-1]["content"] for row in forms["sft"]] == ["one says 0", "Mine.", "two says 3"]


def test_parts_split_by_prompt_alike_for_every_trainer(store: Store, tmp_path: Path) -> None:
    queue = make_queue(store, prompts=12)
    for item in rank_store.list_items(store, [queue.id]):
        rank(store, item, [[0], [1], [2]])
    held = []
    for form in ("dpo", "kto"):
        parts = {
            part: {json.dumps(row["prompt"]) for row in read(
                export_for_trl(store, [queue.id], tmp_path / "x", form, part=part, held_out=0.3)
            )}
            for part in ("train", "held_out", "all")
        }  # fmt: skip
        assert not parts["train"] & parts["held_out"] and parts["train"] | parts["held_out"] == parts["all"]
        held.append(parts["held_out"])
    assert held[0] == held[1] and len(held[0]) >= 2


def test_an_export_that_cannot_be_is_refused_and_leaves_no_file(store: Store, ranked: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="trainer"):
        export_for_trl(store, [ranked], tmp_path / "x", "ppo")
    with pytest.raises(UsageError, match="part"):
        export_for_trl(store, [ranked], tmp_path / "x", "dpo", part="half")
    with pytest.raises(UsageError, match="folder"):
        export_rankings(store, ranked, tmp_path / "none" / "x")
    with pytest.raises(NotFound):
        export_rankings(store, "nothing", tmp_path / "x")
    bare = make_queue(store, prompts=1)
    with pytest.raises(DataProblem, match="no row"):
        export_for_trl(store, [bare.id], tmp_path / "x", "dpo")
    assert list(tmp_path.glob("*x*")) == []


# ---- rankings and back ----


def test_rankings_come_back_as_they_were(store: Store, ranked: str, tmp_path: Path) -> None:
    rank_store.undo_last(store, ranked, "Ada")
    skipped = rank_store.list_items(store, [ranked])[3]
    rank_store.submit_ranking(store, skipped.id, "Zoë", nonce="s", skipped="odd", comment="名前", seconds=2.5)
    first = export_rankings(store, ranked, tmp_path / "one.jsonl")
    back = import_rankings(store, first, "Back")
    assert export_rankings(store, back.id, tmp_path / "two.jsonl").read_bytes() == first.read_bytes()
    mine, theirs = (rank_store.list_rankings(store, queue_ids=[each], undone=True) for each in (ranked, back.id))
    same = {"id", "item_id", "shown", "tiers", "unusable", "nonce", "undone_at"}
    assert [each.model_dump(exclude=same) for each in mine] == [each.model_dump(exclude=same) for each in theirs]
    assert [each.undone_at for each in mine] == [each.undone_at for each in theirs]
    boards = [load_leaderboard(store, [each]) for each in (ranked, back.id)]
    assert [round(rating.strength, 6) for rating in boards[0].ratings] == [
        round(rating.strength, 6) for rating in boards[1].ratings
    ]
    assert {name.removesuffix(" (imported)") for name in boards[1].names.values()} == {"one", "two", "three"}
    assert {variant.name for variant in model_store.list_variants(store)} == {"one", "two", "three"}


RATERS = st.sampled_from(["Ada", "李雷", "Zoë Ångström", "שרה", "🦊"])
text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@st.composite
def a_queue(draw: st.DrawFn) -> tuple[list[str], list[dict[str, Any]]]:
    texts = draw(st.lists(text, min_size=2, max_size=6, unique_by=str.strip))
    votes = []
    for rater in draw(st.lists(RATERS, max_size=3, unique=True)):
        numbers = draw(st.permutations(range(len(texts))))
        cuts = draw(st.lists(st.booleans(), min_size=len(texts), max_size=len(texts)))
        tiers: list[list[int]] = []
        for number, cut in zip(numbers, cuts, strict=True):
            if cut or not tiers:
                tiers.append([])
            tiers[-1].append(number)
        unusable = tiers.pop() if draw(st.booleans()) else []
        all_bad = draw(st.booleans())
        votes.append(
            {"rater": rater, "tiers": [] if all_bad else tiers, "unusable": [] if all_bad else unusable,
             "all_bad": all_bad, "confidence": draw(st.none() | st.integers(1, 5)), "edited": draw(st.none() | text),
             "comment": draw(text), "seconds": draw(st.floats(0, 1e4))}
        )  # fmt: skip
    return texts, votes


COUNTER = itertools.count()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=a_queue())
def test_any_ranking_survives_save_export_and_import(
    store: Store, tmp_path: Path, drawn: tuple[list[str], list[dict[str, Any]]]
) -> None:
    texts, votes = drawn
    number = next(COUNTER)
    made = make_answers(store, f"Q {number}", {f"v{n}": each for n, each in enumerate(texts)})
    queue = create_queue_from(store, f"queue {number}", made)
    [item] = rank_store.list_items(store, [queue.id])
    saved = []
    for vote in votes:
        placed = {key: [[item.completions[n] for n in tier] for tier in vote["tiers"]] for key in ("tiers",)}
        placed["unusable"] = [item.completions[n] for n in vote["unusable"]]  # type: ignore[assignment]
        told = {key: value for key, value in vote.items() if key not in ("tiers", "unusable", "rater")}
        saved.append(rank_store.submit_ranking(store, item.id, vote["rater"], nonce=new_id("n"), **placed, **told))
    assert rank_store.list_rankings(store, queue_ids=[queue.id]) == saved
    first = export_rankings(store, queue.id, tmp_path / f"{number}.jsonl")
    back = import_rankings(store, first, f"back {number}")
    assert export_rankings(store, back.id, tmp_path / f"{number}-2.jsonl").read_bytes() == first.read_bytes()


# ---- foreign files ----


def ranked_places(node: dict[str, Any]) -> int:
    ranked = [reply for reply in node["replies"] if reply["role"] == "assistant" and reply.get("rank") is not None]
    return (len(ranked) > 1) + sum(map(ranked_places, node["replies"]))


def test_ranked_trees_are_read_at_every_depth(store: Store, shared_data: Path, tmp_path: Path) -> None:
    queue = import_rankings(store, shared_data / "ranked_trees_100.jsonl", "Trees")
    items = rank_store.list_items(store, [queue.id])
    votes = {each.item_id: each for each in rank_store.list_rankings(store, queue_ids=[queue.id])}
    trees = [json.loads(line) for line in (shared_data / "ranked_trees_100.jsonl").read_text("utf-8").splitlines()]
    assert len(items) == len(votes) == sum(ranked_places(tree["prompt"]) for tree in trees) > 200
    assert {2, 3, 4, 9} <= {len(item.completions) for item in items}
    deeper = [item for item in items if len(item.prompt) > 1]
    # One of the hundred trees has no ranks at its top.
    assert len(items) - len(deeper) == 99 and all(item.prompt[-1].role == "user" for item in items)
    first = trees[0]["prompt"]
    answers = rank_store.completions_by_id(store, items[0].completions)
    best_first = [answers[tier[0]].text for tier in votes[items[0].id].tiers]
    assert best_first == [reply["text"] for reply in sorted(first["replies"], key=lambda each: each["rank"])]
    assert queue.source["file"] == "ranked_trees_100.jsonl" and votes[items[0].id].source == "import"
    rows = read(export_for_trl(store, [queue.id], tmp_path / "dpo.jsonl"))
    assert len(rows) > 500 and {turn["role"] for row in rows for turn in row["prompt"]} == {"user", "assistant"}


def test_plain_lines_with_ties_names_and_several_raters(store: Store, tmp_path: Path) -> None:
    path = write(
        tmp_path / "plain.jsonl",
        {"prompt": "Hi?", "answers": ["a", "b", "c"], "ranking": [2, [0, 1]]},
        {"prompt": [{"role": "user", "content": "Ho?"}], "answers": [{"text": "x", "model": "Größe"}, {"text": "y"}],
         "rankings": [{"rater": "Ada", "ranking": [1], "unusable": [0]}, {"rater": "Ben", "all_bad": True}]},
        {"prompt": "Not ranked yet", "answers": ["a", "b"]},
    )  # fmt: skip
    queue = import_rankings(store, path, "Plain")
    items = rank_store.list_items(store, [queue.id])
    votes = rank_store.list_rankings(store, queue_ids=[queue.id])
    a, b, c = items[0].completions
    assert votes[0].tiers == ((c,), (a, b)) and votes[0].rater == "imported"
    assert [(each.rater, each.all_bad) for each in votes[1:]] == [("Ada", False), ("Ben", True)]
    handed = rank_store.next_item(store, queue.id, "Cleo")
    assert handed is not None and handed.item.prompt[0].content == "Not ranked yet"
    writers = {variant.name for variant in model_store.list_variants(store, archived=True)}
    assert writers == {"Größe (imported)", "unknown author (imported)"}


def test_pairs_are_rankings_of_two(store: Store, tmp_path: Path) -> None:
    rows = [{"prompt": f"Q{n}", "chosen": "good", "rejected": "bad"} for n in range(3)]
    rows.append({"chosen": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "yes"}],
                 "rejected": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "no"}]})  # type: ignore[dict-item]  # fmt: skip
    queue = import_rankings(store, write(tmp_path / "pairs.jsonl", *rows), "Pairs")
    texts = {each.id: each.text for each in list_completions(store)}
    told = [[texts[tier[0]] for tier in each.tiers] for each in rank_store.list_rankings(store, queue_ids=[queue.id])]
    assert told == [["good", "bad"]] * 3 + [["yes", "no"]]


def test_identical_answers_of_a_file_are_one(store: Store, tmp_path: Path) -> None:
    path = write(tmp_path / "same.jsonl", {"prompt": "Q", "answers": ["a", "b", "a "], "ranking": [0, 1, 2]})
    queue = import_rankings(store, path, "Same")
    [item] = rank_store.list_items(store, [queue.id])
    [vote] = rank_store.list_rankings(store, queue_ids=[queue.id])
    assert len(item.completions) == 2 and vote.tiers == ((item.completions[0],), (item.completions[1],))


def tree(*ranks: Any) -> dict[str, Any]:
    """A prompt with a reply of each rank."""
    replies = [{"role": "assistant", "text": f"reply {n}", "rank": rank} for n, rank in enumerate(ranks)]
    return {"text": "Q", "role": "prompter", "replies": replies}


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ({"prompt": "Q", "answers": ["a", "b"], "ranking": [1, 2]}, "row 2.*numbers of answers from 0 to 1"),
        ({"prompt": "Q", "answers": ["a", "b"], "ranking": [0]}, "1 of 2 answers have no place"),
        ({"prompt": "Q", "answers": ["a", "b"], "ranking": [0, [0, 1]]}, "twice"),
        ({"prompt": "Q", "answers": ["a"], "ranking": [0]}, "at least two"),
        ({"prompt": " ", "answers": ["a", "b"], "ranking": [0, 1]}, "prompt"),
        ({"prompt": [{"role": "boss", "content": ""}], "answers": ["a", "b"]}, "prompt"),
        ({"prompt": "Q", "answers": ["a", 3], "ranking": [0, 1]}, "an answer has to be text"),
        ({"prompt": "Q", "answers": ["a", "b"], "ranking": [0, 1], "confidence": 9}, "confidence"),
        ({"prompt": "Q", "answers": [{"text": "a", "sampling": {"temperature": 9}}, "b"], "ranking": [0, 1]}, "temp"),
        ({"prompt": "Q", "answers": list("abcdefghij"), "ranking": list(range(10))}, "at most 9"),
        ({"prompt": "Q", "chosen": "same", "rejected": "same"}, "same"),
        ({"prompt": {"text": "Q", "role": "ghost", "replies": []}}, "role"),
        ({"question": "Q"}, "no ranking"),
        ({"prompt": "Q", "answers": ["a", " a", "a"], "ranking": [0, 1, 2]}, "all its answers are the same"),
        ({"prompt": "Q", "answers": ["a", "b"], "rankings": [{"rater": "x" * 300, "ranking": [0, 1]}]}, "name"),
        *(({"prompt": tree(0, rank)}, "rank of a reply") for rank in ("1", 0.5, True)),
    ],
)
def test_a_line_that_cannot_be_taken_is_refused_with_its_number_and_nothing_is_stored(
    store: Store, tmp_path: Path, row: dict[str, Any], match: str
) -> None:
    good = {"prompt": "Fine", "answers": ["a", "b"], "ranking": [1, 0]}
    path = write(tmp_path / "bad.jsonl", good, row)
    with pytest.raises(DataProblem, match=f"(?s){match}") as told:
        import_rankings(store, path, "Bad")
    assert re.search(r"bad\.jsonl[,:] row 2", str(told.value))
    assert rank_store.list_queues(store) == [] and list_completions(store) == []
    assert model_store.list_variants(store, archived=True) == []


def test_a_file_without_rankings_or_with_a_taken_name_is_refused(store: Store, tmp_path: Path) -> None:
    tree = {"prompt": {"text": "Q", "role": "prompter", "replies": [{"text": "a", "role": "assistant", "rank": 0}]}}
    with pytest.raises(DataProblem, match="nothing in the file is ranked"):
        import_rankings(store, write(tmp_path / "a.jsonl", tree), "A")
    with pytest.raises(DataProblem, match="empty"):
        import_rankings(store, write(tmp_path / "b.jsonl"), "A")
    path = write(tmp_path / "c.jsonl", {"prompt": "Q", "answers": ["a", "b"], "ranking": [0, 1]})
    import_rankings(store, path, "A")
    with pytest.raises(Conflict, match="exists"):
        import_rankings(store, path, " A ")
    assert len(list_completions(store)) == 2


def test_a_ranking_built_by_hand_keeps_its_time() -> None:
    now = utc_now()
    ranking = Ranking(id="rk", item_id="ri", rater="Ada", shown=("a",), all_bad=True, nonce="n", created_at=now)
    assert Ranking.model_validate_json(ranking.model_dump_json()).created_at == now
