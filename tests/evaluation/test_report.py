"""The HTML report: everything in one file, everything escaped, figures as the grid has them."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from workbench.datasets.versions import write_version
from workbench.errors import StoreProblem, UsageError
from workbench.evaluation.aggregate import load_grid
from workbench.evaluation.report import rate_answers, report_html, write_report
from workbench.records import Completion, Message, Prompt, Run, RunState, Sampling, Score, Variant, new_id, utc_now
from workbench.store import answers as answer_store
from workbench.store import datasets as dataset_store
from workbench.store import models as model_store
from workbench.store import rankings as ranking_store
from workbench.store import runs as run_store
from workbench.store.database import Store

HOSTILE = "</script><script>alert(1)</script><img src=http://example.invalid/x.png onerror=alert(2)>&amp; ünï 你好"
"""A name, a prompt and an answer that try to be markup."""


class Compared:
    """A run that answered a prompt set with two variants, as a worker leaves it."""

    def __init__(self, store: Store, texts: dict[str, list[str]], *, scored: bool = True) -> None:
        self.store = store
        dataset = dataset_store.create_dataset(store, f"prompts {HOSTILE}"[:190], "prompts")
        count = len(next(iter(texts.values())))
        prompts = [
            Prompt(messages=(Message(role="user", content=f"Question {n} {HOSTILE}"),), reference=f"Reference {n}")
            for n in range(count)
        ]
        self.version = write_version(store, dataset.id, prompts)
        server = model_store.add_server(store, "lab", "http://127.0.0.1:1/v1", {})
        self.variants: list[Variant] = [
            model_store.add_variant(store, name, server_id=server.id, remote_model=name) for name in texts
        ]
        spec = {"prompts": self.version.id, "variants": [item.id for item in self.variants], "scorers": ["chrf"]}
        self.run: Run = run_store.add_run(store, kind="answer", name=f"Compare {HOSTILE}", slot="bulk", spec=spec)
        run_store.update_run(store, self.run.id, state=RunState.FINISHED, ended_at=utc_now())
        self.run = run_store.get_run(store, self.run.id)
        self.ids: dict[tuple[str, int], str] = {}
        rows = [prompt.row_id for prompt in load_rows(store, self.run)]
        for variant, answers in zip(self.variants, texts.values(), strict=True):
            for number, text in enumerate(answers):
                self._answer(variant, number, rows[number], text, scored)

    def _answer(self, variant: Variant, number: int, row_id: str, text: str, scored: bool) -> None:
        completion = Completion(
            id=new_id("cmp"),
            variant_id=variant.id,
            prompt=(Message(role="user", content="q"),),
            text=text,
            sampling=Sampling(temperature=0),
            fingerprint=f"fp-{variant.name}",
            finish_reason="stop",
            tokens=len(text.split()),
            seconds=0.5,
            run_id=self.run.id,
            row_id=row_id,
            created_at=utc_now(),
        )
        self.ids[variant.name, number] = completion.id
        answer_store.add_completions(self.store, [completion])
        if scored:
            passed = "good" in text
            detail: dict[str, Any] = {"be_good": {"passed": passed, "detail": f"wants <b>good</b> {HOSTILE}"}}
            scores = [
                Score(completion_id=completion.id, scorer="rules", passed=passed, detail=detail),
                Score(completion_id=completion.id, scorer="chrf", value=50.0 + number),
            ]
            answer_store.add_scores(self.store, scores)


def load_rows(store: Store, run: Run) -> Any:
    from workbench.evaluation.prompts import planned_answers, read_prompts

    return read_prompts(store, planned_answers(store, run))


@pytest.fixture
def compared(store: Store) -> Compared:
    base = ["bad one", "good one", HOSTILE, ""]
    return Compared(store, {"base": base, f"tuned {HOSTILE}"[:190]: [f"good {n}" for n in range(4)]})


class Reader(HTMLParser):
    """Tags, attributes that would load or run something, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[tuple[str, str]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "action", "srcset", "data") or name.startswith("on"):
                self.loads.append((name, value or ""))

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] not in (["script"], ["style"]):
            self.text += data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


def test_the_report_holds_everything_and_loads_nothing(compared: Compared, store: Store, tmp_path: Path) -> None:
    path = write_report(store, compared.run, tmp_path / "report.html")
    page = path.read_text("utf-8")
    reader = read(page)
    assert reader.loads == [] and reader.tags.count("script") == 3
    assert not {"img", "link", "iframe", "form", "object", "embed"} & set(reader.tags)
    for wanted in (
        "Question 3",
        "Reference 2",
        "good 3",
        HOSTILE,
        "fp-base",
        "unverified",
        compared.version.content_hash,
    ):
        assert wanted in reader.text
    assert {entry.name for entry in tmp_path.iterdir()} == {"home", "report.html"}


def test_nothing_that_was_written_becomes_markup(compared: Compared, store: Store) -> None:
    page = report_html(store, compared.run)
    body = page[: page.index('<script type="application/json"')]
    assert "<script>alert" not in page and "<img" not in body and "onerror=alert(2)>" not in body
    data = re.search(r'<script type="application/json" id="charts">(.*?)</script>', page, re.DOTALL)
    assert data is not None and "<" not in data[1]
    charts = json.loads(data[1])
    assert charts[0]["layout"]["yaxis"]["ticktext"][1].startswith("tuned &lt;/script&gt;")


def test_the_figures_are_those_of_the_grid(compared: Compared, store: Store) -> None:
    grid = load_grid(store, compared.run)
    text = read(report_html(store, compared.run)).text
    share = grid.summary[compared.variants[0].id].share
    assert share is not None and f"{share.value:.0%} ({share.low:.0%}–{share.high:.0%}), n = {share.n}" in text
    assert "100% (51%–100%), n = 4" in text
    assert "+75 points" in text and "chrF" in text and "51.5 (" in text
    assert "Be good" in text and "What people preferred" not in text


def test_the_policy_allows_exactly_the_scripts_that_are_in_the_file(compared: Compared, store: Store) -> None:
    import base64
    import hashlib

    page = report_html(store, compared.run)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None and "default-src 'none'" in policy[1] and "unsafe-eval" not in policy[1]
    assert "'unsafe-inline'" not in policy[1].partition("script-src")[2]
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()}'" for each in scripts}
    assert len(scripts) == 2 and hashes == set(policy[1].partition("script-src ")[2].split())


def rank(compared: Compared, number: int, tiers: list[list[str]], rater: str = "me", **more: Any) -> None:
    store, ids = compared.store, [compared.ids[variant.name, number] for variant in compared.variants]
    item = ranking_store.NewItem(prompt=(Message(role="user", content="q"),), completions=tuple(ids))
    names = [queue.name for queue in ranking_store.list_queues(store)]
    if "q" in names:
        added = ranking_store.add_items(store, ranking_store.get_queue(store, "q").id, [item])[0]
    else:
        queue = ranking_store.create_queue(store, "q", [item])
        added = ranking_store.list_items(store, [queue.id])[0]
    ranking_store.submit_ranking(store, added.id, rater, nonce=new_id("n"), shown=ids, tiers=tiers, **more)


def test_rankings_of_these_answers_become_a_win_rate(compared: Compared, store: Store) -> None:
    base, tuned = (variant.name for variant in compared.variants)
    ids = compared.ids
    for number in range(3):
        rank(compared, number, [[ids[tuned, number]], [ids[base, number]]])
    rank(compared, 3, [[ids[base, 3], ids[tuned, 3]]])
    rank(compared, 0, [[ids[base, 0]], [ids[tuned, 0]]], rater="other")
    rank(compared, 1, [], all_bad=True, rater="third")
    rank(compared, 1, [], skipped="unclear", rater="fourth")
    rank(compared, 2, [[ids[tuned, 2]]], unusable=[ids[base, 2]], rater="fifth")
    (rate,) = rate_answers(store, load_grid(store, compared.run))
    assert (rate.better, rate.wins, rate.losses, rate.ties) == (compared.variants[1].id, 4, 1, 2)
    text = read(report_html(store, compared.run)).text
    share = rate.share
    assert "What people preferred" in text and f"{share.value:.0%} ({share.low:.0%}–{share.high:.0%}), n = 7" in text
    assert "not yet" in text


def test_what_people_preferred_leaves_a_scorer_out_and_a_scorers_own_figures_say_so(
    compared: Compared, store: Store
) -> None:
    for number in range(3):
        one, two = (compared.ids[variant.name, number] for variant in compared.variants)
        rank(compared, number, [[two], [one]], rater="scorer: rules", source="scorer")
    alone = read(report_html(store, compared.run)).text
    assert "What people preferred" not in alone and "What a scorer placed higher" in alone
    assert "Made by a scorer, not by people." in alone
    one, two = (compared.ids[variant.name, 3] for variant in compared.variants)
    rank(compared, 3, [[one], [two]])
    [rate] = rate_answers(store, load_grid(store, compared.run))
    assert (rate.better, rate.wins, rate.losses) == (compared.variants[0].id, 1, 0)
    text = read(report_html(store, compared.run)).text
    assert "What people preferred" in text and "a scorer" not in text


def test_rankings_of_other_answers_do_not_count(compared: Compared, store: Store) -> None:
    other = compared.variants[0]
    ids = [new_id("cmp") for _ in range(2)]
    for each in ids:
        completion = answer_store.get_completion(store, compared.ids[other.name, 0])
        answer_store.add_completions(store, [completion.model_copy(update={"id": each, "run_id": None})])
    item = ranking_store.NewItem(prompt=(Message(role="user", content="q"),), completions=tuple(ids))
    queue = ranking_store.create_queue(store, "elsewhere", [item])
    added = ranking_store.list_items(store, [queue.id])[0]
    ranking_store.submit_ranking(store, added.id, "me", nonce="n", shown=ids, tiers=[ids[:1], ids[1:]])
    assert rate_answers(store, load_grid(store, compared.run)) == []
    assert "What people preferred" not in report_html(store, compared.run)


def test_a_run_without_answers_or_of_another_kind_is_refused(store: Store, tmp_path: Path) -> None:
    other = run_store.add_run(store, kind="sft", name="train", slot="train", spec={"dataset": "x"})
    with pytest.raises(UsageError, match="answered no prompt set"):
        write_report(store, other, tmp_path / "x.html")
    empty = Compared(store, {"base": ["a"]})
    spec = {"prompts": empty.version.id, "variants": [empty.variants[0].id]}
    run = run_store.add_run(store, kind="answer", name="none", slot="bulk", spec=spec)
    with pytest.raises(UsageError, match="no answer to show"):
        write_report(store, run, tmp_path / "x.html")
    assert list(tmp_path.glob("*.html")) == []


def test_a_folder_that_is_not_there_is_told(compared: Compared, store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreProblem, match="cannot be written"):
        write_report(store, compared.run, tmp_path / "nowhere" / "x.html")


def test_one_variant_without_scores_is_a_report_too(store: Store, tmp_path: Path) -> None:
    alone = Compared(store, {"base": ["one", "two"]}, scored=False)
    text = read(write_report(store, alone.run, tmp_path / "r.html").read_text("utf-8")).text
    assert "one" in text and "Pass all rules" not in text
