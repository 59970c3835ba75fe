"""Every method's outcome is made again from its manifest, to the last bit, and each kind of drift is told first."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny

from tests.preferences.voting import make_queue, rank
from workbench.datasets.versions import write_version
from workbench.errors import NotFound, UsageError, WorkbenchError
from workbench.job import RecordingJob
from workbench.preferences.pairs import build_preferences
from workbench.records import Message, Model, Preference, Prompt, RankItem, Run, RunState, Variant
from workbench.runs.kinds import get_kind, parse_config
from workbench.runs.manifests import Manifest, RewardPin, make_manifest, read_manifest, write_manifest
from workbench.runs.reproduce import check_manifest, is_same, made_digest, prepare_run, reproduce, spec_here
from workbench.settings import get_settings
from workbench.store import datasets as dataset_store
from workbench.store import models as model_store
from workbench.store import rankings as rank_store
from workbench.store import runs as run_store
from workbench.store.database import Store, open_store
from workbench.training.labels import LABELS_FILE
from workbench.training.reward_models import RewardModel, get_reward_model
from workbench.training.rl_rewards import PINNED

WORDS = "red green blue the sea is wide and wind sings over one two three".split()
COMMON = {"model": "tiny", "preset": "custom", "max_steps": 3, "save_every": 0, "eval_every": 0, "seed": 5}
SPECS: dict[str, dict[str, Any]] = {
    "reward": {"dataset": "pairs", "held_out": 0.2, "lora_r": 4, "answered_prompts": 0, "tokens_per_batch": 128},
    "dpo": {"dataset": "pairs", "held_out": 0.2, "lora_r": 4, "tokens_per_batch": 128, "lora_dropout": 0.1},
    "dpo stacked": {
        "dataset": "pairs", "held_out": None, "lora_r": 4, "adapter": "tiny tuned", "on_top": "stack",
        "tokens_per_batch": 128,
    },
    "kto": {"dataset": "pairs", "held_out": 0.2, "lora_r": 4, "tokens_per_batch": 128},
    "rloo": {
        "dataset": "asked", "held_out": 0.2, "adapter": "tiny tuned", "reward": "taste", "prompts_per_step": 2,
        "answers_per_prompt": 2, "max_answer_tokens": 6, "learning_rate": 1e-2, "missing_end_score": None,
    },
    "grpo": {
        "dataset": "asked", "held_out": None, "adapter": None, "lora_r": 4, "reward": "taste", "prompts_per_step": 2,
        "answers_per_prompt": 2, "max_answer_tokens": 6, "learning_rate": 1e-2, "missing_end_score": None,
    },
}  # fmt: skip


@pytest.fixture
def settings(home: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("WORKBENCH_THREADS", "1")
    get_settings.cache_clear()
    return get_settings()


def fill(store: Store, base: Path, adapter: Path) -> Model:
    """A home with a base, a variant to start from, preferences and prompts."""
    asked = [
        (Message(role="user", content=f"{n} " + " ".join(WORDS[(n * 3 + k) % len(WORDS)] for k in range(2 + n % 4))),)
        for n in range(10)
    ]
    pairs = [
        Preference(
            prompt=one,
            chosen=(Message(role="assistant", content="one two three"),),
            rejected=(Message(role="assistant", content="the sea " * (1 + n % 3)),),
        )
        for n, one in enumerate(asked)
    ]
    prompts = [Prompt(messages=one) for one in asked]
    write_version(store, dataset_store.create_dataset(store, "pairs", "preferences").id, pairs)
    write_version(store, dataset_store.create_dataset(store, "asked", "prompts").id, prompts)
    model = tiny.register_model(store, base)
    tiny.register_variant(store, model, adapter)
    return model


@pytest.fixture
def model(store: Store, tmp_path: Path) -> Model:
    base = tiny.make_model(tmp_path / "base")
    return fill(store, base, tiny.make_adapter(base, tmp_path / "sft", scale=0.05))


def work(store: Store, kind: str, spec: dict[str, Any], name: str, run_id: str | None = None) -> Run:
    """A run's work in this process, as its worker would do it."""
    config = parse_config(kind, spec)
    told = config.model_dump(mode="json")
    run = run_store.add_run(store, kind=kind, name=name, slot="train", spec=told, run_id=run_id)
    job = RecordingJob(store, store.settings.run_dir(run.id), run_id=run.id)
    result = dict(get_kind(kind).load_work()(config, job) or {})
    run_store.update_run(store, run.id, state=RunState.FINISHED, result={**job.results, **result})
    return run_store.get_run(store, run.id)


def train(store: Store, method: str, name: str | None = None, **changes: Any) -> Run:
    return work(store, method.split()[0], COMMON | SPECS[method] | changes, name or method)


def make_again(store: Store, manifest: Manifest) -> Run:
    return work(store, manifest.kind, spec_here(store, manifest), "again", prepare_run(store, manifest))


def made_by(store: Store, run: Run) -> Variant | RewardModel:
    if run.kind == "reward":
        return get_reward_model(store, run.id)
    return model_store.get_variant(store, str(run.result["variant_id"]))


def missing(store: Store, manifest: Manifest) -> list[str]:
    return [finding.what for finding in check_manifest(store, manifest) if finding.severity == "missing"]


@pytest.fixture
def taste(store: Store, model: Model) -> RewardModel:
    return get_reward_model(store, train(store, "reward", "taste").id)


@pytest.mark.parametrize("method", list(SPECS))
def test_a_manifest_makes_the_same_again_whatever_the_method(
    store: Store, model: Model, method: str, tmp_path: Path
) -> None:
    if "reward" in SPECS[method]:
        train(store, "reward", "taste")
    run = train(store, method)
    made = make_manifest(store, made_by(store, run))
    manifest = read_manifest(write_manifest(made, tmp_path / "manifest.json"))
    assert manifest == made and manifest.adapter_digest == made_digest(run)
    assert check_manifest(store, manifest) == []
    again = make_again(store, manifest)
    assert is_same(manifest, again) and again.id != run.id
    other = work(store, manifest.kind, {**spec_here(store, manifest), "seed": 6}, "other")
    assert not is_same(manifest, other)


def test_a_reward_model_is_made_again_by_a_run_of_its_own(
    store: Store, taste: RewardModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.runs import reproduce as module

    launched: list[tuple[str, dict[str, Any]]] = []

    def launch(store: Store, kind: str, spec: dict[str, Any], *, name: str, run_id: str) -> Run:
        launched.append((name, spec))
        return run_store.add_run(store, kind=kind, name=name, slot="train", spec=spec, run_id=run_id)

    monkeypatch.setattr(module, "launch_run", launch)
    run = reproduce(store, make_manifest(store, taste))
    ((name, spec),) = launched
    assert (run.kind, name) == ("reward", "taste reproduced")
    assert spec["dataset"] == dataset_store.find_version(store, "pairs")[1].id


def test_a_reward_models_demonstrations_are_pinned(store: Store, model: Model) -> None:
    from workbench.records import Example

    said = [Example(messages=(Message(role="user", content=w), Message(role="assistant", content="sea"))) for w in "ab"]
    write_version(store, dataset_store.create_dataset(store, "shown", "instructions").id, said)
    run = train(store, "reward", demonstrations="shown")
    manifest = make_manifest(store, made_by(store, run))
    assert manifest.demonstrations is not None and manifest.demonstrations.name == "shown@1"
    version = dataset_store.find_version(store, "shown")[1]
    dataset_store.get_dataset(store, "shown")
    write_version(store, version.dataset_id, said[:1], parent=version)
    assert spec_here(store, manifest)["demonstrations"] == version.id  # a later version changes nothing
    gone = manifest.demonstrations.model_copy(update={"content_hash": "0" * 64})
    assert (
        "the rows of 'shown@1' are not here" in missing(store, manifest.model_copy(update={"demonstrations": gone}))[0]
    )


# What KTO read of rankings ------------------------------------------------------------------------------------------


@pytest.fixture
def voted(store: Store, model: Model) -> tuple[Run, list[RankItem]]:
    """A KTO run on a version made of rankings, one of them all bad, and the items to vote on again."""
    queue = make_queue(store, prompts=8)
    items = rank_store.list_items(store, [queue.id])
    for item in items[:7]:
        rank(store, item, [[0], [1], [2]])
    rank(store, items[7], [], all_bad=True)
    build_preferences(store, [queue.name], "ranked", held_out=0.0)
    return train(store, "kto", dataset="ranked", held_out=None), items


def test_votes_since_change_nothing_in_a_kto_adapter_made_again(store: Store, voted: Any) -> None:
    run, items = voted
    manifest = make_manifest(store, made_by(store, run))
    for item in items[:4]:
        rank(store, item, [], rater="Eve", all_bad=True)
    assert check_manifest(store, manifest) == []
    assert is_same(manifest, make_again(store, manifest))
    # Without what was pinned, the rankings of today would make another adapter.
    assert not is_same(manifest, work(store, "kto", spec_here(store, manifest), "as of today"))
    unpinned = manifest.model_copy(update={"labels_digest": None})
    (finding,) = check_manifest(store, unpinned)
    assert finding.severity == "differs" and "does not say what rankings added" in finding.what


def test_what_rankings_said_then_is_told_as_missing_where_nothing_kept_it(store: Store, voted: Any) -> None:
    run, items = voted
    manifest = make_manifest(store, made_by(store, run))
    (store.settings.run_dir(run.id) / LABELS_FILE).unlink()
    assert check_manifest(store, manifest) == []  # they still say the same
    rank(store, items[0], [], rater="Eve", all_bad=True)
    assert "by now they say something else" in missing(store, manifest)[0]
    with pytest.raises(NotFound, match="by now they say something else"):
        reproduce(store, manifest)
    assert make_manifest(store, made_by(store, run)).labels_digest == manifest.labels_digest  # as the run told it


# What a reinforced adapter learned from ------------------------------------------------------------------------------


@pytest.fixture
def reinforced(store: Store, taste: RewardModel) -> Manifest:
    return make_manifest(store, made_by(store, train(store, "rloo")))


def test_the_reward_model_is_pinned_by_digest_and_base(store: Store, taste: RewardModel, reinforced: Manifest) -> None:
    base = model_store.get_model(store, taste.model_id)
    assert reinforced.reward == RewardPin(
        name="taste", digest=taste.digest, base_name="tiny", base_digest=str(base.base_digest),
        base_reading=reinforced.base_reading,
    )  # fmt: skip
    # The name now goes by another reward model; the pinned one is taken all the same.
    train(store, "reward", "taste", seed=9)
    assert get_reward_model(store, "taste").digest != taste.digest
    assert spec_here(store, reinforced)["reward"] == taste.run_id and check_manifest(store, reinforced) == []


def test_a_reward_model_that_is_gone_or_was_swapped_is_told_and_refused(
    store: Store, taste: RewardModel, reinforced: Manifest
) -> None:
    def refused() -> str:
        with pytest.raises(WorkbenchError) as told:
            reproduce(store, reinforced)
        assert missing(store, reinforced) == [told.value.sentence()]
        return told.value.what

    folder = Path(taste.folder)
    aside = folder.with_name("aside")
    shutil.move(folder, aside)
    assert "folder is gone" in refused()
    shutil.copytree(aside, folder)
    other = Path(get_reward_model(store, train(store, "reward", "other", seed=9).id).folder)
    shutil.copyfile(other / "adapter_model.safetensors", folder / "adapter_model.safetensors")
    assert "files are not those its run published" in refused()
    shutil.rmtree(folder)
    shutil.move(aside, folder)
    assert check_manifest(store, reinforced) == []
    told = run_store.get_run(store, taste.run_id).result["reward"]
    assert isinstance(told, dict)
    run_store.update_run(store, taste.run_id, result={"reward": {**told, "digest": "swapped"}})
    assert "is another one than it learned from" in refused() and "swapped now" in refused()
    run_store.update_run(store, taste.run_id, name="renamed")
    assert "the reward model 'taste' that it learned from is not here" in refused()


def test_a_reward_model_over_another_base_is_not_the_same(store: Store, reinforced: Manifest) -> None:
    assert reinforced.reward is not None
    pin = reinforced.reward.model_copy(update={"base_digest": "0" * 64})
    assert "is another one" in missing(store, reinforced.model_copy(update={"reward": pin}))[0]
    pin = reinforced.reward.model_copy(update={"base_reading": "0" * 64})
    assert "another tokenizer or chat template" in missing(store, reinforced.model_copy(update={"reward": pin}))[0]


def test_a_manifest_without_its_reward_model_is_refused(store: Store, reinforced: Manifest) -> None:
    old = reinforced.model_copy(update={"reward": None})
    assert "does not say which reward model" in missing(store, old)[0]
    with pytest.raises(NotFound, match="does not say which reward model"):
        reproduce(store, old)


def test_a_run_that_pinned_its_reward_by_digest_alone_is_still_pinned_by_base(
    store: Store, taste: RewardModel, reinforced: Manifest
) -> None:
    (variant,) = [v for v in model_store.list_variants(store) if v.adapter_digest == reinforced.adapter_digest]
    path = store.settings.run_dir(str(variant.run_id)) / PINNED
    path.write_text(json.dumps({"run_id": taste.run_id, "digest": taste.digest}))
    assert make_manifest(store, variant).reward == reinforced.reward
    path.unlink()  # a reward that was handed in by code
    with pytest.raises(UsageError, match="no reward model of this home"):
        make_manifest(store, variant)


def test_in_another_home_the_reward_model_is_made_first_and_found_by_its_digest(
    store: Store, taste: RewardModel, reinforced: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_manifest(store, taste)
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "elsewhere"))
    get_settings.cache_clear()
    there = open_store(get_settings())
    try:
        base = Path(shutil.copytree(tmp_path / "base", tmp_path / "other base"))
        fill(there, base, tmp_path / "sft")
        assert "'taste' that it learned from is not here" in missing(there, reinforced)[0]
        reward = work(there, "reward", spec_here(there, first), "made again")
        assert is_same(first, reward)
        assert check_manifest(there, reinforced) == [] and spec_here(there, reinforced)["reward"] == reward.id
        assert is_same(reinforced, work(there, "rloo", spec_here(there, reinforced), "again"))
    finally:
        there.close()


# Other drift ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def stacked(store: Store, model: Model) -> Manifest:
    return make_manifest(store, made_by(store, train(store, "dpo stacked")))


def change_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(tiny.CHATML.replace("assistant", "Assistant"))


def change_tokenizer(folder: Path) -> None:
    told = json.loads((folder / "tokenizer.json").read_text())
    told["normalizer"] = {"type": "Lowercase"}
    (folder / "tokenizer.json").write_text(json.dumps(told))


def change_weights(folder: Path) -> None:
    shutil.copyfile(
        tiny.make_model(folder.parent / "seed 9", seed=9) / "model.safetensors", folder / "model.safetensors"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (change_template, "another tokenizer or chat template"),
        (change_tokenizer, "another tokenizer or chat template"),
        (change_weights, "are not those it was added with"),
        (shutil.rmtree, "the model's folder is gone"),
    ],
)
def test_a_base_that_is_not_what_it_was_is_told(
    store: Store, stacked: Manifest, model: Model, change: Callable[[Path], None], words: str
) -> None:
    assert check_manifest(store, stacked) == []
    change(Path(str(model.path)))
    assert words in missing(store, stacked)[0]
    with pytest.raises(WorkbenchError, match=words):
        reproduce(store, stacked)


def test_an_adapter_beneath_that_is_gone_or_was_changed_is_told(
    store: Store, stacked: Manifest, tmp_path: Path
) -> None:
    other = tiny.make_adapter(tmp_path / "base", tmp_path / "other", seed=8)
    shutil.copyfile(other / "adapter_model.safetensors", tmp_path / "sft" / "adapter_model.safetensors")
    assert "are gone or were changed" in missing(store, stacked)[0]
    shutil.rmtree(tmp_path / "sft")
    assert "are gone or were changed" in missing(store, stacked)[0]
    unknown = stacked.model_copy(update={"adapter_before": "0" * 64})
    assert "went on from is not here" in missing(store, unknown)[0]


def test_everything_that_is_missing_is_told_at_once(store: Store, reinforced: Manifest) -> None:
    rows = reinforced.data.model_copy(update={"content_hash": "1" * 64})
    bare = reinforced.model_copy(
        update={"base_digest": "0" * 64, "data": rows, "reward": None, "made_with": {"torch": "1.0"}}
    )
    found = check_manifest(store, bare)
    assert [finding.severity for finding in found] == ["missing", "missing", "missing", "differs"]


def test_the_base_is_pinned_as_it_was_when_the_run_began(store: Store, stacked: Manifest, model: Model) -> None:
    change_template(Path(str(model.path)))
    (variant,) = [v for v in model_store.list_variants(store) if v.adapter_digest == stacked.adapter_digest]
    assert make_manifest(store, variant).base_reading == stacked.base_reading
