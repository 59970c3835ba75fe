"""`workbench craft …`: rows written and changed by hand, from options or as JSON on standard input.

Every command makes one version. `DATASET@3` says in which version the rows were read; what others saved since is merged
row by row, and a row that both changed is told instead of overwritten.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from workbench.cli import output
from workbench.cli.output import Json, plain, show, table
from workbench.errors import Conflict, DataProblem, NotFound, UsageError
from workbench.records import DatasetKind, Example, Labelled, Message, Payload, Preference, Prompt, Role

if TYPE_CHECKING:
    from workbench.api import Workspace
    from workbench.datasets.merging import Change, Choice, RowConflict, Saved
    from workbench.datasets.replacing import ReplacePreview

craft = typer.Typer(help="Write, edit, delete and replace rows by hand.", no_args_is_help=True, add_completion=False)
Reference = Annotated[str, typer.Argument(metavar="DATASET", help="Name, NAME@VERSION, or id.", show_default=False)]
RowIds = Annotated[list[str], typer.Argument(metavar="ROW…", help="Row ids, as `data show --json` tells them.")]
System = Annotated[str | None, typer.Option("--system", help="System prompt.")]
User = Annotated[str | None, typer.Option("--user", help="What the user says.")]
Assistant = Annotated[str | None, typer.Option("--assistant", help="What the assistant answers.")]
Label = Annotated[Literal["good", "bad"] | None, typer.Option("--label", help="What a labelled answer is told to be.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="A tag; repeat for more.")]
Note = Annotated[str, typer.Option("--message", help="What changed; counts when left out.")]
Stdin = Annotated[bool, typer.Option("--stdin", help="Read the rows as JSON from standard input.")]
Take = Annotated[
    Literal["mine", "theirs", "both"] | None,
    typer.Option("--take", help="What holds where somebody else changed the same row; refused when left out."),
]
Version = Annotated[int | None, typer.Option("--to", min=1, help="Version number.")]
KindName = DatasetKind
SHOWN_CHANGES = 20


@craft.command("add")
def add(
    dataset: Reference,
    system: System = None,
    user: User = None,
    assistant: Assistant = None,
    reference: Annotated[str | None, typer.Option("--reference", help="Reference answer of a prompt.")] = None,
    chosen: Annotated[str | None, typer.Option("--chosen", help="Better answer of a preference.")] = None,
    rejected: Annotated[str | None, typer.Option("--rejected", help="Worse answer of a preference.")] = None,
    label: Label = None,
    tag: Tags = None,
    stdin: Stdin = False,
    create: Annotated[KindName | None, typer.Option("--create", help="Begin the dataset where there is none.")] = None,
    message: Note = "",
    json: Json = False,
) -> None:
    """Add rows: one from options, or any number as JSON (an object, a list, or one a line) with `--stdin`."""
    from workbench.datasets.editing import read_json_rows, with_tags
    from workbench.datasets.merging import Change

    workspace = output.open_workspace()
    kind, known = _kind_of(workspace, dataset, create)
    given = {"--system": system, "--user": user, "--assistant": assistant, "--reference": reference}
    given |= {"--chosen": chosen, "--rejected": rejected, "--label": label}
    named = [name for name, value in given.items() if value is not None]
    if stdin == bool(named):
        raise UsageError(
            "rows come either from options or from standard input", place="--stdin",
            remedy="Give --user and --assistant, or --stdin.",
        )  # fmt: skip
    rows = read_json_rows(kind, sys.stdin.read()) if stdin else [_row(kind, given)]
    changes = [Change(payload=with_tags(row, tag) if tag else row) for row in rows]
    if not known:
        # Looked at before the dataset is begun, so that a broken row leaves no empty one behind.
        from workbench.datasets.editing import require_sound

        for number, row in enumerate(rows, start=1):
            require_sound(row, place=f"row {number}")
        workspace.new_dataset(dataset, kind)
    _save(workspace, dataset, changes, message=message)


def _kind_of(workspace: Workspace, dataset: str, create: DatasetKind | None) -> tuple[DatasetKind, bool]:
    """What the dataset holds, and whether it is there."""
    try:
        return workspace.dataset(_name(workspace, dataset)).kind, True
    except NotFound:
        if create is None:
            raise
        return create, False


def _name(workspace: Workspace, reference: str) -> str:
    """The dataset's own name or id in `NAME@3`; a dataset without a version is meant by its name."""
    head, _, tail = reference.rpartition("@")
    if reference.startswith("ver_") or (head and tail.isdigit()):
        return workspace.version(reference).dataset_id
    return reference


def _row(kind: DatasetKind, given: dict[str, str | None]) -> Payload:
    wanted = {
        "instructions": ("--system", "--user", "--assistant"),
        "preferences": ("--system", "--user", "--chosen", "--rejected"),
        "labels": ("--system", "--user", "--assistant", "--label"),
        "prompts": ("--system", "--user", "--reference"),
    }[kind]
    for name, value in given.items():
        if value is not None and name not in wanted:
            raise UsageError(f"a row of {kind} has no such part", place=name, remedy=f"Use {', '.join(wanted)}.")
    if given["--user"] is None:
        raise UsageError("a row needs what the user says", place="--user", remedy="Give it.")
    turns = tuple(
        Message(role=role, content=text)
        for role, text in (("system", given["--system"]), ("user", given["--user"]))
        if text is not None
    )
    if kind == "prompts":
        return Prompt(messages=turns, reference=given["--reference"])
    if kind == "preferences":
        better, worse = (Message(role="assistant", content=given[name] or "") for name in ("--chosen", "--rejected"))
        return Preference(prompt=turns, chosen=(better,), rejected=(worse,))
    answer = Message(role="assistant", content=given["--assistant"] or "")
    if kind == "labels":
        if given["--label"] is None:
            raise UsageError("a row of labels needs its label", place="--label", remedy="Give good or bad.")
        return Labelled(prompt=turns, completion=(answer,), label=given["--label"] == "good")
    return Example(messages=(*turns, answer))


@craft.command("edit")
def edit(
    dataset: Reference,
    row: Annotated[str, typer.Argument(metavar="ROW", help="Row id, as `data show --json` tells it.")],
    system: System = None,
    user: User = None,
    assistant: Assistant = None,
    label: Label = None,
    tag: Tags = None,
    untag: Annotated[list[str] | None, typer.Option("--untag", help="A tag to take off.")] = None,
    stdin: Stdin = False,
    take: Take = None,
    message: Note = "",
    json: Json = False,
) -> None:
    """Change a row: the last turn of a role, its tags, or with `--stdin` all of it as JSON.

    An empty `--system` takes the system prompt away.
    """
    from workbench.datasets.editing import read_json_rows, tags_of, with_tags
    from workbench.datasets.merging import Change
    from workbench.datasets.versions import read_row

    workspace = output.open_workspace()
    version = workspace.version(dataset)
    payload = read_row(workspace.store, version, row).payload
    given: tuple[tuple[Role, str | None], ...] = (("system", system), ("user", user), ("assistant", assistant))
    texts = {role: text for role, text in given if text is not None}
    if stdin == bool(texts or label or tag or untag):
        raise UsageError(
            "the change comes either from options or from standard input", place="--stdin",
            remedy="Give --user, --assistant, --tag, …, or --stdin.",
        )  # fmt: skip
    if stdin:
        rows = read_json_rows(workspace.dataset(version.dataset_id).kind, sys.stdin.read())
        if len(rows) != 1:
            raise DataProblem("one row is changed at a time", value=len(rows), remedy="Give one JSON object.")
        payload = rows[0]
    for role, text in texts.items():
        payload = _with_turn(payload, role, text)
    if label is not None:
        if not isinstance(payload, Labelled):
            raise UsageError("this row has no label", place="--label", remedy="Only rows of labels have one.")
        payload = payload.model_copy(update={"label": label == "good"})
    if tag or untag:
        kept = [name for name in tags_of(payload.meta) if name not in (untag or [])]
        payload = with_tags(payload, [*kept, *(tag or [])])
    change = Change(row_id=row, base_id=version.id, payload=payload)
    _save(workspace, version.dataset_id, [change], take=take, message=message)


def _with_turn(payload: Payload, role: Role, text: str) -> Payload:
    name = "prompt" if isinstance(payload, Preference | Labelled) else "messages"
    if isinstance(payload, Labelled) and role == "assistant":
        name = "completion"
    turns: list[Message] = list(getattr(payload, name))
    places = [place for place, message in enumerate(turns) if message.role == role]
    if role == "system" and not text:
        turns = [message for message in turns if message.role != "system"]
    elif places:
        turns[places[-1]] = turns[places[-1]].model_copy(update={"content": text})
    elif role == "system":
        turns.insert(0, Message(role=role, content=text))
    else:
        raise UsageError(f"the row has no {role} turn", place=f"--{role}", remedy="Give the row as JSON with --stdin.")
    return payload.model_copy(update={name: tuple(turns)})


@craft.command("duplicate")
def duplicate(dataset: Reference, rows: RowIds, message: Note = "", json: Json = False) -> None:
    """Add copies of rows at the end."""
    from workbench.datasets.merging import Change
    from workbench.datasets.versions import read_row

    workspace = output.open_workspace()
    version = workspace.version(dataset)
    changes = [Change(payload=read_row(workspace.store, version, row).payload) for row in rows]
    _save(workspace, version.dataset_id, changes, message=message)


@craft.command("delete")
def delete(dataset: Reference, rows: RowIds, take: Take = None, message: Note = "", json: Json = False) -> None:
    """Delete rows; the versions of before keep them."""
    from workbench.datasets.merging import Change

    workspace = output.open_workspace()
    version = workspace.version(dataset)
    changes = [Change(row_id=row, base_id=version.id) for row in dict.fromkeys(rows)]
    _save(workspace, version.dataset_id, changes, take=take, message=message)


@craft.command("replace")
def replace(
    dataset: Reference,
    find: Annotated[str, typer.Argument(help="Text to find.", show_default=False)],
    put: Annotated[str, typer.Argument(help="What to put there; nothing when left out.")] = "",
    regex: Annotated[
        bool, typer.Option("--regex", help="FIND is a regular expression; \\1 in PUT is a group.")
    ] = False,
    ignore_case: Annotated[bool, typer.Option("--ignore-case", help="Capital and small letters are one.")] = False,
    scope: Annotated[
        Literal["all", "assistant", "user", "system"], typer.Option("--scope", help="Whose turns.")
    ] = "all",
    save: Annotated[
        bool, typer.Option("--save", help="Save a version; without it the changes are only shown.")
    ] = False,
    take: Take = None,
    message: Note = "",
    json: Json = False,
) -> None:
    """Find and replace over all rows. Shows every change; stores them only with `--save`."""
    from workbench.datasets.merging import Change

    workspace = output.open_workspace()
    version = workspace.version(dataset)
    found = workspace.preview_replacement(version.id, find, put, regex=regex, match_case=not ignore_case, scope=scope)
    if not save or not found.changed:
        show(_as_document(found), lambda out: _print_preview(out, found))
        return
    changes = [Change(row_id=row.row_id, base_id=version.id, payload=row.payload) for row in found.changed]
    words = message or f"Replaced text in {len(changes)} rows"
    _save(workspace, version.dataset_id, changes, take=take, message=words, more={"preview": _as_document(found)})


def _as_document(found: ReplacePreview) -> dict[str, Any]:
    def rows(of: Sequence[Any]) -> list[dict[str, Any]]:
        return [row.model_dump(mode="json", exclude={"payload"}) | {"count": row.count} for row in of]

    return {"rows": found.rows, "places": found.count, "changed": rows(found.changed), "refused": rows(found.refused)}


def _print_preview(out: Console, found: ReplacePreview) -> None:
    lines = [
        (row.row_id, turn.title, turn.count, _near(turn.before, turn.after), _near(turn.after, turn.before))
        for row in found.changed[:SHOWN_CHANGES]
        for turn in row.turns
    ]
    out.print(table(("row", "where", "places", "before", "after"), lines, empty="Nothing would change."))
    for row in found.refused[:SHOWN_CHANGES]:
        out.print(f"Left as it is: row {plain(row.row_id)}. {plain(row.problem)}")
    out.print(f"{found.count:,} places in {len(found.changed):,} of {found.rows:,} rows. `--save` stores them.")


def _near(text: str, other: str) -> str:
    """The neighbourhood of the first place where a text differs from the other."""
    same = next((n for n, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), min(len(text), len(other)))
    start = max(0, same - 30)
    cut = text[start : start + 90]
    return f"{'…' if start else ''}{cut}{'…' if start + 90 < len(text) else ''}"


@craft.command("revert")
def revert(dataset: Reference, to: Version = None, message: Note = "", json: Json = False) -> None:
    """Bring the rows of an older version back as a new one; by default those of the one before the newest."""
    workspace = output.open_workspace()
    made = workspace.revert(dataset, to, message=message)
    document = made.model_dump(mode="json", exclude={"manifest"})
    show(document, lambda out: out.print(f"Version {made.number} has the rows of before: {made.rows:,}."))


# ---- saving ----


def _save(
    workspace: Workspace,
    dataset: str,
    changes: Sequence[Change],
    *,
    take: Literal["mine", "theirs", "both"] | None = None,
    message: str = "",
    more: dict[str, Any] | None = None,
) -> None:

    found = workspace.dataset(_name(workspace, dataset))
    choices: list[Choice] = []
    saved = workspace.save_changes(found.id, changes, message=message)
    if saved.version is None and take is not None:
        choices = [_choice(conflict, take) for conflict in saved.conflicts]
        saved = workspace.save_changes(found.id, changes, choices=choices, message=message)
    if saved.version is None:
        raise typer.Exit(_tell_conflicts(saved))
    made = saved.version
    document = {
        "dataset_id": found.id, "version_id": made.id, "version": made.number, "rows": made.rows,
        "message": made.message, "edited": len(saved.applied.replaced), "new": len(saved.applied.appended),
        "deleted": len(saved.applied.removed), **(more or {}),
    }  # fmt: skip
    nothing = saved.over is not None and saved.over.id == made.id
    words = "Nothing changed: it says this already." if nothing else f"{saved.applied.told()}: version {made.number}."
    show(document, lambda out: out.print(f"{plain(found.name)}: {words} {made.rows:,} rows."))


def _choice(conflict: RowConflict, take: Literal["mine", "theirs", "both"]) -> Choice:
    from workbench.datasets.merging import Choice

    return Choice(row_id=conflict.row_id, take=take, theirs_hash=conflict.theirs_hash)


def _tell_conflicts(saved: Saved) -> int:
    from workbench.datasets.editing import payload_text

    if not output.surface.json:
        lines = [
            (c.row_id, payload_text(c.theirs) or "(deleted)", payload_text(c.mine) or "(deleted)")
            for c in saved.conflicts
        ]
        output.console(stderr=True).print(table(("row", "theirs", "mine"), lines, empty=""))
    number = len(saved.conflicts)
    error = Conflict(
        f"{number} {'row was' if number == 1 else 'rows were'} changed by somebody else too; nothing was stored",
        value=", ".join(conflict.row_id for conflict in saved.conflicts[:5]),
        remedy="Look at both and say --take mine, theirs or both.",
    )
    return output.tell_error(error, more={"conflicts": saved.conflicts})
