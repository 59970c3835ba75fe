"""The HTML of a run, a dataset, a comparison, an answered prompt set and a leaderboard, from records alone.

Whatever a model or a person wrote is escaped and shown as text. A card is one `<div>` with inline styles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from workbench.datasets.inspecting import InspectedRow
from workbench.evaluation.aggregate import AnswerGrid
from workbench.evaluation.report_pieces import COLORS, date_text, escaped, mean_text, share_text
from workbench.notebook.drawing import Line, interval_chart, line_chart
from workbench.notebook.pieces import NOTE, TEXT, card, noted, number_of, text_table, titled
from workbench.notebook.tokens import chips_html
from workbench.preferences.leaderboard import Leaderboard
from workbench.records import (
    Completion,
    Dataset,
    Example,
    Interval,
    Labelled,
    Message,
    Metric,
    Payload,
    Preference,
    Row,
    Run,
    RunState,
    Version,
)
from workbench.runs.comparing import Comparison
from workbench.runs.curves import series, smooth
from workbench.runs.words import describe_progress, span

if TYPE_CHECKING:
    from workbench.training.reward_diagnostics import RewardReport

HEAD_ROWS = 5
"""Rows that a dataset shows."""
GRID_ROWS = 5
"""Prompts that an answered set shows."""
SMOOTHED_FROM = 12
"""Points beyond which a series of steps is shown smoothed."""
WRONG_PAIRS = 3
"""Pairs that a reward model gets wrong."""
MOST_CHIPS = 1000
"""Tokens of a row."""
STATE_COLORS = {
    RunState.QUEUED: "#6B7280",
    RunState.STARTING: "#0284C7",
    RunState.RUNNING: "#0284C7",
    RunState.FINISHED: "#0D9488",
    RunState.FAILED: "#DC2626",
    RunState.STOPPED: "#B45309",
    RunState.INTERRUPTED: "#B45309",
}


def run_card(run: Run, metrics: Sequence[Metric] = (), *, now: datetime | None = None, note: str = "") -> str:
    """A run: state, how far it is, time left, charts of its losses or rewards, figures, and why it ended badly.

    Args:
        run: the run.
        metrics: its points.
        now: when this is looked at; told for a run that is at work.
        note: a sentence to add.
    """
    color = STATE_COLORS[run.state]
    badge = f"<span style='background:{color};color:#fff;border-radius:9px;padding:1px 9px'>{run.state.value}</span>"
    parts = [titled(run.name, f"{badge} <span style='{NOTE}'>{escaped(run.kind)} · {escaped(run.id)}</span>")]
    if run.state.active:
        parts.append(_progress(run))
    elif run.started_at and run.ended_at:
        parts.append(noted(f"took {span((run.ended_at - run.started_at).total_seconds())}"))
    if run.failure is not None and not run.state.active:
        remedy = f" {run.failure.remedy}" if run.failure.remedy else ""
        parts.append(f"<div style='color:{color};{TEXT}'>{escaped(run.failure.message + remedy)}</div>")
    found = series(metrics)
    parts += _method_charts(run.kind, found)
    figures = [("tokens_per_s", "tokens/s", ",.0f"), ("memory_mb", "MB of memory", ",.0f")]
    told = [f"{found[name][-1][1]:{form}} {unit}" for name, unit, form in figures if found.get(name)]
    if run.state.active and now is not None:
        told.append(f"as of {now:%H:%M:%S} UTC; show it again for what is new")
    parts += [noted(" · ".join(told)), noted(note)]
    return card(parts)


def _progress(run: Run) -> str:
    share = run.progress.share
    if run.state is RunState.QUEUED:
        return noted("waits for its turn")
    bar = ""
    if share is not None:
        shape = "border-radius:4px;height:8px"
        filled = f"<div style='background:{STATE_COLORS[run.state]};{shape};width:{100 * share:.1f}%'></div>"
        track = f"background:rgba(128,140,140,.25);{shape};max-width:640px;margin:6px 0"
        bar = f"<div style='{track}'>{filled}</div>"
    return f"{bar}<div>{escaped(describe_progress(run.progress) or run.state.value)}</div>"


def _method_charts(kind: str, found: Mapping[str, Sequence[tuple[int, float]]]) -> list[str]:
    """What a method is watched by: its loss; pairs in the right order and their margin; reward and KL."""
    shares = _two_lines(found, ("accuracy", "reward_accuracy"), "share of pairs in the right order")
    margins = _two_lines(found, ("margin", "reward_margin"), "margin: preferred less other")
    # The loss of a policy that is reinforced says nothing of how good it is.
    loss = "" if "kl" in found else _loss_chart(found, "loss (nats per token)" if kind == "sft" else "loss")
    rewards = _two_lines(found, ("reward",), "reward")
    return [loss, shares, margins, rewards, _two_lines(found, ("kl",), "KL from the start (nats per answer)")]


def _two_lines(found: Mapping[str, Sequence[tuple[int, float]]], names: Sequence[str], unit: str) -> str:
    """The first of some series that was told, while training and as measured on what is held out."""
    train = next((list(found[name]) for name in names if name in found), [])
    held_out = next((list(found[f"eval_{name}"]) for name in names if f"eval_{name}" in found), [])
    return line_chart([*_steps(train), *_measured(held_out)], unit, height=180)


def _loss_chart(found: Mapping[str, Sequence[tuple[int, float]]], unit: str) -> str:
    return line_chart([*_steps(list(found.get("loss", ()))), *_measured(list(found.get("eval_loss", ())))], unit)


def _steps(points: list[tuple[int, float]]) -> list[Line]:
    if len(points) > SMOOTHED_FROM:
        return [Line("each step", points, "#808C8C", faint=True), Line("train, smoothed", smooth(points), COLORS[0])]
    return [Line("train", points, COLORS[0])] if points else []


def _measured(points: list[tuple[int, float]]) -> list[Line]:
    return [Line("held-out", points, COLORS[1], dots=True)] if points else []


def dataset_card(dataset: Dataset, version: Version | None, rows: Sequence[Row], *, versions: int = 1) -> str:
    """A dataset, or one version of it: name, kind, counts and its first rows.

    Args:
        dataset: the dataset.
        version: the version whose rows are shown; None where there is none yet.
        rows: the first rows.
        versions: how many versions there are.
    """
    if version is None:
        told = f"{dataset.kind} · no version yet"
    else:
        counted = f"version {version.number} of {versions:,} · {number_of(version.rows, 'row')}"
        told = f"{dataset.kind} · {counted} · {date_text(version.created_at)}"
    parts = [titled(dataset.name, noted(told)), noted(" · ".join(dataset.tags)), noted(dataset.description)]
    if version is not None:
        parts.append(noted(version.message))
        shown = [payload_cells(row.payload) for row in rows]
        heads = list(dict.fromkeys(head for cells in shown for head in cells))
        parts.append(text_table(heads, [[cells.get(head, "") for head in heads] for cells in shown]))
        if version.rows > len(rows):
            parts.append(noted(f"and {version.rows - len(rows):,} more"))
    return card(parts)


def payload_cells(payload: Payload) -> dict[str, str]:
    """A row as texts under headings."""
    if isinstance(payload, Preference):
        parts = {"prompt": payload.prompt, "chosen": payload.chosen, "rejected": payload.rejected}
        return {head: conversation_text(turns) for head, turns in parts.items()}
    if isinstance(payload, Labelled):
        said = {"prompt": conversation_text(payload.prompt), "answer": conversation_text(payload.completion)}
        return said | {"label": "good" if payload.label else "bad"}
    turns = payload.messages
    if isinstance(payload, Example):
        last = max((place for place, turn in enumerate(turns) if turn.role == "assistant"), default=len(turns))
        return {"conversation": conversation_text(turns[:last]), "answer": conversation_text(turns[last:])}
    cells = {"prompt": conversation_text(turns)}
    return cells | ({} if payload.reference is None else {"reference": payload.reference})


def conversation_text(turns: Sequence[Message]) -> str:
    """Turns as one text; a lone one without its role."""
    if len(turns) == 1:
        return turns[0].content
    return "\n".join(f"{turn.role}: {turn.content}" for turn in turns)


def tokens_card(row: InspectedRow) -> str:
    """A training row: its tokens, the learned ones coloured, special ones dashed."""
    told = f"{number_of(row.tokens, 'token')}, {row.supervised:,} learned (coloured); special ones are dashed"
    more = row.tokens - MOST_CHIPS
    cut = noted(f"and {more:,} more tokens") if more > 0 else ""
    chips = chips_html(row.chips[:MOST_CHIPS])
    return card([titled(row.title or "As the model reads it", noted(told)), noted(row.note), chips, cut])


def comparison_card(comparison: Comparison) -> str:
    """A prompt with its panes side by side: variant, fingerprint, tokens per second, and the answer as text."""
    panes = []
    for pane in comparison.panes:
        body = f"<div style='color:#DC2626;{TEXT}'>{escaped(pane.problem)}</div>" if pane.problem else ""
        if pane.completion is not None and (pane.completion.text or not pane.problem):
            body += answer_part(pane.completion)
        panes.append(_pane(pane.variant.name, body))
    sampling = comparison.sampling
    seed = "a new seed each time" if sampling.seed is None else f"seed {sampling.seed}"
    settings = f"temperature {sampling.temperature:g}, top_p {sampling.top_p:g}, {seed}"
    return card([_quoted(comparison.prompt), noted(settings), _side_by_side(panes)])


def answer_card(completion: Completion, name: str) -> str:
    """One answer with who gave it."""
    return card([_quoted(completion.prompt), _side_by_side([_pane(name, answer_part(completion))])])


def answer_part(completion: Completion) -> str:
    """An answer's text and, below, how fast, how long and by what exactly."""
    text = completion.text if completion.text.strip() else "(an empty answer)"
    told = [f"{completion.tokens:,} tokens"]
    if completion.seconds:
        told.append(f"{completion.tokens / completion.seconds:,.0f} tokens/s")
    if completion.finish_reason == "length":
        told.append("cut at the limit")
    if completion.fingerprint:
        told.append(f"fingerprint {completion.fingerprint}" + ("" if completion.verified else " (unverified)"))
    error = f"<div style='color:#DC2626'>{escaped(completion.error)}</div>" if completion.error else ""
    return f"<div dir='auto' style='{TEXT}'>{escaped(text)}</div>{error}{noted(' · '.join(told))}"


def grid_card(grid: AnswerGrid) -> str:
    """A prompt set's answers: each variant's figures with intervals, and the first prompts side by side."""
    metrics = list(dict.fromkeys(name for told in grid.summary.values() for name in told.metrics))
    heads = ["variant", "answers", "pass all rules", *metrics, "tokens", "failed"]
    lines = []
    for variant in grid.variants:
        told = grid.summary[variant.id]
        figures = [mean_text(told.metrics.get(metric)) for metric in metrics]
        failed = f"{told.failed:,}" if told.failed else ""
        lines.append(
            [variant.name, f"{told.n:,}", share_text(told.share), *figures, mean_text(told.mean_tokens), failed]
        )
    shown = []
    for prompt in grid.prompts[:GRID_ROWS]:
        cells = [grid.cell(prompt.row_id, variant.id) for variant in grid.variants]
        texts = ["" if cell is None else cell.completion.error or cell.completion.text for cell in cells]
        shown.append([conversation_text(prompt.messages), *texts])
    more = len(grid.prompts) - len(shown)
    parts = [titled(grid.name or "Answers", noted(number_of(len(grid.prompts), "prompt"))), text_table(heads, lines)]
    parts.append(text_table(["prompt", *(variant.name for variant in grid.variants)], shown))
    return card([*parts, noted(f"and {more:,} more prompts" if more else "")])


def board_card(board: Leaderboard) -> str:
    """A leaderboard: strengths with intervals, what each pair comes to, and what speaks against trusting it."""
    names = {item.variant_id: board.names.get(item.variant_id, item.variant_id) for item in board.ratings}
    counted = [
        number_of(board.votes, "vote"),
        number_of(board.prompts, "prompt"),
        number_of(len(board.raters), "scorer" if board.sources == "scorers" else "rater"),
    ]
    estimates = [
        (names[item.variant_id], Interval(value=item.strength, low=item.low, high=item.high, n=item.comparisons))
        for item in board.ratings
    ]
    lines = [
        [
            f"{item.rank}",
            names[item.variant_id] + (" (put away)" if item.variant_id in board.archived else ""),
            f"{item.strength:+.2f} ({item.low:+.2f} to {item.high:+.2f})",
            f"{item.wins / item.comparisons:.0%}" if item.comparisons else "",
            f"{item.comparisons:,}",
        ]
        for item in board.ratings
    ]
    parts = [titled("Leaderboard", noted(" · ".join(counted)))]
    parts.append(interval_chart(estimates, "strength (Bradley–Terry, natural log), 95 % intervals", zero=True))
    parts.append(text_table(["rank", "variant", "strength", "won, ties half", "comparisons"], lines))
    for told in (board.conclusions, board.notes):
        if told:
            parts.append(f"<ul style='margin:6px 0'>{''.join(f'<li>{escaped(each)}</li>' for each in told)}</ul>")
    return card(parts)


def reward_card(report: RewardReport) -> str:
    """A reward model: accuracy on held-out pairs beside what raters reach, rewards by group, and what to distrust."""
    learned = f"{number_of(report.training_pairs, 'pair')} on {number_of(report.training_prompts, 'prompt')}"
    held_out = f"{number_of(report.pairs, 'held-out pair')} on {number_of(report.prompts, 'prompt')}"
    shares = [
        ("right on held-out pairs", report.accuracy),
        ("preferring the longer answer", report.length.longer_wins if report.length else None),
        ("raters among themselves", report.agreement.same if report.agreement else None),
    ]
    groups = [(name, group.mean) for name, group in report.distributions.items()]
    parts = [titled("Reward model", noted(f"learned from {learned}; measured on {held_out}"))]
    parts.append(
        interval_chart([(name, share) for name, share in shares if share], "share of pairs right, 95 % intervals")
    )
    parts.append(interval_chart(groups, "mean reward of a group of answers, 95 % intervals", zero=True))
    if report.demonstrations:
        before, after = report.demonstrations["before"], report.demonstrations["after"]
        parts.append(noted(f"Demonstrations scored {before:+.3f} on average and, with the bias, {after:+.3f}."))
    wrong = [[pair.prompt, pair.chosen, pair.rejected, f"{pair.margin:.2f}"] for pair in report.wrong[:WRONG_PAIRS]]
    parts.append(text_table(["most wrong: prompt", "preferred", "other", "margin"], wrong))
    for told in (report.warnings, report.notes):
        if told:
            parts.append(f"<ul style='margin:6px 0'>{''.join(f'<li>{escaped(each)}</li>' for each in told)}</ul>")
    return card(parts)


# Pieces ------------------------------------------------------------------------------------------------------------


def _quoted(turns: Sequence[Message]) -> str:
    text = escaped(conversation_text(turns))
    return f"<div dir='auto' style='border-left:3px solid {COLORS[2]};padding-left:10px;{TEXT}'>{text}</div>"


def _pane(name: str, body: str) -> str:
    return f"<div style='flex:1 1 260px;min-width:0'><b>{escaped(name)}</b>{body}</div>"


def _side_by_side(panes: Sequence[str]) -> str:
    return f"<div style='display:flex;flex-wrap:wrap;gap:18px;margin-top:8px'>{''.join(panes)}</div>"
