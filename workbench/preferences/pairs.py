"""From rankings to training data: ordered pairs, labels, the best answers, and the versions of datasets made of them.

One ranking of K answers gives every ordered pair with weight 1/C(K,2), so that a prompt counts once however many
answers it has (Ouyang et al. 2022, section 3.5); ties give none, an unusable answer loses to every tier. Hidden repeats
give nothing. Splits are by prompt: all that asks the same lands on one side, whatever is made of it. Both people's and
scorers' rankings are taken, and a version's provenance says how many of each source; where an item has rankings by
people, theirs win and a scorer's of the same item are left out.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any, Literal, NamedTuple

from workbench.datasets.payloads import encode_payload
from workbench.datasets.versions import split_held_out, write_version
from workbench.errors import Conflict, DataProblem, NotFound, UsageError
from workbench.records import (
    Completion,
    DatasetKind,
    Example,
    Labelled,
    Message,
    Payload,
    Preference,
    Prompt,
    Ranking,
    RankItem,
    Record,
    Row,
    Version,
)
from workbench.store import datasets as dataset_store
from workbench.store import rankings as rank_store
from workbench.store.database import Store

Scheme = Literal["all", "adjacent"]
HELD_OUT = 0.1
SAYS_NOTHING: dict[DatasetKind, str] = {
    "preferences": "prefers one answer to another",
    "labels": "calls an answer good or bad",
    "instructions": "puts one answer before the others",
}
"""What rankings do not do that give no row of a kind."""


class RankedPair(NamedTuple):
    """Two answers of one ranking, the first above the second."""

    better: str
    worse: str
    weight: float


class Built(Record):
    """Versions made of rankings."""

    train: Version
    """What to train on."""
    held_out: Version | None
    """Prompts kept aside, in a dataset of their own; None where there are too few prompts or none was asked for."""
    rows: int
    """Rows in both."""
    rankings: int
    """Rankings they come from."""
    sources: dict[str, int] = {}
    """The same by source: rank, playground, demo, import, scorer."""


@dataclass(frozen=True)
class RankedItem:
    """An item with the rankings that count and its answers."""

    item: RankItem
    rankings: tuple[Ranking, ...]
    held_out: bool


@dataclass(frozen=True)
class RankedItems:
    """The ranked items of some queues."""

    queues: tuple[str, ...]
    items: tuple[RankedItem, ...]
    completions: dict[str, Completion]
    """All answers of the items; one purged since is missing."""

    @property
    def sources(self) -> dict[str, int]:
        """Rankings by source."""
        return dict(sorted(Counter(ranking.source for each in self.items for ranking in each.rankings).items()))


def ranking_pairs(ranking: Ranking, *, scheme: Scheme = "all") -> list[RankedPair]:
    """Ordered pairs of a ranking, each with weight 1/C(K,2) where K answers were shown.

    Args:
        ranking: the ranking; skipped or all bad gives no pair.
        scheme: `all` pairs, or only those of `adjacent` places.

    Raises:
        UsageError: no such scheme.
    """
    if scheme not in ("all", "adjacent"):
        raise UsageError("no such scheme", place="scheme", value=scheme, remedy="Choose all or adjacent.")
    places = [place for place in (*ranking.tiers, ranking.unusable) if place]
    weight = 1 / comb(len(ranking.shown), 2) if len(ranking.shown) > 1 else 0.0
    return [
        RankedPair(better, worse, weight)
        for index, above in enumerate(places)
        for below in (places[index + 1 :] if scheme == "all" else places[index + 1 : index + 2])
        for better in above
        for worse in below
    ]


def load_ranked(store: Store, queues: Sequence[str], *, held_out: float = HELD_OUT, seed: int = 0) -> RankedItems:
    """The ranked items of queues, split by prompt. An item that people ranked comes without scorers' rankings of it.

    Args:
        store: the store.
        queues: names or ids.
        held_out: share of prompts to keep aside, 0 to below 1.
        seed: another seed gives another split.

    Raises:
        NotFound: no such queue, or none named.
        UsageError: the share is out of bounds.
    """
    ids = tuple(dict.fromkeys(rank_store.get_queue(store, name).id for name in queues))
    if not ids:
        raise NotFound("no queue was named", remedy="`workbench rank queues` shows what there is.")
    votes: dict[str, list[Ranking]] = {}
    for ranking in rank_store.list_rankings(store, queue_ids=ids):
        if ranking.skipped is None and not ranking.repeat:
            votes.setdefault(ranking.item_id, []).append(ranking)
    items = [item for item in rank_store.list_items(store, ids) if item.id in votes]
    held = _held_out_items(items, held_out, seed)
    return RankedItems(
        queues=ids,
        items=tuple(RankedItem(item, _that_count(votes[item.id]), item.id in held) for item in items),
        completions=rank_store.completions_by_id(store, [each for item in items for each in item.completions]),
    )


def _that_count(rankings: Sequence[Ranking]) -> tuple[Ranking, ...]:
    """People's rankings of an item, or a scorer's where people gave none."""
    return tuple(each for each in rankings if each.source != rank_store.SCORER) or tuple(rankings)


def _held_out_items(items: Sequence[RankItem], fraction: float, seed: int) -> set[str]:
    rows = [
        Row.model_construct(row_id=item.id, row_hash="", payload=Prompt.model_construct(messages=item.prompt))
        for item in items
    ]
    try:
        return set(split_held_out(rows, fraction, seed)[1])
    except DataProblem:  # one prompt only: it is trained on
        return set()


def iter_preferences(ranked: RankedItems, *, scheme: Scheme = "all", part: str = "all") -> Iterable[Preference]:
    """Preferences with their provenance, in the order of items and votes.

    Args:
        ranked: the ranked items.
        scheme: `all` pairs, or only those of `adjacent` places.
        part: `train`, `held_out` or `all`.
    """
    for each in _part(ranked, part):
        for ranking in each.rankings:
            for pair in ranking_pairs(ranking, scheme=scheme):
                sides = [ranked.completions.get(side) for side in (pair.better, pair.worse)]
                better, worse = sides
                if better is None or worse is None:
                    continue
                yield Preference(
                    prompt=each.item.prompt,
                    chosen=(Message(role="assistant", content=better.text),),
                    rejected=(Message(role="assistant", content=worse.text),),
                    weight=pair.weight,
                    meta=_provenance(each.item, ranking)
                    | {"chosen": _origin(better, ranking), "rejected": _origin(worse, ranking)},
                )


def iter_labels(ranked: RankedItems, *, part: str = "all") -> Iterable[Labelled]:
    """Answers with a label, for KTO: the best place is desirable, the last and what is unusable is not.

    Places between say neither and are left out, and so is a ranking that ties all it shows. Where every answer is bad,
    each is a negative. A rater's own version is desirable. (Read from pairs, a last place above unusable answers says
    nothing, because it beats them.)

    What a ranking's places say for answers, and what they say against them, weighs at most 1 each, however many it
    shows: a label weighs as much as the pairs behind it, one of K bad answers 1/K. A rater's own version weighs 1.

    Args:
        ranked: the ranked items.
        part: `train`, `held_out` or `all`.
    """
    for each in _part(ranked, part):
        for ranking in each.rankings:
            for answer, label, weight in _labels(ranking):
                if completion := ranked.completions.get(answer):
                    origin = {"answer": _origin(completion, ranking)}
                    yield _labelled(each.item, ranking, completion.text, label, weight, origin)
            if ranking.edited is not None:
                yield _labelled(each.item, ranking, ranking.edited, True, 1.0, {"edited": True})


def _labels(ranking: Ranking) -> list[tuple[str, bool, float]]:
    """Answers with label and weight."""
    if not ranking.tiers:  # all are bad, or a rater's own version is all that is left to say
        bad = ranking.shown if ranking.all_bad else ranking.unusable
        return [(answer, False, 1 / len(ranking.shown)) for answer in bad]
    pairs = ranking_pairs(ranking)
    last = ranking.tiers[-1] if len(ranking.tiers) > 1 else ()
    best = ranking.tiers[0] if last or ranking.unusable else ()
    good = [(answer, True, sum(pair.weight for pair in pairs if pair.better == answer)) for answer in best]
    bad = (*last, *ranking.unusable)
    return good + [(answer, False, sum(pair.weight for pair in pairs if pair.worse == answer)) for answer in bad]


def _labelled(
    item: RankItem, ranking: Ranking, text: str, label: bool, weight: float, told: dict[str, Any]
) -> Labelled:
    answer = (Message(role="assistant", content=text),)
    meta = _provenance(item, ranking) | told
    return Labelled(prompt=item.prompt, completion=answer, label=label, weight=weight, meta=meta)


def iter_best(ranked: RankedItems, *, part: str = "all") -> Iterable[Example]:
    """The best answer to each prompt as an example to imitate; a rater's own version goes before it.

    The answer most raters put first counts; where two come out alike, the item tells nothing and is left out, as one
    that most call all bad.

    Args:
        ranked: the ranked items.
        part: `train`, `held_out` or `all`.
    """
    for each in _part(ranked, part):
        own = {ranking.edited: ranking for ranking in each.rankings if ranking.edited is not None}
        if own:
            for text, ranking in own.items():
                meta = _provenance(each.item, ranking) | {"edited": True}
                yield _example(each.item, text, meta)
            continue
        completion = ranked.completions.get(_most_often_best(each.rankings) or "")
        if completion is not None:
            raters = sorted({ranking.rater for ranking in each.rankings})
            meta = {"queue": each.item.queue_id, "item": each.item.id, "raters": raters, "edited": False}
            yield _example(each.item, completion.text, meta | {"variant": completion.variant_id})


def _most_often_best(rankings: Sequence[Ranking]) -> str | None:
    if 2 * sum(ranking.all_bad for ranking in rankings) > len(rankings):
        return None
    points: dict[str, float] = {}
    for ranking in rankings:
        for completion in ranking.tiers[0] if ranking.tiers else ():
            points[completion] = points.get(completion, 0.0) + 1 / len(ranking.tiers[0])
    top = sorted(points.values(), reverse=True)[:2]
    if not top or (len(top) == 2 and abs(top[0] - top[1]) < 1e-9):
        return None
    return max(points, key=lambda completion: points[completion])


def _example(item: RankItem, text: str, meta: dict[str, Any]) -> Example:
    return Example(messages=(*item.prompt, Message(role="assistant", content=text)), meta=meta)


def _part(ranked: RankedItems, part: str) -> list[RankedItem]:
    if part not in ("all", "train", "held_out"):
        raise UsageError("no such part", place="part", value=part, remedy="Choose all, train or held_out.")
    return [each for each in ranked.items if part == "all" or each.held_out == (part == "held_out")]


def _provenance(item: RankItem, ranking: Ranking) -> dict[str, Any]:
    return {
        "queue": item.queue_id,
        "item": item.id,
        "ranking": ranking.id,
        "rater": ranking.rater,
        "source": ranking.source,
        "confidence": ranking.confidence,
    }


def _origin(completion: Completion, ranking: Ranking) -> dict[str, Any]:
    return {
        "completion": completion.id,
        "variant": completion.variant_id,
        "seed": completion.sampling.seed,
        "position": ranking.shown.index(completion.id) + 1,
    }


# ---- versions ----


def build_preferences(
    store: Store,
    queues: Sequence[str],
    name: str,
    *,
    scheme: Scheme = "all",
    held_out: float = HELD_OUT,
    seed: int = 0,
) -> Built:
    """Make a preference dataset of rankings, or a new version of it; where nothing changed, the version there is.

    Rankings by people and by scorers both count; where people ranked an item, a scorer's rankings of it are left out.

    Args:
        store: the store.
        queues: names or ids.
        name: of the dataset; what is held out goes to `NAME (held out)`.
        scheme: `all` pairs, or only those of `adjacent` places.
        held_out: share of prompts to keep aside, 0 to below 1.
        seed: another seed gives another split.

    Raises:
        DataProblem: no ranking prefers one answer to another.
        Conflict: a dataset of this name holds something else.
        NotFound: no such queue.
    """
    ranked = load_ranked(store, queues, held_out=held_out, seed=seed)
    parts = [list(iter_preferences(ranked, scheme=scheme, part=part)) for part in ("train", "held_out")]
    told = {"scheme": scheme, "held_out": held_out, "seed": seed}
    return _build(store, ranked, name, "preferences", parts, told)


def build_labels(store: Store, queues: Sequence[str], name: str, *, held_out: float = HELD_OUT, seed: int = 0) -> Built:
    """Make a dataset of answers labelled good or bad, for KTO, or a new version of it; see `build_preferences`.

    It holds what pairs cannot: answers that raters called all bad, and versions they wrote themselves.

    Raises:
        DataProblem: no ranking calls an answer good or bad.
        Conflict: a dataset of this name holds something else.
        NotFound: no such queue.
    """
    ranked = load_ranked(store, queues, held_out=held_out, seed=seed)
    parts = [list(iter_labels(ranked, part=part)) for part in ("train", "held_out")]
    return _build(store, ranked, name, "labels", parts, {"held_out": held_out, "seed": seed})


def build_examples(store: Store, queues: Sequence[str], name: str, *, held_out: float = 0.0, seed: int = 0) -> Built:
    """Make an instructions dataset of the best answers, or a new version of it; see `build_preferences`.

    Raises:
        DataProblem: no answer came out best.
        Conflict: a dataset of this name holds something else.
        NotFound: no such queue.
    """
    ranked = load_ranked(store, queues, held_out=held_out, seed=seed)
    parts = [list(iter_best(ranked, part=part)) for part in ("train", "held_out")]
    return _build(store, ranked, name, "instructions", parts, {"held_out": held_out, "seed": seed})


def _build(
    store: Store,
    ranked: RankedItems,
    name: str,
    kind: DatasetKind,
    parts: Sequence[Sequence[Payload]],
    told: dict[str, Any],
) -> Built:
    train, aside = parts
    if not train and aside:  # all that was decided lies on the held-out side: there is nothing to hold it out from
        train, aside = aside, ()
    rankings = sum(len(each.rankings) for each in ranked.items)
    if not train:
        what = SAYS_NOTHING[kind]
        raise DataProblem(
            f"none of {rankings} rankings {what}", place=name, remedy="Rank some answers first; ties alone say nothing."
        )
    sources = ranked.sources
    provenance = {"rankings": {"queues": list(ranked.queues), "count": rankings, "sources": sources, **told}}
    made = _write(store, name, kind, train, provenance, rankings)
    held = _write(store, name + dataset_store.HELD_OUT_END, kind, aside, provenance, rankings) if aside else None
    return Built(train=made, held_out=held, rows=len(train) + len(aside), rankings=rankings, sources=sources)


def _write(
    store: Store, name: str, kind: DatasetKind, rows: Sequence[Payload], provenance: dict[str, Any], rankings: int
) -> Version:
    try:
        dataset = dataset_store.get_dataset(store, name)
    except NotFound:
        dataset = dataset_store.create_dataset(store, name, kind, description="Made of rankings.")
    latest = dataset_store.latest_version(store, dataset.id)
    if dataset.kind != kind or (latest is not None and "rankings" not in latest.provenance):
        raise Conflict(
            "the dataset of this name was not made of rankings, or was changed since",
            place="name",
            value=dataset.name,
            remedy="Choose another name.",
        )
    if latest is not None and latest.content_hash == _content_hash(rows):
        return latest
    message = f"{len(rows)} rows of {rankings} rankings"
    return write_version(store, dataset.id, rows, parent=latest, message=message, provenance=provenance)


def _content_hash(rows: Iterable[Payload]) -> str:
    told = hashlib.sha256()
    for row in rows:
        told.update(encode_payload(row)[1].encode() + b"\n")
    return told.hexdigest()
