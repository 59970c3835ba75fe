"""`workbench models …` and `workbench servers …`: what can answer."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from workbench.cli import output
from workbench.cli.following import check_finished, follow, told_interval
from workbench.cli.options import with_config
from workbench.cli.output import Json, facts, plain, show, table
from workbench.cli.runs import launched
from workbench.errors import UsageError
from workbench.models.adding import AddModelConfig
from workbench.records import Interval, Model, ModelSource, Run, Variant
from workbench.settings import typed_path
from workbench.training.divergence import KLConfig

if TYPE_CHECKING:
    from workbench.api import Workspace

models = typer.Typer(help="Base models, adapters and variants.", no_args_is_help=True, add_completion=False)
servers = typer.Typer(help="Remote OpenAI-compatible servers.", no_args_is_help=True, add_completion=False)
KEY_VARIABLE = "WORKBENCH_SERVER_KEY"


@models.command("list")
def list_models(
    archived: Annotated[bool, typer.Option("--archived", help="Also those that were put away.")] = False,
    json: Json = False,
) -> None:
    """List base models."""
    found = output.open_workspace().models(archived=archived)
    rows = [
        (m.name, m.source.value, "ready" if m.path else "not ready yet", _size(m), m.info.get("context_length"), m.id)
        for m in found
    ]
    columns = ("name", "source", "state", "parameters", "context", "id")
    show(found, lambda out: out.print(table(columns, rows, empty="No models.", right=("parameters", "context"))))


def _size(model: Model) -> str:
    parameters = model.info.get("parameters")
    return f"{parameters / 1e6:,.3g} M" if isinstance(parameters, int | float) else ""


@models.command("show")
def show_model(
    model: Annotated[str, typer.Argument(help="Name or id; `bundled` for the bundled one.", show_default=False)],
    json: Json = False,
) -> None:
    """Show a base model and its variants."""
    workspace = output.open_workspace()
    found = workspace.model(model)
    variants = [variant for variant in workspace.variants() if variant.model_id == found.id]

    def human(out: Console) -> None:
        told: list[tuple[str, object]] = [("name", found.name), ("id", found.id), ("source", found.source.value)]
        told += [
            ("reference", found.reference),
            ("folder", found.path or "not ready yet"),
            ("digest", found.base_digest),
        ]
        told += [(name.replace("_", " "), value) for name, value in found.info.items()]
        out.print(facts(told))
        out.print(_variant_table(variants, {found.id: found.name}))

    show(found.model_dump(mode="json") | {"variants": [v.model_dump(mode="json") for v in variants]}, human)


@models.command("add")
@with_config(AddModelConfig, arguments=("source", "reference"))
def add_model(
    options: dict[str, Any],
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow it to its end.")] = True,
    json: Json = False,
) -> None:
    """Add a base model: `bundled`, `hub ID`, `local FOLDER` or `gguf FILE`."""
    from workbench.models.adding import check_source
    from workbench.runs.kinds import parse_config

    source = options.get("source")
    if source in (ModelSource.LOCAL.value, ModelSource.GGUF.value) and options.get("reference"):
        # The run works in another folder than this shell.
        options["reference"] = str(typed_path(options["reference"]))
    config = parse_config("add_model", options)
    if isinstance(config, AddModelConfig):
        check_source(config)
    workspace = output.open_workspace()
    name = options.get("name") or options.get("reference") or "the bundled model"
    launched(workspace, workspace.launch("add_model", config, name=f"Add {name}"), wait)


@models.command("delete")
def delete_model(
    model: Annotated[str, typer.Argument(help="Name or id of a base model.", show_default=False)],
    json: Json = False,
) -> None:
    """Delete a base model that nothing was made with, for good; its own files elsewhere stay where they are."""
    workspace = output.open_workspace()
    found = workspace.model(model)
    workspace.delete_model(found.id)
    show({"deleted": found.id}, lambda out: out.print(f"{plain(found.name)} is deleted."))


@models.command("variants")
def variants(
    archived: Annotated[bool, typer.Option("--archived", help="Also those that were put away.")] = False,
    json: Json = False,
) -> None:
    """List what can answer: bases, adapters, models on servers."""
    workspace = output.open_workspace()
    found = workspace.variants(archived=archived)
    names = {model.id: model.name for model in workspace.models(archived=True)}
    names |= {server.id: server.name for server in workspace.servers()}
    show(found, lambda out: out.print(_variant_table(found, names)))


def _variant_table(found: list[Variant], names: dict[str, str]) -> Any:
    rows = [
        (
            variant.name,
            names.get(variant.model_id or variant.server_id or "", ""),
            variant.remote_model or ("adapter" if variant.adapter_path else "base"),
            (variant.adapter_digest or "")[:12],
            ", ".join(variant.tags),
            variant.id,
        )
        for variant in found
    ]
    columns = ("name", "of", "what", "digest", "tags", "id")
    return table(columns, rows, empty="No variants yet. `workbench models add bundled` makes the first.")


@models.command("import-adapter")
def import_adapter(
    folder: Annotated[Path, typer.Argument(help="PEFT LoRA folder.", show_default=False)],
    name: Annotated[str, typer.Option("--name", help="Name of the variant.")],
    model: Annotated[str, typer.Option("--model", help="Base model it was trained on.")] = "bundled",
    json: Json = False,
) -> None:
    """Take in a LoRA adapter made elsewhere, after checking that it fits the base."""
    variant = output.open_workspace().import_adapter(typed_path(folder), model, name)
    show(variant, lambda out: out.print(f"{plain(variant.name)}: {variant.id}"))


@models.command("kl")
@with_config(KLConfig, arguments=("variant",))
def measure_kl(
    options: dict[str, Any],
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the run to its end and tell the KL.")] = True,
    json: Json = False,
) -> None:
    """Measure how far a variant has moved from its base, or from `--reference`, on answers to `--prompts`."""
    from workbench.runs.kinds import parse_config

    parse_config("kl", options)  # what is missing or out of bounds is told before anything is looked up
    workspace = output.open_workspace()
    run = workspace.measure_kl(options.pop("variant"), options.pop("prompts"), **options)
    if not wait:
        launched(workspace, run, wait=False)
        return
    run = follow(workspace, run)
    check_finished(run)
    show(run, lambda out: out.print(facts(_kl_facts(workspace, run))))


def _kl_facts(workspace: Workspace, run: Run) -> list[tuple[str, object]]:
    told: Any = run.result
    names = [workspace.variant(str(told[side])).name for side in ("variant", "reference")]
    estimate = Interval.model_validate(told["kl_sequence"])
    return [
        ("variant", names[0]),
        ("held against", names[1]),
        ("KL, nats an answer", told_interval(estimate, ".3f")),
        ("KL, nats a token", f"{told['kl_token']:.4f}"),
        ("answers", f"{told['n']:,}, of {told['mean_tokens']:.0f} tokens on average"),
        ("run", run.id),
    ]


@servers.command("list")
def list_servers(json: Json = False) -> None:
    """List remote servers."""
    found = output.open_workspace().servers()
    rows = [(server.name, server.base_url, server.id) for server in found]
    show(found, lambda out: out.print(table(("name", "address", "id"), rows, empty="No servers yet.")))


@servers.command("add")
def add_server(
    name: Annotated[str, typer.Argument(help="Name of the server.", show_default=False)],
    base_url: Annotated[str, typer.Argument(help="Address; ends before /chat/completions.", show_default=False)],
    key_file: Annotated[
        Path | None, typer.Option("--key-file", help=f"File with the key. Else {KEY_VARIABLE}, else it is asked for.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", help="Make a variant for this model of the server; repeatable.")
    ] = None,
    json: Json = False,
) -> None:
    """Add an OpenAI-compatible server after probing it. The key never stands on the command line."""
    workspace = output.open_workspace()
    server = workspace.add_server(name, base_url, read_key(key_file))
    made = [workspace.remote_variant(server.id, remote) for remote in model or []]

    def human(out: Console) -> None:
        out.print(facts([("server", server.name), ("id", server.id), ("address", server.base_url)]))
        out.print(facts([(name, value) for name, value in server.capabilities.items()]))
        for variant in made:
            out.print(f"Variant {plain(variant.name)}: {variant.id}")

    show(server.model_dump(mode="json") | {"variants": [v.model_dump(mode="json") for v in made]}, human)


def read_key(key_file: Path | None) -> str:
    """A server's key: from the file, else the environment, else asked for on a terminal, else none.

    Raises:
        UsageError: the file cannot be read or is empty.
    """
    if key_file is not None:
        try:
            key = typed_path(key_file).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not a text file"
            raise UsageError(f"the key cannot be read: {why}", place="--key-file", value=str(key_file)) from error
        if not key:
            raise UsageError("the file holds no key", place="--key-file", value=str(key_file))
        return key
    if KEY_VARIABLE in os.environ:
        return os.environ[KEY_VARIABLE].strip()
    if sys.stdin.isatty() and not output.surface.json:
        return str(
            typer.prompt("Key (empty for none)", default="", hide_input=True, show_default=False, err=True)
        ).strip()
    return ""
