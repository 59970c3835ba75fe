"""Figures with intervals, grids of answers, filters and exports."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from workbench.errors import StoreProblem, UsageError
from workbench.evaluation.aggregate import (
    AnswerGrid,
    bootstrap_mean,
    build_grid,
    export_grid,
    filter_grid,
    grid_frame,
    paired_difference,
    wilson,
)
from workbench.evaluation.prompts import GridPrompt
from workbench.records import Completion, Message, Sampling, Score, Variant, utc_now


@given(
    st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.8, 0.95, 0.99])
)
def test_the_wilson_interval_is_the_one_scipy_gives(counts: tuple[int, int], confidence: float) -> None:
    successes, n = counts
    interval = wilson(successes, n, confidence)
    peer = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert interval.value == successes / n
    assert interval.n == n
    assert interval.low == pytest.approx(peer.low, abs=1e-9)
    assert interval.high == pytest.approx(peer.high, abs=1e-9)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1


@pytest.mark.parametrize("counts", [(0, 0), (3, 2), (-1, 5)])
def test_counts_that_are_no_share_are_refused(counts: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="share"):
        wilson(*counts)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60))
def test_a_bootstrap_interval_holds_its_mean_and_stays_within_the_values(values: list[float]) -> None:
    interval = bootstrap_mean(values)
    slack = 1e-6 * max(1.0, max(abs(value) for value in values))
    assert interval.low <= interval.value <= interval.high
    assert interval.value == pytest.approx(float(np.mean(values)), abs=slack)
    assert min(values) - slack <= interval.low and interval.high <= max(values) + slack
    assert interval == bootstrap_mean(values)


def test_the_bootstrap_interval_of_a_large_sample_is_close_to_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(10, 2, size=2000)
    interval = bootstrap_mean(list(values))
    half = 1.96 * values.std() / np.sqrt(values.size)
    assert interval.high - interval.value == pytest.approx(half, rel=0.15)
    assert interval.value - interval.low == pytest.approx(half, rel=0.15)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_a_mean_of_nothing_or_of_no_number_is_refused(values: list[float]) -> None:
    with pytest.raises(UsageError, match="finite"):
        bootstrap_mean(values)


def variant(key: str) -> Variant:
    return Variant(id=f"var_{key}", name=key, model_id="mdl_x", created_at=utc_now())


def answer(row: str, key: str, text: str, **more: Any) -> Completion:
    values: dict[str, Any] = {
        "id": f"cmp_{row}_{key}",
        "variant_id": f"var_{key}",
        "prompt": (Message(role="user", content=f"Question {row}"),),
        "text": text,
        "sampling": Sampling(),
        "finish_reason": "stop",
        "tokens": len(text.split()),
        "seconds": 0.5,
        "row_id": row,
        "created_at": utc_now(),
    }
    return Completion(**(values | more))


def judged(completion: Completion, passed: bool, **rules: bool) -> Score:
    detail = {rule: {"passed": verdict, "detail": "why"} for rule, verdict in rules.items()}
    return Score(completion_id=completion.id, scorer="assistant", passed=passed, detail=detail)


@pytest.fixture
def grid() -> AnswerGrid:
    prompts = [
        GridPrompt(
            row_id=row, messages=(Message(role="user", content=f"Question {row}"),), reference=f"Reference {row}"
        )
        for row in ("r1", "r2", "r3")
    ]
    answers = [
        answer("r1", "base", "Plain words"),
        answer("r1", "tuned", "Answer: Formed, über alles.\nsecond line"),
        answer("r2", "base", "", finish_reason="stop", tokens=0),
        answer("r2", "tuned", "Answer: cut", finish_reason="length"),
        answer("r3", "base", "", error="the server left", finish_reason="error", tokens=0),
    ]
    by_id = {completion.id: completion for completion in answers}
    scores = [
        judged(by_id["cmp_r1_base"], False, lines=False, words=True),
        judged(by_id["cmp_r1_tuned"], True, lines=True, words=True),
        judged(by_id["cmp_r2_base"], False, lines=False, words=True),
        judged(by_id["cmp_r2_tuned"], False, lines=False, words=True),
        *(
            Score(completion_id=key, scorer="chrf", value=value)
            for key, value in (
                ("cmp_r1_base", 10.0),
                ("cmp_r1_tuned", 50.0),
                ("cmp_r2_base", 0.0),
                ("cmp_r2_tuned", 20.0),
            )
        ),
    ]
    return build_grid(
        run_id="run_x",
        prompts=prompts,
        variants=[variant("base"), variant("tuned")],
        completions=answers,
        scores=scores,
    )


def test_each_variant_is_summed_up_with_counts_shares_and_means(grid: AnswerGrid) -> None:
    base, tuned = grid.summary["var_base"], grid.summary["var_tuned"]
    assert (base.n, base.failed, base.missing) == (2, 1, 0)
    assert (tuned.n, tuned.failed, tuned.missing) == (2, 0, 1)
    assert base.share == wilson(0, 2)
    assert tuned.share == wilson(1, 2)
    assert tuned.rules == {"lines": wilson(1, 2), "words": wilson(2, 2)}
    assert tuned.metrics["chrf"].value == 35.0
    assert base.empty == wilson(1, 2)
    assert tuned.unfinished == wilson(1, 2)
    assert base.tokens_per_s == 4.0
    assert 0 < tuned.corpus["chrf"] < 100


def test_a_failed_request_is_no_answer_and_an_answer_takes_its_place() -> None:
    prompt = GridPrompt(row_id="r1", messages=(Message(role="user", content="?"),))
    failed = answer("r1", "base", "", id="cmp_1", error="gone")
    later = answer("r1", "base", "There.", id="cmp_2")
    again = answer("r1", "base", "Another.", id="cmp_3")
    built = build_grid(
        run_id="r", prompts=[prompt], variants=[variant("base")], completions=[failed, later, again], scores=[]
    )
    cell = built.cell("r1", "var_base")
    assert cell is not None and cell.completion.id == "cmp_2"
    assert (built.summary["var_base"].n, built.summary["var_base"].failed) == (1, 0)
    assert built.summary["var_base"].share is None


def test_a_grid_without_answers_has_no_figures_instead_of_made_up_ones() -> None:
    prompt = GridPrompt(row_id="r1", messages=(Message(role="user", content="?"),))
    summary = build_grid(run_id="r", prompts=[prompt], variants=[variant("base")], completions=[], scores=[]).summary
    figures = summary["var_base"]
    assert figures.missing == 1
    assert figures.share is None and figures.mean_tokens is None and figures.metrics == {}


def test_the_paired_difference_rests_on_prompts_that_both_answered(grid: AnswerGrid) -> None:
    gain = paired_difference(grid, "var_base", "var_tuned", "chrf")
    assert gain is not None
    assert (gain.value, gain.n) == (30.0, 2)
    passed = paired_difference(grid, "var_base", "var_tuned")
    assert passed is not None and passed.value == 0.5
    assert paired_difference(grid, "var_base", "var_tuned", "rouge_l") is None


def test_differing_keeps_prompts_where_one_passed_and_another_did_not(grid: AnswerGrid) -> None:
    kept = filter_grid(grid, differing=True)
    assert [prompt.row_id for prompt in kept.prompts] == ["r1"]
    assert kept.summary == grid.summary
    assert {place[0] for place in kept.cells} == {"r1"}


@pytest.mark.parametrize(
    ("needle", "rows"), [("ÜBER", ["r1"]), ("question r2", ["r2"]), ("reference", ["r1", "r2", "r3"])]
)
def test_search_looks_at_question_reference_and_answers(grid: AnswerGrid, needle: str, rows: list[str]) -> None:
    assert [prompt.row_id for prompt in filter_grid(grid, search=needle).prompts] == rows


def test_the_frame_has_one_row_per_answer_and_the_same_columns_in_each(grid: AnswerGrid) -> None:
    rows = grid_frame(grid)
    assert len(rows) == 5
    assert len({tuple(row) for row in rows}) == 1
    assert rows[1]["variant"] == "tuned" and rows[1]["rule_lines"] is True and rows[1]["chrf"] == 50.0
    assert rows[4]["error"] == "the server left" and rows[4]["passed"] is None


def test_all_formats_hold_the_same_texts(grid: AnswerGrid, tmp_path: Path) -> None:
    import pyarrow.parquet

    texts = [row["text"] for row in grid_frame(grid)]
    with export_grid(grid, tmp_path / "a.csv", "csv").open(encoding="utf-8", newline="") as stream:
        assert [row["text"] for row in csv.DictReader(stream)] == texts
    lines = export_grid(grid, tmp_path / "a.jsonl", "jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["text"] for line in lines] == texts
    table = pyarrow.parquet.read_table(export_grid(grid, tmp_path / "a.parquet", "parquet"))
    assert table.column("text").to_pylist() == texts
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.jsonl", "a.parquet"]


def test_an_unknown_format_and_an_empty_grid_are_refused(grid: AnswerGrid, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="csv, jsonl, parquet"):
        export_grid(grid, tmp_path / "a", "xlsx")
    with pytest.raises(UsageError, match="no answer"):
        export_grid(filter_grid(grid, search="nowhere to be found"), tmp_path / "a.csv")


def test_a_folder_that_is_not_there_is_told_in_words(grid: AnswerGrid, tmp_path: Path) -> None:
    with pytest.raises(StoreProblem, match="No such file") as caught:
        export_grid(grid, tmp_path / "missing" / "a.csv")
    assert "missing" in caught.value.place
