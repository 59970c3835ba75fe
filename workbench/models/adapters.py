"""LoRA adapters as plain PEFT folders: publishing one that was trained here, checking and taking in one made elsewhere.

A published folder opens with PEFT alone: `adapter_config.json`, `adapter_model.safetensors`, the tokenizer with its
chat template, and `base.json`, which says for which base weights it was made. Trainer files (optimizer state, pickled
arguments, reference adapters) stay behind.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from workbench.errors import Conflict, ModelProblem, WorkbenchError
from workbench.models.adding import hub_id
from workbench.models.convert import fresh_folder
from workbench.models.fingerprints import digest_adapter
from workbench.models.inspecting import TensorPlace, read_json, read_tensor_places, weight_files
from workbench.records import Model, Record, Variant, new_id
from workbench.settings import typed_path
from workbench.store import models as model_store
from workbench.store.database import Store

CONFIG, WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "base.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
# What PEFT cannot do for one row of a batch and not for the next.
UNMIXABLE = (
    "use_dora", "lora_bias", "modules_to_save", "trainable_token_indices", "target_parameters", "layer_replication",
    "alora_invocation_tokens", "arrow_config", "use_qalora", "use_bdlora", "kasa_config", "velora_config",
    "monteclora_config",
)  # fmt: skip


class AdapterFacts(Record):
    """What an adapter's config says."""

    r: int
    """Rank."""
    alpha: float
    """Scale: the update counts alpha / r, or alpha / √r with rank-stabilised LoRA."""
    dropout: float
    """Share of inputs dropped in training."""
    targets: tuple[str, ...]
    """Names of the adapted layers, without their path."""
    use_dora: bool
    """Weight-decomposed LoRA."""
    use_rslora: bool
    """Rank-stabilised scale."""
    mixable: bool
    """Whether it can share a batch with other adapters."""
    base: str
    """The base it names."""


def read_adapter_facts(folder: Path) -> AdapterFacts:
    """Rank, scale, layers and kind of an adapter.

    Raises:
        ModelProblem: the config is missing, damaged or not that of a LoRA adapter.
    """
    folder = Path(folder)
    config = _read_config(folder)
    targets = config.get("target_modules")
    names = [targets] if isinstance(targets, str) else [str(name).rsplit(".", 1)[-1] for name in targets or []]
    try:
        return AdapterFacts(
            r=int(config.get("r", 8)),
            alpha=float(config.get("lora_alpha", 8)),
            dropout=float(config.get("lora_dropout") or 0.0),
            targets=tuple(sorted(set(names))),
            use_dora=bool(config.get("use_dora")),
            use_rslora=bool(config.get("use_rslora")),
            mixable=not any(config.get(key) for key in UNMIXABLE) and config.get("bias", "none") == "none",
            base=str(config.get("base_model_name_or_path") or ""),
        )
    except (TypeError, ValueError) as error:
        raise ModelProblem("the adapter's config is damaged", place=str(folder / CONFIG)) from error


def publish_adapter(source_folder: Path, target_folder: Path, model: Model) -> str:
    """Write the plain folder of a trained adapter; it appears in one step and replaces an earlier one.

    Args:
        source_folder: what `PeftModel.save_pretrained` wrote, with or without tokenizer files.
        target_folder: the published folder.
        model: the base it was trained on.

    Returns:
        The adapter's digest.

    Raises:
        ModelProblem: the adapter does not fit the base or cannot be written.
    """
    source_folder, target_folder = Path(source_folder), Path(target_folder)
    check_adapter(source_folder, model)
    config = _read_config(source_folder)
    known_as = hub_id(model)
    config["base_model_name_or_path"] = known_as or model.path
    config["inference_mode"] = True
    base = {"name": model.name, "hub_id": known_as, "source": model.source.value, "base_digest": model.base_digest}
    tokenizer = source_folder if (source_folder / "tokenizer.json").is_file() else Path(model.path or "")
    target_folder.parent.mkdir(parents=True, exist_ok=True)
    with fresh_folder(target_folder) as aside:
        shutil.copyfile(source_folder / WEIGHTS, aside / WEIGHTS)
        for name in TOKENIZER_FILES:
            if (tokenizer / name).is_file():
                shutil.copyfile(tokenizer / name, aside / name)
        (aside / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True))
        (aside / BASE).write_text(json.dumps(base, indent=2))
        found = digest_adapter(aside)
    return found


def import_adapter(store: Store, folder: Path, model: Model, name: str) -> Variant:
    """Check an adapter made elsewhere, copy it into the workbench's home and enter it as a variant.

    Raises:
        ModelProblem: the adapter does not fit the base or is refused.
        Conflict: the name is taken.
    """
    folder = typed_path(folder)
    if name in {variant.name for variant in model_store.list_variants(store, archived=True)}:
        raise Conflict("a variant of this name exists", place="name", value=name, remedy="Choose another.")
    variant_id = new_id("var")
    target = store.settings.models_dir / variant_id
    found = publish_adapter(folder, target, model)
    try:
        return model_store.add_variant(
            store, name, model_id=model.id, adapter_path=str(target), adapter_digest=found, variant_id=variant_id
        )
    except WorkbenchError:
        shutil.rmtree(target, ignore_errors=True)
        raise


def check_adapter(folder: Path, model: Model) -> AdapterFacts:
    """Whether an adapter is a whole LoRA adapter for this base: by its base's digest where known, and by its shapes.

    Args:
        folder: a PEFT folder.
        model: a base model whose add run has finished.

    Raises:
        ModelProblem: it is not; says why.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelProblem("there is no such folder", place=str(folder), remedy="Check the path.")
    if model.path is None:
        raise ModelProblem("the base model has not been added yet", place=model.name, remedy="Start its add run.")
    _refuse_reward_model(folder)
    facts = read_adapter_facts(folder)
    if not (folder / WEIGHTS).exists():
        if any((folder / f"adapter_model.{ending}").exists() for ending in ("bin", "pt", "pth")):
            raise ModelProblem(
                "the adapter's weights are pickled, which can run code when opened",
                place=str(folder),
                remedy="Save it again as safetensors.",
            )
        raise ModelProblem(f"{WEIGHTS} is missing", place=str(folder), remedy="Copy the whole adapter folder.")
    if (folder / BASE).exists():
        made_for = read_json(folder / BASE)
        if made_for.get("base_digest") and model.base_digest and made_for["base_digest"] != model.base_digest:
            raise ModelProblem(
                f"the adapter was made for another base, {made_for.get('name') or 'unknown'}",
                place=str(folder),
                value=model.name,
                remedy="Choose the base it was made for.",
            )
    places = read_tensor_places(folder / WEIGHTS)
    _check_ranks(folder, places)
    _check_shapes(folder, places, model)
    return facts


def _refuse_reward_model(folder: Path) -> None:
    if _read_config(folder).get("task_type") == "SEQ_CLS":
        raise ModelProblem(
            "this is a reward model or another classifier: it scores answers and cannot answer",
            place=str(folder),
            value="SEQ_CLS",
            remedy="Choose an adapter that was made for text generation (CAUSAL_LM). A reward model goes by its run's "
            "name instead: as the reward of RLOO or GRPO, or with `workbench reward score`.",
        )


def _read_config(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG).exists():
        raise ModelProblem(
            f"{CONFIG} is missing", place=str(folder), remedy="Choose the folder that PEFT wrote the adapter into."
        )
    config = read_json(folder / CONFIG)
    if config.get("peft_type") != "LORA":
        raise ModelProblem(
            "this is not a LoRA adapter",
            place=str(folder),
            value=config.get("peft_type"),
            remedy="Only LoRA and its variants DoRA and rsLoRA can be used.",
        )
    if config.get("auto_mapping"):
        raise ModelProblem("the adapter is for a model with code of its own, which is not run here", place=str(folder))
    return config


def _pairs(places: list[TensorPlace]) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes of each adapted layer: {layer: {"A": [r, in], "B": [out, r], "embedding_A": …, "magnitude_vector": …}}."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for place in places:
        name = re.sub(r"^base_model\.model\.", "", place.name)
        match = re.fullmatch(r"(.+?)\.lora_(A|B|embedding_A|embedding_B|magnitude_vector)(\.weight)?", name)
        if match:
            found.setdefault(match[1], {})[match[2]] = place.shape
    return found


def _check_ranks(folder: Path, places: list[TensorPlace]) -> None:
    config = _read_config(folder)
    pairs = _pairs(places)
    if not pairs:
        raise ModelProblem("there are no LoRA weights in the file", place=str(folder / WEIGHTS))
    pattern = config.get("rank_pattern")
    ranks = {config.get("r", 8), *(pattern.values() if isinstance(pattern, dict) else ())}
    for layer, shapes in pairs.items():
        a = shapes.get("A") or shapes.get("embedding_A")
        b = shapes.get("B") or shapes.get("embedding_B")
        if a is None or b is None or len(a) != 2 or len(b) != 2:
            raise ModelProblem("half of a layer's LoRA weights is missing", place=str(folder / WEIGHTS), value=layer)
        if a[0] != b[1] or a[0] not in ranks:
            raise ModelProblem(
                f"the rank does not agree: the config says {config.get('r', 8)}, the weights have {a[0]} and {b[1]}",
                place=str(folder),
                value=layer,
                remedy="Config and weights are of different adapters; copy the whole folder again.",
            )


def _check_shapes(folder: Path, places: list[TensorPlace], model: Model) -> None:
    base_folder = Path(model.path or "")
    base = {place.name: place.shape for file in weight_files(base_folder) for place in read_tensor_places(file)}
    base_config = read_json(base_folder / "config.json")
    tied = bool(base_config.get("tie_word_embeddings"))
    config = _read_config(folder)
    named = config.get("base_model_name_or_path")
    turned = bool(config.get("fan_in_fan_out")) or base_config.get("model_type") == "gpt2"
    _check_whole_weights(folder, places, base, model.name)
    for layer, shapes in _pairs(places).items():
        wanted = _base_shape(layer, base, tied)
        if wanted is None:
            raise ModelProblem(
                "the adapter was made for another base: it changes a layer that this one does not have",
                place=str(folder),
                value=layer,
                remedy=f"Choose the base it was made for; it names {named!r}.",
            )
        if "A" in shapes:
            has = (shapes["B"][0], shapes["A"][1])
        else:
            has = (shapes["embedding_A"][1], shapes["embedding_B"][0])
        # GPT-2's Conv1D keeps its weights the other way round.
        if has != wanted and not (turned and has == wanted[::-1]):
            raise ModelProblem(
                f"the adapter was made for another base: it expects a layer of {has[0]}×{has[1]}, "
                f"{model.name} has {wanted[0]}×{wanted[-1]}",
                place=str(folder),
                value=layer,
                remedy="Choose the base it was made for.",
            )


def _check_whole_weights(folder: Path, places: list[TensorPlace], base: dict[str, tuple[int, ...]], name: str) -> None:
    """Layers that the adapter keeps whole (trained beside LoRA, or embeddings) must have the base's shape."""
    for place in places:
        inner = re.sub(r"^base_model\.model\.|\.base_layer(?=\.)", "", place.name)
        if base.get(inner, place.shape) != place.shape:
            raise ModelProblem(
                f"the adapter brings a layer of its own whose shape is not that of {name}",
                place=str(folder),
                value=inner,
                remedy="Choose the base it was made for; a vocabulary that was made larger cannot be used here.",
            )


def _base_shape(layer: str, base: dict[str, tuple[int, ...]], tied: bool) -> tuple[int, ...] | None:
    names = [f"{layer}.weight", f"{layer.removeprefix('model.')}.weight", f"model.{layer}.weight"]
    for name in names:
        if name in base:
            return base[name]
    if tied and layer == "lm_head":
        return next((shape for name, shape in base.items() if name.endswith("embed_tokens.weight")), None)
    # Older releases keep the weights of the inner model only, under names without their first part.
    return base.get(f"{layer.partition('.')[2]}.weight")
