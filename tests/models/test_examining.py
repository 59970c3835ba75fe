import json
import struct
from pathlib import Path

import pytest
import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workbench.errors import ModelProblem
from workbench.models.inspecting import examine_folder, read_tensor_places


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.make_model(tmp_path / "model")


def _edit(file: Path, **changes: object) -> None:
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def test_a_good_folder_tells_what_it_holds(folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\nA model.")
    facts = examine_folder(folder)
    assert facts.parameters == AutoModelForCausalLM.from_pretrained(folder).num_parameters()
    assert facts.architecture == "LlamaForCausalLM" and facts.dtype == "float32"
    assert (facts.context_length, facts.vocab_size, facts.hidden_size, facts.layers) == (512, 400, 64, 2)
    assert facts.has_chat_template and facts.has_fast_tokenizer and facts.licence == "apache-2.0"
    assert facts.bytes == facts.parameters * 4


def test_a_chat_template_in_the_tokenizer_config_counts(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    assert not examine_folder(folder).has_chat_template
    _edit(folder / "tokenizer_config.json", chat_template="{{ messages }}")
    assert examine_folder(folder).has_chat_template


def test_a_missing_folder_a_file_and_an_adapter_are_told_apart(folder: Path, tmp_path: Path) -> None:
    for path, words in [
        (tmp_path / "nowhere", "no such folder"),
        (folder / "config.json", "a file, not a folder"),
        (tiny.make_adapter(folder, tmp_path / "adapter"), "an adapter, not a base model"),
        (tmp_path, "config.json is missing"),
    ]:
        with pytest.raises(ModelProblem, match=words):
            examine_folder(path)


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelProblem, match=r"pickled.*pytorch_model\.bin.*safetensors"):
        examine_folder(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_model_with_its_own_code_is_refused(folder: Path, name: str) -> None:
    _edit(folder / name, auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"})
    with pytest.raises(ModelProblem, match="its own code"):
        examine_folder(folder)


@pytest.mark.parametrize(
    "changes,words",
    [
        ({"architectures": ["BertForMaskedLM"]}, "not a causal language model.*BertForMaskedLM"),
        ({"architectures": None}, "names no model type or architecture"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised.*gptq"),
        ({"vocab_size": 100}, "tokenizer does not belong to the model"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused(folder: Path, changes: dict[str, object], words: str) -> None:
    _edit(folder / "config.json", **changes)
    with pytest.raises(ModelProblem, match=words):
        examine_folder(folder)


def test_a_folder_without_any_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelProblem, match="no tokenizer"):
        examine_folder(folder)


def test_broken_json_is_told_with_its_file(folder: Path) -> None:
    (folder / "config.json").write_text('{"architectures": [')
    with pytest.raises(ModelProblem, match=r"config\.json: the file is not valid JSON"):
        examine_folder(folder)


def test_weights_that_are_cut_off_are_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for size in (0, 4, 8, 100, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(ModelProblem, match="safetensors file"):
            examine_folder(folder)


def test_an_index_that_names_a_missing_or_foreign_file_is_refused(folder: Path) -> None:
    for name in ("model-00001-of-00002.safetensors", "../other/model.safetensors"):
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
        with pytest.raises(ModelProblem, match="a file of the weights is missing"):
            examine_folder(folder)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=200), honest=st.booleans())
def test_no_bytes_make_the_header_reader_fail_in_another_way(tmp_path: Path, body: bytes, honest: bool) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(body)) + body if honest else body)
    try:
        read_tensor_places(file)
    except ModelProblem:
        pass


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    entry=st.recursive(
        st.none() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "w"]), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_no_header_makes_the_reader_fail_in_another_way(tmp_path: Path, entry: object) -> None:
    text = json.dumps({"w": entry}).encode()
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    try:
        read_tensor_places(tmp_path / "m.safetensors")
    except ModelProblem:
        pass
