import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
from bundled import bundled_model_folder  # noqa: F401

from workbench.errors import ModelProblem, Stopped
from workbench.job import RecordingJob
from workbench.models import convert
from workbench.models.convert import bundled_gguf, convert_gguf, is_complete
from workbench.models.inspecting import examine_folder
from workbench.store.database import Store

LLAMA_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def make_gguf(folder: Path, file: Path) -> Path:
    """A GGUF file of a made model, laid out as llama.cpp's converter does (rotary halves interleaved)."""
    from gguf import GGUFWriter
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    writer = GGUFWriter(file, "llama")
    writer.add_name("Tiny")
    writer.add_license("mit")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    tokens = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in tiny.SPECIALS else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(tiny.START_ID)
    writer.add_eos_token_id(tiny.PAD_ID)  # as in files whose end of text is not the end of a turn
    writer.add_unk_token_id(tiny.PAD_ID)
    writer.add_pad_token_id(tiny.PAD_ID)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tiny.CHATML)
    for name, weight in load_file(folder / "model.safetensors").items():
        stem, layer = name.removesuffix(".weight"), ""
        if stem.startswith("model.layers."):
            _, _, number, stem = stem.split(".", 3)
            layer = f"blk.{number}."
        for part, count in heads.items():
            if stem.endswith(part):
                weight = weight.reshape(count, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
        writer.add_tensor(f"{layer}{LLAMA_NAMES[stem]}.weight", np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture
def original(tmp_path: Path) -> Path:
    return tiny.make_model(tmp_path / "original")


@pytest.fixture
def gguf(original: Path, tmp_path: Path) -> Path:
    return make_gguf(original, tmp_path / "tiny.gguf")


@pytest.fixture
def job(store: Store, tmp_path: Path) -> RecordingJob:
    return RecordingJob(store, tmp_path / "run")


def test_a_converted_model_computes_what_the_original_did(
    original: Path, gguf: Path, tmp_path: Path, job: RecordingJob
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    folder = convert_gguf(gguf, tmp_path / "converted", job)
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        before = AutoModelForCausalLM.from_pretrained(original)(ids).logits
        after = AutoModelForCausalLM.from_pretrained(folder)(ids).logits
    torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-4)
    assert job.phases == ["reading the tokenizer", "reading the weights", "writing the weights", "checking"]
    facts = examine_folder(folder)
    assert facts.has_chat_template and facts.licence == "mit" and facts.context_length == 512


def test_a_converted_tokenizer_cuts_text_as_the_original_does(original: Path, gguf: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    folder = convert_gguf(gguf, tmp_path / "converted")
    one = Tokenizer.from_file(str(original / "tokenizer.json"))
    two = AutoTokenizer.from_pretrained(folder)
    plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in ["<|im_start|>user\nHi<|im_end|>\n", "In 2024 we counted 12345.", "naïve 你好 🙂\n\n  x", "", " a  b "]:
        ids = one.encode(text, add_special_tokens=False).ids
        assert two(text)["input_ids"] == ids == plain.encode(text).ids
        assert two.decode(ids) == text
    assert two.chat_template == tiny.CHATML


def test_an_answer_ends_at_the_files_end_and_at_the_templates_end_of_turn(gguf: Path, tmp_path: Path) -> None:
    folder = convert_gguf(gguf, tmp_path / "converted")
    stops = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert stops == [tiny.PAD_ID, tiny.END_ID]


def test_a_finished_conversion_is_not_done_again(gguf: Path, tmp_path: Path) -> None:
    folder = convert_gguf(gguf, tmp_path / "converted")
    before = (folder / "model.safetensors").stat().st_mtime_ns
    convert_gguf(gguf, folder)
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_a_conversion_that_fails_half_way_leaves_nothing_behind(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "models" / "converted"

    def fail(folder: Path, facts: dict[str, object]) -> None:
        assert (folder / "model.safetensors").exists()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(convert, "finish_folder", fail)
        with pytest.raises(KeyboardInterrupt):
            convert_gguf(gguf, target)
    assert not target.exists() and not list(target.parent.glob("*part*"))
    assert is_complete(convert_gguf(gguf, target))


def test_what_a_killed_conversion_left_is_cleared_by_the_next(gguf: Path, tmp_path: Path) -> None:
    target = tmp_path / "models" / "converted"
    stale = target.parent / ".converted.part-tmp_killed"
    for folder in (stale, target):
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"half")
    assert not is_complete(target)
    convert_gguf(gguf, target)
    assert is_complete(target) and not stale.exists() and examine_folder(target).layers == 2
    assert [path.name for path in target.parent.iterdir() if path.is_dir()] == ["converted"]


def test_a_stop_between_phases_is_obeyed(gguf: Path, tmp_path: Path, store: Store) -> None:
    job = RecordingJob(store, tmp_path / "run", stop_after=1)
    with pytest.raises(Stopped):
        convert_gguf(gguf, tmp_path / "converted", job)
    assert not (tmp_path / "converted").exists()


def test_files_that_are_no_gguf_are_refused_in_words(gguf: Path, tmp_path: Path) -> None:
    fake = tmp_path / "fake.gguf"
    fake.write_bytes(b"GIF89a..")
    with pytest.raises(ModelProblem, match="not a GGUF file"):
        convert_gguf(fake, tmp_path / "converted")
    with pytest.raises(ModelProblem, match="cannot be read"):
        convert_gguf(tmp_path / "missing.gguf", tmp_path / "converted")
    whole = gguf.read_bytes()
    for share in (0.001, 0.1, 0.6):
        fake.write_bytes(whole[: max(8, int(len(whole) * share))])
        with pytest.raises(ModelProblem):
            convert_gguf(fake, tmp_path / "converted")
    assert not (tmp_path / "converted").exists()


def test_a_full_disk_is_told_before_writing(gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(convert.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(ModelProblem, match="the disk is too full"):
        convert_gguf(gguf, tmp_path / "converted")
    assert not list(tmp_path.glob(".converted.part*"))


@pytest.mark.bundled
@pytest.mark.slow
def test_the_bundled_model_speaks_and_keeps_its_chat_format(bundled_model_folder: Path) -> None:  # noqa: F811
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert bundled_gguf() is not None
    tokenizer = AutoTokenizer.from_pretrained(bundled_model_folder)
    assert tokenizer("<|im_start|>user\nHi<|im_end|>")["input_ids"] == [1, 4093, 198, 26843, 2]
    assert tokenizer.tokenize("In 2024") == ["In", "Ġ", "2", "0", "2", "4"]
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
    )
    assert tokenizer.decode(inputs["input_ids"][0]) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    model = AutoModelForCausalLM.from_pretrained(bundled_model_folder)
    assert model.dtype == torch.float32 and model.generation_config.eos_token_id == 2
    answer = model.generate(**inputs, max_new_tokens=24, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer, skip_special_tokens=True) and answer[-1] == 2
    facts = examine_folder(bundled_model_folder)
    assert facts.parameters == 134_515_008 and facts.licence == "apache-2.0" and facts.context_length == 8192
