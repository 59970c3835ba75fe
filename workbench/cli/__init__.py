"""The command line: every command is one call into `workbench.api.Workspace`, told as a table or as JSON.

`main` is the entry point. Commands live in one module per subject and are loaded when they are used, so that
`workbench --help` answers at once; none of them imports torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from workbench import __version__
from workbench.cli import output
from workbench.errors import StoreProblem, UsageError, WorkbenchError

COMMANDS = {
    "app": ("workbench.cli.serving:app_command", "Start the app in the browser."),
    "tour": ("workbench.cli.touring:tour", "See it all once: data, training, base and tuned answers, figures."),
    "data": ("workbench.cli.data:data", "Import, look at and export datasets."),
    "craft": ("workbench.cli.crafting:craft", "Write, edit, delete and replace rows by hand."),
    "self-instruct": ("workbench.cli.growing:grow", "Grow a dataset from a few hand-written tasks."),
    "train": ("workbench.cli.training:train", "Fine-tune in the background."),
    "runs": ("workbench.cli.runs:runs", "Watch, stop, resume and clone background runs."),
    "models": ("workbench.cli.models:models", "Base models, adapters and variants."),
    "servers": ("workbench.cli.models:servers", "Remote OpenAI-compatible servers."),
    "generate": ("workbench.cli.text:generate", "Answer one prompt."),
    "compare": ("workbench.cli.text:compare", "Answer a prompt, or a prompt set, with several variants."),
    "answers": ("workbench.cli.text:answers", "Show and export answers to a prompt set."),
    "rank": ("workbench.cli.ranking:rank", "Rank answers blind, and turn rankings into data."),
    "leaderboard": ("workbench.cli.ranking:leaderboard", "Which variant people prefer, and how sure that is."),
    "reward": ("workbench.cli.reward:reward", "Reward models: their reports, scores of answers, best of n."),
    "serve": ("workbench.cli.serving:serve", "Start a model's engine and tell where it listens."),
    "demo": ("workbench.cli.showing:demo", "Start and stop a page for visitors: side by side and blind votes."),
    "report": ("workbench.cli.showing:report", "Write answers to a prompt set as one HTML file."),
    "export": ("workbench.cli.sharing:export", "Share a variant: zip, merged weights, Ollama folder, hub repository."),
    "lineage": ("workbench.cli.sharing:lineage", "What came from what; make an adapter again; purge a row."),
    "doctor": ("workbench.cli.doctor:doctor", "Check this machine and this installation."),
}
"""Each command: `module:name` of what it is, and its line in the help."""


class LazyGroup(TyperGroup):
    """A group that loads a command's module when the command is used; its own help needs none of them."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All names, in the table's order."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """What the help shows of a command."""
        if cmd_name not in COMMANDS:
            return None
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name][1])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command itself."""
        name, found, rest = super().resolve_command(ctx, args)
        return name, None if found is None or name is None else load_command(name), rest


def load_command(name: str) -> Any:
    """The command of this name, its module imported.

    Args:
        name: a key of `COMMANDS`.
    """
    module, _, attribute = COMMANDS[name][0].partition(":")
    made = getattr(import_module(module), attribute)
    if not isinstance(made, typer.Typer):
        single = typer.Typer(add_completion=False)
        single.command(name)(made)
        made = single
    command = typer.main.get_command(made)
    command.name = name
    return command


app = typer.Typer(
    cls=LazyGroup,
    name="workbench",
    help="Build instruction datasets, fine-tune LoRA adapters, compare what they answer.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(value: bool) -> None:
    if value:
        sys.stdout.write(f"workbench {__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    home: Annotated[
        Path | None, typer.Option("--home", help="Folder of the workbench; default WORKBENCH_HOME or ~/.workbench.")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    output.surface.home = home


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong use, 130 interrupted.

    Args:
        arguments: without the program's name; those of the process when None.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A terminal that lacks a character gets a question mark instead of a traceback.
            stream.reconfigure(errors="replace")
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def run(arguments: list[str]) -> int:
    """Run the command line and return the exit code."""
    before = arguments[: arguments.index("--")] if "--" in arguments else arguments
    output.surface = output.Surface(json="--json" in before)
    # Click's own base of everything that is told to the user as wrong use; not exported by newer typer.
    wrong_use: type[Exception] = typer.BadParameter.__mro__[2]
    try:
        code = app(arguments, standalone_mode=False, prog_name="workbench")
        return code if isinstance(code, int) else output.DONE
    except WorkbenchError as error:
        return output.tell_error(error)
    except wrong_use as error:
        return _tell_wrong_use(error)
    except (KeyboardInterrupt, typer.Abort):
        output.note("Interrupted.")
        return output.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone: what is left in the buffer has nowhere to go either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return output.FAILED
    except OSError as error:
        place = str(error.filename or "")
        return output.tell_error(StoreProblem(error.strerror or str(error), place=place))
    except Exception as error:
        # A fault of ours: its traceback is wanted, but whoever reads JSON still gets a document.
        if output.surface.json:
            output.tell_error(WorkbenchError(f"unexpected: {type(error).__name__}: {error}", remedy="Report this."))
        raise
    finally:
        for workspace in output.surface.opened:
            workspace.store.close()


def _tell_wrong_use(error: Any) -> int:
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stderr.write(error.format_message() + "\n")
        return output.WRONG_USE
    path = context.command_path if context is not None else "workbench"
    message = str(error.format_message()).rstrip(".").replace("Value error, ", "")
    return output.tell_error(UsageError(message, remedy=f"`{path} --help` shows how it is used."))
