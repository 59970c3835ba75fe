from pathlib import Path

import pytest
import tiny

from workbench.models.fingerprints import digest_adapter, digest_weights
from workbench.models.loading import load_with_adapter
from workbench.store.database import Store
from workbench.store.models import get_variant


def _answer(folder: Path, adapter: Path | None) -> list[int]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    if adapter:
        model = load_with_adapter(model, adapter)
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the sea?"}], add_generation_prompt=True, return_tensors="pt"
    )
    answer = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    return answer[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("dora", [False, True])
def test_a_made_adapter_changes_what_the_made_model_says(tmp_path: Path, dora: bool) -> None:
    folder = tiny.make_model(tmp_path / "model")
    adapter = tiny.make_adapter(folder, tmp_path / "adapter", use_dora=dora)
    assert _answer(folder, None) != _answer(folder, adapter)


def test_made_models_and_adapters_are_the_same_each_time(tmp_path: Path) -> None:
    one, two = tiny.make_model(tmp_path / "one"), tiny.make_model(tmp_path / "two")
    assert digest_weights(one) == digest_weights(two) != digest_weights(tiny.make_model(tmp_path / "three", seed=9))
    first, second = tiny.make_adapter(one, tmp_path / "a"), tiny.make_adapter(two, tmp_path / "b")
    assert digest_adapter(first) == digest_adapter(second)


def test_a_registered_model_has_a_base_variant_of_its_name(tmp_path: Path, store: Store) -> None:
    model = tiny.register_model(store, tiny.make_model(tmp_path / "model"))
    assert get_variant(store, "tiny").model_id == model.id
    assert model.path and model.base_digest and model.info["layers"] == 2
