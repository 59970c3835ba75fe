"""Gates before training: what would silently spoil a run, found by counting over the very rows the trainer will read.

A hard finding should stop a run, a soft one should be read. Each says how many rows, which ones, and what to do. The
rows come from `workbench.datasets.render`; nothing here tokenizes by itself, except to hold the prompt in a row against
the prompt as it will be asked.
"""

from __future__ import annotations

import hashlib
import math
import re
from array import array
from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import JsonValue

from workbench.datasets.render import Rendered, Renderer
from workbench.errors import TemplateProblem
from workbench.records import Example, Labelled, Message, Payload, Preference, Prompt, Record, Row

Severity = Literal["hard", "soft"]
SHOWN_IDS = 20
"""Row ids a finding carries."""


class Finding(Record):
    """What one gate found."""

    gate: str
    """Short name: `no_supervised_token`, `truncated_answer`, …"""
    severity: Severity
    """hard should stop a run, soft should be read."""
    count: int
    """Number of rows."""
    row_ids: tuple[str, ...]
    """The first rows, at most twenty."""
    message: str
    """What was found, in plain words."""
    remedy: str
    """What to do."""


class CheckReport(Record):
    """All gates over a set of rows."""

    rows: int
    """Rows looked at."""
    training_rows: int = 0
    """Rows the trainer would read; more than `rows` where a conversation becomes one row per answer."""
    tokens: int = 0
    """Tokens in them."""
    supervised: int = 0
    """Tokens learned."""
    longest: int = 0
    """Tokens of the longest, before any cut."""
    notes: dict[str, int] = {}
    """Why conversations are not one plain row, with how many training rows."""
    findings: tuple[Finding, ...] = ()
    """What was found, hard findings first."""

    @property
    def passed(self) -> bool:
        """Whether no hard finding stands."""
        return not any(finding.severity == "hard" for finding in self.findings)


HARD_WHERE_ALL = (
    "equal_sides", "weightless", "opposed_sides", "opposed_labels", "asks_nothing", "no_room_to_answer",
)  # fmt: skip
"""Gates that are hard only where together they leave no row to learn from."""

_GATES: dict[str, tuple[Severity, str, str]] = {
    "unrenderable": (
        "hard",
        "cannot be rendered with this model's chat template",
        "Correct or drop these rows, or choose a model whose template accepts them.",
    ),
    "no_supervised_token": (
        "hard",
        "have no token to learn: no assistant turn answers anything, the answer is empty, or it was cut off whole",
        "Drop these rows, fill in the answers, or raise the maximum length.",
    ),
    "end_of_turn_outside_loss": (
        "hard",
        "have an answer whose end is not a token that stops generation, so the model would not learn to stop",
        "Set eos_token_id of the model's generation_config.json to the token with which its template ends a turn.",
    ),
    "doubled_bos": (
        "hard",
        "begin with the beginning-of-text token twice",
        "Remove the token from the first message, or from the chat template.",
    ),
    "template_parity": (
        "hard",
        "have a prompt in training that differs from the prompt as it will be asked",
        "Choose another chat template for this model, and report the one it has.",
    ),
    "prompt_too_long": (
        "hard",
        "have a prompt that fills the maximum length, so nothing is left of the answer",
        "Raise the maximum length, or shorten or drop these rows.",
    ),
    "asks_nothing": (
        "soft",
        "ask nothing: the turns before the answer do not end with a user's",
        "Drop these rows, or write what is asked. Training leaves them out.",
    ),
    "no_room_to_answer": (
        "soft",
        "have a prompt that leaves no room for an answer within the maximum length",
        "Raise the maximum length, or shorten or drop these rows. Training leaves them out.",
    ),
    "equal_sides": (
        "soft",
        "have two sides that are the same to the model, so nothing tells the better from the worse",
        "Drop these rows; where the maximum length cuts the difference off, raise it. Training leaves them out.",
    ),
    "weightless": (
        "soft",
        "weigh nothing, as a tie does, so nothing is learned from them",
        "Drop these rows, or give them a weight. Training leaves them out.",
    ),
    "opposed_sides": (
        "soft",
        "have the same two answers the other way round in another row: a tie, or raters who disagree",
        "Drop both where it was a tie; where more raters went one way, training follows them.",
    ),
    "opposed_labels": (
        "soft",
        "have an answer that another row calls the opposite: raters who disagree",
        "Training weighs one against the other; where it is a mistake, correct or drop one of them.",
    ),
    "one_label": (
        "soft",
        "have the same label: there is no answer of the other kind, so the model is only pushed one way",
        "Add answers of the other kind, or watch the samples closely.",
    ),
    "truncated_answer": (
        "soft",
        "have an answer that the maximum length cuts, so its end is not learned",
        "Raise the maximum length, or shorten or drop these rows.",
    ),
    "control_tokens_in_text": (
        "soft",
        "contain the text of a control token, which the model reads as that token",
        "Remove the token's text from the rows unless it is meant.",
    ),
    "overlap": (
        "hard",
        "of the held-out rows ask what a training row asks, so held-out figures would be too good",
        "Drop these rows from one side, or split by prompt.",
    ),
}


class _Tally:
    """Counts rows by gate and keeps the first ids."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.ids: dict[str, list[str]] = {}
        self.examples: dict[str, str] = {}
        self.idle: set[str] = set()  # rows that fail a gate of HARD_WHERE_ALL

    def add(self, gate: str, row_id: str, example: str = "", idle: bool = True) -> None:
        if gate in HARD_WHERE_ALL and idle:
            self.idle.add(row_id)
        self.counts[gate] = self.counts.get(gate, 0) + 1
        ids = self.ids.setdefault(gate, [])
        if len(ids) < SHOWN_IDS:
            ids.append(row_id)
        if example:
            self.examples.setdefault(gate, example)

    def findings(self, of: int) -> tuple[Finding, ...]:
        found = []
        nothing_left = of > 0 and len(self.idle) == of
        for gate, (severity, what, remedy) in _GATES.items():
            count = self.counts.get(gate)
            if count:
                message = f"{count:,} of {of:,} rows {what}."
                if gate in self.examples:
                    message += f" First: {self.examples[gate]}"
                told: Severity = "hard" if gate in HARD_WHERE_ALL and nothing_left else severity
                ids = tuple(self.ids[gate])
                found.append(
                    Finding(gate=gate, severity=told, count=count, row_ids=ids, message=message, remedy=remedy)
                )
        return tuple(sorted(found, key=lambda finding: finding.severity == "soft"))


class _Pairs:
    """Which pairs of answers stand in both orders, remembered by digest."""

    def __init__(self) -> None:
        self.rows: dict[tuple[bytes, bytes], dict[str, float]] = {}

    def add(self, row_id: str, weight: float, chosen: Rendered, rejected: Rendered) -> None:
        key = (_digest(chosen.ids), _digest(rejected.ids))
        if key[0] != key[1]:
            self.rows.setdefault(key, {})[row_id] = weight

    def opposed(self) -> list[tuple[str, bool]]:
        """Rows of which another says the opposite, and whether the weights of both sides cancel out."""
        return [
            (row, math.isclose(sum(rows.values()), sum(others.values()), rel_tol=1e-9))
            for key, rows in self.rows.items()
            if (others := self.rows.get(key[::-1]))
            for row in rows
        ]


class _Labels:
    """What is said of each answer to a prompt, remembered by digest."""

    def __init__(self) -> None:
        self.rows: dict[bytes, dict[bool, dict[str, float]]] = {}
        self.counts = {True: 0, False: 0}
        self.first: list[str] = []

    def add(self, row_id: str, payload: Labelled, answer: Rendered) -> None:
        self.counts[payload.label] += 1
        if len(self.first) < SHOWN_IDS:
            self.first.append(row_id)
        sides = self.rows.setdefault(_digest(answer.ids), {True: {}, False: {}})
        sides[payload.label][row_id] = payload.weight

    def opposed(self) -> list[tuple[str, bool]]:
        """Rows of which another says the opposite, and whether the weights of both sides cancel out."""
        return [
            (row, math.isclose(sum(sides[True].values()), sum(sides[False].values()), rel_tol=1e-9))
            for sides in self.rows.values()
            if sides[True] and sides[False]
            for row in (*sides[True], *sides[False])
        ]

    def alike(self) -> bool:
        """Whether several rows have a label, and all the same."""
        return sum(self.counts.values()) > 1 and 0 in self.counts.values()


def _digest(ids: Sequence[int]) -> bytes:
    return hashlib.blake2b(array("q", ids).tobytes(), digest_size=16).digest()


def check_rows(
    rows: Iterable[Row], renderer: Renderer, max_length: int | None = None, *, silent: Sequence[str] = ()
) -> CheckReport:
    """Hold every gate against rows as they would be trained.

    Examples are rendered as a whole; of a preference both answers are, of a labelled row its one; a prompt is only
    asked.

    Args:
        rows: of a version; read once, in order, none kept.
        renderer: of the base model.
        max_length: longest training row in tokens; None for no cut.
        silent: ids of further rows that ask nothing.
    """
    tally, notes, pairs, labels = _Tally(), dict[str, int](), _Pairs(), _Labels()
    control = re.compile("|".join(map(re.escape, renderer.control_tokens)) or r"(?!)")
    count = training = tokens = supervised = longest = 0
    for row in rows:
        count += 1
        messages = _messages(row)
        found = next((hit.group() for m in messages if (hit := control.search(m.content))), None)
        if found is not None:
            tally.add("control_tokens_in_text", row.row_id, repr(found))
        try:
            rendered = _render(row, renderer, max_length)
            gates = _gates(row, rendered, renderer, max_length)
        except TemplateProblem as problem:
            tally.add("unrenderable", row.row_id, problem.what)
            continue
        for gate in gates:
            tally.add(gate, row.row_id)
        if isinstance(row.payload, Preference) and row.payload.weight > 0:
            pairs.add(row.row_id, row.payload.weight, *(one for _, one in rendered))
        if isinstance(row.payload, Labelled):
            labels.add(row.row_id, row.payload, rendered[0][1])
        for _, one in rendered:
            training += 1
            tokens += len(one.ids)
            supervised += one.supervised
            longest = max(longest, len(one.ids) + one.truncated)
            if one.note:
                note = re.sub(r" \(turn \d+\)", "", one.note)
                notes[note] = notes.get(note, 0) + 1
    for row_id in silent:
        count += 1
        tally.add("asks_nothing", row_id)
    for row_id, cancelled in pairs.opposed():
        tally.add("opposed_sides", row_id, idle=cancelled)
    for row_id, cancelled in labels.opposed():
        tally.add("opposed_labels", row_id, idle=cancelled)
    if labels.alike():
        tally.counts["one_label"], tally.ids["one_label"] = sum(labels.counts.values()), labels.first
    return CheckReport(
        rows=count,
        training_rows=training,
        tokens=tokens,
        supervised=supervised,
        longest=longest,
        notes=notes,
        findings=tally.findings(count),
    )


def check_overlap(train: Iterable[Row], held: Iterable[Row]) -> CheckReport:
    """Find held-out rows whose prompt a training row asks too.

    Prompts are compared whole and exactly, after case, runs of whitespace and surrounding space are evened out. The
    ids are those of held-out rows. Near duplicates are the business of `workbench.datasets.duplicates`.

    Args:
        train: rows learned from.
        held: rows kept for measuring.
    """
    asked = {normal_prompt(row) for row in train}
    tally, count = _Tally(), 0
    for row in held:
        count += 1
        if normal_prompt(row) in asked:
            tally.add("overlap", row.row_id)
    return CheckReport(rows=count, findings=tally.findings(count))


def normal_prompt(row: Row) -> str:
    """What a row asks, for comparing: user and tool turns before the last answer, case and whitespace evened out.

    System messages are left out: the same question under another system message is still the same question.
    """
    messages = asked_messages(row.payload)
    return "\x1e".join(
        f"{message.role}:{' '.join(message.content.split()).casefold()}"
        for message in messages
        if message.role != "system"
    )


def asked_messages(payload: Payload) -> tuple[Message, ...]:
    """What a row asks: all turns before the last answer."""
    if isinstance(payload, Preference | Labelled):
        return payload.prompt
    if isinstance(payload, Prompt):
        return payload.messages
    answers = [index for index, message in enumerate(payload.messages) if message.role == "assistant"]
    return payload.messages[: answers[-1]] if answers else payload.messages


def check_prompts(rows: Iterable[Row], renderer: Renderer, longest: int | None = None) -> CheckReport:
    """Hold the gates against the prompts of rows of any kind, for a method that reads nothing else of them.

    Args:
        rows: of a version.
        renderer: of the base model.
        longest: tokens that a prompt may have; None for no bound.
    """
    prompts, silent = [], []
    for row in rows:
        messages = asked_messages(row.payload)
        if messages and messages[-1].role in ("user", "tool"):
            prompts.append(row.model_copy(update={"payload": Prompt(messages=messages)}))
        else:
            silent.append(row.row_id)
    return check_rows(prompts, renderer, None if longest is None else longest + 1, silent=silent)


def _messages(row: Row) -> tuple[Message, ...]:
    payload = row.payload
    if isinstance(payload, Preference):
        return (*payload.prompt, *payload.chosen, *payload.rejected)
    if isinstance(payload, Labelled):
        return (*payload.prompt, *payload.completion)
    return payload.messages


def _render(
    row: Row, renderer: Renderer, max_length: int | None
) -> list[tuple[tuple[tuple[Message, ...], list[JsonValue] | None], Rendered]]:
    """The training rows of a row, each with the messages and tools it was made from."""
    payload = row.payload
    if isinstance(payload, Example):
        source = (payload.messages, payload.tools)
        return [(source, one) for one in renderer.render(payload.messages, payload.tools, max_length)]
    if isinstance(payload, Preference | Labelled):
        answers = (payload.chosen, payload.rejected) if isinstance(payload, Preference) else (payload.completion,)
        return [
            (
                (payload.prompt + answer, None),
                renderer.render_prompt_completion(payload.prompt, answer, None, max_length),
            )
            for answer in answers
        ]
    ids = tuple(renderer.prompt_ids(payload.messages))
    bare = Rendered(ids, (False,) * len(ids), (), renderer.prompt_text(payload.messages), ())
    return [((payload.messages, None), bare)]


def _gates(
    row: Row,
    rendered: Sequence[tuple[tuple[tuple[Message, ...], list[JsonValue] | None], Rendered]],
    renderer: Renderer,
    max_length: int | None,
) -> set[str]:
    """The gates a row does not pass."""
    failed, payload = set(), row.payload
    bos = renderer.bos_id
    for (messages, tools), one in rendered:
        if bos is not None and one.ids[:2] == (bos, bos):
            failed.add("doubled_bos")
        if one.cut_turns:
            failed.add("truncated_answer")
        if isinstance(payload, Prompt):
            if max_length is not None and len(one.ids) >= max_length:
                failed.add("no_room_to_answer")
        elif not one.supervised:
            after_prompt = isinstance(payload, Preference | Labelled)
            failed.add("prompt_too_long" if after_prompt and one.cut_turns else "no_supervised_token")
        for span in one.spans:
            if not span.stops and span.turn not in one.cut_turns:
                failed.add("end_of_turn_outside_loss")
            if list(one.ids[: span.start]) != renderer.prompt_ids(messages[: span.turn], tools):
                failed.add("template_parity")
    if isinstance(payload, Preference):
        if payload.weight == 0:
            failed.add("weightless")
        # Two prompts without answers are alike too, but then the prompt is what is wrong.
        if rendered[0][1].ids == rendered[1][1].ids and not failed & {"prompt_too_long", "no_supervised_token"}:
            failed.add("equal_sides")
    return failed - {"truncated_answer"} if "prompt_too_long" in failed else failed
