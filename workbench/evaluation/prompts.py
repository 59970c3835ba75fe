"""Which prompts a run answers, with which references: resolved once, pinned, and read again when figures are shown.

Answers and figures are left to `tasks` and `aggregate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import JsonValue

from workbench.errors import DataProblem, UsageError
from workbench.records import Example, Labelled, Message, Preference, Record, Row, Run, Version
from workbench.scoring.scorers import check_scorers
from workbench.store import datasets as dataset_store
from workbench.store import models as model_store
from workbench.store.database import Store


class GridPrompt(Record):
    """One prompt of the set: a line of the grid."""

    row_id: str
    """The prompt's row."""
    messages: tuple[Message, ...]
    """What was asked."""
    reference: str | None = None
    """A good answer, where the set has one."""
    meta: dict[str, JsonValue] = {}
    """Topic, category, …"""

    @property
    def question(self) -> str:
        """The last user turn's text."""
        return next((turn.content for turn in reversed(self.messages) if turn.role == "user"), "")


class AnswerPlan(Record):
    """What a run set out to answer, pinned at its first start so that a resume means the same."""

    version_id: str
    """The version of the prompt set."""
    limit: int | None = None
    """First so many prompts."""
    variants: tuple[str, ...]
    """Variant ids."""
    scorers: tuple[str, ...] = ()
    """Scorer names, `auto` resolved."""


def plan_answers(
    store: Store,
    *,
    prompts: str,
    variants: Sequence[str],
    limit: int | None = None,
    scorers: Sequence[str] = ("auto",),
) -> AnswerPlan:
    """Resolve names to ids and `auto` to scorers; the arguments are the fields of `AnswerConfig`.

    Raises:
        NotFound: the prompt set or a variant is not there.
        UsageError: a scorer is unknown, or the dataset is of a kind that cannot be answered.
    """
    dataset, version = dataset_store.find_version(store, prompts)
    if dataset.kind in ("preferences", "labels"):
        raise UsageError(
            f"{dataset.kind} cannot be answered as a prompt set",
            place="prompts",
            value=dataset.name,
            remedy="Choose a dataset of prompts or of instructions.",
        )
    ids = tuple(dict.fromkeys(model_store.get_variant(store, name).id for name in variants))
    wanted = [name for name in scorers if name != "auto"]
    if "auto" in scorers:
        wanted = [*kit_scorers(store, version), "chrf", *wanted]
    return AnswerPlan(version_id=version.id, limit=limit, variants=ids, scorers=check_scorers(wanted))


def planned_answers(store: Store, run: Run) -> AnswerPlan:
    """What a run set out to answer: as pinned when it started, else as its config says.

    Raises:
        UsageError: it is not a run that answers prompts.
    """
    pinned = run.result.get("answers")
    if isinstance(pinned, dict):
        return AnswerPlan.model_validate(pinned)
    if "prompts" not in run.spec or "variants" not in run.spec:
        raise UsageError(
            "this run answered no prompt set", place=run.name, value=run.kind, remedy="Choose a run of kind `answer`."
        )
    chosen: dict[str, Any] = {
        key: run.spec[key] for key in ("prompts", "variants", "limit", "scorers") if key in run.spec
    }
    return plan_answers(store, **chosen)


def kit_scorers(store: Store, version: Version) -> tuple[str, ...]:
    """The rule scorer that the prompt set's kit names, where the set came from one, edited since or not."""
    from workbench.datasets.starter import list_kits
    from workbench.scoring.rules import RULE_SCORERS

    line: Version | None = version
    while line is not None and "kit" not in line.provenance:
        line = None if line.parent_id is None else dataset_store.get_version(store, line.parent_id)
    if line is None:
        return ()
    named = [kit.details.get("scorer") for kit in list_kits() if kit.name == line.provenance["kit"]]
    return tuple(name for name in named if isinstance(name, str) and name in RULE_SCORERS)


def read_prompts(store: Store, plan: AnswerPlan) -> list[GridPrompt]:
    """The plan's prompts, in the set's order.

    Raises:
        DataProblem: no row can be answered.
    """
    from workbench.datasets.versions import iter_rows

    version = dataset_store.get_version(store, plan.version_id)
    prompts: list[GridPrompt] = []
    for row in iter_rows(store, version):
        if plan.limit is not None and len(prompts) >= plan.limit:
            break
        prompt = as_prompt(row)
        if prompt is not None:
            prompts.append(prompt)
    if not prompts:
        raise DataProblem("no row can be answered", place=f"version {version.number}", remedy="Choose another dataset.")
    return prompts


def as_prompt(row: Row) -> GridPrompt | None:
    """A row as a prompt: an example is asked up to its last assistant turn, which becomes the reference.

    Returns:
        The prompt; None where nothing is left to ask.
    """
    payload = row.payload
    if isinstance(payload, Preference | Labelled):
        return None
    if not isinstance(payload, Example):
        return GridPrompt(row_id=row.row_id, messages=payload.messages, reference=payload.reference, meta=payload.meta)
    for index in range(len(payload.messages) - 1, 0, -1):
        turn = payload.messages[index]
        if turn.role == "assistant":
            asked = payload.messages[:index]
            if asked[-1].role not in ("user", "tool"):
                return None
            return GridPrompt(row_id=row.row_id, messages=asked, reference=turn.content, meta=payload.meta)
    return None
