"""Gates before training: what would silently spoil a run, found by counting over the very rows the trainer will read.

A hard finding should stop a run, a soft one should be read. Each says how many rows, which ones, and what to do. The
rows come from `workbench.datasets.render`; nothing here tokenizes by itself, except to hold the prompt in a row against
the prompt as it will be asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import JsonValue

from workbench.datasets.render import Rendered, Renderer
from workbench.errors import TemplateProblem
from workbench.records import Example, Message, Preference, Prompt, Record, Row

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

    def add(self, gate: str, row_id: str, example: str = "") -> None:
        self.counts[gate] = self.counts.get(gate, 0) + 1
        ids = self.ids.setdefault(gate, [])
        if len(ids) < SHOWN_IDS:
            ids.append(row_id)
        if example:
            self.examples.setdefault(gate, example)

    def findings(self, of: int) -> tuple[Finding, ...]:
        found = []
        for gate, (severity, what, remedy) in _GATES.items():
            count = self.counts.get(gate)
            if count:
                message = f"{count:,} of {of:,} rows {what}."
                if gate in self.examples:
                    message += f" First: {self.examples[gate]}"
                ids = tuple(self.ids[gate])
                found.append(
                    Finding(gate=gate, severity=severity, count=count, row_ids=ids, message=message, remedy=remedy)
                )
        return tuple(sorted(found, key=lambda finding: finding.severity == "soft"))


def check_rows(rows: Iterable[Row], renderer: Renderer, max_length: int | None = None) -> CheckReport:
    """Hold every gate against rows as they would be trained.

    Examples are rendered as a whole; of a preference both answers are; a prompt is only asked.

    Args:
        rows: of a version; read once, in order, none kept.
        renderer: of the base model.
        max_length: longest training row in tokens; None for no cut.
    """
    tally, notes = _Tally(), dict[str, int]()
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
            gates = _gates(row, rendered, renderer)
        except TemplateProblem as problem:
            tally.add("unrenderable", row.row_id, problem.what)
            continue
        for gate in gates:
            tally.add(gate, row.row_id)
        for _, one in rendered:
            training += 1
            tokens += len(one.ids)
            supervised += one.supervised
            longest = max(longest, len(one.ids) + one.truncated)
            if one.note:
                note = re.sub(r" \(turn \d+\)", "", one.note)
                notes[note] = notes.get(note, 0) + 1
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
    payload = row.payload
    messages: Sequence[Message]
    if isinstance(payload, Example):
        answers = [index for index, message in enumerate(payload.messages) if message.role == "assistant"]
        messages = payload.messages[: answers[-1]] if answers else payload.messages
    else:
        messages = payload.prompt if isinstance(payload, Preference) else payload.messages
    return "\x1e".join(
        f"{message.role}:{' '.join(message.content.split()).casefold()}"
        for message in messages
        if message.role != "system"
    )


def _messages(row: Row) -> tuple[Message, ...]:
    payload = row.payload
    if isinstance(payload, Preference):
        return (*payload.prompt, *payload.chosen, *payload.rejected)
    return payload.messages


def _render(
    row: Row, renderer: Renderer, max_length: int | None
) -> list[tuple[tuple[tuple[Message, ...], list[JsonValue] | None], Rendered]]:
    """The training rows of a row, each with the messages and tools it was made from."""
    payload = row.payload
    if isinstance(payload, Example):
        source = (payload.messages, payload.tools)
        return [(source, one) for one in renderer.render(payload.messages, payload.tools, max_length)]
    if isinstance(payload, Preference):
        return [
            (
                (payload.prompt + answer, None),
                renderer.render_prompt_completion(payload.prompt, answer, None, max_length),
            )
            for answer in (payload.chosen, payload.rejected)
        ]
    ids = tuple(renderer.prompt_ids(payload.messages))
    bare = Rendered(ids, (False,) * len(ids), (), renderer.prompt_text(payload.messages), ())
    return [((payload.messages, None), bare)]


def _gates(
    row: Row,
    rendered: Sequence[tuple[tuple[tuple[Message, ...], list[JsonValue] | None], Rendered]],
    renderer: Renderer,
) -> set[str]:
    """The gates a row does not pass."""
    failed = set()
    bos = renderer.bos_id
    for (messages, tools), one in rendered:
        if bos is not None and one.ids[:2] == (bos, bos):
            failed.add("doubled_bos")
        if one.cut_turns:
            failed.add("truncated_answer")
        if not isinstance(row.payload, Prompt) and not one.supervised:
            failed.add("no_supervised_token")
        for span in one.spans:
            if not span.stops and span.turn not in one.cut_turns:
                failed.add("end_of_turn_outside_loss")
            if list(one.ids[: span.start]) != renderer.prompt_ids(messages[: span.turn], tools):
                failed.add("template_parity")
    return failed
