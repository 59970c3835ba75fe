"""From candidates to a dataset: decide again, page and review, the funnel, and the version with where it came from.

Nothing here generates. A run's own decisions stay as they were; another threshold is worked out on top of them, and
what people say is appended. What a person accepted goes into a version whatever the filters said, except what leaks.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from workbench.datasets.payloads import encode_payload
from workbench.datasets.versions import write_version
from workbench.errors import Conflict, DataProblem, NotFound, UsageError
from workbench.records import Example, Record, Run, Version, new_id
from workbench.self_instruct.configs import SelfInstructConfig
from workbench.self_instruct.deciding import redecide
from workbench.self_instruct.diversity import Diversity, measure_diversity
from workbench.self_instruct.filters import INSTANCE_REASONS, INSTRUCTION_REASONS, NO_ANSWER, REASONS, judge_instances
from workbench.self_instruct.rounds import Plan, load_guard
from workbench.self_instruct.seeds import as_example, read_seeds
from workbench.store import candidates as candidate_store
from workbench.store import datasets as dataset_store
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.store.candidates import Candidate, Instance, Review, State, Verdict
from workbench.store.database import Store

Opinion = Literal["open", "accept", "edit", "reject", "reviewed"]
Include = Literal["accepted", "unrejected"]


@dataclass(frozen=True)
class Board:
    """A run's candidates as decided under a threshold, with what people say of them."""

    run_id: str
    """The run."""
    threshold: float
    """ROUGE-L F1 above which a task counts as not new."""
    candidates: tuple[Candidate, ...]
    """In order of position."""
    reviews: dict[str, Review]
    """Candidate id → the review that counts."""


class CandidatePage(Record):
    """Some of a run's candidates."""

    candidates: tuple[Candidate, ...]
    """In order of position, as decided under the threshold."""
    reviews: dict[str, Review]
    """Candidate id → the review that counts, for those here."""
    total: int
    """How many fit the filter."""


class Stage(Record):
    """One step of the funnel."""

    name: str
    """read, passed, answered, kept or accepted."""
    title: str
    """In words."""
    count: int
    """Tasks that came so far."""
    lost: dict[str, int] = {}
    """Reason → tasks lost on the way here, in the order of the filters."""


class Funnel(Record):
    """What became of everything the generator wrote."""

    threshold: float
    """ROUGE-L F1 above which a task counts as not new."""
    requests: int
    """Requests made."""
    failed: int
    """Requests without a reply."""
    unread: int
    """Replies to requests for tasks in which none was found."""
    stages: tuple[Stage, ...]
    """From read to accepted."""
    examples: int
    """Usable examples of the tasks kept: rows that a version would have."""
    examples_lost: dict[str, int]
    """Reason → examples thrown out, of all tasks."""
    open: int
    """Kept tasks that nobody has reviewed."""


STAGES = {
    "read": "read from replies",
    "passed": "instruction passed the filters",
    "answered": "examples were written",
    "kept": "kept by the filters",
    "accepted": "accepted by a person",
}
LOST = {
    **REASONS,
    "waiting": "It waits for examples.",
    "rejected": "A person rejected it.",
    "open": "Nobody has reviewed it.",
}
"""Words for every reason in a funnel."""


# ---- reading ----


def load_board(store: Store, run_id: str, *, threshold: float | None = None) -> Board:
    """A run's candidates, decided again where the threshold is another than the run's.

    Args:
        store: the store.
        run_id: a self-instruct run.
        threshold: ROUGE-L F1, 0 to 1; the run's own when None.

    Raises:
        UsageError: it is no such run, or the threshold is out of bounds.
        NotFound: there is no such run, or its seeds are gone.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise UsageError("a threshold lies between 0 and 1", place="threshold", value=threshold)
    own = read_config(run_store.get_run(store, run_id)).threshold
    wanted = own if threshold is None else threshold
    stamp = candidate_store.stamp_candidates(store, run_id)
    decided = _decided(store, run_id, stamp, None if wanted == own else wanted)
    return Board(run_id, wanted, decided, candidate_store.latest_reviews(store, run_id))


@lru_cache(maxsize=6)
def _decided(store: Store, run_id: str, stamp: tuple[int, ...], threshold: float | None) -> tuple[Candidate, ...]:
    """A run's candidates; kept while the stamp stays, so that reviewing and turning pages read nothing anew."""
    if threshold is None:
        return tuple(candidate_store.list_candidates(store, run_id))
    candidates = _decided(store, run_id, stamp, None)
    plan = read_plan(run_store.get_run(store, run_id))
    seeds = read_seeds(store, dataset_store.get_version(store, plan.seeds_version_id))
    return tuple(redecide(candidates, seeds, threshold))


def read_config(run: Run) -> SelfInstructConfig:
    """The settings of a self-instruct run.

    Args:
        run: the run.

    Raises:
        UsageError: it is of another kind.
    """
    if run.kind != "self_instruct":
        remedy = "Choose a run of kind `self_instruct`."
        raise UsageError("this run grew no tasks", place=run.name, value=run.kind, remedy=remedy)
    return SelfInstructConfig.model_validate(run.spec)


def read_plan(run: Run) -> Plan:
    """What a self-instruct run pinned at its first start.

    Args:
        run: the run.

    Raises:
        UsageError: it has not begun.
    """
    pinned = run.result.get("self_instruct")
    if not isinstance(pinned, dict):
        raise UsageError("the run has not begun", place=run.name, remedy="Wait until it has, or look at its log.")
    return Plan.model_validate(pinned)


def page_candidates(
    board: Board,
    *,
    state: State | None = None,
    reason: str | None = None,
    review: Opinion | None = None,
    search: str = "",
    offset: int = 0,
    limit: int = 50,
) -> CandidatePage:
    """A page of candidates.

    Args:
        board: the candidates.
        state: only those kept, waiting for examples, or rejected.
        reason: only those rejected for this reason, a key of `filters.REASONS`.
        review: only those a person said this of; `open` means kept and not reviewed, `reviewed` any verdict.
        search: only those whose instruction, nearest text or examples hold this, letter case aside.
        offset: how many to skip, at least 0.
        limit: how many to give, 1 to 1000.

    Raises:
        UsageError: offset or limit is out of bounds, or there is no such reason.
    """
    if offset < 0 or not 1 <= limit <= 1000:
        raise UsageError("a page has an offset of 0 or more and 1 to 1000 rows", value=(offset, limit))
    if reason is not None and reason not in REASONS:
        raise UsageError("no such reason", place="reason", value=reason, remedy=f"There are {', '.join(REASONS)}.")
    words = search.strip().casefold()
    found = [
        each
        for each in board.candidates
        if (state is None or each.state == state)
        and (reason is None or each.why == reason)
        and (review is None or _said(each, board.reviews.get(each.id), review))
        and (not words or words in _words(each))
    ]
    shown = found[offset : offset + limit]
    reviews = {each.id: board.reviews[each.id] for each in shown if each.id in board.reviews}
    return CandidatePage(candidates=tuple(shown), reviews=reviews, total=len(found))


def _said(candidate: Candidate, review: Review | None, wanted: Opinion) -> bool:
    if wanted == "open":
        return review is None and candidate.state == "kept"
    return review is not None and (wanted == "reviewed" or review.verdict == wanted)


def _words(candidate: Candidate) -> str:
    examples = [text for each in candidate.instances or () for text in (each.input, each.output)]
    return "\n".join([candidate.instruction, candidate.nearest_text or "", *examples]).casefold()


# ---- figures ----


def measure_funnel(board: Board, store: Store) -> Funnel:
    """What became of everything the generator wrote.

    Args:
        board: the candidates.
        store: the store.
    """
    why = Counter(each.reason for each in board.candidates)
    passed = [each for each in board.candidates if each.reason is None]
    answered = [each for each in passed if each.state != "waiting"]
    kept = [each for each in answered if each.state == "kept"]
    verdicts = Counter(review.verdict for review in board.reviews.values())
    unheard = sum(each.id not in board.reviews for each in kept)
    examples_why = Counter(each.instance_reason for each in answered)
    lost_examples = Counter(one.reason for each in board.candidates for one in each.instances or () if one.reason)
    counts = {
        "read": (len(board.candidates), {}),
        "passed": (len(passed), _in_order(why, INSTRUCTION_REASONS)),
        "answered": (len(answered), _in_order({"waiting": len(passed) - len(answered)}, ["waiting"])),
        "kept": (len(kept), _in_order(examples_why, [*INSTANCE_REASONS, NO_ANSWER])),
        "accepted": (
            verdicts["accept"] + verdicts["edit"],
            _in_order({"rejected": verdicts["reject"], "open": unheard}, ["rejected", "open"]),
        ),
    }
    made, failed, unread = candidate_store.count_replies(store, board.run_id)
    return Funnel(
        threshold=board.threshold,
        requests=made,
        failed=failed,
        unread=unread,
        stages=tuple(
            Stage(name=name, title=STAGES[name], count=count, lost=lost) for name, (count, lost) in counts.items()
        ),
        examples=sum(len(usable_instances(each)) for each in kept),
        examples_lost=_in_order(lost_examples, INSTANCE_REASONS),
        open=unheard,
    )


def _in_order(counts: Any, names: Iterable[str]) -> dict[str, int]:
    return {name: int(counts[name]) for name in names if counts.get(name)}


def board_diversity(board: Board, *, include: Include = "unrejected") -> Diversity:
    """Verbs and nouns of the tasks that a version would have; see `diversity` for how they are read.

    Args:
        board: the candidates.
        include: `accepted` by a person only, or all that nobody rejected.
    """
    return measure_diversity(instruction for instruction, _, _, _ in _chosen(board, include))


def usable_instances(candidate: Candidate) -> tuple[Instance, ...]:
    """The examples of a candidate that passed the filters.

    Args:
        candidate: the candidate.
    """
    return tuple(each for each in candidate.instances or () if each.reason is None)


# ---- saying ----


def review_candidate(
    store: Store,
    candidate_id: str,
    verdict: Verdict,
    reviewer: str,
    *,
    instruction: str | None = None,
    instances: Sequence[Instance] | None = None,
    nonce: str | None = None,
) -> Review:
    """Say of a candidate that it is accepted, accepted with a better wording, or rejected.

    Args:
        store: the store.
        candidate_id: the candidate.
        verdict: accept, edit or reject.
        reviewer: who says so.
        instruction: the better wording, of an edit; the generator's where only examples change.
        instances: the better examples, of an edit; the usable ones where only the wording changes.
        nonce: the same one again stores nothing and gives what was stored; a new one when None.

    Raises:
        NotFound: no such candidate.
        UsageError: there is nothing to accept, an edit is empty, or it leaks from what is held out.
    """
    candidate = candidate_store.get_candidate(store, candidate_id)
    edited: dict[str, Any] = {}
    if verdict == "edit":
        edited = _check_edit(store, candidate, instruction, instances)
    elif instruction is not None or instances is not None:
        raise UsageError("only an edit changes the text", place="verdict", value=verdict, remedy="Say edit.")
    elif verdict == "accept":
        if candidate.reason == "leaks":
            what = "the task is too close to something held out for evaluation"
            raise UsageError(what, place="verdict", remedy="Reject it, or edit it into another task.")
        if not usable_instances(candidate):
            raise UsageError("it has no usable example", place="verdict", remedy="Edit it and write one, or reject it.")
    return candidate_store.add_review(store, candidate_id, reviewer, verdict, nonce=nonce or new_id("nonce"), **edited)


def _check_edit(
    store: Store, candidate: Candidate, instruction: str | None, instances: Sequence[Instance] | None
) -> dict[str, Any]:
    """A person's wording, which is not filtered but must be whole and must not leak."""
    text = (candidate.instruction if instruction is None else instruction).strip()
    given = usable_instances(candidate) if instances is None else instances
    kept = tuple(Instance(input=each.input.strip(), output=each.output.strip()) for each in given)
    if not text:
        raise UsageError("the instruction is empty", place="instruction", remedy="Write one, or reject the task.")
    if not kept or not all(each.output for each in kept):
        raise UsageError("an example needs an output", place="instances", remedy="Write one, or drop the example.")
    if any(each.reason == "instance_contradicts" for each in judge_instances(kept)):
        raise UsageError("examples give different outputs for the same input", place="instances", remedy="Keep one.")
    run = run_store.get_run(store, candidate.run_id)
    plan = read_plan(run)
    guard = load_guard(store, plan.held_out_version_ids, read_config(run).leak_threshold, plan.held_out_shares)
    leak = guard.find(text)
    if leak is not None or any(each.reason for each in guard.judge(text, kept)):
        value = leak.text if leak else None
        what = "this is too close to something held out for evaluation"
        raise UsageError(what, place="instruction", value=value, remedy="Write another task.")
    return {"instruction": text, "instances": kept}


# ---- versions ----


def make_version(
    store: Store, run_id: str, name: str, *, threshold: float | None = None, include: Include = "accepted"
) -> Version:
    """Make an instructions dataset of a run's tasks, or a new version of it; where nothing changed, the one there is.

    Args:
        store: the store.
        run_id: a self-instruct run; it may be at work still.
        name: of the dataset.
        threshold: ROUGE-L F1, 0 to 1; the run's own when None. What a person accepted is in whatever its score.
        include: `accepted` by a person only, or all that was kept and nobody rejected.

    Raises:
        DataProblem: there is no such task.
        Conflict: a dataset of this name holds something else.
        UsageError: it is no such run, or an argument is out of bounds.
    """
    if include not in ("accepted", "unrejected"):
        raise UsageError("no such choice", place="include", value=include, remedy="Say accepted or unrejected.")
    board = load_board(store, run_id, threshold=threshold)
    run = run_store.get_run(store, run_id)
    plan = read_plan(run)
    chosen = list(_chosen(board, include))
    rows = [
        _row(instruction, one, candidate, review, plan)
        for instruction, instances, candidate, review in chosen
        for one in instances
    ]
    if not rows:
        remedy = "Review some first." if include == "accepted" else "Change the threshold or run more rounds."
        raise DataProblem("no task was accepted" if include == "accepted" else "no task was kept", place=run.name,
                          remedy=remedy)  # fmt: skip
    provenance = {
        "self_instruct": {
            "run": run.id,
            "seeds": plan.seeds_version_id,
            "variant": plan.variant_id,
            "variant_name": _variant_name(store, plan.variant_id),
            "fingerprints": candidate_store.list_fingerprints(store, run.id),
            "threshold": board.threshold,
            "include": include,
            "tasks": len(chosen),
            "reviewers": sorted({review.reviewer for _, _, _, review in chosen if review is not None}),
        }
    }
    return _write(store, name, rows, run, provenance, f"{len(rows)} examples of {len(chosen)} tasks")


def _chosen(board: Board, include: Include) -> Iterable[tuple[str, tuple[Instance, ...], Candidate, Review | None]]:
    """Instruction, examples, candidate and review of each task that goes into a version."""
    for candidate in board.candidates:
        review = board.reviews.get(candidate.id)
        if review is None:
            if include == "unrejected" and candidate.state == "kept":
                yield candidate.instruction, usable_instances(candidate), candidate, None
        elif review.verdict == "edit":
            yield review.instruction or candidate.instruction, review.instances or (), candidate, review
        elif review.verdict == "accept":
            yield candidate.instruction, usable_instances(candidate), candidate, review


def _row(instruction: str, one: Instance, candidate: Candidate, review: Review | None, plan: Plan) -> Example:
    meta: dict[str, Any] = {
        "source": "self_instruct",
        "run": candidate.run_id,
        "candidate": candidate.id,
        "variant": plan.variant_id,
        "nearest_score": None if candidate.score is None else round(candidate.score, 4),
        "verdict": review.verdict if review else None,
        "reviewer": review.reviewer if review else None,
    }
    if candidate.is_classification is not None:
        meta["is_classification"] = candidate.is_classification
    return as_example(instruction, one.input.strip(), one.output.strip(), **meta)


def _variant_name(store: Store, variant_id: str) -> str | None:
    try:
        return model_store.get_variant(store, variant_id).name
    except NotFound:
        return None


def _write(
    store: Store, name: str, rows: Sequence[Example], run: Run, provenance: dict[str, Any], message: str
) -> Version:
    try:
        dataset = dataset_store.get_dataset(store, name)
    except NotFound:
        words = f"Grown by the run {run.name}."
        dataset = dataset_store.create_dataset(store, name, "instructions", description=words)
    latest = dataset_store.latest_version(store, dataset.id)
    if dataset.kind != "instructions" or (latest is not None and not _made_by(latest, run.id)):
        raise Conflict(
            "the dataset of this name was not made of this run, or was changed since",
            place="name",
            value=dataset.name,
            remedy="Choose another name.",
        )
    if latest is not None and latest.content_hash == _content_hash(rows):
        return latest
    with dataset_store.withdrawn_on_failure(store, dataset.id):
        return write_version(store, dataset.id, rows, parent=latest, message=message, provenance=provenance)


def _made_by(version: Version, run_id: str) -> bool:
    told = version.provenance.get("self_instruct")
    return isinstance(told, dict) and told.get("run") == run_id


def _content_hash(rows: Iterable[Example]) -> str:
    told = hashlib.sha256()
    for row in rows:
        told.update(encode_payload(row)[1].encode() + b"\n")
    return told.hexdigest()
