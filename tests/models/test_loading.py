import json
from pathlib import Path

import pytest
import tiny

from workbench.errors import ModelProblem
from workbench.models.loading import load_base, load_tokenizer, load_with_adapter
from workbench.records import Model
from workbench.store.database import Store


@pytest.fixture
def model(store: Store, tmp_path: Path) -> Model:
    return tiny.register_model(store, tiny.make_model(tmp_path / "model"))


def test_a_base_loads_in_the_asked_number_format_ready_to_answer(model: Model) -> None:
    import torch

    loaded = load_base(model)
    assert loaded.dtype == torch.float32 and not loaded.training and loaded.config._attn_implementation == "sdpa"
    assert load_base(model, dtype="bfloat16").dtype == torch.bfloat16
    with pytest.raises(ModelProblem, match="unknown number format"):
        load_base(model, dtype="int4")


def test_the_tokenizer_comes_with_its_template_and_end_of_answer(model: Model) -> None:
    tokenizer = load_tokenizer(model)
    assert tokenizer.chat_template == tiny.CHATML and tokenizer.eos_token_id == tiny.END_ID


def test_an_adapter_can_be_laid_on_to_answer_or_to_learn(model: Model, tmp_path: Path) -> None:
    adapter = tiny.make_adapter(Path(model.path or ""), tmp_path / "adapter")
    assert not any(weight.requires_grad for weight in load_with_adapter(load_base(model), adapter).parameters())
    tuned = load_with_adapter(load_base(model), adapter, name="mine", trainable=True)
    assert tuned.active_adapter == "mine" and any(weight.requires_grad for weight in tuned.parameters())


def test_an_adapter_without_safetensors_is_not_looked_for_elsewhere(model: Model, tmp_path: Path) -> None:
    adapter = tiny.make_adapter(Path(model.path or ""), tmp_path / "adapter")
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    for folder in (adapter, tmp_path / "owner" / "name"):
        with pytest.raises(ModelProblem, match="is missing"):
            load_with_adapter(load_base(model), folder)


def test_a_model_that_is_not_ready_or_has_moved_is_told_in_words(model: Model, tmp_path: Path) -> None:
    with pytest.raises(ModelProblem, match="has not been added yet"):
        load_base(model.model_copy(update={"path": None}))
    with pytest.raises(ModelProblem, match="folder is gone"):
        load_tokenizer(model.model_copy(update={"path": str(tmp_path / "gone")}))


def test_missing_weights_are_refused_rather_than_drawn_at_random(model: Model) -> None:
    from safetensors.torch import load_file, save_file

    file = Path(model.path or "") / "model.safetensors"
    weights = load_file(file)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelProblem, match="weights are missing.*up_proj"):
        load_base(model)


def test_damaged_files_are_told_without_a_traceback(model: Model) -> None:
    folder = Path(model.path or "")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:1000])
    with pytest.raises(ModelProblem, match="tiny: "):
        load_base(model)
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0"}))
    with pytest.raises(ModelProblem, match="tiny: "):
        load_tokenizer(model)
