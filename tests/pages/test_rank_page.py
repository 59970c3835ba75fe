"""Rank and Leaderboard: queues, the desk's side of the server, exports, and what the votes say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from page_helpers import labels, open_page, words
from scripted_chat import ScriptedChat, scripted_chat

from workbench.api import Workspace
from workbench.preferences.queues import leak_sentence
from workbench.records import Completion, Message, RankQueue, Sampling, new_id, utc_now
from workbench.store import answers as answer_store
from workbench.store import models as model_store
from workbench.store import rankings
from workbench.store.drafts import list_drafts
from workbench.ui import leaderboard as leaderboard_page
from workbench.ui.conversation import load_answers
from workbench.ui.links import LEADERBOARD, RANK
from workbench.ui.rank_export import rankings_bytes, trl_bytes
from workbench.ui.rank_playground import queue_answers
from workbench.ui.ranking import DeskMemory, needed_sentence, serve_desk

pytestmark = pytest.mark.filterwarnings("ignore:Series.values returning an ndarray that drops timezone")


@pytest.fixture
def ws(home: Path) -> Iterator[Workspace]:
    workspace = Workspace()
    yield workspace
    workspace.store.close()


@pytest.fixture
def chat() -> Iterator[ScriptedChat]:
    with scripted_chat() as server:
        yield server


def add_queue(ws: Workspace, items: int, *, name: str = "House style", answers: int = 2, **options: Any) -> RankQueue:
    """Answer number n of each item is by variant number n."""
    known = {variant.name: variant.id for variant in ws.variants()}
    for number in range(answers):
        if f"writer-{number}" not in known:
            known[f"writer-{number}"] = model_store.add_variant(ws.store, f"writer-{number}").id
    wanted, made = [], []
    for item in range(items):
        prompt = (Message(role="user", content=f"Question {item}"),)
        given = [
            Completion(
                id=new_id("cmp"),
                variant_id=known[f"writer-{number}"],
                prompt=prompt,
                text=f"answer {number} to {item}",
                sampling=Sampling(),
                created_at=utc_now(),
            )
            for number in range(answers)
        ]
        made += given
        wanted.append(rankings.NewItem(prompt=prompt, completions=tuple(each.id for each in given)))
    answer_store.add_completions(ws.store, made)
    return rankings.create_queue(ws.store, name, wanted, **options)


def vote_for(ws: Workspace, queue: RankQueue, number: int, *, rater: str = "Ada", times: int = 1) -> None:
    """Rank the answers of one writer best."""
    for _ in range(times):
        handed = rankings.next_item(ws.store, queue.id, rater)
        assert handed is not None
        best = handed.item.completions[number]
        rest = tuple(each for each in handed.shown if each != best)
        rankings.submit_ranking(ws.store, handed.item.id, rater, nonce=new_id("n"), tiers=((best,), rest))


def entry(item: dict[str, Any], nonce: str, **fields: Any) -> dict[str, Any]:
    shown = [answer["id"] for answer in item["answers"]]
    return {"kind": "vote", "nonce": nonce, "item": item["id"], "shown": shown, "tiers": [[each] for each in shown]} | (
        fields
    )


# ---- the desk ----


def test_entries_sent_again_and_again_are_done_once_and_in_order(ws: Workspace) -> None:
    queue, memory = add_queue(ws, 20), DeskMemory()
    first = serve_desk(ws, queue.id, {"seq": 1, "rater": "Ada"}, memory)
    one, two, three = first["items"][:3]
    entries = [entry(one, "a"), entry(two, "b"), {"kind": "undo", "nonce": "c", "target": "b"}, entry(two, "d")]
    for seq, sent in enumerate((entries[:1], entries[:2], entries, entries[2:], entries), start=2):
        data = serve_desk(ws, queue.id, {"seq": seq, "rater": "Ada", "entries": sent}, memory)
        assert data["seq"] == seq and data["results"] == dict.fromkeys((each["nonce"] for each in sent), "")
    again = serve_desk(ws, queue.id, {"seq": 9, "rater": "Ada", "entries": entries}, DeskMemory())  # another session
    assert set(again["results"].values()) == {""}
    standing = rankings.list_rankings(ws.store, queue_ids=[queue.id])
    assert [(vote.item_id, vote.nonce) for vote in standing] == [(one["id"], "a"), (two["id"], "d")]
    assert again["items"][0]["id"] == three["id"] and again["progress"] == {"mine": 2, "left": 18}
    assert [vote["nonce"] for vote in again["history"]] == ["d", "a"]


def test_what_the_browser_gets_names_neither_writer_nor_whether_it_was_seen_before(ws: Workspace) -> None:
    queue = add_queue(ws, 8, repeats=0.5)
    vote_for(ws, queue, 0, times=5)
    data = serve_desk(ws, queue.id, {"seq": 1, "rater": "Ada"}, DeskMemory())
    text = json.dumps({key: value for key, value in data.items() if key != "history"})
    variants = ws.variants()
    assert not [word for each in variants for word in (each.name, each.id) if word in text]
    assert "repeat" not in text and {len(item["answers"]) for item in data["items"]} == {2}


def test_two_raters_windows_hold_different_items_and_an_item_of_somebody_gone_comes_back(ws: Workspace) -> None:
    queue = add_queue(ws, 8)
    now = utc_now()
    ada = rankings.next_items(ws.store, queue.id, "Ada", 6, now=now)
    bo = rankings.next_items(ws.store, queue.id, "Bo", 6, now=now)
    assert len(ada) == 6 and len(bo) == 2 and not {each.item.id for each in ada} & {each.item.id for each in bo}
    assert rankings.others_hold(ws.store, queue.id, "Cy") and not rankings.next_items(
        ws.store, queue.id, "Cy", 6, now=now
    )
    later = now + 2 * (now - now.replace(microsecond=0)) + timedelta(minutes=rankings.CLAIM_MINUTES + 1)
    assert len(rankings.next_items(ws.store, queue.id, "Cy", 8, now=later)) == 8


def test_a_second_tab_of_one_rater_is_told_that_the_first_vote_stands(ws: Workspace) -> None:
    queue = add_queue(ws, 3)
    one, other = DeskMemory(), DeskMemory()
    item = serve_desk(ws, queue.id, {"seq": 1, "rater": "Ada"}, one)["items"][0]
    serve_desk(ws, queue.id, {"seq": 2, "rater": "Ada", "entries": [entry(item, "a")]}, one)
    data = serve_desk(ws, queue.id, {"seq": 3, "rater": "Ada", "entries": [entry(item, "b")]}, other)
    assert data["results"]["b"].startswith("You have ranked this item already")
    assert len(rankings.list_rankings(ws.store, queue_ids=[queue.id])) == 1


def half(slot: str, **fields: Any) -> dict[str, Any]:
    start = {"slot": slot, "at": 5.0, "acts": [{"do": "put", "at": 1}], "comment": "", "confidence": None}
    return start | {"edited": None, "spent": 2.5} | fields


def test_a_half_ranking_is_in_the_store_for_another_browser_until_it_is_submitted(ws: Workspace) -> None:
    queue, memory = add_queue(ws, 3), DeskMemory()
    item = serve_desk(ws, queue.id, {"seq": 1, "rater": "Ada"}, memory)["items"][0]
    for acts in ([{"do": "put", "at": 1}], [{"do": "put", "at": 1}, {"do": "tie"}]):
        sent = {"seq": 2, "rater": "Ada", "draft": half(item["slot"], acts=acts, comment="hm")}
        serve_desk(ws, queue.id, sent, memory)
    elsewhere = DeskMemory()
    found = serve_desk(ws, queue.id, {"seq": 1, "rater": "Ada"}, elsewhere)["draft"]
    assert (
        found["slot"] == item["slot"]
        and found["comment"] == "hm"
        and [act["do"] for act in found["acts"]] == ["put", "tie"]
    )
    assert serve_desk(ws, queue.id, {"seq": 2, "rater": "Ada"}, elsewhere)["draft"] is None, "told once"
    assert serve_desk(ws, queue.id, {"seq": 1, "rater": "Bo"}, DeskMemory())["draft"] is None
    serve_desk(ws, queue.id, {"seq": 3, "rater": "Ada", "entries": [entry(item, "a")], "draft": None}, memory)
    assert serve_desk(ws, queue.id, {"seq": 1, "rater": "Ada"}, DeskMemory())["draft"] is None
    assert list_drafts(ws.store, "rank.half.") == {}


@pytest.mark.parametrize(
    "bad",
    [
        "text",
        [],
        {},
        half("s", at="now"),
        half("s", acts=[{"do": "win"}]),
        half("s", comment="x" * 3000),
        half("s", at=1e999),
    ],
)
def test_what_is_no_half_ranking_is_not_kept_and_stops_nothing(ws: Workspace, bad: Any) -> None:
    queue = add_queue(ws, 2)
    assert len(serve_desk(ws, queue.id, {"seq": 1, "rater": "Ada", "draft": bad}, DeskMemory())["items"]) == 2
    assert list_drafts(ws.store, "rank.half.") == {}


def test_what_is_no_ranking_is_refused_in_words_and_the_rest_is_kept(ws: Workspace) -> None:
    queue, memory = add_queue(ws, 3), DeskMemory()
    one, two, _ = serve_desk(ws, queue.id, {"seq": 1, "rater": "Ada"}, memory)["items"]
    wrong = [
        entry(one, "a", tiers=[["cmp_strange"]]),
        entry(one, "b", confidence=9),
        {"kind": "vote", "nonce": "c", "item": "ri_gone", "shown": [], "tiers": []},
        entry(one, "d", tiers=7),
        entry(two, "e"),
    ]
    results = serve_desk(ws, queue.id, {"seq": 2, "rater": "Ada", "entries": wrong}, memory)["results"]
    assert all(results[nonce] for nonce in "abcd") and results["e"] == ""
    assert [vote.nonce for vote in rankings.list_rankings(ws.store, queue_ids=[queue.id])] == ["e"]


def test_a_rater_without_a_name_is_asked_and_an_address_can_give_it(ws: Workspace) -> None:
    queue = add_queue(ws, 1)
    assert serve_desk(ws, queue.id, {}, DeskMemory())["rater"] is None
    refused = serve_desk(ws, queue.id, {"seq": 1, "rater": "x" * 300}, DeskMemory())
    assert refused["rater"] is None and refused["problem"]
    assert serve_desk(ws, queue.id, {}, DeskMemory(), fixed_rater="  Zoë ")["rater"] == "Zoë"


def test_a_desk_opens_at_the_item_of_the_address_once_and_goes_on_from_there(ws: Workspace) -> None:
    queue = add_queue(ws, 20)
    items = [item.id for item in rankings.list_items(ws.store, [queue.id])]

    def told(memory: DeskMemory, entries: list[dict[str, Any]], rater: str = "Ada") -> list[str]:
        sent = {"seq": 2, "rater": rater, "entries": entries}
        memory.told = serve_desk(ws, queue.id, sent, memory, first=items[15])  # type: ignore[attr-defined]
        return [each["id"] for each in memory.told["items"]]  # type: ignore[attr-defined]

    old, new = DeskMemory(), DeskMemory()
    first = serve_desk(ws, queue.id, {"seq": 1, "rater": "Ada"}, old)["items"]
    assert [each["id"] for each in first] == items[:6]
    vote = entry(first[0], "a")
    serve_desk(ws, queue.id, {"seq": 2, "rater": "Ada", "entries": [vote]}, old)
    assert told(new, []) == [items[15], *items[1:6]]
    # A vote taken back comes before it, and what comes after is as it was.
    assert told(new, [{"kind": "undo", "nonce": "u", "target": "a"}])[:3] == [items[0], items[15], items[1]]
    asked = new.told["items"][1]  # type: ignore[attr-defined]
    assert told(new, [entry(asked, "b")])[:2] == [items[0], items[1]]
    assert told(DeskMemory(), []) == told(new, []), "it is ranked: a new page goes on where the rater is"
    assert items[15] not in told(DeskMemory(), [], "Ben"), "nobody else's turn"


def test_the_warning_and_the_votes_still_needed_are_sentences_that_name_nobody(ws: Workspace) -> None:
    assert leak_sentence(["B"]).startswith("Answer B tells") and leak_sentence([]) == ""
    assert leak_sentence(["A", "C"]).startswith("Answers A, C tell") and needed_sentence([]) == ""
    queue = add_queue(ws, 30)
    vote_for(ws, queue, 0, times=6)
    vote_for(ws, queue, 1, times=4)
    data = serve_desk(ws, queue.id, {"seq": 1, "rater": "Ada"}, DeskMemory())
    assert data["needed"].startswith("Not distinguishable yet: about ")


# ---- the page ----


def test_an_empty_home_offers_one_way_on_from_rank_and_from_the_leaderboard(ws: Workspace) -> None:
    app = open_page(RANK)
    assert "Make your first queue" in words(app) and "Convert the bundled model" in labels(app)
    board = open_page(LEADERBOARD)
    assert labels(board) == ["Go to Rank"] and not board.error


def test_queues_are_listed_with_their_progress_and_open_a_desk(ws: Workspace) -> None:
    queue = add_queue(ws, 4)
    vote_for(ws, queue, 0, times=2)
    app = open_page(RANK)
    table = app.dataframe[0].value
    assert list(table["name"]) == ["House style"] and list(table["done"]) == [0.5] and list(table["votes"]) == [2]
    desk = open_page(RANK, queue=queue.id, rater="Ada")
    assert desk.title[0].value == "House style" and not desk.error
    assert f"/rank?queue={queue.id}&only=1" in desk.code[0].value


def test_a_rater_link_shows_the_desk_and_nothing_else(ws: Workspace) -> None:
    queue = add_queue(ws, 2)
    app = open_page(RANK, queue=queue.id, rater="Ada", only="1")
    assert not labels(app) and not app.text_input and app.title[0].value == "House style"
    lost = open_page(RANK, only="1")
    assert "names no queue" in "\n".join(each.value for each in lost.info)
    gone = open_page(RANK, queue="rq_gone", only="1")
    assert "no such queue" in words(gone).lower() and not gone.dataframe


def test_guidelines_are_edited_and_a_queue_is_put_away_and_brought_back(ws: Workspace) -> None:
    queue = add_queue(ws, 2)
    app = open_page(RANK, queue=queue.id)
    app.text_area[0].set_value("Short beats long.")
    next(button for button in app.button if button.label == "Save").click().run()
    assert rankings.get_queue(ws.store, queue.id).guidelines == "Short beats long."
    next(button for button in app.button if button.label == "Put away").click().run()
    assert not app.exception and rankings.get_queue(ws.store, queue.id).archived_at is not None
    app = open_page(RANK)
    next(button for button in app.button if button.label == "Bring back").click().run()
    assert rankings.get_queue(ws.store, queue.id).archived_at is None


def test_a_queue_is_made_of_a_run_that_answered_prompts_and_of_newly_sampled_answers(
    ws: Workspace, chat: ScriptedChat
) -> None:
    server = ws.add_server("lab", chat.url)
    variants = [ws.remote_variant(server.id, model).id for model in ("echo", "hostile")]
    _, held_out = ws.install_kit()
    prompts = ws.dataset(held_out.dataset_id).name
    run = ws.wait(ws.answer_prompts(prompts, variants, limit=3).id, timeout_s=120)
    app = open_page(RANK)
    app.segmented_control(key="rank_setup.way").set_value("Answers of a run").run()
    app.text_input(key=f"rank_setup.name.{run.id}").set_value("From the run")
    app.button(key="rank_setup.from_run").click().run()
    assert not app.exception and not app.error
    assert rankings.queue_progress(ws.store, ws.rank_queue("From the run").id).total == 3

    app = open_page(RANK)
    app.number_input(key="rank_setup.limit").set_value(2)
    app.number_input(key="rank_setup.answers").set_value(2)
    app.text_input(key="rank_setup.queue").set_value("Sampled")
    app.multiselect(key="rank_setup.variants").set_value(variants).run()
    app.button(key="rank_setup.sample").click().run()
    assert not app.exception and not app.error
    sampled = ws.wait(ws.runs(kinds=["sample"])[0].id, timeout_s=120)
    assert sampled.state.value == "finished" and len(ws.rank_queues()) == 2


def test_answers_of_the_playground_become_one_item_however_often_they_are_sent(ws: Workspace) -> None:
    add_queue(ws, 1)  # for the variants
    one, two = [variant.id for variant in ws.variants()]
    conversation = answer_store.create_conversation(
        ws.store, title="t", system="", variants=[one, two], sampling=Sampling()
    )
    conversation = answer_store.update_conversation(ws.store, conversation.id, user_turns=("Hello",))
    answer_store.add_completions(
        ws.store,
        [
            Completion(
                id=new_id("cmp"),
                variant_id=variant,
                prompt=(Message(role="user", content="Hello"),),
                text=f"hi from {number}",
                sampling=Sampling(),
                conversation_id=conversation.id,
                turn=0,
                pane=number,
                created_at=utc_now(),
            )
            for number, variant in enumerate((one, two))
        ],
    )
    answers = load_answers(ws.store, conversation)
    added = [queue_answers(ws, conversation, answers) for _ in range(2)]
    queue = ws.rank_queue("Playground")
    assert (
        added[0] == added[1]
        and added[0].queue_id == queue.id
        and rankings.queue_progress(ws.store, queue.id).total == 1
    )
    rankings.update_queue(ws.store, queue.id, archived_at=utc_now())
    assert queue_answers(ws, conversation, answers) == added[0]
    assert ws.rank_queue("Playground").archived_at is None
    vote_for(ws, queue, 0)
    assert [vote.source for vote in rankings.list_rankings(ws.store)] == ["playground"]
    vote_for(ws, add_queue(ws, 1, name="another"), 0)
    assert [vote.source for vote in rankings.list_rankings(ws.store)] == ["playground", "rank"]


def test_rankings_of_a_file_become_a_queue_with_their_votes(ws: Workspace) -> None:
    add_queue(ws, 1)  # a home with queues shows the choice of sources
    rows = [{"prompt": f"Question {n}?", "answers": ["good", "bad", "worse"], "ranking": [0, 1, 2]} for n in range(3)]
    app = open_page(RANK)
    app.segmented_control(key="rank_setup.way").set_value("A file of rankings").run()
    app.file_uploader[0].upload("votes.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    app.run()
    app.button(key="rank_setup.import").click().run()
    assert not app.exception and not app.error
    queue = ws.rank_queue("votes")
    assert rankings.queue_progress(ws.store, queue.id).votes == 3
    assert {vote.source for vote in rankings.list_rankings(ws.store, queue_ids=[queue.id])} == {"import"}
    assert not list(ws.settings.inbox_dir.rglob("votes.jsonl")), "the upload's copy is gone"


# ---- what comes of it ----


def test_rankings_become_a_version_and_files_for_trainers(ws: Workspace) -> None:
    queue = add_queue(ws, 20, answers=3)
    assert trl_bytes(ws, [queue.id], "dpo") == b""
    vote_for(ws, queue, 0, times=20)
    lines = [json.loads(line) for line in trl_bytes(ws, [queue.id], "dpo").splitlines()]
    assert len(lines) == 40 and set(lines[0]) == {"prompt", "chosen", "rejected"}
    assert len(rankings_bytes(ws, queue.id).splitlines()) == 20


@pytest.mark.parametrize(
    ("kind", "made", "rows", "methods"),
    [
        ("Preference pairs", "preferences", 40, ["Train a reward model", "Train by DPO", "Train by KTO"]),
        ("Labels", "labels", 60, ["Train by KTO"]),
        ("Best answers", "instructions", 20, ["Fine-tune on them"]),
    ],
)
def test_the_export_popover_makes_a_version_and_then_the_next(
    ws: Workspace, kind: str, made: str, rows: int, methods: list[str]
) -> None:
    queue = add_queue(ws, 20, answers=3)
    vote_for(ws, queue, 0, times=20)
    key = f"rank.export.{queue.id}"
    app = open_page(LEADERBOARD, queue=queue.id)
    app.session_state[key] = True
    app.run()
    app.segmented_control(key=f"{key}.kind").set_value(kind).run()
    app.text_input(key=f"{key}.name.{kind}").set_value("made here").run()
    for number in (1, 2):
        app.number_input(key=f"{key}.held_out").set_value(0 if number == 1 else 50).run()
        app.button(key=f"{key}.make").click().run()
        assert not app.exception and not app.error
        version = ws.version("made here")
        assert ws.dataset("made here").kind == made and version.number == number
        assert (version.rows == rows) == (number == 1)
        assert [link.proto.label for link in app.get("page_link") if "kind=" in link.proto.query_string] == methods


def test_the_leaderboard_tells_who_is_ahead_how_surely_and_whom_not_to_trust(ws: Workspace) -> None:
    queue = add_queue(ws, 60, answers=3, overlap=2)
    vote_for(ws, queue, 1, times=40)
    for _ in range(20):  # somebody who always takes the first
        handed = rankings.next_item(ws.store, queue.id, "Bo")
        assert handed is not None
        tiers = [[each] for each in handed.shown]
        rankings.submit_ranking(ws.store, handed.item.id, "Bo", nonce=new_id("n"), tiers=tiers)
    app = open_page(LEADERBOARD, queue=queue.id)
    assert not app.error and not app.exception
    strengths, pairs, raters = (frame.value for frame in app.dataframe[:3])
    assert list(strengths["variant"])[0] == "writer-1" and list(strengths["rank"])[0] == 1
    assert {"told apart"} < set(pairs["needed"]) and "writer-1 is preferred" in words(app).replace("\\", "")
    assert dict(zip(raters["rater"], raters["flag"], strict=True))["Bo"] == "takes the first shown"


def score_all(ws: Workspace, queue: RankQueue, number: int) -> None:
    """A scorer ranks the answers of one writer best."""
    for item in rankings.list_items(ws.store, [queue.id]):
        best = item.completions[number]
        rest = tuple(each for each in item.completions if each != best)
        rankings.submit_ranking(
            ws.store, item.id, "scorer: rules", nonce=new_id("n"), shown=item.completions, tiers=((best,), rest),
            source="scorer",
        )  # fmt: skip


def test_a_scorers_votes_are_shown_labelled_and_give_way_to_peoples_who_can_be_switched(ws: Workspace) -> None:
    queue = add_queue(ws, 20)
    score_all(ws, queue, 1)
    app = open_page(LEADERBOARD, queue=queue.id)
    assert (
        "Made by a scorer, not by people." in words(app).replace("\\", "")
        and not app.segmented_control
        and not app.error
    )
    strengths, _, raters = (frame.value for frame in app.dataframe[:3])
    assert strengths["variant"][0] == "writer-1" and list(raters["source"]) == ["Scorer"]
    assert "First shown is best" not in [each.label for each in app.metric]

    vote_for(ws, queue, 0, times=3)
    app.run()  # shows at once
    assert [each.value for each in app.metric if each.label == "Votes"] == ["3"]
    assert app.dataframe[0].value["variant"][0] == "writer-0" and list(app.dataframe[2].value["source"]) == ["Rank"]
    assert "20 that a scorer made are left out" in words(app)
    control = app.segmented_control(key="leaderboard.sources")
    assert control.value == "people" and list(control.options) == ["People", "Scorers", "All together"]
    control.set_value("scorers").run()
    assert not app.exception and app.dataframe[0].value["variant"][0] == "writer-1"
    assert "People's 3 votes are left out" in words(app).replace("\\", "")
    app.segmented_control(key="leaderboard.sources").set_value("all").run()
    assert [each.value for each in app.metric if each.label == "Votes"] == ["23"]
    table = open_page(RANK).dataframe[0].value
    assert list(table["votes"]) == [3] and list(table["by_scorers"]) == [20] and list(table["done"]) == [0.15]


def test_votes_are_read_once_and_anew_after_each_vote_and_each_undo(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = add_queue(ws, 6)
    vote_for(ws, queue, 0, times=2)
    read: list[int] = []
    real = leaderboard_page.rate_queues
    monkeypatch.setattr(leaderboard_page, "rate_queues", lambda *a, **k: read.append(1) or real(*a, **k))
    app = open_page(LEADERBOARD, queue=queue.id)
    app.run()
    assert len(read) == 1

    def votes() -> str:
        app.run()
        return next(each.value for each in app.metric if each.label == "Votes")

    vote_for(ws, queue, 0)
    assert votes() == "3"
    rankings.undo_last(ws.store, queue.id, "Ada")
    assert votes() == "2" and votes() == "2" and len(read) == 3
    variant = next(each for each in ws.variants() if each.name == "writer-0")
    model_store.update_variant(ws.store, variant.id, name="Renamed")
    app.run()
    assert app.dataframe[0].value["variant"][0] == "Renamed" and len(read) == 3


def test_a_queue_without_votes_says_so_and_leads_to_its_desk(ws: Workspace) -> None:
    queue = add_queue(ws, 2)
    app = open_page(LEADERBOARD, queue=queue.id)
    assert "There are no votes yet" in "\n".join(each.value for each in app.info) and not app.error
