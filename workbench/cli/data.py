"""`workbench data …`: datasets, from a file and back to one."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from workbench.cli import output
from workbench.cli.following import check_finished, follow
from workbench.cli.options import with_config
from workbench.cli.output import Json, facts, plain, show, table
from workbench.datasets.importing import ImportConfig
from workbench.errors import DataProblem, UsageError
from workbench.records import DatasetKind, Example, Labelled, Payload, Preference, Run, RunState
from workbench.settings import typed_path

if TYPE_CHECKING:
    from workbench.api import Workspace
    from workbench.datasets.checks import CheckReport
    from workbench.datasets.importing import ImportPreview

data = typer.Typer(help="Import, look at and export datasets.", no_args_is_help=True, add_completion=False)
Reference = Annotated[str, typer.Argument(metavar="DATASET", help="Name, NAME@VERSION, or id.", show_default=False)]
KindName = DatasetKind
FormatName = Literal["jsonl", "csv", "parquet"]
SHOWN_PROBLEMS = 20


@data.command("import")
@with_config(ImportConfig, arguments=("source",))
def import_data(
    options: dict[str, Any],
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the import to its end.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be imported; store nothing.")] = False,
    json: Json = False,
) -> None:
    """Import a file: JSON Lines, JSON, CSV, TSV or Parquet, plain or gzipped.

    The dataset is named after the file where `--dataset` does not say otherwise.
    """
    if not options.get("source"):
        raise UsageError("a file is needed", place="source", remedy="Give its path.")
    workspace = output.open_workspace()
    source = typed_path(options.pop("source"))
    if not source.is_file():
        what = "this is a folder, not a file" if source.is_dir() else "there is no such file"
        raise DataProblem(what, place=str(source), remedy="Give the path of a file.")
    if dry_run:
        wanted = {name: options[name] for name in ("format", "kind", "mapping", "encoding") if name in options}
        _show_preview(workspace.preview_import(source, **wanted))
        return
    name = options.pop("dataset", None) or source.name.partition(".")[0]
    run = workspace.import_data(source, name, **options)
    if not wait:
        output.note(f"{run.name}: {run.state.value}. `workbench runs watch {run.id}` follows it.")
        show(run, lambda out: out.print(run.id))
        return
    _tell_import(workspace, follow(workspace, run))


def _tell_import(workspace: Workspace, run: Run) -> None:
    problems = _read_problems(workspace.settings.run_dir(run.id) / "problems.csv")
    if run.state is not RunState.FINISHED:
        if problems and not output.surface.json:
            output.console(stderr=True).print(_problem_table(problems))
        if problems and run.failure is not None:
            remedy = run.failure.remedy.replace("(keep_good)", "(--keep-good)")
            error = DataProblem(run.failure.message, remedy=remedy)
            raise typer.Exit(output.tell_error(error, more={"run": run, "problems": problems}))
        check_finished(run)
    told = run.result
    warnings = told.get("warnings")

    def human(out: Console) -> None:
        out.print(f"{plain(run.spec.get('dataset'))}: {told.get('rows'):,} rows stored as {told.get('version_id')}.")
        if problems:
            out.print(_problem_table(problems))
            out.print(f"{told.get('problems'):,} rows had problems; they are in {told.get('bad_rows_path')}.")
        for warning in warnings if isinstance(warnings, list) else ():
            out.print(f"Warning: {plain(warning)}")

    show({**told, "run_id": run.id, "problem_rows": problems}, human)


def _read_problems(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8-sig", newline="") as stream:
        return [row for row, _ in zip(csv.DictReader(stream), range(SHOWN_PROBLEMS), strict=False)]


def _problem_table(problems: list[dict[str, str]]) -> Any:
    columns = ("row", "column", "what", "value", "remedy")
    return table(columns, [[problem.get(column) for column in columns] for problem in problems], empty="")


def _show_preview(preview: ImportPreview) -> None:
    def human(out: Console) -> None:
        rows = f"{'' if preview.exact else 'about '}{preview.rows_estimate:,}"
        out.print(
            facts(
                [
                    ("file", f"{preview.file}, {preview.size:,} bytes, {preview.encoding}"),
                    ("columns", ", ".join(preview.columns)),
                    ("format", preview.format or preview.difficulty),
                    ("becomes", preview.kind),
                    ("mapping", ", ".join(f"{field} ← {column}" for field, column in preview.mapping.items())),
                    ("rows", rows),
                    ("problems", f"{preview.problem_count:,} in the first {preview.rows_checked:,} rows"),
                ]
            )
        )
        for warning in preview.warnings:
            out.print(f"Warning: {plain(warning)}")
        if preview.samples:
            out.print(_payload_table([("", sample) for sample in preview.samples[:5]]))
        if preview.problems:
            out.print(_problem_table([problem.__dict__ for problem in preview.problems[:SHOWN_PROBLEMS]]))

    from dataclasses import asdict

    document = preview.model_dump(mode="json", exclude={"problems"})
    show(document | {"problems": [asdict(problem) for problem in preview.problems]}, human)


@data.command("list")
def list_data(
    kind: Annotated[KindName | None, typer.Option("--kind", help="Only datasets of this kind.")] = None,
    archived: Annotated[bool, typer.Option("--archived", help="Also those that were put away.")] = False,
    json: Json = False,
) -> None:
    """List datasets, newest first."""
    from workbench.store.datasets import version_counts

    workspace = output.open_workspace()
    found = workspace.datasets(kind=kind, archived=archived)
    counts = version_counts(workspace.store)
    documents = []
    for dataset in found:
        versions, rows = counts.get(dataset.id, (0, 0))
        documents.append(dataset.model_dump(mode="json") | {"versions": versions, "rows": rows})

    def human(out: Console) -> None:
        rows = [
            (
                told["name"],
                told["kind"],
                f"{told['rows']:,}",
                told["versions"],
                output.ago(dataset.created_at),
                dataset.id,
            )
            for dataset, told in zip(found, documents, strict=True)
        ]
        columns = ("name", "kind", "rows", "versions", "created", "id")
        empty = (
            "No datasets yet. `workbench data kit assistant` installs one, `workbench data import FILE` takes yours."
        )
        out.print(table(columns, rows, empty=empty, right=("rows", "versions")))

    show(documents, human)


@data.command("show")
def show_data(
    dataset: Reference,
    rows: Annotated[int, typer.Option("--rows", min=1, max=1000, help="Rows to show.")] = 5,
    offset: Annotated[int, typer.Option("--offset", min=0, help="Rows to skip.")] = 0,
    search: Annotated[str, typer.Option("--search", help="Only rows that hold this text.")] = "",
    json: Json = False,
) -> None:
    """Show a dataset: its versions and some rows."""
    workspace = output.open_workspace()
    version = workspace.version(dataset)
    found = workspace.dataset(version.dataset_id)
    versions = workspace.versions(version.dataset_id)
    page = workspace.rows(version.id, offset=offset, limit=rows, search=search)

    def human(out: Console) -> None:
        told = [("name", found.name), ("kind", found.kind), ("id", found.id), ("description", found.description)]
        out.print(facts([*told, ("version", f"{version.number} ({version.id})"), ("rows", f"{version.rows:,}")]))
        lines = [(v.number, f"{v.rows:,}", v.message, output.ago(v.created_at), v.id) for v in versions]
        out.print(table(("version", "rows", "what changed", "made", "id"), lines, empty=""))
        shown = [(row.row_id, row.payload) for row in page.rows]
        out.print(_payload_table(shown) if shown else "No row holds this text.")
        out.print(f"{len(page.rows)} of {page.total:,} rows.")

    manifestless = [v.model_dump(mode="json", exclude={"manifest"}) for v in versions]
    document = {"dataset": found, "version": version.number, "versions": manifestless, "total": page.total}
    show(document | {"rows": page.rows}, human)


def _payload_table(rows: list[tuple[str, Payload]]) -> Any:
    if rows and isinstance(rows[0][1], Preference):
        lines = [
            (key, _last(p.prompt), _last(p.chosen), _last(p.rejected)) for key, p in rows if isinstance(p, Preference)
        ]
        return table(("row", "prompt", "chosen", "rejected"), lines, empty="")
    if rows and isinstance(rows[0][1], Labelled):
        told = [
            (key, _last(p.prompt), _last(p.completion), "good" if p.label else "bad", f"{p.weight:g}")
            for key, p in rows
            if isinstance(p, Labelled)
        ]
        return table(("row", "prompt", "answer", "label", "weight"), told, empty="", right=("weight",))
    lines3 = [(key, *_asked_and_answered(payload)) for key, payload in rows]
    return table(("row", "prompt", "answer"), lines3, empty="")


def _asked_and_answered(payload: Payload) -> tuple[str, str]:
    if isinstance(payload, Preference):
        return _last(payload.prompt), _last(payload.chosen)
    if isinstance(payload, Labelled):
        return _last(payload.prompt), _last(payload.completion)
    if isinstance(payload, Example):
        asked = [turn.content for turn in payload.messages if turn.role == "user"]
        answered = [turn.content for turn in payload.messages if turn.role == "assistant"]
        return _brief(asked[-1] if asked else ""), _brief(answered[-1] if answered else "")
    return _last(payload.messages), _brief(payload.reference or "")


def _last(turns: Any) -> str:
    return _brief(turns[-1].content)


def _brief(text: str) -> str:
    return text if len(text) <= 300 else text[:299] + "…"


@data.command("stats")
def stats(dataset: Reference, json: Json = False) -> None:
    """Count rows, turns, lengths, empty and repeated texts."""
    found = output.open_workspace().statistics(dataset)

    def human(out: Console) -> None:
        told: list[tuple[str, object]] = []
        for name, value in found.model_dump().items():
            label = name.replace("_", " ")
            if isinstance(value, dict) and "p50" in value:
                value = f"half up to {value['p50']:,}, 95% up to {value['p95']:,}, longest {value['maximum']:,}"
            elif isinstance(value, dict):
                value = ", ".join(f"{column} ({count:,})" for column, count in value.items())
            told.append((label, f"{value:,}" if isinstance(value, int) else value))
        out.print(facts(told))

    show(found, human)


@data.command("export")
def export(
    dataset: Reference,
    path: Annotated[Path, typer.Argument(help="File to write.", show_default=False)],
    format: Annotated[FormatName | None, typer.Option("--format", help="Default: by the file's ending.")] = None,
    json: Json = False,
) -> None:
    """Write a version to a file that imports again as the same rows."""
    ending = path.suffix.lower().removeprefix(".")
    chosen = format or (ending if ending in ("jsonl", "csv", "parquet") else "jsonl")
    workspace = output.open_workspace()
    version = workspace.version(dataset)
    written = workspace.export_data(version.id, typed_path(path), chosen)
    document = {"path": str(written), "format": chosen, "rows": version.rows, "version_id": version.id}
    show(document, lambda out: out.print(f"{version.rows:,} rows written to {written}."))


@data.command("kit")
def kit(
    name: Annotated[
        str | None, typer.Argument(help="Kit to install; lists them when left out.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Install a starter kit: rows to train on and held-out prompts."""
    if name is None:
        from workbench.datasets.starter import list_kits

        kits = list_kits()
        rows = [(k.name, k.title, k.train_rows, k.held_out_rows) for k in kits]
        columns = ("name", "title", "training rows", "held-out prompts")
        show(kits, lambda out: out.print(table(columns, rows, empty="There are no kits.", right=columns[2:])))
        return
    workspace = output.open_workspace()
    parts = dict(zip(("train", "held_out"), workspace.install_kit(name), strict=True))
    document = {
        key: {
            "dataset_id": part.dataset_id,
            "name": workspace.dataset(part.dataset_id).name,
            "version_id": part.id,
            "rows": part.rows,
        }
        for key, part in parts.items()
    }
    lines = [(told["name"], told["rows"], told["dataset_id"]) for told in document.values()]
    show(document, lambda out: out.print(table(("dataset", "rows", "id"), lines, empty="", right=("rows",))))


@data.command("check")
def check(
    dataset: Reference,
    model: Annotated[str, typer.Option("--model", help="Base model whose template and tokens count.")] = "bundled",
    max_length: Annotated[int | None, typer.Option("--max-length", min=8, help="Longest row in tokens.")] = None,
    json: Json = False,
) -> None:
    """Look for rows that would teach nothing or harm, as a training run does first.

    Leaves with exit code 1 where a finding should stop a run.
    """
    report = output.open_workspace().check_data(dataset, model, max_length=max_length)
    show(report.model_dump(mode="json") | {"passed": report.passed}, lambda out: _print_report(out, report))
    if not report.passed:
        raise typer.Exit(output.FAILED)


def _print_report(out: Console, report: CheckReport) -> None:
    out.print(
        facts(
            [
                ("rows", f"{report.rows:,}"),
                ("training rows", f"{report.training_rows:,}"),
                ("tokens", f"{report.tokens:,}, of which {report.supervised:,} are learned"),
                ("longest row", f"{report.longest:,} tokens"),
            ]
        )
    )
    lines = [
        (finding.severity, finding.message, finding.remedy, ", ".join(finding.row_ids[:5]))
        for finding in report.findings
    ]
    out.print(table(("", "found", "remedy", "rows"), lines, empty="Nothing was found."))
