"""Reproduce: a manifest of everything an adapter was made from, and the run that makes it again from one.

A manifest names data, base and earlier adapters by what they are (digests), not by ids of one home folder, so that it
also works in another where the same are present. On one machine with the same packages and threads on CPU, the same
manifest gives the same adapter, digest and all; where something differs, `check_manifest` says so before anything runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import JsonValue, ValidationError

from workbench.errors import Conflict, NotFound, UsageError
from workbench.records import Record, Run, RunState, Variant, Version
from workbench.runs.kinds import get_kind
from workbench.runs.launch import launch_run
from workbench.store import datasets as dataset_store
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.store.database import Store
from workbench.store.lineage import read_inputs
from workbench.training.provenance import made_with


class DataPin(Record):
    """A dataset version by what it holds."""

    name: str
    """What it was called."""
    content_hash: str
    """Digest over the ordered row hashes."""
    rows: int
    """Rows."""


class Manifest(Record):
    """Everything an adapter was made from."""

    format: Literal["workbench-manifest-1"] = "workbench-manifest-1"
    """Of this file."""
    name: str
    """Name of the variant."""
    kind: str
    """Kind of the run."""
    spec: dict[str, JsonValue]
    """The run's settings."""
    seed: int | None = None
    """Seed, as in the settings."""
    dtype: str | None = None
    """Number format of the base, as in the settings."""
    base_name: str
    """What the base was called."""
    base_digest: str
    """Digest of its weights."""
    data: DataPin
    """What it was trained on."""
    held_out: DataPin | None = None
    """What it was measured on, where that is a dataset of its own."""
    adapter_before: str | None = None
    """Digest of the adapter it went on from."""
    made_with: dict[str, JsonValue]
    """Code, lock digest, libraries, threads, machine."""
    adapter_digest: str
    """What came out."""


class Finding(Record):
    """Something that is not as the manifest says."""

    severity: Literal["missing", "differs"]
    """Missing stops it; what differs may change the outcome."""
    what: str
    """In words."""


def make_manifest(store: Store, variant: Variant) -> Manifest:
    """The manifest of an adapter that was trained here.

    Raises:
        UsageError: it was not, or its run did not finish.
        NotFound: its run, data or base is gone.
        Conflict: rows of its data were purged, so that it cannot be made again.
    """
    if variant.run_id is None or variant.adapter_digest is None:
        raise UsageError(
            "only an adapter that was trained here can be reproduced",
            value=variant.name,
            remedy="Choose a variant that a training run made.",
        )
    run = run_store.get_run(store, variant.run_id)
    if run.state is not RunState.FINISHED:
        raise UsageError("the run that made it has not finished", place=run.name, value=run.state.value)
    inputs = {"version_id": run.result.get("version_id"), "model_id": variant.model_id, **read_inputs(store, run.id)}
    model = model_store.get_model(store, str(inputs["model_id"]))
    held_out = inputs.get("held_out_version_id")
    before = inputs.get("adapter_id")
    known = run.result.get("made_with")
    return Manifest(
        name=variant.name,
        kind=run.kind,
        spec=run.spec,
        seed=_whole(run.spec.get("seed")),
        dtype=str(run.spec["dtype"]) if run.spec.get("dtype") else None,
        base_name=model.name,
        base_digest=model.base_digest or "",
        data=_pin(store, str(inputs["version_id"])),
        held_out=_pin(store, str(held_out)) if held_out else None,
        adapter_before=model_store.get_variant(store, str(before)).adapter_digest if before else None,
        made_with=known if isinstance(known, dict) else made_with(store.settings),
        adapter_digest=variant.adapter_digest,
    )


def _whole(value: JsonValue) -> int | None:
    return value if isinstance(value, int) else None


def _pin(store: Store, version_id: str) -> DataPin:
    version = dataset_store.get_version(store, version_id)
    dataset = dataset_store.get_dataset(store, version.dataset_id)
    name = f"{dataset.name}@{version.number}"
    if version.manifest.get("purged"):
        raise Conflict("rows of its data were purged, so that the same adapter cannot be made again", place=name)
    return DataPin(name=name, content_hash=version.content_hash, rows=version.rows)


def write_manifest(manifest: Manifest, path: Path) -> Path:
    """Write a manifest as JSON, which is YAML as well.

    Raises:
        UsageError: the file cannot be written.
    """
    try:
        path.write_text(json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n", "utf-8")
    except OSError as error:
        raise UsageError(f"the manifest cannot be written: {error.strerror}", place=str(path)) from error
    return path


def read_manifest(source: Path | Mapping[str, Any]) -> Manifest:
    """A manifest from a JSON or YAML file, or from its fields.

    Raises:
        UsageError: it is none; names the field.
    """
    place = "manifest"
    if isinstance(source, Path):
        import yaml

        place = str(source)
        try:
            source = yaml.safe_load(source.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is neither JSON nor YAML"
            raise UsageError(f"the manifest cannot be read: {why}", place=place) from error
    try:
        return Manifest.model_validate(source)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise UsageError(
            f"this is no manifest: {field}: {first['msg'].lower()}",
            place=place,
            remedy="Make one with `workbench lineage manifest VARIANT`.",
        ) from error


def check_manifest(store: Store, manifest: Manifest) -> list[Finding]:
    """What is missing here, and what differs from when the adapter was made; what is missing comes first."""
    found = []
    try:
        _resolve(store, manifest)
    except NotFound as error:
        found.append(Finding(severity="missing", what=error.sentence()))
    now = made_with(store.settings)
    for key, then in manifest.made_with.items():
        if now.get(key) != then:
            found.append(Finding(severity="differs", what=f"{key.replace('_', ' ')}: {then} then, {now.get(key)} now"))
    return found


def reproduce(store: Store, manifest: Manifest) -> Run:
    """Launch the run that makes the adapter again.

    Raises:
        NotFound: base, data or the adapter it went on from is not here; says which.
        UsageError: its settings no longer hold.
    """
    return launch_run(store, manifest.kind, spec_here(store, manifest), name=f"{manifest.name[:180]} reproduced")


def spec_here(store: Store, manifest: Manifest) -> dict[str, Any]:
    """The manifest's settings with this home's ids for what they name.

    Raises:
        NotFound: base, data or the adapter it went on from is not here; says which.
    """
    return {**manifest.spec, **_resolve(store, manifest)}


def is_same(manifest: Manifest, run: Run) -> bool:
    """Whether a run that has ended made the manifest's adapter, to the last bit."""
    return run.state is RunState.FINISHED and run.result.get("adapter_digest") == manifest.adapter_digest


def _resolve(store: Store, manifest: Manifest) -> dict[str, Any]:
    fields = get_kind(manifest.kind).load_config().model_fields
    here: dict[str, Any] = {}
    models = [m for m in model_store.list_models(store, archived=True) if m.base_digest == manifest.base_digest]
    ready = next((model for model in models if model.path is not None), None)
    if ready is None:
        raise NotFound(
            f"the base {manifest.base_name!r} is not here",
            value=manifest.base_digest[:16],
            remedy="Add the same model on the Models page.",
        )
    here["model"] = ready.id
    here["dataset"] = _find(store, manifest.data).id
    if manifest.held_out is not None:
        here["held_out"] = _find(store, manifest.held_out).id
    if manifest.adapter_before is not None:
        variants = model_store.list_variants(store, archived=True)
        before = next((item for item in variants if item.adapter_digest == manifest.adapter_before), None)
        if before is None:
            raise NotFound(
                "the adapter that training went on from is not here",
                value=manifest.adapter_before[:16],
                remedy="Import it, or reproduce it first.",
            )
        here["adapter"] = before.id
    return {key: value for key, value in here.items() if key in fields}


def _find(store: Store, pin: DataPin) -> Version:
    for dataset in dataset_store.list_datasets(store, archived=True):
        for version in dataset_store.list_versions(store, dataset.id):
            if version.content_hash == pin.content_hash and not version.manifest.get("purged"):
                return version
    raise NotFound(
        f"the rows of {pin.name!r} are not here",
        value=pin.content_hash[:16],
        remedy="Import the same file; equal rows in equal order give an equal hash.",
    )
