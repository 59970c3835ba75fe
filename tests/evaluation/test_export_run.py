"""An export is written, loaded from scratch, and kept only if it answers as the original did."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import tiny

from tests.bundled import bundled_model_folder
from workbench.datasets.render import load_renderer
from workbench.datasets.versions import write_version
from workbench.errors import Conflict, ModelProblem, TemplateProblem, UsageError
from workbench.evaluation import export_run
from workbench.evaluation.export_run import ExportConfig, export_variant
from workbench.evaluation.replay import TIE, Case, Player, choose_cases, replay
from workbench.job import RecordingJob
from workbench.models.fingerprints import digest_adapter
from workbench.records import Completion, Example, Message, Sampling, Variant, new_id, utc_now
from workbench.store import answers as answer_store
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.store.database import Store
from workbench.store.datasets import create_dataset

__all__ = ["bundled_model_folder"]


@pytest.fixture
def tuned(store: Store, tmp_path: Path) -> Variant:
    model = tiny.register_model(store, tiny.make_model(tmp_path / "base"))
    return tiny.register_variant(store, model, tiny.make_adapter(tmp_path / "base", tmp_path / "adapter"))


def job_of(store: Store, tmp_path: Path) -> RecordingJob:
    run = run_store.add_run(store, kind="export", name="Export", slot="io", spec={})
    return RecordingJob(store, tmp_path / run.id, run_id=run.id)


def config(variant: Variant, **options: Any) -> ExportConfig:
    return ExportConfig.model_validate({"variant": variant.id, "replay": 3, "replay_tokens": 12, **options})


def keep_answers(store: Store, variant: Variant, texts: dict[str, str | None], **changes: Any) -> None:
    """Store answers as the engine would have given them, or with another text."""
    source = export_run._Source(store, config(variant))
    player, made = source.player(), []
    for question, text in texts.items():
        prompt = (Message(role="user", content=question),)
        answer = text if text is not None else source.renderer.decode(player.answer(prompt, 10))
        values = {
            "id": new_id("cmp"), "variant_id": variant.id, "prompt": prompt, "text": answer, "created_at": utc_now(),
            "sampling": Sampling(temperature=0, max_tokens=10), "fingerprint": source.fingerprint(), "verified": True,
            "finish_reason": "length",
        }  # fmt: skip
        made.append(Completion.model_validate(values | changes))
    answer_store.add_completions(store, made)


@pytest.mark.parametrize("form", ["adapter_zip", "merged", "ollama"])
@pytest.mark.parametrize("kind", ["lora", "dora", "rslora"])
def test_every_form_answers_as_the_variant_did(store: Store, tmp_path: Path, form: str, kind: str) -> None:
    model = tiny.register_model(store, tiny.make_model(tmp_path / "base", tied=True))
    adapter = tiny.make_adapter(
        tmp_path / "base", tmp_path / "adapter", use_dora=kind == "dora", use_rslora=kind == "rslora"
    )
    variant = tiny.register_variant(store, model, adapter)
    keep_answers(store, variant, {"red green": None, "the sea": None})
    told = export_variant(config(variant, form=form), job_of(store, tmp_path))
    assert (told["replay"]["prompts"], told["replay"]["stored"]) == (2, 2)
    assert told["replay"]["exact"] + len(told["replay"]["ties"]) == 2
    path = Path(told["path"])
    if form == "adapter_zip":
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
        assert names == {"README.md", "adapter_config.json", "adapter_model.safetensors", "tokenizer.json",
                         "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"}  # fmt: skip
    elif form == "merged":
        assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= set(told["files"])
    else:
        assert told["weights"] == ("adapter" if kind == "lora" else "merged")
        assert "FROM ./model" in (path / "Modelfile").read_text()
        assert (path / "adapter").exists() == (kind == "lora")
    assert not list(path.parent.glob(".*"))


def test_the_same_adapter_gives_the_same_zip(store: Store, tuned: Variant, tmp_path: Path) -> None:
    told = [export_variant(config(tuned, replay=0), job_of(store, tmp_path)) for _ in range(2)]
    assert told[0]["sha256"] == told[1]["sha256"] and told[0]["path"] != told[1]["path"]


def test_a_base_is_exported_without_an_adapter(store: Store, tuned: Variant, tmp_path: Path) -> None:
    base = model_store.get_variant(store, "tiny")
    told = export_variant(config(base, form="merged", folder=str(tmp_path / "out")), job_of(store, tmp_path))
    assert told["replay"]["exact"] == 3 and told["replay"]["stored"] == 0
    with pytest.raises(UsageError, match="has no adapter"):
        export_variant(config(base), job_of(store, tmp_path))


def test_a_different_answer_fails_the_export_with_its_prompt_and_leaves_nothing(
    store: Store, tuned: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.models import export

    keep_answers(store, tuned, {"red green": None})
    real = export.write_adapter

    def damaged(source: Path, target: Path, *, base_name: str) -> None:
        real(source, target, base_name=base_name)
        told = json.loads((target / "adapter_config.json").read_text())
        (target / "adapter_config.json").write_text(json.dumps(told | {"lora_alpha": 1}))

    monkeypatch.setattr(export, "write_adapter", damaged)
    with pytest.raises(ModelProblem, match="'red green'.*answers differently from token"):
        export_variant(config(tuned, folder=str(tmp_path / "out.zip")), job_of(store, tmp_path))
    assert not (tmp_path / "out.zip").exists() and not list(tmp_path.glob(".out*"))


def test_a_stored_answer_that_the_original_no_longer_gives_is_compared_with_what_it_gives(
    store: Store, tuned: Variant, tmp_path: Path
) -> None:
    keep_answers(store, tuned, {"red green": "something else"})
    told = export_variant(config(tuned), job_of(store, tmp_path))
    assert (told["replay"]["stored"], told["replay"]["exact"]) == (1, 1)


def test_only_greedy_answers_of_these_very_weights_are_replayed(store: Store, tuned: Variant) -> None:
    source = export_run._Source(store, config(tuned))
    fingerprint = source.fingerprint()
    keep_answers(store, tuned, {"warm": None}, sampling=Sampling(temperature=0.7))
    keep_answers(store, tuned, {"older weights": None}, fingerprint="fp_other")
    keep_answers(store, tuned, {"a claim": None}, verified=False)
    fresh = choose_cases(store, tuned, fingerprint, count=2, max_tokens=5)
    assert [case.text for case in fresh] == [None, None]
    keep_answers(store, tuned, {"good": None})
    assert [case.prompt[0].content for case in choose_cases(store, tuned, fingerprint, count=2, max_tokens=5)] == [
        "good"
    ]


class _Scripted:
    """Two players that part at one token, which the original preferred by a given margin."""

    def __init__(self, player: Player, wanted: list[int], margin: float) -> None:
        self.renderer, self.wanted, self.gap = player.renderer, wanted, margin

    def answer(self, prompt: Any, max_tokens: int) -> list[int]:
        return self.wanted

    def margin(self, prompt: Any, so_far: Any) -> float:
        return self.gap


@pytest.mark.parametrize(
    ("dtype", "margin", "passes"),
    [("float32", 5e-4, True), ("float32", 2e-3, False), ("bfloat16", 0.2, True), ("float32", float("nan"), False)],
)
def test_a_difference_passes_only_where_the_two_best_tokens_were_as_good_as_equal(
    store: Store, tuned: Variant, tmp_path: Path, dtype: str, margin: float, passes: bool
) -> None:
    real = export_run._Source(store, config(tuned)).player()
    cases = [Case(prompt=(Message(role="user", content="red"),), text="a stored one", max_tokens=4)]
    given, original = (_Scripted(real, ids, margin) for ids in ([5, 6, 7], [5, 6, 8]))
    arguments: Any = (cases, given, lambda: original, dtype, job_of(store, tmp_path))
    if not passes:
        with pytest.raises(ModelProblem, match="from token 3 on"):
            replay(*arguments)
        return
    report = replay(*arguments)
    assert (report.exact, report.ties[0].token, report.bound) == (0, 2, TIE[dtype])
    assert f"{TIE[dtype]:g}" in report.policy


def test_the_margin_is_that_of_the_models_own_logits(store: Store, tuned: Variant) -> None:
    import torch

    source = export_run._Source(store, config(tuned))
    player, prompt = source.player(), (Message(role="user", content="red green"),)
    answer = player.answer(prompt, 4)
    with torch.no_grad():
        ids = torch.tensor([[*source.renderer.prompt_ids(prompt), *answer[:2]]])
        best = player.model(input_ids=ids).logits[0, -1].topk(2).values
    assert player.margin(prompt, answer[:2]) == pytest.approx(float(best[0] - best[1]), abs=1e-4)


def test_what_cannot_be_exported_is_refused_before_anything_is_written(
    store: Store, tuned: Variant, tmp_path: Path
) -> None:
    server = model_store.add_server(store, "lab", "http://127.0.0.1:9/v1", {})
    remote = model_store.add_variant(store, "remote", server_id=server.id, remote_model="x")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "x").write_text("x")
    for options, error, words in (
        ({"variant": remote.id}, UsageError, "remote server"),
        ({"form": "merged", "folder": str(tmp_path / "there")}, Conflict, "something at this path"),
        ({"form": "hub", "repo": "owner/tiny"}, UsageError, "asks for a token"),
    ):
        with pytest.raises(error, match=words):
            made = ExportConfig.model_validate({"variant": tuned.id, **options})
            export_variant(made, job_of(store, tmp_path))
    for options, words in (
        ({"form": "hub"}, "repository is missing"),
        ({"weights": "merged"}, "do not go into"),
        ({"form": "merged", "weights": "adapter"}, "hold no adapter"),
    ):
        with pytest.raises(UsageError, match=words):
            config(tuned, **options)


def test_a_template_that_ollama_cannot_have_is_refused_in_words(store: Store, tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{% if loop.last %}LAST {% endif %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    model = tiny.register_model(store, tiny.make_model(tmp_path / "base", chat_template=template))
    variant = tiny.register_variant(store, model, tiny.make_adapter(tmp_path / "base", tmp_path / "adapter"))
    with pytest.raises(TemplateProblem, match="cannot be written as one of Ollama's"):
        export_variant(config(variant, form="ollama", folder=str(tmp_path / "out")), job_of(store, tmp_path))
    assert not (tmp_path / "out").exists()


def test_the_card_tells_data_settings_and_figures_of_the_run(store: Store, tuned: Variant, tmp_path: Path) -> None:
    rows = [
        Example(messages=(Message(role="user", content=f"q{n}"), Message(role="assistant", content="a")))
        for n in range(3)
    ]
    dataset = create_dataset(store, "my rows", "instructions")
    version = write_version(store, dataset.id, rows, provenance={"source": "rows.csv", "licence": "CC0-1.0"})
    run = run_store.add_run(
        store, kind="sft", name="Tune", slot="train", spec={"dataset": "my rows", "learning_rate": 0.01}
    )
    run_store.update_run(store, run.id, result={"version_id": version.id, "train_loss": 1.5, "eval_loss": 1.25})
    made = model_store.add_variant(
        store, "made here", model_id=tuned.model_id, adapter_path=tuned.adapter_path, run_id=run.id,
        adapter_digest=digest_adapter(Path(tuned.adapter_path or "")),
    )  # fmt: skip
    answers = run_store.add_run(store, kind="answer", name="A", slot="bulk", spec={"prompts": "kit@1"})
    figures = {"name": "made here", "n": 50, "share": 0.5, "low": 0.366, "high": 0.634}
    run_store.update_run(store, answers.id, result={"summary": {made.id: figures}})
    told = export_variant(config(made, form="merged", replay=0, dtype="bfloat16"), job_of(store, tmp_path))
    card = (Path(told["path"]) / "README.md").read_text()
    for words in (
        version.content_hash,
        "my rows@1",
        "rows.csv",
        "CC0-1.0",
        "learning_rate",
        "held-out 1.2500",
        "50.0% | 36.6% to 63.4% | 50",
        "bfloat16",
    ):
        assert words in card
    assert str(tmp_path) not in card


@pytest.mark.bundled
@pytest.mark.slow
def test_merged_weights_of_the_bundled_model_answer_as_its_adapter_did(
    store: Store, tmp_path: Path, bundled_model_folder: Path
) -> None:
    model = tiny.register_model(store, bundled_model_folder, "bundled copy")
    adapter = tiny.make_adapter(bundled_model_folder, tmp_path / "adapter", scale=0.02)
    variant = tiny.register_variant(store, model, adapter)
    told = export_variant(config(variant, form="merged", replay=4, replay_tokens=24), job_of(store, tmp_path))
    assert told["replay"]["exact"] + len(told["replay"]["ties"]) == 4
    assert load_renderer(told["path"]).template.source == load_renderer(bundled_model_folder).template.source
