"""Reproduce: the run that makes an adapter or a reward model again from its manifest.

On one machine with the same packages and threads on CPU, the same manifest gives the same digest. What is missing here
stops it; what differs is said before anything runs. What a manifest holds is `manifests`' business.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from workbench.errors import ModelProblem, NotFound, TemplateProblem, WorkbenchError
from workbench.records import Model, Record, Run, RunState, Version, new_id
from workbench.runs.kinds import get_kind
from workbench.runs.launch import launch_run
from workbench.runs.manifests import REINFORCED, DataPin, Manifest, RewardPin
from workbench.store import datasets as dataset_store
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.store.database import Store
from workbench.store.lineage import ALL_RUNS
from workbench.training.labels import LABELS_FILE, labels_now, write_labels
from workbench.training.provenance import digest_reading, made_with
from workbench.training.reward_models import check_reward_folder, list_reward_models

KTO = "kto"
Missing = (NotFound, ModelProblem, TemplateProblem)


class Finding(Record):
    """Something that is not as the manifest says."""

    severity: Literal["missing", "differs"]
    """Missing stops it; what differs may change the outcome."""
    what: str
    """In words."""


def check_manifest(store: Store, manifest: Manifest) -> list[Finding]:
    """What is missing here, and what differs from when the adapter was made; what is missing comes first."""
    _, missing = _resolve(store, manifest)
    found = [Finding(severity="missing", what=error.sentence()) for error in missing]
    if manifest.kind == KTO and manifest.labels_digest is None:
        what = "the manifest does not say what rankings added to the rows; they may add something else by now"
        found.append(Finding(severity="differs", what=what))
    now = made_with(store.settings)
    for key, then in manifest.made_with.items():
        if now.get(key) != then:
            found.append(Finding(severity="differs", what=f"{key.replace('_', ' ')}: {then} then, {now.get(key)} now"))
    return found


def reproduce(store: Store, manifest: Manifest) -> Run:
    """Launch the run that makes the adapter or the reward model again.

    Raises:
        NotFound: base, data, the adapter it went on from or the reward model is not here; says which.
        ModelProblem: one of them is here, but its files are not what they were.
        UsageError: its settings no longer hold.
    """
    spec = spec_here(store, manifest)
    name = f"{manifest.name[:180]} reproduced"
    return launch_run(store, manifest.kind, spec, name=name, run_id=prepare_run(store, manifest))


def prepare_run(store: Store, manifest: Manifest) -> str:
    """An id for the run to come, whose folder holds what the first run read beside its dataset.

    Raises:
        NotFound: that is not here.
    """
    run_id = new_id("run")
    if manifest.labels_digest is not None:
        content = _find_labels(store, manifest.labels_digest, _find_data(store, manifest.data).id)
        write_labels(store.settings.run_dir(run_id) / LABELS_FILE, content)
    return run_id


def spec_here(store: Store, manifest: Manifest) -> dict[str, Any]:
    """The manifest's settings with this home's ids for what they name.

    Raises:
        NotFound: base, data, the adapter it went on from or the reward model is not here; says which.
        ModelProblem: one of them is here, but its files are not what they were.
    """
    here, missing = _resolve(store, manifest)
    for error in missing:
        raise error
    return {**manifest.spec, **here}


def made_digest(run: Run) -> str | None:
    """Digest of the adapter or the reward model that a run made; None where it made neither."""
    reward = run.result.get("reward")
    found = reward.get("digest") if isinstance(reward, dict) else run.result.get("adapter_digest")
    return found if isinstance(found, str) else None


def is_same(manifest: Manifest, run: Run) -> bool:
    """Whether a run that has ended made what the manifest says, to the last bit."""
    return run.state is RunState.FINISHED and made_digest(run) == manifest.adapter_digest


def _resolve(store: Store, manifest: Manifest) -> tuple[dict[str, Any], list[WorkbenchError]]:
    """Settings that name this home's things, and what of them is missing."""
    here: dict[str, Any] = {}
    missing: list[WorkbenchError] = []
    try:
        bases = _find_bases(store, manifest)
        here["model"] = bases[0].id
        if manifest.adapter_before is not None:
            here["model"], here["adapter"] = _find_adapter(store, manifest.adapter_before, bases)
    except Missing as error:
        missing.append(error)
    for field, pin in (
        ("dataset", manifest.data),
        ("held_out", manifest.held_out),
        ("demonstrations", manifest.demonstrations),
    ):
        try:
            if pin is not None:
                here[field] = _find_data(store, pin).id
        except NotFound as error:
            missing.append(error)
    try:
        if manifest.labels_digest is not None and "dataset" in here:
            _find_labels(store, manifest.labels_digest, str(here["dataset"]))
    except NotFound as error:
        missing.append(error)
    try:
        if manifest.kind in REINFORCED:
            here["reward"] = _find_reward(store, manifest.reward)
    except Missing as error:
        missing.append(error)
    fields = get_kind(manifest.kind).load_config().model_fields
    return {key: value for key, value in here.items() if key in fields}, missing


def _find_bases(store: Store, manifest: Manifest) -> list[Model]:
    """Models of this home that are the manifest's base, tokenizer and template included; at least one."""
    from workbench.models.fingerprints import digest_weights
    from workbench.models.loading import model_folder

    models = model_store.list_models(store, archived=True)
    named = [model for model in models if model.base_digest == manifest.base_digest and model.path is not None]
    if not named:
        raise NotFound(
            f"the base {manifest.base_name!r} is not here",
            value=manifest.base_digest[:16],
            remedy="Add the same model on the Models page.",
        )
    problem: WorkbenchError | None = None
    alike = []
    for model in named:
        try:
            if digest_weights(model_folder(model)) != manifest.base_digest:
                raise ModelProblem(
                    f"the weights of the base {model.name!r} are not those it was added with",
                    place=str(model.path),
                    remedy="Put its files back, or add it again.",
                )
            if manifest.base_reading not in (None, digest_reading(model)):
                raise _reads_otherwise(model)
            alike.append(model)
        except (ModelProblem, TemplateProblem) as error:
            problem = problem or error
    if not alike and problem is not None:
        raise problem
    return alike


def _reads_otherwise(base: Model) -> ModelProblem:
    return ModelProblem(
        f"the base {base.name!r} has another tokenizer or chat template than then",
        place=str(base.path),
        remedy="Add the model with the files it had; other tokens make another outcome.",
    )


def _find_adapter(store: Store, digest: str, bases: Sequence[Model]) -> tuple[str, str]:
    """Ids of the base and of the variant over it whose adapter has this digest."""
    from workbench.models.fingerprints import digest_adapter

    over = {model.id for model in bases}
    found = [
        variant
        for variant in model_store.list_variants(store, archived=True)
        if variant.adapter_digest == digest and variant.model_id in over
    ]
    for variant in found:
        try:
            if digest_adapter(Path(variant.adapter_path or "")) == digest:
                return str(variant.model_id), variant.id
        except ModelProblem:
            continue
    if found:
        raise ModelProblem(
            "the files of the adapter that training went on from are gone or were changed",
            place=found[0].name,
            value=digest[:16],
            remedy="Put them back, or reproduce it first.",
        )
    raise NotFound(
        "the adapter that training went on from is not here",
        value=digest[:16],
        remedy="Import it, or reproduce it first.",
    )


def _find_data(store: Store, pin: DataPin) -> Version:
    for dataset in dataset_store.list_datasets(store, archived=True):
        for version in dataset_store.list_versions(store, dataset.id):
            if version.content_hash == pin.content_hash and not version.manifest.get("purged"):
                return version
    raise NotFound(
        f"the rows of {pin.name!r} are not here",
        value=pin.content_hash[:16],
        remedy="Import the same file; equal rows in equal order give an equal hash.",
    )


def _find_labels(store: Store, digest: str, version_id: str) -> bytes:
    """What rankings added to a version's rows when the run read it: as they stand, or as a run of this home kept it."""
    runs = run_store.list_runs(store, kinds=[KTO], archived=True, limit=ALL_RUNS)
    kept = [store.settings.run_dir(run.id) / LABELS_FILE for run in runs]
    now = labels_now(store, version_id)
    for content in chain([now], (path.read_bytes() for path in kept if path.is_file())):  # one at a time in memory
        if hashlib.sha256(content).hexdigest() == digest:
            return content
    raise NotFound(
        "what rankings said beside the rows when it was made is not here, and by now they say something else",
        value=digest[:16],
        remedy="It can be made again in the home where it was made, as long as a run that read the same is kept.",
    )


def _find_reward(store: Store, pin: RewardPin | None) -> str:
    """Id of the run that made the reward model of this digest, its files looked at."""
    if pin is None:
        raise NotFound(
            "the manifest does not say which reward model it learned from",
            remedy="It is of an earlier version: make it anew with `workbench lineage manifest` where the run is.",
        )
    known = list_reward_models(store, archived=True)
    problem: WorkbenchError | None = None
    for reward in known:
        base = model_store.get_model(store, reward.model_id)
        if reward.digest != pin.digest or base.base_digest != pin.base_digest:
            continue
        try:
            check_reward_folder(reward, base)
            if pin.base_reading not in (None, digest_reading(base)):
                raise _reads_otherwise(base)
            return reward.run_id
        except (ModelProblem, TemplateProblem) as error:
            problem = problem or error
    if problem is not None:
        raise problem
    other = next((reward for reward in known if reward.name == pin.name), None)
    if other is not None:
        raise NotFound(
            f"the reward model {pin.name!r} of this home is another one than it learned from: "
            f"digest {pin.digest[:12]} over {pin.base_name!r} then, {other.digest[:12]} now",
            value=pin.digest[:16],
            remedy="Make the one it learned from again from a manifest of its own.",
        )
    raise NotFound(
        f"the reward model {pin.name!r} that it learned from is not here",
        value=pin.digest[:16],
        remedy="Make it again first, from a manifest of its own.",
    )
