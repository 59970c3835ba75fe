"""What the model benchmarks share: the bundled model, adapters that change something, rows of known lengths."""

from __future__ import annotations

import math
import os
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

CACHE = Path(os.environ.get("WORKBENCH_BENCH_CACHE", Path(tempfile.gettempdir()) / "workbench-bench"))


@lru_cache(maxsize=1)
def model_folder() -> Path:
    """The bundled model as plain safetensors, kept between calls.

    Raises:
        RuntimeError: its package is not installed.
    """
    from workbench.models.convert import bundled_gguf, convert_gguf

    source = bundled_gguf()
    if source is None:
        raise RuntimeError("the bundled model's package is missing; run `make setup`")
    CACHE.mkdir(parents=True, exist_ok=True)
    return convert_gguf(source, CACHE / "smollm2-135m-instruct")


def load_model() -> Any:
    """A fresh base model in float32, ready to generate."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model_folder(), dtype=torch.float32).eval()


def make_adapter(seed: int) -> Path:
    """A rank-16 adapter on all linear layers with small random weights, kept between calls."""
    import torch
    from peft import LoraConfig, get_peft_model

    from workbench.models.loading import quiet_peft

    folder = CACHE / f"adapter-{seed}"
    if (folder / "adapter_model.safetensors").exists():
        return folder
    with quiet_peft():
        model: Any = get_peft_model(load_model(), LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
        dice = torch.Generator().manual_seed(seed)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data = 0.002 * torch.randn(parameter.shape, generator=dice)
        model.save_pretrained(folder)
    return folder


def rows_of_known_lengths(count: int = 96, shortest: int = 54, longest: int = 1_082, total: int = 18_166) -> list[Any]:
    """Examples whose rendered lengths spread geometrically between two bounds and add up to about `total` tokens.

    The words are the starter kit's, strung together; what is measured depends on lengths alone.

    Returns:
        (prompt, answer) pairs.
    """
    import json

    from workbench.datasets.render import load_renderer

    kit = Path(__file__).resolve().parents[1] / "workbench/datasets/kits/assistant/train.jsonl"
    lines = [json.loads(line) for line in kit.read_text("utf-8").splitlines()]
    renderer = load_renderer(model_folder())
    words = [renderer.encode(line["response"].replace("\n", " ") + " ") for line in lines]
    stream = [token for row in words for token in row]
    wanted = _lengths(count, shortest, longest, total)
    pairs, at = [], 0
    for number, length in enumerate(wanted):
        prompt = lines[number % len(lines)]["instruction"]
        overhead = len(renderer.prompt_ids([{"role": "user", "content": prompt}])) + 2
        need = max(4, length - overhead)
        piece = [stream[(at + step) % len(stream)] for step in range(need)]
        at += need
        pairs.append((prompt, renderer.decode(piece).strip()))
    return pairs


def _lengths(count: int, shortest: int, longest: int, total: int) -> list[int]:
    low, high = 0.05, 20.0
    for _ in range(60):  # bend the spread until the sum fits
        bend = math.sqrt(low * high)
        lengths = [round(shortest * (longest / shortest) ** ((step / (count - 1)) ** bend)) for step in range(count)]
        low, high = (bend, high) if sum(lengths) > total else (low, bend)
    return lengths


def threads() -> int:
    """CPU threads used by every side of a comparison."""
    return os.cpu_count() or 1
