"""Make it again, on the page Lineage: an adapter or a reward model, once all it was made from is here."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny
from page_helpers import labels, open_page, words

from tests.training.test_rlhf import make_reward_model
from workbench.api import Workspace
from workbench.datasets.versions import write_version
from workbench.errors import NotFound
from workbench.records import Message, Model, Preference, RunState, Variant
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.store.database import Store
from workbench.store.datasets import create_dataset
from workbench.training.reward_models import RewardModel, get_reward_model
from workbench.training.rl_rewards import PINNED, PinnedReward
from workbench.ui import links

AGAIN = "Make it again"


@pytest.fixture
def model(store: Store, tmp_path: Path) -> Model:
    asked, said = (Message(role="user", content="q?"),), (Message(role="assistant", content="a"),)
    rows = [Preference(prompt=asked, chosen=said, rejected=(Message(role="assistant", content="b"),))]
    write_version(store, create_dataset(store, "pairs", "preferences").id, rows)
    return tiny.register_model(store, tiny.make_model(tmp_path / "base"))


def inputs(store: Store) -> dict[str, str]:
    from workbench.store.datasets import find_version

    model = model_store.get_model(store, "tiny")
    return {"version_id": find_version(store, "pairs")[1].id, "model_id": model.id}


@pytest.fixture
def taste(store: Store, model: Model) -> RewardModel:
    made = make_reward_model(store, model, name="taste")
    told = run_store.get_run(store, made.run_id).result
    run_store.update_run(store, made.run_id, result={**told, **inputs(store)})
    return get_reward_model(store, made.run_id)


@pytest.fixture
def reinforced(store: Store, model: Model, taste: RewardModel, tmp_path: Path) -> Variant:
    """A variant as a finished RLOO run leaves it."""
    run = run_store.add_run(store, kind="rloo", name="RL", slot="train", spec={"dataset": "pairs", "reward": "taste"})
    folder = store.settings.run_dir(run.id)
    folder.mkdir(parents=True)
    pin = PinnedReward(run_id=taste.run_id, digest=taste.digest)
    (folder / PINNED).write_text(pin.model_dump_json())
    run_store.update_run(store, run.id, state=RunState.FINISHED, result=inputs(store))
    adapter = tiny.make_adapter(tmp_path / "base", tmp_path / "adapter")
    return model_store.add_variant(
        store, "reinforced", model_id=model.id, adapter_path=str(adapter), adapter_digest="d" * 64, run_id=run.id
    )


def test_a_reward_model_can_be_made_again_from_its_lineage(store: Store, taste: RewardModel) -> None:
    app = open_page(links.LINEAGE, of=taste.run_id)
    assert not app.exception and AGAIN in words(app)
    button = app.button(key="lineage.reproduce")
    assert button.label == AGAIN and not button.disabled


def test_a_reward_model_that_is_gone_stops_making_an_adapter_again(
    store: Store, taste: RewardModel, reinforced: Variant
) -> None:
    app = open_page(links.LINEAGE, of=reinforced.id)
    assert not app.exception and not app.button(key="lineage.reproduce").disabled and not app.error
    shutil.rmtree(taste.folder)
    app = open_page(links.LINEAGE, of=reinforced.id)
    assert app.button(key="lineage.reproduce").disabled
    assert "folder is gone" in words(app)


def test_a_run_that_made_no_model_is_not_offered_to_be_made_again(store: Store, reinforced: Variant) -> None:
    app = open_page(links.LINEAGE, of=str(reinforced.run_id))
    assert not app.exception and AGAIN not in labels(app)


def test_the_library_gives_a_manifest_by_a_variants_or_a_reward_models_name(
    store: Store, taste: RewardModel, reinforced: Variant
) -> None:
    ws = Workspace()
    by_name, by_run = ws.manifest("taste"), ws.manifest(taste.run_id)
    assert by_name == by_run and (by_name.kind, by_name.adapter_digest) == ("reward", taste.digest)
    told = ws.manifest("reinforced").reward
    assert told is not None and (told.name, told.digest, told.base_name) == ("taste", taste.digest, "tiny")
    with pytest.raises(NotFound, match="no such variant"):
        ws.manifest("nobody")


def test_home_offers_to_compare_what_was_trained_last_whatever_the_method(store: Store, reinforced: Variant) -> None:
    run = run_store.get_run(store, str(reinforced.run_id))
    run_store.update_run(store, run.id, result={**run.result, "variant_id": reinforced.id})
    app = open_page(links.HOME)
    assert not app.exception and "**RL** has finished" in words(app)
