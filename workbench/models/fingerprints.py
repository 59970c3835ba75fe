"""What really answers, as digests: base weights, adapter, tokenizer and template.

A digest depends on content alone: not on how a file is laid out, who wrote it, in which order a config lists its
fields, or where the folder lies. Nothing here imports torch; weights are read by hand from the safetensors files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from workbench.errors import ModelProblem
from workbench.models.inspecting import TensorPlace, read_json, read_tensor_places, weight_files
from workbench.records import canonical_json

CACHE_FILE = ".workbench-digest.json"
CHUNK_BYTES = 1 << 22

# What changes the adapter's effect on a forward pass, with the value that PEFT takes for an absent field.
# Everything else in adapter_config.json (paths, PEFT's version, how the weights began, dropout) leaves answers alone.
ADAPTER_FIELDS: dict[str, Any] = {
    "peft_type": None,
    "r": 8,
    "lora_alpha": 8,
    "target_modules": None,
    "target_parameters": None,
    "exclude_modules": None,
    "modules_to_save": None,
    "layers_to_transform": None,
    "layers_pattern": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "fan_in_fan_out": False,
    "bias": "none",
    "lora_bias": False,
    "use_rslora": False,
    "use_dora": False,
    "use_qalora": False,
    "alora_invocation_tokens": None,
    "trainable_token_indices": None,
    "layer_replication": None,
    "arrow_config": None,
    "kasa_config": None,
    "use_bdlora": None,
}


def digest_weights(folder: Path) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all tensors, in order of name.

    The same weights give the same digest however they are split into files. The answer is kept beside the weights
    (or only for this call where the folder cannot be written) and taken from there while size and time of change of
    every file stand.

    Args:
        folder: holds the safetensors files.

    Raises:
        ModelProblem: there are no readable safetensors files.
    """
    folder = Path(folder)
    files = weight_files(folder)
    stamps = {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in files}
    cache = folder / CACHE_FILE
    with suppress(OSError, ValueError, AttributeError):
        kept = json.loads(cache.read_text())
        if kept.get("files") == stamps and isinstance(kept.get("digest"), str):
            return str(kept["digest"])
    answer = _digest_tensors(place for file in files for place in read_tensor_places(file))
    with suppress(OSError):
        aside = cache.with_name(f"{CACHE_FILE}.{os.getpid()}")
        aside.write_text(json.dumps({"files": stamps, "digest": answer}))
        os.replace(aside, cache)
    return answer


def digest_adapter(folder: Path) -> str:
    """SHA-256 over the adapter's weights and those config fields that change what it answers.

    Raises:
        ModelProblem: config or weights are missing or unreadable.
    """
    folder = Path(folder)
    config = read_json(folder / "adapter_config.json")
    weights = _digest_tensors(read_tensor_places(folder / "adapter_model.safetensors"))
    text = canonical_json({"config": normal_adapter_config(config), "weights": weights})
    return hashlib.sha256(text.encode()).hexdigest()


def normal_adapter_config(config: dict[str, Any]) -> dict[str, Any]:
    """The fields of an adapter config that matter, in one form: defaults filled in, lists of names sorted."""
    normal: dict[str, Any] = {}
    for key, default in ADAPTER_FIELDS.items():
        value = config.get(key)
        value = default if value is None else value
        if isinstance(value, (list, tuple, set)) and all(isinstance(item, str) for item in value):
            value = sorted(value)
        normal[key] = float(value) if isinstance(value, int) and key == "lora_alpha" else value
    return normal


def digest_tokenizer(folder: Path) -> str:
    """SHA-256 over `tokenizer.json`'s content, whatever its indentation.

    Raises:
        ModelProblem: the file is missing or unreadable.
    """
    return hashlib.sha256(canonical_json(read_json(Path(folder) / "tokenizer.json")).encode()).hexdigest()


def fingerprint(
    base_digest: str, adapter_digest: str | None, tokenizer_digest: str, template_text: str | None, dtype: str
) -> str:
    """The fingerprint an answer carries: `fp_` and 24 hex digits over everything that produced it.

    Args:
        base_digest: of `digest_weights`.
        adapter_digest: of `digest_adapter`; None for the base itself.
        tokenizer_digest: of `digest_tokenizer`.
        template_text: the chat template; None where there is none.
        dtype: number format the forward pass runs in, such as `float32`.
    """
    parts = [base_digest, adapter_digest, tokenizer_digest, template_text, dtype.removeprefix("torch.")]
    return "fp_" + hashlib.sha256(canonical_json(parts).encode()).hexdigest()[:24]


def _digest_tensors(places: Iterable[TensorPlace]) -> str:
    total = hashlib.sha256()
    for place in sorted(places, key=lambda place: place.name):
        total.update(canonical_json([place.name, place.dtype, list(place.shape)]).encode())
        try:
            with open(place.file, "rb") as handle:
                handle.seek(place.start)
                left = place.bytes
                while left:
                    chunk = handle.read(min(CHUNK_BYTES, left))
                    if not chunk:
                        raise ModelProblem("the weights end too early", place=str(place.file), value=place.name)
                    total.update(chunk)
                    left -= len(chunk)
        except OSError as error:
            raise ModelProblem(f"the weights cannot be read: {error.strerror}", place=str(place.file)) from error
    return total.hexdigest()
