import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from workbench.errors import Conflict, ModelProblem
from workbench.models.adapters import check_adapter, import_adapter, publish_adapter, read_adapter_facts
from workbench.models.fingerprints import digest_adapter
from workbench.models.loading import load_base, load_tokenizer, load_with_adapter
from workbench.records import Model, ModelSource
from workbench.store import models as model_store
from workbench.store.database import Store


@pytest.fixture
def model(store: Store, tmp_path: Path) -> Model:
    return tiny.register_model(store, tiny.make_model(tmp_path / "model"))


@pytest.fixture
def adapter(model: Model, tmp_path: Path) -> Path:
    return tiny.make_adapter(Path(model.path or ""), tmp_path / "trained")


def _edit(folder: Path, **changes: object) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_published_adapter_is_plain_peft_and_leaves_the_trainers_files_behind(
    model: Model, adapter: Path, tmp_path: Path
) -> None:
    (adapter / "training_args.bin").write_bytes(b"pickle")
    (adapter / "optimizer.pt").write_bytes(b"pickle")
    shutil.copytree(adapter, adapter / "ref")
    published = tmp_path / "published"
    assert publish_adapter(adapter, published, model) == digest_adapter(published) == digest_adapter(adapter)
    assert {file.name for file in published.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "base.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
    }
    assert json.loads((published / "base.json").read_text())["base_digest"] == model.base_digest
    publish_adapter(adapter, published, model)
    assert not list(tmp_path.glob(".published*"))


def test_the_base_is_named_by_its_hub_id_where_it_has_one(model: Model, adapter: Path, tmp_path: Path) -> None:
    for source, reference, named in [
        (ModelSource.HUB, "someone/tiny", "someone/tiny"),
        (ModelSource.BUNDLED, "", "HuggingFaceTB/SmolLM2-135M-Instruct"),
    ]:
        known = model.model_copy(update={"source": source, "reference": reference})
        publish_adapter(adapter, tmp_path / "published", known)
        everything = "".join(
            (tmp_path / "published" / name).read_text() for name in ("adapter_config.json", "base.json")
        )
        assert named in everything and str(tmp_path) not in everything


def test_the_tokenizer_trained_with_goes_along_rather_than_the_bases(
    model: Model, adapter: Path, tmp_path: Path
) -> None:
    tiny.make_tokenizer(adapter, chat_template="{{ messages }} of the adapter")
    publish_adapter(adapter, tmp_path / "published", model)
    assert (tmp_path / "published" / "chat_template.jinja").read_text() == "{{ messages }} of the adapter"


def test_a_copied_adapter_opens_in_peft_with_nothing_of_ours(model: Model, adapter: Path, tmp_path: Path) -> None:
    published, elsewhere = tmp_path / "published", tmp_path / "elsewhere"
    publish_adapter(adapter, published, model)
    shutil.copytree(published, elsewhere)
    code = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[2])
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(sys.argv[1]), sys.argv[2])
ids = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], return_tensors="pt", return_dict=True)
print(model(**ids).logits[0, -1, :5].tolist())
assert "workbench" not in sys.modules
"""
    ran = subprocess.run(
        [sys.executable, "-c", code, str(model.path), str(elsewhere)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    tuned = load_with_adapter(load_base(model), published)
    ids = load_tokenizer(model).apply_chat_template([{"role": "user", "content": "Hi"}], return_tensors="pt")
    ours = tuned(**ids).logits[0, -1, :5].tolist()
    assert json.loads(ran.stdout.strip().splitlines()[-1]) == pytest.approx(ours, abs=1e-5)


def test_facts_of_an_adapter(model: Model, tmp_path: Path) -> None:
    folder = Path(model.path or "")
    facts = read_adapter_facts(tiny.make_adapter(folder, tmp_path / "a", r=3, targets=["q_proj", "v_proj"]))
    assert (facts.r, facts.alpha, facts.targets, facts.mixable) == (3, 6.0, ("q_proj", "v_proj"), True)
    dora = check_adapter(tiny.make_adapter(folder, tmp_path / "b", use_dora=True), model)
    assert dora.use_dora and not dora.mixable
    assert check_adapter(tiny.make_adapter(folder, tmp_path / "c", use_rslora=True), model).use_rslora


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings")
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
@pytest.mark.parametrize("layer", ["embed_tokens", "lm_head"])
def test_an_adapter_for_a_tied_layer_fits_its_base(store: Store, tmp_path: Path, layer: str) -> None:
    model = tiny.register_model(store, tiny.make_model(tmp_path / "model", tied=True))
    adapter = tiny.make_adapter(Path(model.path or ""), tmp_path / "adapter", targets=[layer, "q_proj"])
    assert check_adapter(adapter, model).targets == (layer, "q_proj")


def test_an_adapter_for_another_base_is_refused_by_digest_and_by_shape(
    model: Model, adapter: Path, store: Store, tmp_path: Path
) -> None:
    same_shape = tiny.register_model(store, tiny.make_model(tmp_path / "seed", seed=5), "same shape")
    wider = tiny.register_model(store, tiny.make_model(tmp_path / "wide", hidden=32), "narrow")
    deeper = tiny.register_model(store, tiny.make_model(tmp_path / "shallow", layers=1), "shallow")
    publish_adapter(adapter, tmp_path / "published", model)
    with pytest.raises(ModelProblem, match="made for another base, tiny"):
        check_adapter(tmp_path / "published", same_shape)
    with pytest.raises(ModelProblem, match="another base: it expects a layer of"):
        check_adapter(adapter, wider)
    with pytest.raises(ModelProblem, match="a layer that this one does not have"):
        check_adapter(adapter, deeper)


def test_pickled_missing_and_foreign_adapters_are_refused(model: Model, adapter: Path, tmp_path: Path) -> None:
    def spoiled(name: str) -> Path:
        return Path(shutil.copytree(adapter, tmp_path / name))

    pickled = spoiled("pickled")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    half = spoiled("half")
    (half / "adapter_model.safetensors").unlink()
    bare = spoiled("bare")
    (bare / "adapter_config.json").unlink()
    prompt = spoiled("prompt")
    _edit(prompt, peft_type="PROMPT_TUNING")
    rank = spoiled("rank")
    _edit(rank, r=16)
    words = spoiled("words")
    _edit(words, r="four")
    cut = spoiled("cut")
    whole = (cut / "adapter_model.safetensors").read_bytes()
    (cut / "adapter_model.safetensors").write_bytes(whole[: len(whole) // 2])
    for folder, reason in [
        (pickled, "pickled"),
        (half, "adapter_model.safetensors is missing"),
        (bare, "adapter_config.json is missing"),
        (prompt, "not a LoRA adapter.*PROMPT_TUNING"),
        (rank, "rank does not agree: the config says 16, the weights have 4"),
        (words, "config is damaged"),
        (cut, "cut off"),
        (tmp_path / "nowhere", "no such folder"),
    ]:
        with pytest.raises(ModelProblem, match=reason):
            check_adapter(folder, model)


def test_an_adapter_with_a_larger_vocabulary_is_refused(model: Model, adapter: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    file = adapter / "adapter_model.safetensors"
    weights = load_file(file) | {"base_model.model.lm_head.weight": torch.zeros(401, 64)}
    save_file(weights, file)
    with pytest.raises(ModelProblem, match="a layer of its own whose shape"):
        check_adapter(adapter, model)


def test_half_of_a_layers_weights_is_not_enough(model: Model, adapter: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = adapter / "adapter_model.safetensors"
    weights = load_file(file)
    del weights[next(name for name in weights if "lora_B" in name)]
    save_file(weights, file)
    with pytest.raises(ModelProblem, match="half of a layer"):
        check_adapter(adapter, model)


def test_an_imported_adapter_is_a_variant_with_files_of_its_own(store: Store, model: Model, adapter: Path) -> None:
    variant = import_adapter(store, adapter, model, "from elsewhere")
    shutil.rmtree(adapter)
    assert variant.adapter_path and Path(variant.adapter_path).is_relative_to(store.settings.home)
    assert digest_adapter(Path(variant.adapter_path)) == variant.adapter_digest
    assert model_store.get_variant(store, "from elsewhere") == variant


def test_an_import_under_a_taken_name_leaves_no_files(store: Store, model: Model, adapter: Path) -> None:
    before = sorted(store.settings.models_dir.iterdir())
    with pytest.raises(Conflict, match="a variant of this name exists"):
        import_adapter(store, adapter, model, "tiny")
    assert sorted(store.settings.models_dir.iterdir()) == before
