"""How commands speak: tables and progress for people, one JSON document with `--json`; errors and exit codes.

Nothing but the answer goes to standard output. Progress and notes go to standard error, and not at all with `--json`.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.errors import UsageError, WorkbenchError
from workbench.runs.words import span as span

if TYPE_CHECKING:
    from rich.console import Console

    from workbench.api import Workspace
    from workbench.settings import Settings

_PIPE_WIDTH = 1000
DONE, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130


@dataclass
class Surface:
    """What holds for one call of the command line."""

    json: bool = False
    """Whether standard output gets one JSON document and nothing else."""
    home: Path | None = None
    """Home folder, where `--home` names one."""
    opened: list[Workspace] = field(default_factory=list)
    """Workspaces to close when the call is over."""


surface = Surface()


def _ask_for_json(value: bool) -> bool:
    surface.json = surface.json or value
    return value


Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print one JSON document and nothing else on standard output.",
        is_eager=True,
        callback=_ask_for_json,
    ),
]


def load_settings() -> Settings:
    """Settings of the environment, with `--home` where it was given.

    Raises:
        UsageError: a WORKBENCH_… variable does not hold.
    """
    from pydantic import ValidationError

    from workbench.settings import Settings

    try:
        return Settings() if surface.home is None else Settings(home=surface.home)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        name = str(problem["loc"][0]) if problem["loc"] else "settings"
        raise UsageError(
            str(problem["msg"]),
            place=name if name.isupper() else f"WORKBENCH_{name.upper()}",
            value=problem.get("input"),
            remedy="Change the variable or unset it.",
        ) from error


def open_workspace() -> Workspace:
    """The workspace that this call works on."""
    from workbench.api import Workspace

    workspace = Workspace(settings=load_settings())
    surface.opened.append(workspace)
    return workspace


# Speaking ----------------------------------------------------------------------------------------------------------


def show(document: Any, human: Callable[[Console], None]) -> None:
    """Print the answer: the document with `--json`, else what `human` prints."""
    if surface.json:
        print_json(document)
        return
    human(console())


def print_json(document: Any) -> None:
    """Print one JSON document; figures that are no numbers become null, which JSON has and NaN it has not."""
    ascii_only = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    sys.stdout.write(json.dumps(as_json(document), ensure_ascii=ascii_only, indent=2, default=str) + "\n")
    sys.stdout.flush()


def as_json(value: Any) -> Any:
    """Records, paths and times as plain JSON values."""
    from pydantic import BaseModel

    if isinstance(value, BaseModel):
        return as_json(value.model_dump(mode="json"))
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [as_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def console(*, stderr: bool = False) -> Console:
    """A console that prints text as text: no markup, no emoji codes, no guessed highlighting."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    # Into a file or pipe nothing is folded, so that lines can be searched.
    width = None if stream.isatty() else _PIPE_WIDTH
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True, width=width)


def note(text: str) -> None:
    """Say something beside the answer; not with `--json`."""
    if not surface.json:
        console(stderr=True).print(plain(text))


def plain(text: object) -> str:
    """Text without control characters: a model's answer must not drive the terminal."""
    return "".join(c for c in str(text) if c in "\n\t" or (c.isprintable() or c.isspace() and c not in "\r\v\f\x85"))


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str, right: Sequence[str] = ()) -> Any:
    """A table of plain texts, or the sentence for an empty one."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return Text(empty)
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text("" if cell is None else plain(cell)) for cell in row))
    return made


def facts(pairs: Sequence[tuple[str, object]]) -> Any:
    """Names and values under each other; empty values are left out."""
    from rich.table import Table
    from rich.text import Text

    made = Table.grid(padding=(0, 2))
    for name, value in pairs:
        if value is not None and value != "":
            made.add_row(Text(name, style="dim"), Text(plain(value)))
    return made


def ago(moment: datetime | None) -> str:
    """A time as its distance from now."""
    from workbench.records import utc_now

    if moment is None:
        return ""
    seconds = max(0.0, (utc_now() - moment).total_seconds())
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def share(figure: Mapping[str, Any] | None) -> str:
    """A share with its interval and n."""
    if not figure or figure.get("share") is None:
        return "no figure"
    return f"{figure['share']:.0%} ({figure['low']:.0%} to {figure['high']:.0%}, n = {figure['n']})"


# Errors ------------------------------------------------------------------------------------------------------------


def tell_error(error: WorkbenchError, *, more: Mapping[str, Any] | None = None) -> int:
    """Say what went wrong and return the exit code."""
    if surface.json:
        told = {
            "kind": type(error).__name__,
            "what": error.what,
            "place": error.place,
            "value": error.value if isinstance(error.value, str | int | float | bool | None) else str(error.value),
            "remedy": error.remedy,
        }
        print_json({"error": told, **(more or {})})
    else:
        out = console(stderr=True)
        out.print("Error:", style="bold red", end=" ")
        out.print(plain(error.sentence()))
    return WRONG_USE if isinstance(error, UsageError) else FAILED


@contextmanager
def told_as_options(fields: Mapping[str, Any]) -> Iterator[None]:
    """Turn a refused config field into the option it came from: `learning_rate` becomes `--learning-rate`."""
    from pydantic import ValidationError

    from workbench.runs.kinds import config_problem

    try:
        try:
            yield
        except ValidationError as error:
            raise config_problem(error) from error
    except UsageError as error:
        name = error.place.partition(".")[0]
        if name not in fields:
            raise
        raise UsageError(error.what, place=option_name(name), value=error.value, remedy=error.remedy) from error


def option_name(field: str) -> str:
    """The option of a config field."""
    return "--" + field.replace("_", "-")
