"""Queues, the hand-out of items, and rankings, in a real store."""

from __future__ import annotations

import threading
import unicodedata
from collections.abc import Iterator
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert

from workbench.errors import Conflict, NotFound, UsageError
from workbench.records import Completion, Message, Ranking, RankItem, RankQueue, Sampling, new_id, utc_now
from workbench.store import models as model_store
from workbench.store import rankings, tables
from workbench.store.answers import add_completions
from workbench.store.database import Store, open_store

LETTERS = "abcdefghi"


def answers(store: Store, count: int) -> list[Completion]:
    variants = {variant.name for variant in model_store.list_variants(store)}
    if "one" not in variants:
        model_store.add_variant(store, "one")
    variant = model_store.get_variant(store, "one")
    made = [
        Completion(
            id=new_id("cmp"),
            variant_id=variant.id,
            prompt=(Message(role="user", content="Say."),),
            text=f"answer {n}",
            sampling=Sampling(),
            created_at=utc_now(),
        )
        for n in range(count)
    ]
    add_completions(store, made)
    return made


def new_items(count: int, k: int = 3) -> list[rankings.NewItem]:
    return [
        rankings.NewItem(
            prompt=(Message(role="user", content=f"Question {n}"),),
            completions=tuple(f"{letter}{n}" for letter in LETTERS[:k]),
            row_id=f"row-{n}",
        )
        for n in range(count)
    ]


def make_queue(store: Store, count: int = 3, k: int = 3, **options: object) -> RankQueue:
    return rankings.create_queue(store, f"queue {new_id('q')}", new_items(count, k), **options)  # type: ignore[arg-type]


def vote(store: Store, handed: rankings.HandedItem, rater: str, nonce: str | None = None) -> Ranking:
    return rankings.submit_ranking(
        store,
        handed.item.id,
        rater,
        nonce=nonce or new_id("n"),
        shown=handed.shown,
        tiers=[[completion] for completion in handed.shown],
    )


def hand(store: Store, queue: RankQueue, rater: str) -> rankings.HandedItem:
    handed = rankings.next_item(store, queue.id, rater)
    assert handed is not None
    return handed


def test_a_queue_keeps_its_items_in_order_and_its_name_is_unique(store: Store) -> None:
    queue = rankings.create_queue(store, " Größe  и  名前 ", new_items(4), guidelines="Be kind.", source={"file": "x"})
    assert (queue.name, rankings.get_queue(store, queue.name)) == ("Größe и 名前", queue)
    assert [item.position for item in rankings.list_items(store, [queue.id])] == [0, 1, 2, 3]
    assert rankings.count_items(store) == {queue.id: 4}
    with pytest.raises(Conflict, match="exists"):
        rankings.create_queue(store, "Größe и 名前", new_items(1))
    assert rankings.count_items(store) == {queue.id: 4}
    with pytest.raises(UsageError, match="at least one"):
        rankings.create_queue(store, "empty", [])
    with pytest.raises(UsageError, match="overlap"):
        rankings.create_queue(store, "odd", new_items(1), overlap=0)
    with pytest.raises(NotFound):
        rankings.get_queue(store, "nothing")


def test_a_queue_is_renamed_put_away_and_grows(store: Store) -> None:
    queue = make_queue(store, 1)
    assert [item.position for item in rankings.add_items(store, queue.id, new_items(2))] == [1, 2]
    changed = rankings.update_queue(store, queue.id, name="Other", overlap=2)
    assert (changed.name, changed.overlap) == ("Other", 2)
    with pytest.raises(UsageError, match="repeats"):
        rankings.update_queue(store, queue.id, repeats=0.9)
    rankings.update_queue(store, queue.id, archived_at=utc_now())
    assert rankings.list_queues(store) == [] and len(rankings.list_queues(store, archived=True)) == 1
    with pytest.raises(Conflict, match="put away"):
        rankings.next_item(store, queue.id, "Ada")


def test_what_a_rater_holds_is_given_again_and_to_nobody_else(store: Store) -> None:
    queue = make_queue(store, 2)
    first = hand(store, queue, "Ada")
    assert hand(store, queue, "Ada").item == first.item
    assert hand(store, queue, "Ada").shown == first.shown
    second = hand(store, queue, "Ben")
    assert second.item.id != first.item.id
    assert rankings.next_item(store, queue.id, "Cleo") is None
    rankings.release_items(store, queue.id, "Ben")
    assert hand(store, queue, "Cleo").item == second.item


def test_a_hold_without_a_vote_runs_out(store: Store) -> None:
    queue = make_queue(store, 1)
    handed = hand(store, queue, "Ada")
    later = utc_now() + timedelta(minutes=rankings.CLAIM_MINUTES + 1)
    taken = rankings.next_item(store, queue.id, "Ben", now=later)
    assert taken is not None and taken.item == handed.item
    assert rankings.next_item(store, queue.id, "Ada", now=later) is None
    # Ada's late vote is kept all the same.
    assert vote(store, handed, "Ada").rater == "Ada"


def score(store: Store, item: RankItem, scorer: str = "scorer: rules", **told: object) -> Ranking:
    tiers = [[completion] for completion in item.completions]
    return rankings.submit_ranking(
        store, item.id, scorer, nonce=new_id("n"), shown=item.completions, tiers=tiers, source="scorer", **told
    )  # type: ignore[arg-type]


@pytest.mark.parametrize("overlap", [1, 2])
def test_what_a_scorer_ranked_is_handed_to_people_all_the_same(store: Store, overlap: int) -> None:
    queue = make_queue(store, 3, overlap=overlap)
    for item in rankings.list_items(store, [queue.id]):
        score(store, item)
        score(store, item, "scorer: other")
    before = rankings.queue_progress(store, queue.id, "Ada")
    assert (before.done, before.votes, before.raters, before.by_scorers, before.left) == (0, 0, 0, 6, 3)
    for number, rater in enumerate(("Ada", "Ben", "Cleo")):
        voted = 0
        while (handed := rankings.next_item(store, queue.id, rater)) is not None:
            vote(store, handed, rater)
            voted += 1
        assert voted == (3 if number < overlap else 0)
        assert not rankings.others_hold(store, queue.id, rater)
    after = rankings.queue_progress(store, queue.id, "Ada")
    assert (after.done, after.votes, after.raters, after.by_scorers) == (3, 3 * overlap, overlap, 6)


def test_the_item_asked_for_is_handed_first_where_the_rater_may_still_rank_it(store: Store) -> None:
    queue = make_queue(store, 5)
    items = [item.id for item in rankings.list_items(store, [queue.id])]

    def window(rater: str, first: str | None = None, most: int = 2) -> list[str]:
        return [each.item.id for each in rankings.next_items(store, queue.id, rater, most, first=first)]

    assert window("Ada") == items[:2]
    assert window("Ada", items[4]) == [items[4], items[0]] == window("Ada")  # and it stays there
    assert window("Ben", items[4]) == items[2:4], "somebody else holds it"
    vote(store, rankings.next_items(store, queue.id, "Ada", 1)[0], "Ada")
    assert window("Ada", items[4]) == items[:2], "it is ranked"
    assert window("Ada", "ri_gone") == items[:2]
    other = make_queue(store, 1)
    assert window("Ada", rankings.list_items(store, [other.id])[0].id) == items[:2]


def test_a_stamp_changes_with_every_vote_and_every_undo(store: Store) -> None:
    queue = make_queue(store, 2)
    stamps = [rankings.votes_stamp(store)]
    vote(store, hand(store, queue, "Ada"), "Ada")
    stamps.append(rankings.votes_stamp(store))
    assert rankings.votes_stamp(store) == stamps[-1]
    rankings.undo_last(store, queue.id, "Ada")
    stamps.append(rankings.votes_stamp(store))
    assert len(set(stamps)) == 3


def test_overlap_asks_for_so_many_raters_and_no_more(store: Store) -> None:
    queue = make_queue(store, 2, overlap=2)
    seen: dict[str, list[str]] = {}
    for rater in ("Ada", "Ben", "Cleo"):
        while (handed := rankings.next_item(store, queue.id, rater)) is not None:
            seen.setdefault(handed.item.id, []).append(rater)
            vote(store, handed, rater)
    assert list(seen.values()) == [["Ada", "Ben"], ["Ada", "Ben"]]


def test_many_raters_at_once_share_the_items_without_doubles_or_losses(store: Store) -> None:
    queue = make_queue(store, 40)
    taken: list[tuple[str, str]] = []
    problems: list[BaseException] = []

    def work(rater: str) -> None:
        own = open_store(store.settings)
        try:
            while (handed := rankings.next_item(own, queue.id, rater)) is not None:
                taken.append((handed.item.id, rater))
                vote(own, handed, rater)
        except BaseException as error:
            problems.append(error)
        finally:
            own.close()

    threads = [threading.Thread(target=work, args=(f"rater {n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert sorted(item for item, _ in taken) == sorted(item.id for item in rankings.list_items(store, [queue.id]))
    assert len(rankings.list_rankings(store, queue_ids=[queue.id])) == 40


def test_each_rater_sees_an_order_of_their_own_that_stays(store: Store) -> None:
    queue = make_queue(store, 12, k=5, overlap=2)
    orders = {"Ada": [], "Ben": []}  # type: dict[str, list[str]]
    for rater in orders:
        while (handed := rankings.next_item(store, queue.id, rater)) is not None:
            assert handed.shown == rankings.display_order(handed.item, rater)
            assert sorted(handed.shown) == sorted(handed.item.completions)
            orders[rater].append("".join(completion[0] for completion in handed.shown))
            vote(store, handed, rater)
    assert orders["Ada"] != orders["Ben"] and len(set(orders["Ada"])) > 6


def test_the_same_submission_twice_is_one_ranking(store: Store) -> None:
    queue = make_queue(store)
    handed = hand(store, queue, "Ada")
    first = vote(store, handed, "Ada", nonce="n1")
    assert vote(store, handed, "Ada", nonce="n1") == first
    assert rankings.list_rankings(store, queue_ids=[queue.id]) == [first]
    with pytest.raises(UsageError, match="another submission"):
        vote(store, hand(store, queue, "Ada"), "Ada", nonce="n1")


def test_a_second_tab_that_submits_the_same_item_is_told_so(store: Store) -> None:
    queue = make_queue(store)
    handed = hand(store, queue, "Ada")
    first = vote(store, handed, "Ada")
    with pytest.raises(Conflict, match="already"):
        vote(store, handed, "Ada")
    assert rankings.list_rankings(store) == [first]


def test_a_second_tab_is_refused_even_while_the_hidden_repeat_of_the_item_is_open(store: Store) -> None:
    queue = make_queue(store, 8, repeats=0.5)
    held: dict[str, rankings.HandedItem] = {}
    while not (handed := hand(store, queue, "Ada")).repeat:
        held[handed.item.id] = handed
        vote(store, handed, "Ada")
    with pytest.raises(Conflict):
        vote(store, held[handed.item.id], "Ada")
    assert vote(store, handed, "Ada").repeat


def test_hidden_repeats_are_the_share_asked_for_never_adjacent_and_in_another_order(store: Store) -> None:
    queue = make_queue(store, 20, k=2, repeats=0.2)
    seen: list[tuple[str, bool]] = []
    shown: dict[str, tuple[str, ...]] = {}
    while (handed := rankings.next_item(store, queue.id, "Ada")) is not None:
        again = rankings.next_item(store, queue.id, "Ada")
        assert again is not None and (again.item, again.shown, again.repeat) == (
            handed.item,
            handed.shown,
            handed.repeat,
        )
        seen.append((handed.item.id, handed.repeat))
        if handed.repeat:
            assert handed.shown != shown[handed.item.id]
        shown[handed.item.id] = handed.shown
        assert vote(store, handed, "Ada").repeat == handed.repeat
    ids = [item for item, _ in seen]
    assert sum(repeat for _, repeat in seen) == 4 and len(ids) == 24 and len(set(ids)) == 20
    gaps = [number - ids.index(item) for number, (item, repeat) in enumerate(seen) if repeat]
    assert min(gaps) > rankings.REPEAT_GAP
    progress = rankings.queue_progress(store, queue.id, "Ada")
    assert (progress.votes, progress.done, progress.mine, progress.left) == (20, 20, 20, 0)


def test_a_single_item_is_never_repeated_right_after_itself(store: Store) -> None:
    queue = make_queue(store, 2, repeats=0.5)
    ids = []
    while (handed := rankings.next_item(store, queue.id, "Ada")) is not None:
        ids.append(handed.item.id)
        vote(store, handed, "Ada")
    assert ids == [ids[0], ids[1], ids[0]]


def test_an_undo_gives_the_item_back_to_the_same_rater_first(store: Store) -> None:
    queue = make_queue(store, 4)
    first = hand(store, queue, "Ada")
    ranked = vote(store, first, "Ada", nonce="n1")
    second = hand(store, queue, "Ada")
    undone = rankings.undo_last(store, queue.id, "Ada")
    assert undone is not None and undone.id == ranked.id and undone.undone_at is not None
    assert rankings.list_rankings(store, queue_ids=[queue.id]) == []
    assert [each.undone_at is not None for each in rankings.list_rankings(store, undone=True)] == [True]
    assert hand(store, queue, "Ben").item.id not in (first.item.id, second.item.id)
    again = hand(store, queue, "Ada")
    assert (again.item, again.shown, again.repeat) == (first.item, first.shown, False)
    # The browser may send the old submission once more; it stays taken back.
    assert vote(store, first, "Ada", nonce="n1").undone_at is not None
    vote(store, again, "Ada")
    assert hand(store, queue, "Ada").item == second.item
    assert rankings.undo_last(store, queue.id, "Nobody") is None


def test_several_undos_go_back_one_vote_at_a_time(store: Store) -> None:
    queue = make_queue(store, 3)
    given_back = []
    order = []
    for _ in range(3):
        handed = hand(store, queue, "Ada")
        order.append(handed.item.id)
        vote(store, handed, "Ada")
    for _ in range(2):
        undone = rankings.undo_last(store, queue.id, "Ada")
        assert undone is not None
        given_back.append(undone.item_id)
    assert given_back == [order[2], order[1]]
    assert hand(store, queue, "Ada").item.id == order[1]


def test_a_skipped_item_goes_to_somebody_else(store: Store) -> None:
    queue = make_queue(store, 1)
    handed = hand(store, queue, "Ada")
    skipped = rankings.submit_ranking(store, handed.item.id, "Ada", nonce="s", skipped=" ")
    assert skipped.skipped == "no reason given" and skipped.shown == handed.shown
    assert rankings.next_item(store, queue.id, "Ada") is None
    assert hand(store, queue, "Ben").item == handed.item
    progress = rankings.queue_progress(store, queue.id, "Ada")
    assert (progress.total, progress.done, progress.votes, progress.mine, progress.skipped) == (1, 0, 0, 0, 1)


@pytest.mark.parametrize(
    ("said", "match"),
    [
        ({"tiers": [["a0"], ["b0"]]}, "1 of 3 answers have no place"),
        ({"tiers": [["a0"], ["b0", "a0"], ["c0"]]}, "two places"),
        ({"tiers": [["a0"], ["b0"], ["c0"]], "unusable": ["c0"]}, "two places"),
        ({"tiers": [["a0"], ["b0"], ["c0"], ["z"]]}, "not one of this item's"),
        ({"tiers": [["a0"], [], ["b0"], ["c0"]]}, "empty"),
        ({"tiers": [["a0"]], "all_bad": True}, "all bad has no order"),
        ({"tiers": [["a0"]], "skipped": "odd"}, "skipped has no order"),
        ({"skipped": "odd", "all_bad": True}, "either"),
        ({}, "3 of 3"),
        ({"all_bad": True, "shown": ["a0", "b0"]}, "shown"),
        ({"all_bad": True, "confidence": 6}, "confidence"),
        ({"all_bad": True, "nonce": ""}, "nonce"),
        ({"all_bad": True, "rater": "  "}, "name"),
    ],
)
def test_a_ranking_that_contradicts_itself_is_refused_in_words(
    store: Store, said: dict[str, object], match: str
) -> None:
    queue = make_queue(store, 1)
    handed = hand(store, queue, "Ada")
    told = {"nonce": "n", "rater": "Ada"} | said
    rater = str(told.pop("rater"))
    with pytest.raises(UsageError, match=match):
        rankings.submit_ranking(store, handed.item.id, rater, **told)  # type: ignore[arg-type]
    assert rankings.list_rankings(store) == []


def test_all_bad_and_all_unusable_are_votes(store: Store) -> None:
    queue = make_queue(store, 2)
    first = hand(store, queue, "Ada")
    assert rankings.submit_ranking(store, first.item.id, "Ada", nonce="1", all_bad=True).all_bad
    second = hand(store, queue, "Ada")
    rankings.submit_ranking(store, second.item.id, "Ada", nonce="2", unusable=second.item.completions)
    assert rankings.queue_progress(store, queue.id).done == 2


def test_a_name_typed_in_another_unicode_form_is_the_same_rater(store: Store) -> None:
    queue = make_queue(store, 2)
    handed = hand(store, queue, unicodedata.normalize("NFC", "Zoë Ångström"))
    other = unicodedata.normalize("NFD", "Zoë Ångström")
    assert hand(store, queue, other).item == handed.item
    vote(store, handed, other)
    assert len(rankings.list_rankings(store, rater="Zoë Ångström")) == 1


def test_a_variant_put_away_during_ranking_changes_nothing_for_the_rater(store: Store) -> None:
    made = answers(store, 2)
    item = rankings.NewItem(prompt=made[0].prompt, completions=tuple(each.id for each in made))
    queue = rankings.create_queue(store, "q", [item])
    handed = hand(store, queue, "Ada")
    model_store.update_variant(store, made[0].variant_id, archived_at=utc_now())
    assert hand(store, queue, "Ada").item == handed.item
    assert vote(store, handed, "Ada").tiers


def test_many_rankings_are_added_at_once_and_a_second_time_nothing(store: Store) -> None:
    queue = make_queue(store, 1200, k=2)
    made = [
        Ranking(
            id=new_id("rk"),
            item_id=item.id,
            rater="Ada",
            shown=item.completions,
            tiers=((item.completions[0],), (item.completions[1],)),
            nonce=f"import-{item.position}",
            created_at=utc_now(),
        )
        for item in rankings.list_items(store, [queue.id])
    ]
    assert rankings.add_rankings(store, made) == 1200
    assert rankings.add_rankings(store, made) == 0
    assert rankings.queue_progress(store, queue.id).done == 1200
    with pytest.raises(UsageError, match="no place"):
        rankings.add_rankings(store, [made[0].model_copy(update={"nonce": "x", "tiers": made[0].tiers[:1]})])


@st.composite
def a_ranking(draw: st.DrawFn) -> tuple[int, Ranking]:
    k = draw(st.integers(1, 9))
    ids = [f"{letter}0" for letter in LETTERS[:k]]
    shown = tuple(draw(st.permutations(ids)))
    what = draw(st.sampled_from(["vote", "vote", "vote", "all_bad", "skipped"]))
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
    tiers: list[list[str]] = []
    unusable: list[str] = []
    if what == "vote":
        for completion in draw(st.permutations(ids)):
            place = draw(st.sampled_from(["new", "tie", "unusable"]))
            if place == "unusable":
                unusable.append(completion)
            elif place == "tie" and tiers:
                tiers[-1].append(completion)
            else:
                tiers.append([completion])
    return k, Ranking(
        id=new_id("rk"),
        item_id="",
        rater=draw(st.sampled_from(["Ada", "李雷", "Zoë", "שרה", "🦊"])),
        shown=shown,
        tiers=tuple(map(tuple, tiers)),
        unusable=tuple(unusable),
        all_bad=what == "all_bad",
        skipped=draw(text) if what == "skipped" else None,
        confidence=draw(st.none() | st.integers(1, 5)),
        comment=draw(text),
        edited=draw(st.none() | text),
        seconds=draw(st.floats(0, 1e6)),
        repeat=draw(st.booleans()),
        source=draw(st.sampled_from(["rank", "playground", "demo", "import", "scorer"])),
        nonce=new_id("n"),
        created_at=draw(st.datetimes(timezones=st.just(utc_now().tzinfo))),
        undone_at=draw(st.none() | st.just(utc_now())),
    )


@pytest.fixture
def kept(store: Store) -> Iterator[tuple[Store, dict[int, RankItem]]]:
    items = {}
    for k in range(1, 10):
        queue = make_queue(store, 1, k)
        items[k] = rankings.list_items(store, [queue.id])[0]
    yield store, items


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=a_ranking())
def test_any_ranking_comes_back_as_it_was_saved(
    kept: tuple[Store, dict[int, RankItem]], drawn: tuple[int, Ranking]
) -> None:
    store, items = kept
    k, ranking = drawn
    saved = ranking.model_copy(update={"item_id": items[k].id})
    assert rankings.add_rankings(store, [saved]) == 1
    found = rankings.list_rankings(store, item_ids=[saved.item_id], undone=True)
    assert [each for each in found if each.id == saved.id] == [saved]


def test_ten_thousand_votes_are_read_and_the_next_item_found(store: Store) -> None:
    queue = make_queue(store, 10_000, k=2)
    items = rankings.list_items(store, [queue.id])
    with store.write() as connection:
        values = [
            Ranking(
                id=f"rk_{number:05d}", item_id=item.id, rater="Ada", shown=item.completions, nonce=str(number),
                tiers=tuple((completion,) for completion in item.completions), created_at=utc_now(),
            ).model_dump(mode="json", exclude={"created_at", "undone_at"}) | {"created_at": utc_now()}
            for number, item in enumerate(items[:-1])
        ]  # fmt: skip
        connection.execute(insert(tables.rankings), values)
    assert hand(store, queue, "Ben").item == items[-1]
    assert rankings.next_item(store, queue.id, "Ada") is None
    assert len(rankings.list_rankings(store, queue_ids=[queue.id])) == 9_999
    assert rankings.queue_progress(store, queue.id).done == 9_999
