"""Rankings from files: ranked conversation trees, a plain line per prompt, preference pairs, and our own export.

- *trees*: `{"prompt": {"text", "role", "replies": [{"text", "role", "rank", "replies": …}]}}`, rank 0 = best, at every
  depth where two or more assistant replies were ranked (the form of Open Assistant's exports)
- *plain*: `{"prompt", "answers": […], "ranking": […]}`: numbers of answers from 0, best first, ties as a list in the
  list; `rankings` instead of `ranking` holds several raters' (what `exports.export_rankings` writes)
- *pairs*: `prompt`, `chosen`, `rejected`, in any form that datasets of preferences are imported from

All or nothing: one line that cannot be taken refuses the file, with its number. Whoever wrote the answers becomes a
variant that is put away, so that it counts in ratings and is never offered to answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from workbench.datasets.formats import convert_row, detect_format
from workbench.datasets.readers import RowProblem, SourceRow, open_source, read_rows
from workbench.errors import Conflict, DataProblem, NotFound, WorkbenchError
from workbench.preferences.exports import IMPORTED
from workbench.records import (
    Completion,
    Message,
    Preference,
    Ranking,
    RankItem,
    RankQueue,
    Sampling,
    new_id,
    utc_now,
)
from workbench.store import models as model_store
from workbench.store import rankings as rank_store
from workbench.store.answers import add_completions
from workbench.store.database import Store
from workbench.store.datasets import check_name
from workbench.store.rankings import NewItem

RATER = "imported"
UNKNOWN = "unknown author"
_MESSAGES: TypeAdapter[tuple[Message, ...]] = TypeAdapter(tuple[Message, ...])
_VOTE_FIELDS = ("all_bad", "skipped", "confidence", "comment", "edited", "seconds", "repeat", "created_at", "undone_at")


@dataclass(frozen=True)
class Answer:
    """An answer of a file."""

    text: str
    model: str = UNKNOWN
    details: Mapping[str, Any] = field(default_factory=dict)
    """sampling, fingerprint, finish_reason, tokens, where the file tells."""


@dataclass(frozen=True)
class Vote:
    """A ranking of a file, by numbers of answers."""

    tiers: tuple[tuple[int, ...], ...] = ()
    unusable: tuple[int, ...] = ()
    shown: tuple[int, ...] | None = None
    rater: str = RATER
    source: str = "import"
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Line:
    """An item of a file."""

    place: str
    """File and row, for messages."""
    prompt: tuple[Message, ...]
    answers: tuple[Answer, ...]
    votes: tuple[Vote, ...]
    row_id: str | None = None


def import_rankings(store: Store, path: str | Path, name: str, *, guidelines: str = "") -> RankQueue:
    """Read a file of rankings into a new queue.

    Args:
        store: the store.
        path: JSON Lines, plain or gzipped; pairs also as JSON, CSV, TSV or Parquet.
        name: of the queue.
        guidelines: what raters were told to look for.

    Raises:
        DataProblem: the file cannot be read, or a line cannot be taken; says which and why. Nothing is stored.
        Conflict: a queue of this name exists.
    """
    path = Path(path)
    if any(queue.name == check_name(name, "queue") for queue in rank_store.list_queues(store, archived=True)):
        raise Conflict("a queue of this name exists", place="name", value=name, remedy="Choose another name.")
    lines = list(read_rankings(path))
    variants = _Writers(store)
    completions: list[Completion] = []
    items: list[NewItem] = []
    placed: list[tuple[dict[int, str], Line]] = []
    for line in lines:
        item, by_number = _make_item(line, variants, completions)
        items.append(item)
        placed.append((by_number, line))
    source = {"file": path.name, "items": len(items), "rankings": sum(len(line.votes) for line in lines)}
    # Votes are checked against their items before anything is stored.
    for item, (by_number, line) in zip(items, placed, strict=True):
        trial = RankItem(id="ri", queue_id="rq", position=0, **dict(item))
        for vote in line.votes:
            _make_ranking(trial, vote, by_number, line)
    variants.store_new()
    add_completions(store, completions)
    queue = rank_store.create_queue(store, name, items, guidelines=guidelines, source=source)
    made = [
        _make_ranking(item, vote, by_number, line)
        for item, (by_number, line) in zip(rank_store.list_items(store, [queue.id]), placed, strict=True)
        for vote in line.votes
    ]
    rank_store.add_rankings(store, made)
    return queue


# ---- reading ----


def read_rankings(path: str | Path) -> Iterator[Line]:
    """The items of a file; see `import_rankings`.

    Raises:
        DataProblem: the file cannot be read, a line cannot be taken, or nothing in it is ranked.
    """
    source = open_source(path)
    place = source.path.name
    found = False
    for row in read_rows(source):
        if row.problem is not None:
            raise DataProblem(row.problem.sentence(), place=place)
        for line in _read_row(row, place):
            found = True
            yield line
    if not found:
        raise DataProblem(
            "nothing in the file is ranked", place=place, remedy="Two answers to a prompt make a ranking."
        )


def _read_row(row: SourceRow, place: str) -> Iterable[Line]:
    values = row.values
    where = f"{place}, row {row.number}"
    if isinstance(values.get("prompt"), dict) and "replies" in values["prompt"]:
        return _read_tree(values["prompt"], where)
    if "answers" in values:
        return [_read_plain(values, where)]
    if "chosen" in values:
        return [_read_pair(row, where)]
    raise DataProblem(
        "this is no ranking",
        place=where,
        value=", ".join(values)[:80],
        remedy="Expected `prompt` with `replies`; `prompt`, `answers`, `ranking`; or `prompt`, `chosen`, `rejected`.",
    )


def _read_tree(root: Mapping[str, Any], where: str) -> list[Line]:
    """Every place of a tree where assistant replies were ranked, from the top down."""
    lines: list[Line] = []
    waiting: list[tuple[Mapping[str, Any], tuple[Message, ...]]] = [(root, ())]
    while waiting:
        node, before = waiting.pop(0)
        text = node.get("text")
        if not isinstance(text, str):
            raise DataProblem("a message of the tree has no text", place=where, value=text)
        role = {"prompter": "user"}.get(str(node.get("role")), str(node.get("role")))
        if role not in ("user", "assistant", "system"):
            raise DataProblem("a message of the tree has an unknown role", place=where, value=node.get("role"))
        path = (*before, Message.model_validate({"role": role, "content": text}))
        replies = [reply for reply in node.get("replies") or () if not reply.get("deleted")]
        waiting += [(reply, path) for reply in replies]
        ranked = [
            reply
            for reply in replies
            if reply.get("role") == "assistant" and _is_ranked(reply, where) and isinstance(reply.get("text"), str)
        ]
        if len({reply["text"].strip() for reply in ranked}) > 1:
            lines.append(_tree_line(where, path, ranked))
    return lines


def _is_ranked(reply: Mapping[str, Any], where: str) -> bool:
    rank = reply.get("rank")
    if rank is not None and type(rank) is not int:
        raise DataProblem(
            "the rank of a reply is no whole number", place=where, value=rank, remedy="0 is the best; null is unranked."
        )
    return rank is not None


def _tree_line(where: str, prompt: tuple[Message, ...], replies: list[Mapping[str, Any]]) -> Line:
    # More answers than a person can rank at once: the best nine.
    kept = sorted(sorted(range(len(replies)), key=lambda index: replies[index]["rank"])[:9])
    answers = [replies[index] for index in kept]
    ranks = sorted({reply["rank"] for reply in answers})
    tiers = [tuple(index for index, reply in enumerate(answers) if reply["rank"] == rank) for rank in ranks]
    return Line(
        place=where,
        prompt=prompt,
        answers=tuple(
            Answer(reply["text"], str(reply.get("model_name") or ("a model" if reply.get("synthetic") else "people")))
            for reply in answers
        ),
        votes=(Vote(tiers=tuple(tiers)),),
    )


def _read_plain(values: Mapping[str, Any], where: str) -> Line:
    given = values["answers"]
    if not isinstance(given, list) or not 2 <= len(given):
        raise DataProblem("`answers` has to be a list of at least two", place=where, value=given)
    answers = tuple(_read_answer(each, where) for each in given)
    told = values.get("rankings")
    if told is None:
        told = [values] if "ranking" in values or values.get("all_bad") else []
    if not isinstance(told, list) or not all(isinstance(each, dict) for each in told):
        raise DataProblem("`rankings` has to be a list of rankings", place=where, value=told)
    row_id = values.get("row_id")
    return Line(
        place=where,
        prompt=_read_prompt(values.get("prompt"), where),
        answers=answers,
        votes=tuple(_read_vote(each, len(answers), where) for each in told),
        row_id=None if row_id is None else str(row_id)[:60],
    )


def _read_prompt(given: Any, where: str) -> tuple[Message, ...]:
    if isinstance(given, str) and given.strip():
        return (Message(role="user", content=given),)
    try:
        prompt = _MESSAGES.validate_python(given)
    except ValidationError as error:
        raise DataProblem("`prompt` has to be text or a list of messages", place=where, value=given) from error
    if not prompt or prompt[-1].role not in ("user", "tool"):
        raise DataProblem("`prompt` has to end with a user turn", place=where, value=given)
    return prompt


def _read_answer(given: Any, where: str) -> Answer:
    if isinstance(given, str):
        return Answer(given)
    if isinstance(given, dict) and isinstance(given.get("text"), str):
        details = {key: given[key] for key in ("sampling", "fingerprint", "finish_reason", "tokens") if key in given}
        return Answer(given["text"], str(given.get("model") or UNKNOWN), details)
    raise DataProblem("an answer has to be text, or an object with `text` and `model`", place=where, value=given)


def _read_vote(given: Mapping[str, Any], count: int, where: str) -> Vote:
    def numbers(value: Any) -> tuple[int, ...]:
        listed = value if isinstance(value, list) else [value]
        if not all(type(each) is int and 0 <= each < count for each in listed):
            raise DataProblem(
                f"a ranking holds numbers of answers from 0 to {count - 1}",
                place=where,
                value=value,
                remedy="Best first: [2, 0, 1] puts the third answer first; [2, [0, 1]] ties the other two.",
            )
        return tuple(listed)

    order = given.get("ranking", [])
    if not isinstance(order, list):
        raise DataProblem("`ranking` has to be a list", place=where, value=order)
    unusable = numbers(given.get("unusable", []))
    shown = numbers(given["shown"]) if "shown" in given else None
    details = {key: given[key] for key in _VOTE_FIELDS if given.get(key) is not None}
    try:
        rater = rank_store.check_rater(str(given.get("rater") or RATER))
    except WorkbenchError as error:
        raise DataProblem(error.what, place=where, value=error.value, remedy=error.remedy) from error
    return Vote(tuple(map(numbers, order)), unusable, shown, rater, str(given.get("source") or "import"), details)


def _read_pair(row: SourceRow, where: str) -> Line:
    reading = detect_format(list(row.values), [row.values], kind="preferences", place=where)
    plain = convert_row(reading, row.number, row.values)
    if isinstance(plain, RowProblem):
        raise DataProblem(plain.sentence(), place=where.partition(",")[0])
    pair = Preference.model_validate(plain)
    if len(pair.chosen) > 1 or len(pair.rejected) > 1:
        raise DataProblem("an answer of several turns cannot be ranked", place=where, remedy="Import it as a dataset.")
    answers = (Answer(pair.chosen[0].content), Answer(pair.rejected[0].content))
    return Line(where, pair.prompt, answers, (Vote(tiers=((0,), (1,))),))


# ---- making ----


class _Writers:
    """The variants that stand for whoever wrote the answers; new ones are stored at the end."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ids: dict[str, str] = {}
        self._new: dict[str, str] = {}

    def find(self, model: str) -> str:
        """Variant id for a name in the file."""
        name = f"{' '.join(model.split())[:180] or UNKNOWN}{IMPORTED}"
        if name not in self._ids:
            try:
                self._ids[name] = model_store.get_variant(self._store, name).id
            except NotFound:
                self._ids[name] = self._new[name] = new_id("var")
        return self._ids[name]

    def store_new(self) -> None:
        """Enter the new ones, put away at once."""
        for name, variant_id in self._new.items():
            model_store.add_variant(self._store, name, tags=("imported",), variant_id=variant_id)
            model_store.update_variant(self._store, variant_id, archived_at=utc_now())


def _make_item(line: Line, writers: _Writers, completions: list[Completion]) -> tuple[NewItem, dict[int, str]]:
    """An item with its answers; number of an answer → the completion that stands for it."""
    where = line.place
    first: dict[str, str] = {}
    merged: dict[str, tuple[str, ...]] = {}
    by_number: dict[int, str] = {}
    for number, answer in enumerate(line.answers):
        try:
            completion = Completion(
                id=new_id("cmp"),
                variant_id=writers.find(answer.model),
                prompt=line.prompt,
                text=answer.text,
                sampling=Sampling.model_validate(answer.details.get("sampling", {"seed": None})),
                fingerprint=answer.details.get("fingerprint"),
                finish_reason=answer.details.get("finish_reason"),
                tokens=answer.details.get("tokens", 0),
                row_id=line.row_id,
                created_at=utc_now(),
            )
        except ValidationError as error:
            told = error.errors(include_url=False)[0]
            raise DataProblem(
                f"an answer's {told['loc'][0]} does not hold", place=where, value=told["input"]
            ) from error
        completions.append(completion)
        kept = first.setdefault(answer.text.strip(), completion.id)
        by_number[number] = kept
        if kept != completion.id:
            merged[kept] = (*merged.get(kept, ()), completion.id)
    if len(first) > 9:
        raise DataProblem(
            "an item holds at most 9 different answers", place=where, value=len(first), remedy="Leave some of them out."
        )
    if len(first) < 2:
        raise DataProblem(
            "all its answers are the same, so that there is nothing to rank",
            place=where,
            value=line.answers[0].text[:80],
            remedy="Take the row out, or give two different answers.",
        )
    return NewItem(prompt=line.prompt, completions=tuple(first.values()), merged=merged, row_id=line.row_id), by_number


def _make_ranking(item: RankItem, vote: Vote, by_number: dict[int, str], line: Line) -> Ranking:
    """A vote on an item; answers with one text count where the best of them stands."""
    where = line.place
    seen: set[str] = set()

    def fresh(numbers: Iterable[int]) -> tuple[str, ...]:
        ids = dict.fromkeys(by_number[number] for number in numbers)
        kept = tuple(each for each in ids if each not in seen)
        seen.update(kept)
        return kept

    named = [number for tier in vote.tiers for number in tier] + list(vote.unusable)
    if len(named) != len(set(named)):
        raise DataProblem(
            "a ranking names an answer twice", place=where, value=named, remedy="Name each answer once, best first."
        )
    tiers = tuple(tier for tier in map(fresh, vote.tiers) if tier)
    unusable = fresh(vote.unusable)
    shown = item.completions if vote.shown is None else tuple(dict.fromkeys(by_number[each] for each in vote.shown))
    try:
        ranking = Ranking.model_validate(
            {
                "id": new_id("rk"),
                "item_id": item.id,
                "rater": vote.rater,
                "shown": shown,
                "tiers": tiers,
                "unusable": unusable,
                "source": vote.source,
                "nonce": new_id("import"),
                "created_at": utc_now(),
                **vote.details,
            }
        )
    except ValidationError as error:
        told = error.errors(include_url=False)[0]
        place = f"{where}, {'.'.join(map(str, told['loc']))}"
        raise DataProblem(str(told["msg"]).lower(), place=place, value=told["input"]) from error
    try:
        return rank_store.check_ranking(ranking, item)
    except WorkbenchError as error:
        raise DataProblem(error.what, place=where, value=error.value, remedy=error.remedy) from error
