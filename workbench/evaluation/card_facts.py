"""Gathers what a model card says of a variant: its data, settings and figures, from what the store recorded."""

from __future__ import annotations

from typing import Any

from workbench.errors import NotFound
from workbench.models.adding import hub_id
from workbench.models.model_card import CardFacts, DataFact, Figure
from workbench.records import Interval, Model, Run, Variant, Version
from workbench.store import datasets as dataset_store
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.store.database import Store
from workbench.store.lineage import ALL_RUNS, count_votes, ids_in, read_inputs
from workbench.store.rankings import list_queues

METHODS = {
    "sft": "Supervised fine-tuning of a LoRA adapter, with the loss on the assistant's answers",
    "dpo": "Direct preference optimisation of a LoRA adapter",
    "kto": "Kahneman–Tversky optimisation of a LoRA adapter",
    "rloo": "Reinforcement learning of a LoRA adapter with leave-one-out baselines",
    "grpo": "Group-relative policy optimisation of a LoRA adapter",
}
HIDDEN_SETTINGS = (
    "name",
    "dataset",
    "model",
    "adapter",
    "sample_prompts",
    "sample_every",
    "sample_tokens",
    "keep_checkpoints",
    "overrule_gates",
)
USES = (("version_id", "trained on"), ("held_out_version_id", "measured on"))


def gather_facts(
    store: Store, variant: Variant, model: Model, *, weights: str, dtype: str, licence: str | None
) -> CardFacts:
    """Everything the card of a variant says.

    Args:
        store: the store.
        variant: a base, or a base with an adapter.
        model: its base.
        weights: adapter or merged.
        dtype: number format of merged weights.
        licence: chosen by a person; None leaves the base's.
    """
    run = _maker(store, variant)
    losses = {}
    for key, words in (("train_loss", "training"), ("eval_loss", "held-out")):
        value = run.result.get(key) if run else None
        if isinstance(value, float):
            losses[words] = value
    made_with = run.result.get("made_with") if run else None
    known_licence = model.info.get("licence")
    return CardFacts(
        name=variant.name,
        weights=weights,
        base_name=model.name,
        base_id=hub_id(model),
        base_digest=model.base_digest,
        base_licence=str(known_licence) if known_licence else None,
        adapter_digest=variant.adapter_digest,
        method=METHODS.get(run.kind, run.kind) if run else "",
        data=tuple(_data_facts(store, run)) if run else (),
        settings={key: value for key, value in run.spec.items() if key not in HIDDEN_SETTINGS} if run else {},
        made_with=made_with if isinstance(made_with, dict) else {},
        losses=losses,
        figures=tuple(_figures(store, variant)),
        dtype=dtype,
        notes=variant.notes,
        licence=licence,
    )


def _maker(store: Store, variant: Variant) -> Run | None:
    if variant.run_id is None:
        return None
    try:
        return run_store.get_run(store, variant.run_id)
    except NotFound:
        return None


def _data_facts(store: Store, run: Run) -> list[DataFact]:
    inputs = {"version_id": run.result.get("version_id"), **read_inputs(store, run.id)}
    facts = []
    for key, use in USES:
        if isinstance(inputs.get(key), str):
            try:
                version = dataset_store.get_version(store, str(inputs[key]))
            except NotFound:
                continue
            facts.append(_data_fact(store, version, use))
    continued = inputs.get("adapter_id")
    if isinstance(continued, str):
        try:
            before = _maker(store, model_store.get_variant(store, continued))
        except NotFound:
            before = None
        if before is not None and before.id != run.id:
            facts += [fact.model_copy(update={"use": f"{fact.use} before"}) for fact in _data_facts(store, before)]
    return facts


def _data_fact(store: Store, version: Version, use: str) -> DataFact:
    dataset = dataset_store.get_dataset(store, version.dataset_id)
    first, line = version, [version]
    while first.parent_id is not None:
        first = dataset_store.get_version(store, first.parent_id)
        line.append(first)
    told: dict[str, Any] = {}
    for one in reversed(line):
        told |= one.provenance
    named = {name for one in line for name in ids_in(one.provenance)}
    queues = [queue.id for queue in list_queues(store, archived=True) if queue.id in named]
    raters = {rater for queue_id in queues for rater in count_votes(store, queue_id)}
    scored = any(count_votes(store, queue_id, "scorers") for queue_id in queues)
    made = "rankings" if raters else "rankings by a scorer" if scored else "written here"
    source = told.get("hub_id") or told.get("source") or (f"starter kit {told['kit']}" if told.get("kit") else "")
    grown = told.get("self_instruct")
    if not source and isinstance(grown, dict):
        source = f"self-instruct, written by {grown.get('variant_name') or 'a model'}"
    licence = told.get("licence") or told.get("license") or _kit_licence(told.get("kit"))
    return DataFact(
        use=use,
        name=f"{dataset.name}@{version.number}",
        rows=version.rows,
        content_hash=version.content_hash,
        source=str(source or made),
        licence=str(licence) if licence else None,
        raters=len(raters),
    )


def _kit_licence(kit: object) -> object:
    if not kit:
        return None
    from workbench.datasets.starter import list_kits

    for known in list_kits():
        if known.name == kit:
            return known.details.get("licence") or known.details.get("license")
    return None


def _figures(store: Store, variant: Variant) -> list[Figure]:
    """What answer runs found, of this variant and of whoever answered beside it."""
    found = []
    for run in run_store.list_runs(store, kinds=["answer"], archived=True, limit=ALL_RUNS):
        summary = run.result.get("summary")
        if not isinstance(summary, dict) or variant.id not in summary:
            continue
        prompts = _prompts_name(store, run)
        for key, told in sorted(summary.items(), key=lambda item: item[0] != variant.id):
            if isinstance(told, dict):
                name = variant.name if key == variant.id else str(told.get("name", key))
                found += _figures_of(name, told, prompts)
    return found


def _figures_of(name: str, told: dict[str, Any], prompts: str) -> list[Figure]:
    figures = []
    for measure, key, low, high in (
        ("follows all rules", "share", "low", "high"),
        ("chrF", "chrf", "chrf_low", "chrf_high"),
    ):
        if all(isinstance(told.get(part), int | float) for part in (key, low, high)) and told.get("n"):
            interval = Interval(value=told[key], low=told[low], high=told[high], n=told["n"])
            figures.append(
                Figure(measure=measure, variant=name, value=interval, prompts=prompts, percent=key == "share")
            )
    return figures


def _prompts_name(store: Store, run: Run) -> str:
    answers = run.result.get("answers")
    if isinstance(answers, dict):
        try:
            version = dataset_store.get_version(store, str(answers.get("version_id")))
            return f"{dataset_store.get_dataset(store, version.dataset_id).name}@{version.number}"
        except NotFound:
            pass
    return str(run.spec.get("prompts", ""))
