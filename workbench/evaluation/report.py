"""A comparison as one HTML file that can be sent to anybody: it needs no network, no server and no workbench.

Figures with intervals, every answer side by side with what each rule said, and how it was made. Plotly is inlined;
everything that a model or a person wrote is escaped, and a content policy in the file keeps it from asking any machine
for anything. Working out figures is left to `aggregate`.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench.errors import NotFound, StoreProblem, UsageError
from workbench.evaluation.aggregate import AnswerCell, AnswerGrid, load_grid, paired_difference, rule_verdicts
from workbench.evaluation.prompts import GridPrompt
from workbench.evaluation.report_pieces import (
    as_words,
    chart_places,
    date_text,
    escaped,
    fact_list,
    interval_chart,
    mean_text,
    script_json,
    sha256,
    share_text,
    table,
    written,
)
from workbench.evaluation.report_style import STYLE
from workbench.preferences.leaderboard import BY_SCORERS
from workbench.preferences.ratings import PairRate, rate_pairs
from workbench.preferences.votes import compare_variants, read_votes
from workbench.records import Run, Variant, utc_now
from workbench.scoring.scorers import figure_title
from workbench.settings import typed_path
from workbench.store import datasets as dataset_store
from workbench.store import models as model_store
from workbench.store import rankings as ranking_store
from workbench.store import runs as run_store
from workbench.store.database import Store
from workbench.store.rankings import Sources

_DRAW = """
const ink = getComputedStyle(document.body).color;
for (const spec of JSON.parse(document.getElementById('charts').textContent)) {
  spec.layout.font = {color: ink};
  Plotly.newPlot(spec.id, spec.data, spec.layout, {displayModeBar: false, responsive: true});
}
"""


def write_report(store: Store, answer_run: Run, path: Path) -> Path:
    """Write a run's answers to a prompt set as one HTML file; one that exists is replaced.

    Args:
        store: the store.
        answer_run: a run of kind `answer`, ended or still at work.
        path: the file.

    Raises:
        UsageError: there is no answer to show, or the run answered no prompt set.
        StoreProblem: the file cannot be written.
    """
    path = typed_path(path)
    text = report_html(store, answer_run)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        aside.write_text(text, "utf-8")
        os.replace(aside, path)
    except OSError as error:
        raise StoreProblem(
            f"the file cannot be written: {error.strerror or error}",
            place=str(path),
            remedy="Choose a folder that exists and that you can write to.",
        ) from error
    finally:
        aside.unlink(missing_ok=True)
    return path


def report_html(store: Store, answer_run: Run) -> str:
    """The report as text.

    Raises:
        UsageError: there is no answer to show, or the run answered no prompt set.
    """
    from plotly.offline import get_plotlyjs

    grid = load_grid(store, answer_run)
    if not grid.cells:
        raise UsageError("there is no answer to show yet", place=grid.name, remedy="Wait for the first answers.")
    rates, whose = rate_answers(store, grid), "people"
    if not rates:
        rates, whose = rate_answers(store, grid, "scorers"), "scorers"
    charts = _charts(grid, rates)
    library, data = get_plotlyjs(), script_json(charts)
    scripts = " ".join(f"'sha256-{sha256(script)}'" for script in (library, _DRAW))
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src {scripts}"
    body = "\n".join(
        (
            _head(grid, answer_run),
            _figures(grid, charts),
            _preferred(grid, rates, charts, by_scorers=whose == "scorers"),
            _answers(grid),
            _how(store, grid, answer_run),
        )
    )
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        f"<title>{escaped(grid.name or 'Comparison')}</title><style>{STYLE}</style></head>\n<body><main>{body}</main>"
        f'<script type="application/json" id="charts">{data}</script>'
        f"<script>{library}</script><script>{_DRAW}</script></body></html>\n"
    )
    # Half of a character, as a model can write it, becomes a question mark: a file of UTF-8 cannot hold it.
    return page.encode("utf-8", "replace").decode()


# Parts -------------------------------------------------------------------------------------------------------------


def _head(grid: AnswerGrid, run: Run) -> str:
    names = " · ".join(f"<b>{escaped(variant.name)}</b>" for variant in grid.variants)
    state = "" if not run.state.active else " The run is still at work: what follows is what it has so far."
    return (
        f"<header><h1>{escaped(grid.name or 'Comparison')}</h1>"
        f"<p>{names}: the same {len(grid.prompts):,} prompts, answers side by side.{state}</p></header>"
    )


def _figures(grid: AnswerGrid, charts: Sequence[Mapping[str, Any]]) -> str:
    metrics = list(dict.fromkeys(name for each in grid.summary.values() for name in each.metrics))
    judged = any(each.share is not None for each in grid.summary.values())
    heads = ["Variant", "Answers", *(["Pass all rules"] if judged else [])]
    for metric in metrics:
        heads += [
            figure_title(metric, short=True),
            *(["chrF, corpus"] if metric == "chrf" else []),
        ]
    heads += ["Tokens", "Empty", "Cut at the limit", "Failed", "Not asked"]
    lines = []
    for variant in grid.variants:
        told = grid.summary[variant.id]
        line = [variant.name, f"{told.n:,}", *([share_text(told.share)] if judged else [])]
        for metric in metrics:
            line.append(mean_text(told.metrics.get(metric)))
            if metric == "chrf":
                line.append(f"{told.corpus['chrf']:.1f}" if "chrf" in told.corpus else "")
        line += [
            mean_text(told.mean_tokens),
            share_text(told.empty),
            share_text(told.unfinished),
            str(told.failed or ""),
        ]
        lines.append([*line, str(told.missing or "")])
    parts = ["<section><h2>Figures</h2>", chart_places(charts, "share"), table(heads, lines)]
    rules = list(dict.fromkeys(rule for each in grid.summary.values() for rule in each.rules))
    if rules:
        names = [variant.name for variant in grid.variants]
        rows = [[as_words(r), *(share_text(grid.summary[v.id].rules.get(r)) for v in grid.variants)] for r in rules]
        parts += ["<h3>Rule by rule</h3>", table(["Rule", *names], rows)]
    parts += [_differences(grid, judged, metrics), "</section>"]
    return "".join(parts)


def _differences(grid: AnswerGrid, judged: bool, metrics: Sequence[str]) -> str:
    told = []
    first = grid.variants[0]
    for variant in grid.variants[1:]:
        for scorer in [*([None] if judged else []), *metrics]:
            gain = paired_difference(grid, first.id, variant.id, scorer)
            if gain is None:
                continue
            scale, unit, digits = (100, " points", 0) if scorer is None else (1, "", 1)
            value, low, high = (f"{part * scale:+.{digits}f}" for part in (gain.value, gain.low, gain.high))
            what = "pass all rules" if scorer is None else figure_title(scorer, short=True)
            sure = " No difference can be told." if gain.low <= 0 <= gain.high else ""
            told.append(
                f"<li><b>{escaped(variant.name)}</b> against {escaped(first.name)}: {value}{unit} "
                f"({low} to {high}), {escaped(what)}, n = {gain.n}.{sure}</li>"
            )
    if not told:
        return ""
    note = "Paired over prompts, 95 % bootstrap intervals. Shares carry 95 % Wilson intervals, means bootstrap ones."
    return f"<h3>On the same prompts</h3><ul>{''.join(told)}</ul><p class='note'>{note}</p>"


def rate_answers(store: Store, grid: AnswerGrid, sources: Sources = "people") -> list[PairRate]:
    """Win rates of the grid's variants where people ranked these very answers, whatever the queue; or scorers did."""
    votes = read_votes(store, [queue.id for queue in ranking_store.list_queues(store, archived=True)], sources)
    writers = {cell.completion.id: variant for (_, variant), cell in grid.cells.items()}
    ballots = tuple(
        ballot
        for ballot in votes.ballots
        if any(each in writers for one in ballot.levels for each in (one, *votes.merged.get(one, ())))
    )
    # Answers of other runs in the same items have no writer here, and so are not compared.
    return rate_pairs(compare_variants(replace(votes, ballots=ballots, writers=writers)))


def _preferred(
    grid: AnswerGrid, rates: Sequence[PairRate], charts: Sequence[Mapping[str, Any]], *, by_scorers: bool
) -> str:
    if not rates:
        return ""
    names = {variant.id: variant.name for variant in grid.variants}
    rows = []
    for rate in rates:
        sure = "yes" if rate.distinguishable else "not yet"
        pair = f"{names[rate.better]} over {names[rate.worse]}"
        rows.append([pair, share_text(rate.share), str(rate.wins), str(rate.losses), str(rate.ties), sure])
    found = table(["Pair", "Win rate, ties half", "Won", "Lost", "Tied", "Told from chance"], rows)
    head = "What a scorer placed higher" if by_scorers else "What people preferred"
    made = f"{BY_SCORERS} From its" if by_scorers else "From people's"
    note = f"{made} rankings of these answers; several rankings of one prompt count each."
    places = chart_places(charts, "wins")
    return f"<section><h2>{head}</h2>{places}{found}<p class='note'>{note}</p></section>"


def _answers(grid: AnswerGrid) -> str:
    parts = ["<section><h2>Answers</h2>"]
    for number, prompt in enumerate(grid.prompts, start=1):
        parts.append(f"<article><h3>{number}</h3>{_prompt(prompt)}<div class='cards'>")
        for variant in grid.variants:
            parts.append(_card(variant, grid.cell(prompt.row_id, variant.id)))
        parts.append("</div></article>")
    parts.append("</section>")
    return "".join(parts)


def _prompt(prompt: GridPrompt) -> str:
    parts = []
    alone = len(prompt.messages) == 1
    for turn in prompt.messages:
        role = "" if alone else f"<span class='role'>{escaped(turn.role)}</span>"
        parts.append(f"<div class='turn'>{role}{written(turn.content)}</div>")
    if prompt.reference is not None:
        parts.append(f"<details><summary>Reference</summary>{written(prompt.reference)}</details>")
    return "".join(parts)


def _card(variant: Variant, cell: AnswerCell | None) -> str:
    head = f"<b>{escaped(variant.name)}</b>"
    if cell is None:
        return f"<div class='card'><p>{head}</p><p class='note'>Not answered.</p></div>"
    if cell.passed is not None:
        head += " <span class='good'>passes</span>" if cell.passed else " <span class='bad'>fails</span>"
    head += "".join(
        f" <span class='figure'>{escaped(figure_title(name, short=True))} {value:.1f}</span>"
        for name, value in cell.values.items()
    )
    answer = cell.completion
    if answer.error is not None:
        body = f"<p class='bad'>{escaped(answer.error)}</p>"
    else:
        body = written(answer.text) if answer.text.strip() else "<p class='note'>An empty answer.</p>"
    marks = []
    for score in cell.scores:
        for rule, passed in rule_verdicts(score).items():
            detail = score.detail.get(rule)
            why = str(detail.get("detail", "")) if isinstance(detail, dict) else ""
            sign, kind = ("✓", "good") if passed else ("✗", "bad")
            marks.append(f"<span class='{kind}' title='{escaped(why)}'>{sign} {escaped(as_words(rule))}</span>")
    rules = f"<p class='rules'>{' '.join(marks)}</p>" if marks else ""
    ending = f"{answer.tokens:,} tokens" + (", cut at the limit" if answer.finish_reason == "length" else "")
    return f"<div class='card'><p>{head}</p>{body}{rules}<p class='note'>{ending}</p></div>"


def _how(store: Store, grid: AnswerGrid, run: Run) -> str:
    from workbench import __version__

    facts: list[tuple[str, object]] = [
        ("Run", run.id),
        ("Launched", date_text(run.created_at)),
        ("Ended", date_text(run.ended_at)),
    ]
    if grid.version_id is not None:
        facts += [("Prompt set", _version_words(store, grid.version_id))]
    facts += [
        ("Scorers", ", ".join(grid.scorers) or "none"),
        ("Written", f"{date_text(utc_now())}, workbench {__version__}"),
    ]
    samplings = Counter(
        json.dumps(cell.completion.sampling.model_dump(mode="json"), sort_keys=True) for cell in grid.cells.values()
    )
    for sampling, answers in samplings.most_common(5):
        told = ", ".join(
            f"{name} {value}" for name, value in json.loads(sampling).items() if value not in (None, [], "")
        )
        facts.append((f"Sampling of {answers:,} answers", told))
    parts = ["<section><h2>How it was made</h2>", fact_list(facts)]
    for variant in grid.variants:
        parts.append(f"<h3>{escaped(variant.name)}</h3>{fact_list(_variant_facts(store, grid, variant))}")
        settings = _training_settings(store, variant)
        if settings:
            parts.append(f"<details><summary>Training settings</summary>{fact_list(settings)}</details>")
    note = "A fingerprint is a digest of weights, adapter, tokenizer, template and number format that gave the answers."
    parts.append(f"<p class='note'>{note} A server elsewhere states its own, which nobody has checked.</p></section>")
    return "".join(parts)


def _variant_facts(store: Store, grid: AnswerGrid, variant: Variant) -> list[tuple[str, object]]:
    facts: list[tuple[str, object]] = [("Variant", variant.id)]
    if variant.model_id is not None:
        model = model_store.get_model(store, variant.model_id)
        facts += [
            ("Base model", model.name),
            ("Base digest", model.base_digest),
            ("Licence", model.info.get("licence")),
        ]
    if variant.server_id is not None:
        facts += [("Model on a server", variant.remote_model)]
    facts.append(("Adapter digest", variant.adapter_digest))
    prints = Counter(
        (cell.completion.fingerprint, cell.completion.verified)
        for (_, writer), cell in grid.cells.items()
        if writer == variant.id and cell.completion.fingerprint
    )
    for (fingerprint, verified), answers in prints.most_common(5):
        facts.append(("Fingerprint", f"{fingerprint} ({'' if verified else 'unverified, '}{answers:,} answers)"))
    return facts


def _training_settings(store: Store, variant: Variant) -> list[tuple[str, object]]:
    if variant.run_id is None:
        return []
    try:
        run = run_store.get_run(store, variant.run_id)
    except NotFound:
        return []
    facts: list[tuple[str, object]] = [("Run", f"{run.name} ({run.id})"), ("Trained", date_text(run.ended_at))]
    reference = run.spec.get("dataset")
    if isinstance(reference, str):
        try:
            facts.append(("Dataset", _version_words(store, dataset_store.find_version(store, reference)[1].id)))
        except NotFound:
            facts.append(("Dataset", reference))
    return facts + [(as_words(name), value) for name, value in run.spec.items() if value not in (None, "", [], {})]


def _version_words(store: Store, version_id: str) -> str:
    version = dataset_store.get_version(store, version_id)
    name = dataset_store.get_dataset(store, version.dataset_id).name
    return f"{name}, version {version.number} ({version.rows:,} rows, hash {version.content_hash})"


def _charts(grid: AnswerGrid, rates: Sequence[PairRate]) -> list[dict[str, Any]]:
    names = {variant.id: variant.name for variant in grid.variants}
    shares = [(each.name, each.share) for each in grid.summary.values() if each.share is not None]
    won = [(f"{names[each.better]} over {names[each.worse]}", each.share) for each in rates]
    charts = []
    if shares:
        charts.append(interval_chart("share", shares, "share of answers that pass all rules"))
    if won:
        charts.append(interval_chart("wins", won, "win rate"))
    return charts
