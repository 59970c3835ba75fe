"""Safe text, times and numbers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from workbench.ui.charts import loss_figure, smooth
from workbench.ui.inbox import clean_name, guess_suffix
from workbench.ui.text import ago, bytes_text, count, duration, figure, plain, shorten


@given(st.text())
def test_every_punctuation_mark_is_escaped_so_that_nothing_is_read_as_markdown(text: str) -> None:
    shown = plain(text)
    marks = "\\`*_{}[]<>()#+-.!|~$:^=&\"'/@%;,?"
    place = 0
    while place < len(shown):
        if shown[place] == "\\":
            place += 2
            continue
        assert shown[place] not in marks
        place += 1


def test_a_name_between_colons_does_not_become_an_emoji() -> None:
    assert ":smile:" not in plain(":smile:").replace("\\", "")


def test_an_address_does_not_become_a_link() -> None:
    for text in ("see http://evil.test/x", "HTTPS://a.b", "www.evil.test", "WWW.a.b", "me@evil.test"):
        shown = plain(text).replace("\\", "")
        assert "://" not in shown and "www." not in shown.lower() and "@e" not in shown
        assert shown.replace("\u2060", "") == text


@given(st.text(max_size=200), st.integers(min_value=1, max_value=50))
def test_a_shortened_text_is_one_line_within_its_limit(text: str, limit: int) -> None:
    short = shorten(text, limit)
    assert len(short) <= limit
    assert "\n" not in short


def test_times_are_relative() -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    assert ago(now - timedelta(seconds=5), now=now) == "just now"
    assert ago(now - timedelta(minutes=5), now=now) == "5 min ago"
    assert ago(now - timedelta(hours=5), now=now) == "5 h ago"
    assert ago(now - timedelta(days=5), now=now) == "5 days ago"


def test_numbers_have_units_and_few_digits() -> None:
    assert [duration(value) for value in (None, 12, 250, 7500)] == ["–", "12 s", "4 min 10 s", "2 h 5 min"]
    assert [bytes_text(value) for value in (12, 1_400, 3_200_000, 5e12)] == ["12 B", "1.4 kB", "3.2 MB", "5000 GB"]
    assert [count(1, "row"), count(1204, "row")] == ["1 row", "1,204 rows"]
    assert [figure(0.0002), figure(12400), figure(1.23456)] == ["0.0002", "12,400", "1.235"]


@given(st.text())
def test_an_uploads_name_cannot_leave_its_folder(name: str) -> None:
    cleaned = clean_name(name)
    assert cleaned and "/" not in cleaned and not cleaned.startswith(".") and len(cleaned) <= 80


def test_pasted_text_is_read_by_how_it_begins() -> None:
    assert guess_suffix('{"a": 1}\n{"a": 2}') == "jsonl"
    assert guess_suffix('{\n "a": 1\n}') == "json"
    assert guess_suffix("[1]") == "json"
    assert guess_suffix("a\tb\n1\t2") == "tsv"
    assert guess_suffix("a,b\n1,2") == "csv"


def test_smoothing_leaves_a_constant_as_it_is() -> None:
    assert all(abs(value - 2.0) < 1e-9 for _, value in smooth([(step, 2.0) for step in range(50)]))


def test_the_loss_chart_draws_a_band_where_there_are_bounds() -> None:
    found = {"loss": [(1, 2.0)], "eval_loss": [(1, 2.0)], "eval_loss_low": [(1, 1.5)], "eval_loss_high": [(1, 2.5)]}
    assert [trace.name for trace in loss_figure(found).data] == ["train", "held-out, 95 % interval", "held-out"]
