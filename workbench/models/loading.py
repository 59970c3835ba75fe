"""Loads base models, tokenizers and adapters with transformers and PEFT. Only workers call this: it imports torch.

Weights come from safetensors in a folder on this machine; code from a model's folder is never run. What a folder must
hold to come this far is `workbench.models.adding`'s and `workbench.models.adapters`' to check.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import ModelProblem, WorkbenchError
from workbench.models.inspecting import weight_files
from workbench.records import Model

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

DTYPES = ("float32", "bfloat16", "float16")


def model_folder(model: Model) -> Path:
    """The folder of a model that has been added.

    Raises:
        ModelProblem: the add run has not finished, or the folder is gone.
    """
    if model.path is None:
        raise ModelProblem(
            "the model has not been added yet", place=model.name, remedy="Start its add run on the Models page."
        )
    folder = Path(model.path)
    if not (folder / "config.json").is_file():
        raise ModelProblem(
            "the model's folder is gone", place=model.name, value=model.path, remedy="Put it back or add it again."
        )
    return folder


def load_base(model: Model, *, dtype: str = "float32", device: str = "cpu") -> PreTrainedModel:
    """The base model in evaluation mode.

    Args:
        model: a model whose add run has finished.
        dtype: float32, bfloat16 or float16.
        device: where to put it, in torch's words: cpu, cuda, cuda:0.

    Raises:
        ModelProblem: files are missing, damaged or do not fit each other, or memory does not suffice.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if dtype not in DTYPES:
        raise ModelProblem("unknown number format", place="dtype", value=dtype, remedy=f"Use {', '.join(DTYPES)}.")
    folder = model_folder(model)
    weight_files(folder)
    with loading_in_words(model.name):
        loaded, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
        loaded = loaded.to(device).eval()
    if report["missing_keys"]:
        raise ModelProblem(
            "weights are missing from the files; the rest would be random",
            place=model.name,
            value=sorted(report["missing_keys"])[0],
            remedy="Fetch the model again.",
        )
    return loaded


def load_tokenizer(model: Model) -> PreTrainedTokenizerFast:
    """The model's tokenizer, with its chat template.

    Raises:
        ModelProblem: the files are missing or damaged.
    """
    from transformers import AutoTokenizer

    folder = model_folder(model)
    with loading_in_words(model.name):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def load_with_adapter(
    base_model: PreTrainedModel, adapter_folder: Path, *, name: str = "default", trainable: bool = False
) -> PeftModel:
    """The base model with an adapter laid over it. The base is changed: layers are wrapped in place.

    Args:
        base_model: of `load_base`.
        adapter_folder: a plain PEFT folder; call `check_adapter` first where its origin is unknown.
        name: the adapter's name in the PEFT model.
        trainable: whether to go on training it.

    Raises:
        ModelProblem: files are missing, or PEFT refuses the folder.
    """
    from peft import PeftModel

    for name_of_file in ("adapter_config.json", "adapter_model.safetensors"):
        # PEFT would look for what is missing on the hub, or open pickled weights instead.
        if not (Path(adapter_folder) / name_of_file).is_file():
            raise ModelProblem(f"{name_of_file} is missing", place=str(adapter_folder), remedy="Put the folder back.")
    with loading_in_words(str(adapter_folder)), quiet_peft():
        model = PeftModel.from_pretrained(base_model, adapter_folder, adapter_name=name, is_trainable=trainable)
    return model if trainable else model.eval()


@contextmanager
def quiet_peft() -> Iterator[None]:
    """PEFT asks transformers by a deprecated name whether activations are checkpointed; nobody here can act on it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".is_gradient_checkpointing. is deprecated", category=FutureWarning)
        yield


@contextmanager
def loading_in_words(place: str) -> Iterator[None]:
    """Turn what transformers, PEFT and safetensors raise while loading into `ModelProblem`."""
    from safetensors import SafetensorError
    from transformers.utils import logging

    logging.disable_progress_bar()  # a worker's log is read as lines
    try:
        yield
    except WorkbenchError:
        raise
    except SafetensorError as error:
        if "No space left" in str(error):
            raise ModelProblem("the disk is full", place=place, remedy="Free some space and start again.") from error
        raise ModelProblem(
            f"the weights are damaged: {error}", place=place, remedy="Fetch the files again; they may be cut off."
        ) from error
    except MemoryError as error:
        raise ModelProblem(
            "there is not enough memory to load it", place=place, remedy="Close other work or use a smaller model."
        ) from error
    except Exception as error:  # a damaged file makes third-party parsers raise almost anything
        if "out of memory" in str(error).lower() or "can't allocate memory" in str(error).lower():
            what, remedy = "there is not enough memory to load it", "Close other work or use a smaller model."
        else:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            what, remedy = f"it cannot be loaded: {first}", "Check that the folder is complete and fits this version."
        raise ModelProblem(what, place=place, remedy=remedy) from error
