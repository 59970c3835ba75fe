"""The manifest: everything an adapter or a reward model was made from, named by what it is and not by a home's ids.

Data, base, earlier adapter and reward model stand in it as digests, so that another home where the same are present
can use it as well. Making the thing again from it is `reproduce`'s business.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import JsonValue, ValidationError

from workbench.errors import Conflict, NotFound, UsageError
from workbench.records import Record, Run, RunState, Variant
from workbench.store import datasets as dataset_store
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.store.database import Store
from workbench.store.lineage import read_inputs
from workbench.training.labels import LABELS_FILE
from workbench.training.provenance import digest_reading, made_with
from workbench.training.reward_models import RewardModel
from workbench.training.rl_rewards import read_pinned_reward

REINFORCED = ("rloo", "grpo")
"""Kinds that learn from a reward model."""


class DataPin(Record):
    """A dataset version by what it holds."""

    name: str
    """What it was called."""
    content_hash: str
    """Digest over the ordered row hashes."""
    rows: int
    """Rows."""


class RewardPin(Record):
    """A reward model by what it is."""

    name: str
    """What it was called."""
    digest: str
    """Of its weights and bias."""
    base_name: str
    """What its base was called."""
    base_digest: str
    """Digest of its base's weights."""
    base_reading: str | None = None
    """Digest of its base's tokenizer and chat template; None where an earlier version pinned it."""


class Manifest(Record):
    """Everything an adapter or a reward model was made from."""

    format: Literal["workbench-manifest-1"] = "workbench-manifest-1"
    """Of this file."""
    name: str
    """Name of the variant, or of the reward model."""
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
    base_reading: str | None = None
    """Digest of its tokenizer and chat template; None in manifests that do not tell."""
    data: DataPin
    """What it was trained on."""
    held_out: DataPin | None = None
    """What it was measured on, where that is a dataset of its own."""
    demonstrations: DataPin | None = None
    """What a reward model's zero was set by, where that is a dataset of its own."""
    labels_digest: str | None = None
    """Digest of what it read of rankings beside the rows, as KTO does; None where it reads rows alone, and in manifests
    that do not tell."""
    adapter_before: str | None = None
    """Digest of the adapter it went on from."""
    reward: RewardPin | None = None
    """The reward model it learned from."""
    made_with: dict[str, JsonValue]
    """Code, lock digest, libraries, threads, machine."""
    adapter_digest: str
    """What came out: digest of the adapter, or of the reward model."""


def make_manifest(store: Store, made: Variant | RewardModel) -> Manifest:
    """The manifest of an adapter or a reward model that was trained here.

    Raises:
        UsageError: it was not, or its run did not finish.
        NotFound: its run, data, base or reward model is gone.
        Conflict: rows of its data were purged, so that it cannot be made again.
        ModelProblem: the base's files are gone.
    """
    run, digest = _run_of(store, made)
    told = run.result
    inputs = {"version_id": told.get("version_id"), "model_id": made.model_id, **read_inputs(store, run.id)}
    model = model_store.get_model(store, str(inputs["model_id"]))
    held_out, before = inputs.get("held_out_version_id"), inputs.get("adapter_id")
    demonstrations = told.get("demonstrations_version_id")
    known, reading = told.get("made_with"), told.get("base_reading")
    return Manifest(
        name=made.name,
        kind=run.kind,
        spec=run.spec,
        seed=_whole(run.spec.get("seed")),
        dtype=str(run.spec["dtype"]) if run.spec.get("dtype") else None,
        base_name=model.name,
        base_digest=model.base_digest or "",
        base_reading=reading if isinstance(reading, str) else digest_reading(model),
        data=_pin(store, str(inputs["version_id"])),
        held_out=_pin(store, str(held_out)) if held_out else None,
        demonstrations=_pin(store, str(demonstrations)) if demonstrations else None,
        labels_digest=_labels_digest(store, run),
        adapter_before=model_store.get_variant(store, str(before)).adapter_digest if before else None,
        reward=_pin_reward(store, run) if run.kind in REINFORCED else None,
        made_with=known if isinstance(known, dict) else made_with(store.settings),
        adapter_digest=digest,
    )


def _run_of(store: Store, made: Variant | RewardModel) -> tuple[Run, str]:
    digest = made.digest if isinstance(made, RewardModel) else made.adapter_digest
    if made.run_id is None or digest is None:
        raise UsageError(
            "only an adapter or a reward model that was trained here can be reproduced",
            value=made.name,
            remedy="Choose a variant that a training run made.",
        )
    run = run_store.get_run(store, made.run_id)
    if run.state is not RunState.FINISHED:
        raise UsageError("the run that made it has not finished", place=run.name, value=run.state.value)
    return run, digest


def _whole(value: JsonValue) -> int | None:
    return value if isinstance(value, int) else None


def _pin(store: Store, version_id: str) -> DataPin:
    version = dataset_store.get_version(store, version_id)
    dataset = dataset_store.get_dataset(store, version.dataset_id)
    name = f"{dataset.name}@{version.number}"
    if version.manifest.get("purged"):
        raise Conflict("rows of its data were purged, so that the same adapter cannot be made again", place=name)
    return DataPin(name=name, content_hash=version.content_hash, rows=version.rows)


def _labels_digest(store: Store, run: Run) -> str | None:
    told = run.result.get("labels_digest")
    path = store.settings.run_dir(run.id) / LABELS_FILE
    if isinstance(told, str) or not path.is_file():
        return told if isinstance(told, str) else None
    return hashlib.sha256(path.read_bytes()).hexdigest()  # of a run that did not tell it


def _pin_reward(store: Store, run: Run) -> RewardPin:
    """The reward model as the run pinned it at its first start."""
    pinned = read_pinned_reward(store.settings.run_dir(run.id))
    if pinned is None:
        raise UsageError(
            "the run learned from a reward that is no reward model of this home, so that it cannot be made again",
            place=run.name,
            remedy="Train a reward model, and reinforce with that.",
        )
    if pinned.base_digest:
        base = {key: getattr(pinned, key) for key in ("base_name", "base_digest", "base_reading")}
    else:  # a run that began before its pin told the base
        model = model_store.get_model(store, _reward_base_id(store, pinned.run_id))
        base = {"base_name": model.name, "base_digest": model.base_digest or "", "base_reading": digest_reading(model)}
    name = pinned.name or run_store.get_run(store, pinned.run_id).name
    return RewardPin(name=name, digest=pinned.digest, **base)


def _reward_base_id(store: Store, run_id: str) -> str:
    told = run_store.get_run(store, run_id).result.get("reward")
    if not isinstance(told, dict) or not told.get("model_id"):
        raise NotFound("the reward model it learned from is gone", value=run_id)
    return str(told["model_id"])


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
        place = str(source)
        source = _read_file(source)
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


def _read_file(path: Path) -> Any:
    import yaml

    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"the manifest cannot be read: {why}", place=str(path)) from error
    try:
        return json.loads(text)  # first, because YAML takes JSON's 5e-05 for a text
    except ValueError:
        pass
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError("the manifest cannot be read: it is neither JSON nor YAML", place=str(path)) from error
