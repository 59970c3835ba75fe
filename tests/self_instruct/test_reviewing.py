from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_generator import ScriptedGenerator, ServedJob

from workbench.datasets.versions import iter_rows, write_version
from workbench.errors import Conflict, DataProblem, NotFound, UsageError
from workbench.records import Message, Prompt, Run
from workbench.self_instruct.configs import SelfInstructConfig
from workbench.self_instruct.deciding import redecide
from workbench.self_instruct.diversity import measure_diversity, verb_noun
from workbench.self_instruct.filters import REASONS, TOO_SIMILAR
from workbench.self_instruct.novelty import NoveltyPool
from workbench.self_instruct.review import (
    LOST,
    board_diversity,
    load_board,
    make_version,
    measure_funnel,
    page_candidates,
    review_candidate,
    usable_instances,
)
from workbench.self_instruct.rounds import grow_dataset
from workbench.self_instruct.seeds import install_seeds, read_seeds
from workbench.store import candidates as candidate_store
from workbench.store import datasets as dataset_store
from workbench.store import runs as run_store
from workbench.store.candidates import Instance
from workbench.store.database import Store


def grow(store: Store, folder: Path, **fields: Any) -> Run:
    with ScriptedGenerator() as generator:
        from workbench.store import models as model_store

        if not model_store.list_variants(store):
            generator.variant(store)
        config = SelfInstructConfig(**({"variant": "writer", "target": 15, "retries": 1} | fields))
        spec = config.model_dump(mode="json")
        run = run_store.add_run(store, kind="self_instruct", name="Grow", slot="bulk", spec=spec)
        grow_dataset(config, ServedJob(store, folder, generator.url, run))
    return run_store.get_run(store, run.id)


@pytest.fixture
def run(store: Store, tmp_path: Path) -> Iterator[Run]:
    yield grow(store, tmp_path)


def kept(store: Store, run: Run) -> list[candidate_store.Candidate]:
    return [each for each in candidate_store.list_candidates(store, run.id) if each.state == "kept"]


def test_deciding_again_under_the_runs_own_threshold_changes_nothing(store: Store, run: Run):
    found = candidate_store.list_candidates(store, run.id)
    assert redecide(found, read_seeds(store, install_seeds(store)), 0.7) == found


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.45, 0.9, 1.0])
def test_deciding_again_is_what_a_fresh_decision_would_be(store: Store, run: Run, threshold: float):
    seeds = [seed.instruction for seed in read_seeds(store, install_seeds(store))]
    board = load_board(store, run.id, threshold=threshold)
    pool = NoveltyPool(seeds)
    for before, each in zip(candidate_store.list_candidates(store, run.id), board.candidates, strict=True):
        if before.reason not in (None, TOO_SIMILAR):
            assert each == before
            continue
        found = pool.nearest(each.instruction)
        novel = found.score <= threshold
        assert (each.score, each.reason) == (found.score, None if novel else TOO_SIMILAR)
        assert each.nearest_text == (pool.text(found.place) if found.place >= 0 else None)
        if novel:
            pool.add(each.instruction)
            if before.reason == TOO_SIMILAR:
                assert each.state == "waiting"
    assert candidate_store.list_candidates(store, run.id) != [] and load_board(store, run.id).threshold == 0.7


def test_pages_show_what_is_asked_for(store: Store, run: Run):
    board = load_board(store, run.id)
    everything = page_candidates(board, limit=1000)
    assert everything.total == len(board.candidates) == len(everything.candidates)
    for state in ("kept", "rejected", "waiting"):
        page = page_candidates(board, state=state, limit=1000)
        assert {each.state for each in page.candidates} <= {state}
    short = page_candidates(board, reason="too_short", offset=1, limit=2)
    assert (
        short.total > 2 and len(short.candidates) == 2 and {each.reason for each in short.candidates} == {"too_short"}
    )
    word = board.candidates[0].instruction.split()[1]
    hits = page_candidates(board, search=f" {word.upper()} ", limit=1000).candidates
    assert board.candidates[0] in hits and len(hits) < len(board.candidates)
    with pytest.raises(UsageError, match="no such reason"):
        page_candidates(board, reason="ugly")
    with pytest.raises(UsageError, match="1 to 1000"):
        page_candidates(board, limit=0)
    with pytest.raises(UsageError, match="between 0 and 1"):
        load_board(store, run.id, threshold=7)


def test_the_funnel_accounts_for_every_candidate(store: Store, run: Run):
    first, second, third = kept(store, run)[:3]
    review_candidate(store, first.id, "accept", "Ada")
    review_candidate(store, second.id, "reject", "Ada")
    review_candidate(store, third.id, "edit", "Ada", instruction="Say it in other words.")
    funnel = measure_funnel(load_board(store, run.id), store)
    stages = {stage.name: stage for stage in funnel.stages}
    counts = [stage.count for stage in funnel.stages]
    assert list(stages) == ["read", "passed", "answered", "kept", "accepted"] and counts == sorted(counts, reverse=True)
    for before, after in zip(funnel.stages, funnel.stages[1:], strict=False):
        assert before.count - after.count == sum(after.lost.values()), after
        assert set(after.lost) <= set(LOST)
    assert stages["accepted"].count == 2 and stages["accepted"].lost["rejected"] == 1
    assert stages["accepted"].lost["open"] == funnel.open == stages["kept"].count - 3
    assert funnel.requests == run.result.get("requests", funnel.requests) and funnel.failed == 0
    assert funnel.examples == sum(len(usable_instances(each)) for each in kept(store, run))
    assert set(funnel.examples_lost) <= set(REASONS) and funnel.examples_lost["instance_contradicts"] >= 2


def test_reviews_are_appended_and_taken_back(store: Store, run: Run):
    one, other = kept(store, run)[:2]
    first = review_candidate(store, one.id, "accept", "Ada", nonce="n1")
    assert review_candidate(store, one.id, "accept", "Ada", nonce="n1") == first
    with pytest.raises(UsageError, match="another review"):
        review_candidate(store, other.id, "accept", "Ada", nonce="n1")
    review_candidate(store, one.id, "reject", "Ada")
    review_candidate(store, other.id, "reject", " Bo  B ")
    board = load_board(store, run.id)
    assert {key: review.verdict for key, review in board.reviews.items()} == {one.id: "reject", other.id: "reject"}
    taken = candidate_store.undo_review(store, run.id, "Ada")
    assert taken.verdict == "reject" and taken.undone_at is not None
    board = load_board(store, run.id)
    assert board.reviews[one.id].verdict == "accept" and board.reviews[other.id].reviewer == "Bo B"
    assert page_candidates(board, review="accept").candidates == (one,)
    assert page_candidates(board, review="reviewed").total == 2
    assert page_candidates(board, review="open").total == len(kept(store, run)) - 2
    assert candidate_store.undo_review(store, run.id, "Ada").id == first.id
    assert candidate_store.undo_review(store, run.id, "Ada") is None
    assert len(candidate_store.list_reviews(store, run.id)) == 1
    assert len(candidate_store.list_reviews(store, run.id, undone=True)) == 3


def test_what_cannot_be_reviewed_is_told(store: Store, run: Run):
    one = kept(store, run)[0]
    bare = next(each for each in candidate_store.list_candidates(store, run.id) if each.reason == "too_short")
    for verdict, fields, words in (
        ("maybe", {}, "no such verdict"),
        ("accept", {"instruction": "x"}, "only an edit"),
        ("edit", {"instruction": " "}, "instruction is empty"),
        ("edit", {"instances": ()}, "needs an output"),
        ("edit", {"instances": (Instance(output=" "),)}, "needs an output"),
        ("edit", {"instances": (Instance(output="a"), Instance(output="b"))}, "different outputs"),
    ):
        with pytest.raises(UsageError, match=words):
            review_candidate(store, one.id, verdict, "Ada", **fields)
    with pytest.raises(UsageError, match="no usable example"):
        review_candidate(store, bare.id, "accept", "Ada")
    with pytest.raises(UsageError, match="needs a name"):
        review_candidate(store, one.id, "accept", "  ")
    with pytest.raises(NotFound):
        review_candidate(store, "can_nothing", "accept", "Ada")
    assert candidate_store.list_reviews(store, run.id, undone=True) == []
    review_candidate(
        store, bare.id, "edit", "Ada", instruction="Sing a song of sixpence.", instances=(Instance(output="La"),)
    )
    assert make_version(store, run.id, "rescued").rows == 1


def test_an_edit_that_leaks_is_refused(store: Store, tmp_path: Path):
    held = "Explain why the leaves of trees turn red and yellow in autumn."
    dataset = dataset_store.create_dataset(store, "exam", "prompts")
    write_version(store, dataset.id, [Prompt(messages=(Message(role="user", content=held),))])
    run = grow(store, tmp_path)
    with pytest.raises(UsageError, match="held out"):
        review_candidate(store, kept(store, run)[0].id, "edit", "Ada", instruction=held)


def test_a_version_holds_what_was_accepted_with_where_it_came_from(store: Store, run: Run):
    with pytest.raises(DataProblem, match="no task was accepted"):
        make_version(store, run.id, "grown")
    one, other, third = kept(store, run)[:3]
    review_candidate(store, one.id, "accept", "Ada")
    review_candidate(
        store, other.id, "edit", "Bo", instruction="In other words.", instances=(Instance(input="i", output="o"),)
    )
    review_candidate(store, third.id, "reject", "Bo")
    version = make_version(store, run.id, "grown")
    rows = [row.payload for row in iter_rows(store, version)]
    usable = usable_instances(one)
    assert version.rows == len(rows) == len(usable) + 1
    assert rows[0].messages[0].content.startswith(one.instruction) and rows[0].messages[1].content == usable[0].output
    edited = next(row for row in rows if row.meta["verdict"] == "edit")
    assert [turn.content for turn in edited.messages] == ["In other words.\n\ni", "o"]
    assert edited.meta["reviewer"] == "Bo" and edited.meta["candidate"] == other.id and edited.meta["run"] == run.id
    told = version.provenance["self_instruct"]
    plan = run.result["self_instruct"]
    assert told["run"] == run.id and told["seeds"] == plan["seeds_version_id"] and told["variant_name"] == "writer"
    assert told["fingerprints"] == ["fp_1"] and told["reviewers"] == ["Ada", "Bo"] and told["tasks"] == 2
    assert make_version(store, run.id, "grown") == version
    everything = make_version(store, run.id, "grown", include="unrejected")
    assert everything.number == 2 and everything.parent_id == version.id
    assert third.id not in {row.payload.meta["candidate"] for row in iter_rows(store, everything)}
    fewer = make_version(store, run.id, "strict", include="unrejected", threshold=0.2)
    assert one.id in {row.payload.meta["candidate"] for row in iter_rows(store, fewer)}
    assert fewer.rows < everything.rows and fewer.provenance["self_instruct"]["threshold"] == 0.2
    seeds = read_seeds(store, everything)
    assert seeds[0].instruction == one.instruction and seeds[0].input == usable[0].input


def test_a_dataset_of_something_else_is_not_overwritten(store: Store, run: Run, tmp_path: Path):
    with pytest.raises(Conflict, match="not made of this run"):
        make_version(store, run.id, install_seeds_name(store), include="unrejected")
    make_version(store, run.id, "grown", include="unrejected")
    with pytest.raises(Conflict):
        make_version(store, grow(store, tmp_path, seed=5).id, "grown", include="unrejected")
    with pytest.raises(UsageError, match="accepted or unrejected"):
        make_version(store, run.id, "grown", include="everything")


def install_seeds_name(store: Store) -> str:
    return dataset_store.get_dataset(store, install_seeds(store).dataset_id).name


def test_a_run_of_another_kind_or_not_begun_is_told(store: Store):
    other = run_store.add_run(store, kind="answer", name="Answers", slot="bulk", spec={})
    with pytest.raises(UsageError, match="grew no tasks"):
        load_board(store, other.id)
    queued = run_store.add_run(store, kind="self_instruct", name="Grow", slot="bulk", spec={"variant": "x"})
    assert load_board(store, queued.id).candidates == ()
    with pytest.raises(UsageError, match="has not begun"):
        make_version(store, queued.id, "grown")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Write a short poem about rain.", ("write", "poem")),
        ("Please, could you summarise the two reports below?", ("summarize", "report")),
        ("Think of five uses for a jar.", ("think", "use")),
        ("Explain why bread rises.", ("explain", None)),
        ("Given the list, sort its entries by age.", ("sort", "entry")),
        ("What is the capital of Peru?", None),
        ("", None),
    ],
)
def test_verb_and_noun_are_read_by_position(text: str, told: tuple[str, str | None] | None):
    found = verb_noun(text)
    assert (None if found is None else tuple(found)) == told


def test_diversity_counts_pairs_and_what_has_none(store: Store, run: Run):
    found = measure_diversity(["Write a poem.", "Write two poems!", "Write.", "Why?"])
    assert [(pair.verb, pair.noun, pair.count) for pair in found.pairs] == [("write", "poem", 2)]
    assert (found.verbs, found.tasks, found.without_verb) == ({"write": 3}, 4, 1)
    board = load_board(store, run.id)
    shown = board_diversity(board)
    assert shown.tasks == len(kept(store, run)) and board_diversity(board, include="accepted").tasks == 0
    verbs = Counter(each.instruction.split()[0].lower() for each in kept(store, run))
    assert shown.verbs == dict(sorted(verbs.items(), key=lambda item: (-item[1], item[0])))
