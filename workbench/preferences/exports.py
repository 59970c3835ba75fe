"""Files from rankings: for TRL's trainers as they are, and the rankings themselves, which import again as they were.

The rankings file holds a line per item: prompt, answers, and every ranking by the answers' numbers, so that it does not
depend on this store's ids. `workbench.preferences.imports` reads it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from workbench.datasets.payloads import plain_message, plain_payload
from workbench.datasets.segments import disk_told
from workbench.errors import DataProblem, UsageError
from workbench.preferences.pairs import HELD_OUT, Scheme, iter_best, iter_labels, iter_preferences, load_ranked
from workbench.records import Completion, Ranking, RankItem, canonical_json, new_id
from workbench.store import models as model_store
from workbench.store import rankings as rank_store
from workbench.store.database import Store

TRAINERS = ("dpo", "reward", "kto", "sft")
IMPORTED = " (imported)"
"""Ends the name of a variant that stands for whoever wrote an imported answer."""


def export_for_trl(
    store: Store,
    queues: Sequence[str],
    path: str | Path,
    trainer: str = "dpo",
    *,
    part: str = "all",
    scheme: Scheme = "all",
    held_out: float = HELD_OUT,
    seed: int = 0,
) -> Path:
    """Write rankings as a JSON Lines file that a TRL trainer takes as it is, with `load_dataset("json", …)`.

    `dpo` (DPOTrainer) and `reward` (RewardTrainer) get `prompt`, `chosen`, `rejected` as messages; `kto` (KTOTrainer)
    gets `prompt`, `completion`, `label`; `sft` (SFTTrainer) gets `messages`.

    Args:
        store: the store.
        queues: names or ids.
        path: the file; replaced where it exists.
        trainer: dpo, reward, kto or sft.
        part: `train`, `held_out` or `all`; the split is by prompt and the same for every trainer.
        scheme: `all` pairs, or only those of `adjacent` places.
        held_out: share of prompts on the held-out side.
        seed: another seed gives another split.

    Returns:
        The path.

    Raises:
        UsageError: no such trainer or part, or the folder does not exist.
        DataProblem: the rankings give no row.
        StoreProblem: the disk refuses.
    """
    if trainer not in TRAINERS:
        raise UsageError("no such trainer", place="trainer", value=trainer, remedy=f"Choose {', '.join(TRAINERS)}.")
    ranked = load_ranked(store, queues, held_out=0.0 if part == "all" else held_out, seed=seed)
    rows: Iterable[dict[str, Any]]
    if trainer == "kto":
        labelled = map(plain_payload, iter_labels(ranked, part=part))
        rows = ({key: row[key] for key in ("prompt", "completion", "label")} for row in labelled)
    elif trainer == "sft":
        rows = ({"messages": [plain_message(turn) for turn in row.messages]} for row in iter_best(ranked, part=part))
    else:
        plain = map(plain_payload, iter_preferences(ranked, scheme=scheme, part=part))
        rows = ({key: row[key] for key in ("prompt", "chosen", "rejected")} for row in plain)
    return _write_lines(path, rows)


def export_rankings(store: Store, queue: str, path: str | Path) -> Path:
    """Write a queue's items and rankings as JSON Lines; an import gives the same queue.

    Args:
        store: the store.
        queue: name or id.
        path: the file; replaced where it exists.

    Returns:
        The path.

    Raises:
        NotFound: no such queue.
        UsageError: the folder does not exist.
        StoreProblem: the disk refuses.
    """
    found = rank_store.get_queue(store, queue)
    items = rank_store.list_items(store, [found.id])
    ids = [each for item in items for each in _answers(item)]
    completions = rank_store.completions_by_id(store, ids)
    names = {variant.id: variant.name for variant in model_store.list_variants(store, archived=True)}
    votes: dict[str, list[Ranking]] = {}
    for ranking in rank_store.list_rankings(store, queue_ids=[found.id], undone=True):
        votes.setdefault(ranking.item_id, []).append(ranking)
    kept = [item for item in items if all(each in completions for each in _answers(item))]
    return _write_lines(path, (_line(item, votes.get(item.id, []), completions, names) for item in kept))


def _answers(item: RankItem) -> list[str]:
    """All answers of an item, merged ones behind those that stand for them."""
    return [each for shown in item.completions for each in (shown, *item.merged.get(shown, ()))]


def _line(
    item: RankItem, rankings: Sequence[Ranking], completions: dict[str, Completion], names: dict[str, str]
) -> dict[str, Any]:
    numbers = {completion: number for number, completion in enumerate(_answers(item))}
    line: dict[str, Any] = {"prompt": [plain_message(turn) for turn in item.prompt]}
    if item.row_id is not None:
        line["row_id"] = item.row_id
    line["answers"] = [_answer(completions[each], names) for each in numbers]
    told = [_ranking(ranking, numbers) for ranking in rankings]
    # Those of one moment are told in one order, so that an import exports the same file.
    line["rankings"] = sorted(told, key=lambda each: (each["created_at"], canonical_json(each)))
    return line


def _answer(completion: Completion, names: dict[str, str]) -> dict[str, Any]:
    told: dict[str, Any] = {
        "text": completion.text,
        "model": names.get(completion.variant_id, completion.variant_id).removesuffix(IMPORTED),
        "sampling": completion.sampling.model_dump(mode="json", exclude_defaults=True),
    }
    for key in ("fingerprint", "finish_reason", "tokens"):
        if getattr(completion, key):
            told[key] = getattr(completion, key)
    return told


def _ranking(ranking: Ranking, numbers: dict[str, int]) -> dict[str, Any]:
    told: dict[str, Any] = {
        "rater": ranking.rater,
        "shown": [numbers[each] for each in ranking.shown],
        "ranking": [[numbers[each] for each in tier] for tier in ranking.tiers],
        "unusable": [numbers[each] for each in ranking.unusable],
        "source": ranking.source,
        "created_at": ranking.created_at.isoformat(),
    }
    plain = ranking.model_dump(mode="json", exclude_defaults=True)
    for key in ("all_bad", "skipped", "confidence", "comment", "edited", "seconds", "repeat"):
        if key in plain:
            told[key] = plain[key]
    if ranking.undone_at is not None:
        told["undone_at"] = ranking.undone_at.isoformat()
    return told


def _write_lines(path: str | Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Write rows; the file appears whole or not at all."""
    path = Path(path)
    if not path.parent.is_dir():
        raise UsageError("the folder does not exist", place="path", value=str(path.parent), remedy="Create it first.")
    aside = path.with_name(f".{new_id('export')}")
    count = 0
    try:
        with disk_told(str(path)):
            with aside.open("w", encoding="utf-8", newline="\n") as file:
                for row in rows:
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                    count += 1
                file.flush()
                os.fsync(file.fileno())
            if not count:
                raise DataProblem(
                    "the rankings give no row of this kind",
                    place=path.name,
                    remedy="Rank more answers, or export another form.",
                )
            os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return path
