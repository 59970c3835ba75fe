"""Names, tags and places as people and machines really give them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from workbench.errors import NotFound, UsageError
from workbench.records import ModelSource
from workbench.runs.launch import _cut
from workbench.settings import Settings
from workbench.store import datasets as dataset_store
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.store.database import Store, open_store


@pytest.mark.parametrize("name", ["", "  ", "\u200b", "\x00\x1b", "\u202e", "\ud800"])
def test_a_name_that_shows_nothing_is_refused(name: str):
    with pytest.raises(UsageError, match="needs a name"):
        dataset_store.check_name(name, "dataset")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a\x00b", "ab"),
        ("\x1b[31mred", "[31mred"),
        ("\u202eevil", "evil"),
        ("caf\ud800é", "café"),
        ("مرحبا", "مرحبا"),
        ("👩\u200d👧", "👩\u200d👧"),
        ("../../x", "../../x"),
    ],
)
def test_a_name_loses_what_cannot_be_stored_or_turns_the_text_beside_it(given: str, kept: str):
    assert dataset_store.check_name(given, "dataset") == kept


def test_an_id_means_its_own_thing_although_another_is_named_like_it(store: Store):
    first = dataset_store.create_dataset(store, "first", "prompts")
    dataset_store.create_dataset(store, first.id, "prompts")
    assert dataset_store.get_dataset(store, first.id).name == "first"
    model = model_store.add_model(store, "one", ModelSource.LOCAL, "/one")
    model_store.add_model(store, model.id, ModelSource.LOCAL, "/two")
    assert model_store.get_model(store, model.id).name == "one"


def test_a_reference_means_the_dataset_of_that_very_name_before_a_version_of_another(store: Store):
    plain = dataset_store.create_dataset(store, "plain", "prompts")
    with pytest.raises(NotFound, match="no rows yet"):
        dataset_store.find_version(store, "plain")
    given = {"content_hash": "x", "rows": 1, "manifest": {}}
    version = dataset_store.add_version(store, plain.id, parent_id=None, **given)
    assert dataset_store.find_version(store, "plain@1")[1].id == version.id
    other = dataset_store.create_dataset(store, "plain@1", "prompts")
    dataset_store.add_version(store, other.id, parent_id=None, **given)
    assert dataset_store.find_version(store, "plain@1")[0].id == other.id
    for reference in ("plain@²", "plain@" + "9" * 5000, "plain@2", "@1", "plain@"):
        with pytest.raises(NotFound):
            dataset_store.find_version(store, reference)


def test_an_unused_name_is_always_one_that_can_be_given():
    long = "x" * 200
    assert model_store.unused_name({long}, long + "y") == "x" * 198 + " 2"
    assert model_store.unused_name({"a b"}, "a\x07  b") == "a\x07 b".replace("\x07", "") + " 2"
    assert model_store.unused_name(set(), "\u200b") == "Unnamed"
    for name in (model_store.unused_name({long}, long), _cut(f"Import {long}"), _cut("")):
        assert dataset_store.check_name(name, "run") == name


def test_tags_are_kept_once_each_and_never_empty(store: Store):
    dataset = dataset_store.create_dataset(store, "tagged", "prompts", tags=["a", " a ", "", " ", "b\x00", "\ud800"])
    assert dataset.tags == ("a", "b")
    assert dataset_store.update_dataset(store, dataset.id, tags=["c", "c"]).tags == ("c",)
    run = run_store.add_run(store, kind="x", name="x", slot="io", spec={})
    run_store.tag_run(store, run.id, ["", "d", "d "])
    assert run_store.get_run(store, run.id).tags == ("d",)
    run_store.tag_run(store, run.id, ["größe"])
    assert [found.id for found in run_store.list_runs(store, search="größe")] == [run.id]


def test_half_a_character_is_refused_in_words_wherever_it_is_written_or_looked_for(store: Store):
    run = run_store.add_run(store, kind="x", name="x", slot="io", spec={})
    with pytest.raises(UsageError, match="half of a character"):
        run_store.update_run(store, run.id, notes="\ud800")
    with pytest.raises(UsageError, match="half of a character"):
        run_store.get_run(store, "\ud800")


def test_a_home_that_was_moved_still_finds_its_models_and_adapters(settings: Settings, tmp_path: Path):
    store = open_store(settings)
    model = model_store.add_model(store, "base", ModelSource.BUNDLED, "x")
    run = run_store.add_run(store, kind="sft", name="x", slot="train", spec={})
    folder, adapter = settings.models_dir / model.id, settings.run_dir(run.id) / "adapter"
    for made in (folder, adapter, settings.models_dir / "var_1"):
        made.mkdir(parents=True)
    model_store.update_model(store, model.id, path=str(folder))
    model_store.add_variant(store, "tuned", model_id=model.id, adapter_path=str(adapter), run_id=run.id)
    model_store.add_variant(
        store, "brought", model_id=model.id, adapter_path=str(settings.models_dir / "var_1"), variant_id="var_1"
    )
    with pytest.raises(NotFound, match="is gone"):
        model_store.add_variant(store, "orphan", model_id="mdl_nope")
    store.close()
    there = tmp_path / "elsewhere"
    shutil.move(settings.home, there)
    store = open_store(Settings(home=there))
    assert model_store.get_model(store, "base").path == str(there / "models" / model.id)
    assert {variant.adapter_path for variant in model_store.list_variants(store)} == {
        str(there / "runs" / run.id / "adapter"),
        str(there / "models" / "var_1"),
    }
    store.close()
