"""`workbench export` and `workbench lineage` on real runs of the tiny model."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny

from workbench.cli import run
from workbench.datasets.versions import edit_version, iter_rows, write_version
from workbench.errors import Conflict, NotFound, UsageError
from workbench.job import RecordingJob
from workbench.records import Example, Message, RunState, Variant
from workbench.runs import manifests, reproduce
from workbench.settings import get_settings
from workbench.store import datasets as dataset_store
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.store.database import Store

Call = Callable[..., tuple[int, str, str]]
WORDS = "red green blue the sea is wide and the wind sings over it one two three".split()


@pytest.fixture
def settings(home: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("WORKBENCH_THREADS", "1")
    get_settings.cache_clear()
    return get_settings()


@pytest.fixture
def call(settings: Any, capsys: pytest.CaptureFixture[str]) -> Call:
    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def train(store: Store, spec: dict[str, Any], name: str) -> Variant:
    """Train in this process as a run's worker would."""
    from workbench.training.configs import SFTConfig
    from workbench.training.sft import train_sft

    config = SFTConfig.model_validate(spec)
    entered = run_store.add_run(store, kind="sft", name=name, slot="train", spec=config.model_dump(mode="json"))
    job = RecordingJob(store, store.settings.run_dir(entered.id), run_id=entered.id)
    result = train_sft(config, job)
    run_store.update_run(store, entered.id, state=RunState.FINISHED, result={**job.results, **result})
    return model_store.get_variant(store, result["variant_id"])


@pytest.fixture
def tuned(store: Store, tmp_path: Path) -> Variant:
    tiny.register_model(store, tiny.make_model(tmp_path / "base"))
    rows = [
        Example(
            messages=(
                Message(role="user", content=f"{n} {WORDS[n % 7]} {WORDS[n % 5]}"),
                Message(role="assistant", content=" ".join(WORDS[n % 4 : n % 4 + 3])),
            )
        )
        for n in range(12)
    ]
    write_version(store, dataset_store.create_dataset(store, "rows", "instructions").id, rows)
    spec = {"dataset": "rows", "model": "tiny", "preset": "custom", "epochs": 1, "lora_r": 4, "held_out": 0.2}
    return train(store, {**spec, "tokens_per_batch": 128, "lora_dropout": 0.1, "seed": 5}, "Tune")


def test_a_manifest_makes_the_same_adapter_again_in_a_run_of_its_own(
    call: Call, store: Store, tuned: Variant, tmp_path: Path
) -> None:
    path = tmp_path / "manifest.json"
    told = json.loads(call("lineage", "manifest", tuned.name, "--to", str(path), "--json")[1])
    assert (told["seed"], told["adapter_digest"]) == (5, tuned.adapter_digest)
    assert told["made_with"]["threads"] == 1 and told["made_with"]["torch"] and told["data"]["rows"] == 12
    # Data that went on since, and another dataset of the same name, change nothing.
    version = dataset_store.find_version(store, "rows")[1]
    edit_version(store, version, removed=[next(iter(iter_rows(store, version))).row_id])
    code, out, _ = call("lineage", "reproduce", str(path), "--check", "--json")
    assert code == 0 and json.loads(out) == {"findings": []}
    code, out, err = call("lineage", "reproduce", str(path), "--json")
    assert code == 0, err
    made = json.loads(out)
    assert made["same"] is True and made["adapter_digest"] == tuned.adapter_digest
    variants = [item for item in model_store.list_variants(store) if item.adapter_digest == tuned.adapter_digest]
    assert len(variants) == 2 and variants[0].adapter_path != variants[1].adapter_path


def test_another_seed_makes_another_adapter_and_is_told_apart(store: Store, tuned: Variant) -> None:
    manifest = manifests.make_manifest(store, tuned)
    spec = reproduce.spec_here(store, manifest)
    again, other = train(store, spec, "again"), train(store, {**spec, "seed": 6}, "other")
    assert again.adapter_digest == tuned.adapter_digest != other.adapter_digest
    runs = [run_store.get_run(store, str(item.run_id)) for item in (again, other)]
    assert [reproduce.is_same(manifest, one) for one in runs] == [True, False]


def test_what_is_missing_or_differs_is_told_before_anything_runs(
    call: Call, store: Store, tuned: Variant, tmp_path: Path
) -> None:
    manifest = manifests.make_manifest(store, tuned)
    elsewhere = manifest.model_copy(
        update={
            "base_digest": "0" * 64,
            "made_with": {**manifest.made_with, "threads": 64, "torch": "1.0"},
        }
    )
    found = reproduce.check_manifest(store, elsewhere)
    assert [finding.severity for finding in found] == ["missing", "differs", "differs"]
    assert "64 then, 1 now" in " ".join(finding.what for finding in found)
    with pytest.raises(NotFound, match="the base 'tiny' is not here"):
        reproduce.reproduce(store, elsewhere)
    no_rows = manifest.model_copy(update={"data": manifest.data.model_copy(update={"content_hash": "1" * 64})})
    assert "rows of 'rows@1' are not here" in reproduce.check_manifest(store, no_rows)[0].what
    for text, words in (("{}", "no manifest"), ("{", "neither JSON nor YAML"), ('{"format": "x"}', "no manifest")):
        (tmp_path / "m.json").write_text(text)
        with pytest.raises(UsageError, match=words):
            manifests.read_manifest(tmp_path / "m.json")
    assert call("lineage", "reproduce", str(tmp_path / "none.json"), "--json")[0] in (1, 2)
    with pytest.raises(UsageError, match="only an adapter or a reward model that was trained here"):
        manifests.make_manifest(store, model_store.get_variant(store, "tiny"))


def test_an_adapter_whose_rows_were_purged_cannot_be_made_again(call: Call, store: Store, tuned: Variant) -> None:
    row = next(iter(iter_rows(store, dataset_store.find_version(store, "rows")[1]))).row_id
    assert call("lineage", "purge", "rows", row, "--json")[0] == 2
    report = json.loads(call("lineage", "purge", "rows", row, "--yes", "--json")[1])
    assert report["row_ids"] == [row] and report["learned_by"] == [tuned.name]
    with pytest.raises(Conflict, match="were purged"):
        manifests.make_manifest(store, tuned)


def test_a_variant_is_exported_by_a_run_and_traced(call: Call, tuned: Variant, tmp_path: Path) -> None:
    target = tmp_path / "out" / "adapter.zip"
    code, out, err = call(
        "export", tuned.name, "--folder", str(target), "--replay", "2", "--replay-tokens", "8", "--json"
    )
    assert code == 0, err
    told = json.loads(out)
    assert told["path"] == str(target) and told["replay"]["exact"] == 2
    with zipfile.ZipFile(target) as archive:
        card = archive.read("README.md").decode()
    assert "rows@1" in card and "seed" in card
    code, out, err = call("export", tuned.name, "--folder", str(target), "--json")
    assert code == 1 and "something at this path" in err + out
    code, out, err = call("export", tuned.name, "--form", "hub", "--repo", "owner/x", "--json")
    assert code != 0 and "token" in err + out
    shown = json.loads(call("lineage", "show", tuned.name, "--json")[1])
    assert told["run"] in shown["after"] and any(node["title"] == "rows@1" for node in shown["nodes"])
    assert "trained on by" in call("lineage", "show", tuned.name)[1]
