"""Export a variant, as a run: write it, load what was written from scratch, replay its answers, and only then keep it.

Forms: one zip file of the adapter, merged weights, a folder for Ollama, a repository on the hub. How each is written is
`workbench.models`'; what counts as the same answer is `replay`'s.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from workbench.errors import UsageError
from workbench.evaluation.card_facts import gather_facts
from workbench.evaluation.replay import Player, choose_cases, exported_renderer, replay
from workbench.job import Job
from workbench.models import export, ollama
from workbench.models.adapters import read_adapter_facts
from workbench.models.adding import hub_id
from workbench.models.convert import fresh_folder
from workbench.models.fingerprints import digest_adapter, digest_tokenizer, digest_weights, fingerprint
from workbench.models.loading import model_folder
from workbench.models.model_card import write_card
from workbench.records import Model, RunConfig, Variant
from workbench.store import models as model_store
from workbench.store.database import Store

if TYPE_CHECKING:
    from workbench.datasets.render import Renderer

Form = Literal["adapter_zip", "merged", "ollama", "hub"]
FORMS: dict[str, str] = {
    "adapter_zip": "Adapter as one zip file",
    "merged": "Merged weights",
    "ollama": "Folder for Ollama",
    "hub": "Repository on the hub",
}


class ExportConfig(RunConfig):
    """Put a variant into a form others can use, and prove that it still gives the same answers."""

    variant: str = Field(min_length=1)
    """Variant: a name or an id."""
    form: Form = "adapter_zip"
    """One zip file of the adapter, merged weights that need no PEFT, a folder for Ollama, or a hub repository."""
    weights: Literal["auto", "adapter", "merged"] = "auto"
    """What the folder for Ollama or the repository holds: the adapter, or merged weights. Auto takes the adapter where
    it can be used there."""
    folder: str | None = None
    """Where to write it: a zip file or a folder that does not exist yet; in the run's own folder where empty."""
    replace: bool = False
    """Replace an earlier export at that place."""
    repo: str | None = Field(default=None, json_schema_extra={"group": "Hub"})
    """Repository on the hub, as owner/name."""
    private: bool = Field(default=True, json_schema_extra={"group": "Hub"})
    """Whether a new repository is private."""
    licence: str = Field(default="", max_length=100, json_schema_extra={"group": "Model card"})
    """Licence for the card, such as apache-2.0; the base's where empty."""
    dtype: Literal["float32", "bfloat16", "float16"] = Field(default="float32", json_schema_extra={"group": "Weights"})
    """Number format of merged weights. The short ones halve the size and may change answers in close cases."""
    replay: int = Field(default=8, ge=0, le=200, json_schema_extra={"group": "Check"})
    """Greedy answers given again by what was written; a difference fails the export. 0 leaves the check out."""
    replay_tokens: int = Field(default=48, ge=1, le=1024, json_schema_extra={"group": "Check", "advanced": True})
    """Longest answer where there is no stored one to replay."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.form == "hub" and not (self.repo or "").strip():
            raise UsageError("the repository is missing", place="repo", remedy="Write it as owner/name.")
        if self.form == "adapter_zip" and self.weights == "merged":
            raise UsageError(
                "merged weights do not go into an adapter's zip",
                place="weights",
                value="merged",
                remedy="Choose merged.",
            )
        if self.form == "merged" and self.weights == "adapter":
            raise UsageError("merged weights hold no adapter", place="weights", value="adapter", remedy="Use auto.")
        return self


class _Source:
    """What is exported: variant, base and adapter on this machine."""

    def __init__(self, store: Store, config: ExportConfig) -> None:
        from workbench.datasets.render import load_renderer

        self.variant: Variant = model_store.get_variant(store, config.variant)
        if self.variant.model_id is None:
            raise UsageError(
                "a model on a remote server cannot be exported",
                place="variant",
                value=self.variant.name,
                remedy="Choose a base or an adapter of this machine.",
            )
        self.model: Model = model_store.get_model(store, self.variant.model_id)
        self.base = model_folder(self.model)
        self.adapter = Path(self.variant.adapter_path) if self.variant.adapter_path else None
        self.weights = choose_weights(config, self.variant, self.model)
        self.base_renderer: Renderer = load_renderer(self.base)
        own = self.adapter if self.adapter and (self.adapter / "tokenizer.json").is_file() else None
        self.renderer = exported_renderer(own, self.base_renderer) if own else self.base_renderer

    def fingerprint(self) -> str:
        """What the engine's answers with these weights carry, in float32."""
        return fingerprint(
            digest_weights(self.base),
            digest_adapter(self.adapter) if self.adapter else None,
            digest_tokenizer(self.base),
            self.renderer.template.source,
            "float32",
        )

    def player(self) -> Player:
        """The original, as the engine answers."""
        return _load(self.model, self.adapter, self.renderer)


def check_export(store: Store, config: ExportConfig) -> None:
    """What can be told at once, before a run is launched.

    Raises:
        UsageError: the variant, the form and the place do not go together.
        Conflict: something is at the place already.
        NotFound: there is no such variant.
        ModelProblem: its files are gone.
    """
    variant = model_store.get_variant(store, config.variant)
    if variant.model_id is None:
        raise UsageError("a model on a remote server cannot be exported", place="variant", value=variant.name)
    model = model_store.get_model(store, variant.model_id)
    model_folder(model)
    choose_weights(config, variant, model)
    if config.form == "hub":
        export.check_repo(str(config.repo), store.settings)
    elif config.folder:
        export.check_target(Path(config.folder), replace=config.replace)


def choose_weights(config: ExportConfig, variant: Variant, model: Model) -> str:
    """Which weights are written, `adapter` or `merged`: as asked for and as the form can take.

    Raises:
        UsageError: the variant has no adapter, or Ollama cannot read this one.
    """
    wanted = "adapter" if config.form == "adapter_zip" else "merged" if config.form == "merged" else config.weights
    if variant.adapter_path is None:
        if wanted == "adapter":
            raise UsageError(
                "the variant has no adapter", place="variant", value=variant.name, remedy="Export merged weights."
            )
        return "merged"
    if config.form == "ollama":
        reason = _beyond_ollama(variant, model)
        if wanted == "adapter" and reason:
            raise UsageError(
                f"Ollama cannot read this adapter: {reason}", place="weights", remedy="Use merged weights."
            )
        return "merged" if reason or wanted == "merged" else "adapter"
    return "merged" if wanted == "merged" else "adapter"


def _beyond_ollama(variant: Variant, model: Model) -> str:
    facts = read_adapter_facts(Path(variant.adapter_path or ""))
    family = str(model.info.get("model_type") or model.info.get("architecture") or "").lower()
    if facts.use_dora:
        return "it is a DoRA adapter"
    if facts.use_rslora:
        return "its scale is rank-stabilised"
    if not facts.mixable:
        return "it is more than plain LoRA"
    if not any(family.startswith(known) for known in ollama.ADAPTER_FAMILIES):
        return f"adapters over {family or 'this family'} are unknown to it"
    return ""


def export_variant(config: ExportConfig, job: Job) -> dict[str, Any]:
    """Export a variant.

    Args:
        config: what, in which form, where to.
        job: the run.

    Returns:
        variant_id, form, weights, path or url, bytes, files, replay (the report), sha256 of a zip.

    Raises:
        ModelProblem: files are missing, an answer differs, or the hub refuses; nothing is left behind.
        UsageError: variant, form and place do not go together.
        TemplateProblem: Ollama cannot have this chat template.
        Conflict: something is at the place already.
        Stopped: stop was asked for.
    """
    import torch

    torch.set_num_threads(job.settings.threads)
    check_export(job.store, config)
    source = _Source(job.store, config)
    job.result(variant_id=source.variant.id, form=config.form, weights=source.weights)
    if config.form == "adapter_zip":
        target = _target(config, job, "adapter.zip")
        with _aside(job) as folder:
            _write(source, config, folder, job)
            packed = export.write_zip(folder, folder.parent / "export.zip")
            unpacked = folder.parent / "unpacked"
            with zipfile.ZipFile(packed) as archive:
                archive.extractall(unpacked)
            report = _check(source, config, unpacked, job)
            files = _files(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            _move(packed, target)
        told: dict[str, Any] = {"path": str(target), "sha256": _sha256(target), "bytes": target.stat().st_size}
    elif config.form == "hub":
        with _aside(job) as folder:
            _write(source, config, folder, job)
            report = _check(source, config, folder, job)
            files = _files(folder)
            job.checkpoint_or_stop()
            job.progress("uploading", note=str(config.repo))
            url = export.push_folder(
                folder,
                str(config.repo),
                private=config.private,
                settings=job.settings,
                message=f"Add {source.variant.name}",
            )
        told = {"url": url, "repo": config.repo, "bytes": sum(files.values())}
    else:
        target = _target(config, job, config.form)
        target.parent.mkdir(parents=True, exist_ok=True)
        with fresh_folder(target) as folder:
            _write(source, config, folder, job)
            report = _check(source, config, folder, job)
            files = _files(folder)
        told = {"path": str(target), "bytes": sum(files.values())}
    return {"variant_id": source.variant.id, "form": config.form, "weights": source.weights, **told,
            "files": files, "replay": report}  # fmt: skip


def _target(config: ExportConfig, job: Job, name: str) -> Path:
    if config.folder:
        return export.check_target(Path(config.folder), replace=config.replace)
    return job.folder / "export" / name


@contextmanager
def _aside(job: Job) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=job.folder, prefix="export-") as room:
        folder = Path(room) / "files"
        folder.mkdir()
        yield folder


def _write(source: _Source, config: ExportConfig, folder: Path, job: Job) -> None:
    """Weights, tokenizer, template, card, and what the form needs beside them."""
    from workbench.models.merging import copy_tokenizer, write_merged

    whole, layer = folder, folder
    if config.form == "ollama":
        whole, layer = folder / "model", folder / "adapter"
        whole.mkdir()
    if source.weights == "merged":
        write_merged(source.model, source.adapter, whole, dtype=config.dtype, job=job)
    elif source.adapter is not None:
        job.progress("copying the adapter", note=source.variant.name)
        layer.mkdir(exist_ok=True)
        export.write_adapter(source.adapter, layer, base_name=hub_id(source.model) or source.model.name)
        if config.form == "ollama":
            write_merged(source.model, None, whole, dtype=config.dtype, job=job)
            copy_tokenizer(source.base, source.adapter, whole)
        elif not (layer / "tokenizer.json").is_file():
            copy_tokenizer(source.base, None, layer)
    if config.form == "ollama":
        ollama.write_modelfile(folder, _modelfile(source, whole))
    facts = gather_facts(
        job.store,
        source.variant,
        source.model,
        weights=source.weights,
        dtype=config.dtype,
        licence=config.licence.strip() or None,
    )
    (folder / "README.md").write_text(write_card(facts), encoding="utf-8")


def _modelfile(source: _Source, whole: Path) -> ollama.Modelfile:
    template = source.renderer.template
    shape = ollama.read_shape(lambda messages, begin: template.apply(messages, None, add_generation_prompt=begin))
    prefix = ollama.prefix_added(whole, template.special_tokens.get("bos_token"))
    stops = [source.renderer.tokenizer.id_to_token(number) for number in sorted(source.renderer.stop_ids)]
    context, licence = source.model.info.get("context_length"), source.model.info.get("licence")
    return ollama.Modelfile(
        adapter="./adapter" if source.weights == "adapter" else None,
        template=ollama.go_template(shape.without_prefix(prefix)),
        stops=tuple(stop for stop in stops if stop),
        context_length=context if isinstance(context, int) else None,
        licence=str(licence) if licence else None,
    )


def _check(source: _Source, config: ExportConfig, folder: Path, job: Job) -> dict[str, Any]:
    """Replay answers on what was written."""
    if not config.replay:
        return {"prompts": 0, "policy": "The check was left out."}
    job.progress("loading what was written", note="")
    cases = choose_cases(
        job.store, source.variant, source.fingerprint(), count=config.replay, max_tokens=config.replay_tokens
    )
    whole, layer = (folder / "model", folder / "adapter") if config.form == "ollama" else (folder, folder)
    if source.weights == "merged":
        written, adapter = source.model.model_copy(update={"path": str(whole)}), None
    elif config.form == "ollama":
        written, adapter = source.model.model_copy(update={"path": str(whole)}), layer
    else:
        written, adapter = source.model, layer
    tokens = whole if source.weights == "merged" or config.form == "ollama" else layer
    dtype = config.dtype if written is not source.model else "float32"
    player = _load(written, adapter, exported_renderer(tokens, source.base_renderer), dtype)
    return replay(cases, player, source.player, dtype, job).model_dump(mode="json")


def _load(model: Model, adapter: Path | None, renderer: Renderer, dtype: str = "float32") -> Player:
    from workbench.models.loading import load_base, load_with_adapter

    whole: Any = load_base(model, dtype=dtype)
    return Player(load_with_adapter(whole, adapter) if adapter is not None else whole, renderer)


def _files(folder: Path) -> dict[str, int]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".workbench"))
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}


def _move(source: Path, target: Path) -> None:
    """Put a finished file in its place at once, from another disk too."""
    aside = target.with_name(f".{target.name}.part")
    try:
        shutil.copyfile(source, aside)
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
