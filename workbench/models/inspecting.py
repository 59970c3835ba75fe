"""What a model folder holds, read from its JSON files and safetensors headers alone.

Quick enough for a form and safe for files of unknown origin: no torch, nothing is executed. Loading is left to
`workbench.models.loading`, refusing and explaining at the add form uses what is found here.
"""

from __future__ import annotations

import json
import math
import re
import struct
from pathlib import Path
from typing import Any, NamedTuple

from workbench.errors import ModelProblem
from workbench.records import Record

MAX_HEADER_BYTES = 100_000_000
WIDTHS = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2,
    "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class TensorPlace(NamedTuple):
    """Where one tensor lies in a safetensors file."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    bytes: int


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ModelProblem: the file is missing, unreadable or no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelProblem(
            f"{path.name} is missing", place=str(path.parent), remedy="Copy or fetch the whole folder again."
        ) from error
    except OSError as error:
        raise ModelProblem(f"the file cannot be read: {error.strerror}", place=str(path)) from error
    except (ValueError, RecursionError) as error:
        raise ModelProblem(
            "the file is not valid JSON", place=str(path), remedy="Fetch it again; it may be cut off."
        ) from error
    if not isinstance(value, dict):
        raise ModelProblem("the file does not hold a JSON object", place=str(path))
    return value


def read_tensor_places(file: Path) -> list[TensorPlace]:
    """Name, dtype, shape and place of each tensor, from the header: 8 bytes of length, then JSON.

    Raises:
        ModelProblem: the file is missing, cut off or no safetensors file.
    """

    def bad(what: str) -> ModelProblem:
        return ModelProblem(what, place=str(file), remedy="Fetch the file again; it may be cut off or damaged.")

    try:
        size = file.stat().st_size
        with open(file, "rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8).ljust(8, b"\0"))
            if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
                raise bad("the file is not a safetensors file")
            header = json.loads(handle.read(length))
    except FileNotFoundError as error:
        raise ModelProblem(f"{file.name} is missing", place=str(file.parent)) from error
    except OSError as error:
        raise ModelProblem(f"the weights cannot be read: {error.strerror}", place=str(file)) from error
    except (ValueError, RecursionError) as error:
        raise bad("the header of the safetensors file is damaged") from error
    if not isinstance(header, dict):
        raise bad("the header of the safetensors file is damaged")
    places = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            dtype, shape = str(entry["dtype"]), tuple(int(side) for side in entry["shape"])
            start, end = (int(edge) for edge in entry["data_offsets"])
        except (KeyError, TypeError, ValueError) as error:
            raise bad(f"the header of the safetensors file is damaged at '{name}'") from error
        if not 0 <= start <= end or 8 + length + end > size:
            raise bad(f"the safetensors file is cut off: '{name}' lies beyond its end")
        if dtype in WIDTHS and math.prod(shape) * WIDTHS[dtype] != end - start:
            raise bad(f"the header of the safetensors file is damaged at '{name}'")
        places.append(TensorPlace(file, name, dtype, shape, 8 + length + start, end - start))
    return places


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make up the model: those of the index where there is one.

    Raises:
        ModelProblem: there are none, or the index names one that is missing.
    """
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = read_json(index).get("weight_map")
        if not isinstance(names, dict) or not names:
            raise ModelProblem("the index of the weights is damaged", place=str(index))
        files = sorted({str(name) for name in names.values()})
        missing = [name for name in files if Path(name).name != name or not (folder / name).is_file()]
        if missing:
            raise ModelProblem(
                "a file of the weights is missing", place=str(folder), value=missing[0], remedy="Fetch it again."
            )
        return [folder / name for name in files]
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    raise ModelProblem("there are no safetensors weights", place=str(folder))


class ModelFacts(Record):
    """What a folder says about the model in it."""

    architecture: str
    """The class that transformers loads it with."""
    model_type: str
    """transformers' name of the family."""
    parameters: int
    """Number of weights, tied ones counted once."""
    dtype: str
    """Number format of most weights."""
    bytes: int
    """Size of the weights on disk."""
    context_length: int | None
    """Longest conversation in tokens, where the config says."""
    vocab_size: int
    """Rows of the embedding."""
    hidden_size: int | None
    """Width."""
    layers: int | None
    """Depth."""
    has_chat_template: bool
    """Whether a chat template comes with it."""
    has_fast_tokenizer: bool
    """Whether `tokenizer.json` is there; otherwise the tokenizer is converted once."""
    licence: str | None
    """What the model card's header or the marker says."""


def examine_folder(folder: Path) -> ModelFacts:
    """Whether a folder holds a causal language model that can be used here, and which.

    Args:
        folder: `config.json`, safetensors and a tokenizer, as the hub lays them out.

    Raises:
        ModelProblem: it does not; says what is wrong and what to do.
    """
    folder = Path(folder)
    if folder.is_file():
        raise ModelProblem("this is a file, not a folder", place=str(folder), remedy="Give the folder it lies in.")
    if not folder.is_dir():
        raise ModelProblem("there is no such folder", place=str(folder), remedy="Check the path.")
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        raise ModelProblem(
            "this is an adapter, not a base model", place=str(folder), remedy="Add its base, then import the adapter."
        )
    config = read_json(folder / "config.json")
    check_config(folder, config)
    places = [place for file in _weights_or_reason(folder) for place in read_tensor_places(file)]
    if not places:
        raise ModelProblem("the safetensors files are empty", place=str(folder))
    fast = check_tokenizer_files(folder)
    nested = config.get("text_config")
    numbers = {**(nested if isinstance(nested, dict) else {}), **config}
    vocab = _number(numbers, "vocab_size") or 0
    if fast:
        _check_vocabulary(folder, vocab)
    weights: dict[str, int] = {}
    for place in places:
        weights[place.dtype] = weights.get(place.dtype, 0) + math.prod(place.shape)
    main = max(weights, key=lambda dtype: weights[dtype])
    return ModelFacts(
        architecture=str(config["architectures"][0]),
        model_type=str(config["model_type"]),
        parameters=sum(weights.values()),
        dtype=DTYPES.get(main, main.lower()),
        bytes=sum(place.bytes for place in places),
        context_length=_number(numbers, "max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length"),
        vocab_size=vocab,
        hidden_size=_number(numbers, "hidden_size", "n_embd", "d_model"),
        layers=_number(numbers, "num_hidden_layers", "n_layer", "n_layers"),
        has_chat_template=_has_chat_template(folder),
        has_fast_tokenizer=fast,
        licence=_licence(folder),
    )


def check_config(folder: Path, config: dict[str, Any]) -> None:
    """What `config.json` alone tells: a causal language model, of code that transformers has, with plain weights.

    Raises:
        ModelProblem: one of these does not hold.
    """
    place = str(folder)
    tokenizer = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}
    if config.get("auto_map") or tokenizer.get("auto_map"):
        raise ModelProblem(
            "the model brings its own code, which is not run here",
            place=place,
            value=str(config.get("auto_map") or tokenizer.get("auto_map")),
            remedy="Use a model of an architecture that transformers itself has.",
        )
    names = config.get("architectures")
    architecture = str(names[0]) if isinstance(names, list) and names else ""
    if not config.get("model_type") or not architecture:
        raise ModelProblem("config.json names no model type or architecture", place=place)
    if not architecture.endswith(("ForCausalLM", "LMHeadModel")):
        raise ModelProblem(
            "this is not a causal language model",
            place=place,
            value=architecture,
            remedy="Choose a text model whose architecture ends in ForCausalLM.",
        )
    quantisation = config.get("quantization_config")
    if quantisation:
        method = quantisation.get("quant_method", "") if isinstance(quantisation, dict) else ""
        raise ModelProblem(
            "the weights are quantised", place=place, value=method, remedy="Choose the model's unquantised release."
        )


def _weights_or_reason(folder: Path) -> list[Path]:
    try:
        return weight_files(folder)
    except ModelProblem:
        pickles = [file.name for ending in ("*.bin", "*.pt", "*.pth", "*.ckpt") for file in folder.glob(ending)]
        if pickles and not (folder / "model.safetensors.index.json").exists():
            raise ModelProblem(
                "the weights are pickled, which can run code when opened",
                place=str(folder),
                value=sorted(pickles)[0],
                remedy="Use a release with .safetensors files.",
            ) from None
        loose = sorted(folder.glob("*.gguf"))
        if loose:
            raise ModelProblem(
                "the folder holds a GGUF file", place=str(folder), value=loose[0].name, remedy="Add it as a GGUF file."
            ) from None
        raise


SLOW_TOKENIZERS = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt")


def check_tokenizer_files(folder: Path) -> bool:
    """Whether the tokenizer is there as `tokenizer.json` (True) or in an older form (False).

    Raises:
        ModelProblem: there is none.
    """
    if (folder / "tokenizer.json").is_file():
        return True
    if any((folder / name).is_file() for name in SLOW_TOKENIZERS):
        return False
    raise ModelProblem(
        "there is no tokenizer", place=str(folder), remedy="Put the tokenizer.json of the model into the folder."
    )


def _check_vocabulary(folder: Path, vocab_size: int) -> None:
    content = read_json(folder / "tokenizer.json")
    try:
        vocabulary = content["model"]["vocab"]
        ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else range(len(vocabulary))
        added = [int(token["id"]) for token in content.get("added_tokens") or []]
        highest = max([*ids, *added], default=-1)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelProblem("tokenizer.json is damaged", place=str(folder), remedy="Fetch it again.") from error
    if highest >= vocab_size > 0:
        raise ModelProblem(
            f"the tokenizer does not belong to the model: it has token {highest}, the model knows {vocab_size}",
            place=str(folder),
            remedy="Put the model's own tokenizer.json into the folder.",
        )


def _has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    for name in ("tokenizer_config.json", "chat_template.json"):
        if (folder / name).exists() and read_json(folder / name).get("chat_template"):
            return True
    return False


def _licence(folder: Path) -> str | None:
    for name in ("README.md", "workbench-model.json"):
        try:
            head = (folder / name).read_text(encoding="utf-8", errors="replace")[:4000]
        except OSError:
            continue
        found = re.search(r"^licen[cs]e:\s*['\"]?([\w.+-]+)", head, re.MULTILINE) if name == "README.md" else None
        found = found or re.search(r"\"licence\":\s*\"([^\"]+)\"", head)
        if found:
            return found[1]
    return None


def _number(numbers: dict[str, Any], *keys: str) -> int | None:
    for key in keys:
        value = numbers.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None
