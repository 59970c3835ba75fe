"""Base and adapter as one model: merged weights that need no PEFT, with tokenizer, template and generation settings.

The sum is made in float32 by PEFT (`merge_and_unload`), which knows LoRA, rank-stabilised LoRA and DoRA, and rounded
once to the format asked for. Only workers call this: it imports torch.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from workbench.errors import UsageError
from workbench.job import Job
from workbench.models.convert import check_space
from workbench.models.inspecting import weight_files
from workbench.models.loading import DTYPES, load_base, load_with_adapter, model_folder
from workbench.records import Model

BESIDE_WEIGHTS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)


def write_merged(model: Model, adapter: Path | None, target: Path, *, dtype: str, job: Job | None = None) -> None:
    """Write a whole model: W + s·BA in float32, then rounded to `dtype`.

    Args:
        model: a base whose add run has finished.
        adapter: PEFT folder over it; None writes the base itself.
        target: folder to write into; it exists and is empty.
        dtype: float32, bfloat16 or float16.
        job: told what is being done.

    Raises:
        ModelProblem: files are missing or damaged, or space or memory does not suffice.
        UsageError: the number format is unknown.
    """
    import torch

    if dtype not in DTYPES:
        raise UsageError("unknown number format", place="dtype", value=dtype, remedy=f"Use {', '.join(DTYPES)}.")
    folder = model_folder(model)
    size = sum(file.stat().st_size for file in weight_files(folder))
    check_space(target, 2 * size)
    if job is not None:
        job.progress("merging" if adapter else "copying the base", note=model.name)
    whole: Any = load_base(model)
    if adapter is not None:
        wrapped = load_with_adapter(whole, adapter)
        _untie(wrapped)
        whole = wrapped.merge_and_unload(safe_merge=True)
    whole = whole.to(getattr(torch, dtype))
    whole.config.dtype = getattr(torch, dtype)
    whole.save_pretrained(target)
    copy_tokenizer(folder, adapter, target)
    if (folder / "generation_config.json").is_file():
        shutil.copyfile(folder / "generation_config.json", target / "generation_config.json")


def copy_tokenizer(base: Path, adapter: Path | None, target: Path) -> None:
    """Tokenizer and chat template: the adapter's own where it has them, else the base's."""
    own = adapter if adapter is not None and (adapter / "tokenizer.json").is_file() else base
    for name in BESIDE_WEIGHTS[:-1]:
        if (own / name).is_file():
            shutil.copyfile(own / name, target / name)
    templates = base / "chat_templates"
    if templates.is_dir():
        shutil.copytree(templates, target / "chat_templates", dirs_exist_ok=True)


def _untie(model: Any) -> None:
    """Where embedding and output share one weight and only one of them is adapted, each gets its own."""
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    inner = model.get_base_model()
    if not getattr(inner.config, "tie_word_embeddings", False):
        return
    embedding, output = inner.get_input_embeddings(), inner.get_output_embeddings()
    if not any(isinstance(layer, BaseTunerLayer) for layer in (embedding, output)):
        return
    for layer in (embedding, output):
        bare = layer.base_layer if isinstance(layer, BaseTunerLayer) else layer
        bare.weight = torch.nn.Parameter(bare.weight.detach().clone(), requires_grad=False)
    inner.config.tie_word_embeddings = False
