import json
import shutil
from pathlib import Path

import pytest
import tiny

from workbench.errors import ModelProblem
from workbench.models.fingerprints import (
    CACHE_FILE,
    digest_adapter,
    digest_tokenizer,
    digest_weights,
    fingerprint,
    normal_adapter_config,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.make_model(tmp_path / "model")


@pytest.fixture
def adapter(folder: Path, tmp_path: Path) -> Path:
    return tiny.make_adapter(folder, tmp_path / "adapter")


def _rewrite(file: Path, change: bool = False) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(file)
    if change:
        name = sorted(weights)[0]
        weights[name].view(-1)[0] += 1e-3
    save_file(dict(sorted(weights.items(), reverse=True)), file, metadata={"format": "pt", "written": "again"})


def test_the_weights_digest_stands_when_the_file_is_written_again_and_moves_with_one_weight(folder: Path) -> None:
    before = digest_weights(folder)
    _rewrite(folder / "model.safetensors")
    assert digest_weights(folder) == before
    _rewrite(folder / "model.safetensors", change=True)
    assert digest_weights(folder) != before


def test_splitting_the_weights_into_several_files_keeps_their_digest(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "split", max_shard_size="100KB")
    assert len(list((tmp_path / "split").glob("*.safetensors"))) > 1
    assert digest_weights(tmp_path / "split") == digest_weights(folder)


def test_the_second_look_takes_the_digest_from_beside_the_weights(folder: Path) -> None:
    first = digest_weights(folder)
    cache = folder / CACHE_FILE
    kept = json.loads(cache.read_text())
    cache.write_text(json.dumps(kept | {"digest": "kept"}))
    assert digest_weights(folder) == "kept"
    cache.write_text("not json")
    assert digest_weights(folder) == first


def test_a_folder_that_cannot_be_written_still_has_a_digest(folder: Path) -> None:
    first = digest_weights(folder)
    (folder / CACHE_FILE).unlink()
    (folder / CACHE_FILE).mkdir()
    assert digest_weights(folder) == first


def test_the_adapter_digest_leaves_out_paths_versions_and_order(adapter: Path, tmp_path: Path) -> None:
    before = digest_adapter(adapter)
    moved = shutil.copytree(adapter, tmp_path / "elsewhere")
    file = moved / "adapter_config.json"
    config = json.loads(file.read_text())
    config["target_modules"] = config["target_modules"][::-1]
    config |= {"base_model_name_or_path": "/somewhere/else", "peft_version": "9.9.9", "inference_mode": False}
    config["lora_alpha"] = float(config["lora_alpha"])
    file.write_text(json.dumps(dict(reversed(config.items()))))
    _rewrite(moved / "adapter_model.safetensors")
    assert digest_adapter(moved) == before


@pytest.mark.parametrize("field,value", [("lora_alpha", 99), ("use_rslora", True), ("fan_in_fan_out", True)])
def test_the_adapter_digest_moves_with_what_changes_answers(adapter: Path, field: str, value: object) -> None:
    before = digest_adapter(adapter)
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    assert digest_adapter(adapter) != before


def test_the_adapter_digest_moves_with_one_weight(adapter: Path) -> None:
    before = digest_adapter(adapter)
    _rewrite(adapter / "adapter_model.safetensors", change=True)
    assert digest_adapter(adapter) != before


def test_a_field_that_an_older_config_lacks_counts_as_its_default() -> None:
    old = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["b", "a"]}
    new = old | {"use_dora": False, "rank_pattern": {}, "bias": "none", "modules_to_save": None, "peft_version": "1"}
    assert normal_adapter_config(old) == normal_adapter_config(new)


def test_the_tokenizer_digest_ignores_indentation(folder: Path) -> None:
    before = digest_tokenizer(folder)
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text())))
    assert digest_tokenizer(folder) == before


def test_each_part_of_the_fingerprint_counts() -> None:
    parts = ("base", None, "tokenizer", "template", "float32")
    known = fingerprint(*parts)
    assert known.startswith("fp_") and len(known) >= 19
    assert fingerprint("base", None, "tokenizer", "template", "torch.float32") == known
    changed = {
        fingerprint("other", *parts[1:]),
        fingerprint("base", "adapter", *parts[2:]),
        fingerprint("base", None, "other", "template", "float32"),
        fingerprint("base", None, "tokenizer", None, "float32"),
        fingerprint("base", None, "tokenizer", "template", "bfloat16"),
    }
    assert len(changed | {known}) == 6


def test_a_folder_without_weights_has_no_digest(tmp_path: Path) -> None:
    with pytest.raises(ModelProblem, match="no safetensors"):
        digest_weights(tmp_path)
