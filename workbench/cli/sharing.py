"""`workbench export` and `workbench lineage`: share a result, tell where it came from, make it again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli import output
from workbench.cli.following import check_finished, follow
from workbench.cli.options import with_config
from workbench.cli.output import Json, facts, plain, show, table
from workbench.errors import RunProblem, UsageError
from workbench.evaluation.export_run import ExportConfig
from workbench.settings import typed_path

if TYPE_CHECKING:
    from rich.console import Console

    from workbench.runs.reproduce import Finding
    from workbench.store.lineage import Lineage, Node

lineage = typer.Typer(no_args_is_help=True)


@with_config(ExportConfig, arguments=("variant",))
def export(
    options: dict[str, Any],
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow it to its end.")] = True,
    json: Json = False,
) -> None:
    """Export a variant: write it, load it from scratch, replay its answers, keep it only if they are the same."""
    from workbench.runs.kinds import parse_config

    if options.get("folder"):
        options["folder"] = str(typed_path(options["folder"]))
    config = parse_config("export", options).model_dump(exclude_unset=True)
    workspace = output.open_workspace()
    run = workspace.export(config.pop("variant"), config.pop("form", "adapter_zip"), **config)
    if not wait:
        output.note(f"{run.name}: {run.state.value}. `workbench runs watch {run.id}` follows it.")
        show(run, lambda out: out.print(run.id))
        return
    run = follow(workspace, run)
    check_finished(run)
    told: dict[str, Any] = dict(run.result)
    replay = told.get("replay") or {}

    def human(out: Console) -> None:
        rows: list[tuple[str, object]] = [("written to", told.get("path") or told.get("url"))]
        rows += [("size", f"{told.get('bytes', 0) / 1e6:,.1f} MB"), ("holds", told.get("weights"))]
        if told.get("sha256"):
            rows.append(("SHA-256", told["sha256"]))
        rows += [("check", _told_replay(replay)), ("policy", replay.get("policy", ""))]
        out.print(facts(rows))

    show({"run": run.id, **told}, human)


def _told_replay(replay: dict[str, Any]) -> str:
    if not replay.get("prompts"):
        return "left out"
    ties = f", {len(replay['ties'])} parted at a tie" if replay.get("ties") else ""
    return (
        f"{replay['exact']} of {replay['prompts']} answers equal{ties} ({replay.get('stored', 0)} were stored before)"
    )


@lineage.command("show")
def show_lineage(
    reference: Annotated[
        str, typer.Argument(help="Variant, run, model, queue, or dataset as name or name@3.", show_default=False)
    ],
    json: Json = False,
) -> None:
    """Show what something was made from and what was made from it."""
    found = output.open_workspace().lineage(reference)

    def human(out: Console) -> None:
        rows = []
        for node in found.nodes:
            place = "this" if node.id == found.root else "before" if node.id in found.before else "after"
            rows.append((place, node.kind, node.title, _facts_of(node), _into(found, node.id), node.id))
        out.print(table(("", "what", "name", "facts", "became", "id"), rows, empty="Nothing is known."))

    show(found, human)


def _facts_of(node: Node) -> str:
    detail = node.detail
    if node.kind == "version":
        return f"{detail['rows']:,} rows, hash {str(detail['content_hash'])[:12]}"
    if node.kind == "run":
        return f"{detail['run_kind']}, {detail['state']}, {detail['attempts']} attempt(s)"
    if node.kind == "queue":
        raters: Any = detail["raters"]
        scorers: Any = detail.get("scorers", {})
        told = f"{detail['votes']} votes by {', '.join(raters) or 'nobody yet'}"
        return told + (f", {sum(scorers.values())} by scorers" if scorers else "")
    digest = detail.get("adapter_digest") or detail.get("base_digest")
    return f"digest {str(digest)[:12]}" if digest else ""


def _into(found: Lineage, node_id: str) -> str:
    return ", ".join(f"{edge.label} {found.node(edge.target).title}" for edge in found.edges if edge.source == node_id)


@lineage.command("manifest")
def manifest(
    variant: Annotated[
        str, typer.Argument(help="An adapter or a reward model that was trained here.", show_default=False)
    ],
    to: Annotated[Path | None, typer.Option("--to", help="File to write; printed when left out.")] = None,
    json: Json = False,
) -> None:
    """Write down everything that is needed to make an adapter or a reward model again."""
    from workbench.runs.manifests import write_manifest

    made = output.open_workspace().manifest(variant)
    if to is not None:
        write_manifest(made, to)
        show({"path": str(to), **made.model_dump(mode="json")}, lambda out: out.print(plain(str(to))))
        return
    output.print_json(made)


@lineage.command("reproduce")
def reproduce(
    manifest: Annotated[Path, typer.Argument(help="File that `lineage manifest` wrote.", show_default=False)],
    check: Annotated[bool, typer.Option("--check", help="Only tell what is missing or differs.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow it to its end.")] = True,
    json: Json = False,
) -> None:
    """Make the same adapter or reward model again from a manifest, and say whether it is the same."""
    from workbench.runs.manifests import read_manifest
    from workbench.runs.reproduce import is_same, made_digest

    wanted = read_manifest(manifest)
    workspace = output.open_workspace()
    findings = workspace.check_manifest(wanted)
    if check:
        show({"findings": findings}, lambda out: out.print(_finding_table(findings)))
        if any(finding.severity == "missing" for finding in findings):
            raise typer.Exit(output.FAILED)
        return
    for finding in findings:
        output.note(f"{finding.severity}: {finding.what}")
    run = workspace.reproduce(wanted)
    if not wait:
        show({"run": run.id, "findings": findings}, lambda out: out.print(run.id))
        return
    run = follow(workspace, run)
    check_finished(run)
    made = "reward model" if wanted.kind == "reward" else "adapter"
    if not is_same(wanted, run):
        problem = RunProblem(
            f"the {made} is another one than the manifest's",
            place=run.name,
            value=str(made_digest(run))[:16],
            remedy="`--check` says what differs from when it was made; it takes the same threads and packages.",
        )
        raise typer.Exit(output.tell_error(problem, more={"run": run, "findings": findings}))
    told = {"run": run.id, "same": True, "adapter_digest": wanted.adapter_digest, "findings": findings}
    show(told, lambda out: out.print(f"The same {made}, digest {wanted.adapter_digest}."))


def _finding_table(findings: list[Finding]) -> Any:
    rows = [(finding.severity, finding.what) for finding in findings]
    return table(("", "what"), rows, empty="Everything is here, and as it was.")


@lineage.command("purge")
def purge(
    dataset: Annotated[str, typer.Argument(help="Dataset: name or id.", show_default=False)],
    row: Annotated[str, typer.Argument(help="Row id.", show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", help="Do it; it cannot be undone.")] = False,
    json: Json = False,
) -> None:
    """Remove a person's row from every version, answer, ranking, log and draft. It cannot be undone."""
    if not yes:
        raise UsageError("a purge cannot be undone", place="--yes", remedy="Add --yes to do it.")
    report = output.open_workspace().purge_row(dataset, row)

    def human(out: Console) -> None:
        learned = ", ".join(report.learned_by) or "no variant"
        out.print(
            facts(
                [
                    ("rows", len(report.row_ids)),
                    ("versions", len(report.versions)),
                    ("answers deleted", report.completions),
                    ("ranking items deleted", report.items),
                    ("entries struck out", report.struck),
                    ("files changed", len(report.files)),
                    ("files left", ", ".join(report.left)),
                    ("learned by", learned),
                    ("database compacted", "yes" if report.compacted else "no: run it again when nothing is at work"),
                ]
            )
        )

    show(report, human)
