"""A Playground conversation as turns and answers: which answer counts, what a pane is asked next, and its export.

An answer belongs to a turn while it answers the very text that stands there, so that an edited question never shows
the answer to what it said before. Of several the last counts; the others stay in the store. Drawing is left to `panes`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from workbench.records import Completion, Conversation, Message, Sampling, Variant
from workbench.store import answers as answer_store
from workbench.store.database import Store
from workbench.ui.streams import Order

Answers = dict[tuple[int, str], Completion]
"""By turn and variant id."""
MOST_PANES = 6
TITLE_LENGTH = 80


def title_of(prompt: str) -> str:
    """The first words of a prompt, on one line."""
    line = " ".join(prompt.split())
    return line if len(line) <= TITLE_LENGTH else line[: TITLE_LENGTH - 1].rstrip() + "…"


def load_answers(store: Store, conversation: Conversation) -> Answers:
    """The answer that counts for each turn and variant; a failed request counts while there is nothing better."""
    found: Answers = {}
    for completion in answer_store.list_completions(store, conversation_id=conversation.id):
        turn = completion.turn
        if turn is None or not 0 <= turn < len(conversation.user_turns):
            continue
        if completion.prompt and completion.prompt[-1].content == conversation.user_turns[turn]:
            found[turn, completion.variant_id] = completion
    return found


def make_orders(
    conversation: Conversation,
    answers: Answers,
    *,
    sampling: Sampling | None = None,
    variants: Sequence[str] | None = None,
    again: bool = False,
) -> list[Order]:
    """What each pane is asked next: the questions it has no answer to, and the last one once more where asked for.

    Args:
        conversation: with the new question as its last turn.
        answers: of `load_answers`.
        sampling: settings instead of the conversation's.
        variants: only these panes.
        again: ask the last question again although there is an answer.
    """
    orders = []
    for pane, variant in enumerate(conversation.variants):
        if variants is not None and variant not in variants:
            continue
        last = len(conversation.user_turns) - 1
        asked = [
            (turn, text)
            for turn, text in enumerate(conversation.user_turns)
            if (turn, variant) not in answers or (again and turn == last)
        ]
        if asked:
            orders.append(
                Order(
                    conversation_id=conversation.id,
                    pane=pane,
                    variant_id=variant,
                    history=tuple(own_history(conversation, answers, variant, before=asked[0][0])),
                    questions=tuple(asked),
                    sampling=sampling or conversation.sampling,
                )
            )
    return orders


def own_history(conversation: Conversation, answers: Answers, variant: str, *, before: int) -> list[Message]:
    """System prompt and the turns a pane has answered itself; a turn without an answer is left out whole."""
    messages = [Message(role="system", content=conversation.system)] if conversation.system.strip() else []
    for turn in range(before):
        answer = answers.get((turn, variant))
        if answer is not None and answer.error is None and answer.text.strip():
            messages.append(Message(role="user", content=conversation.user_turns[turn]))
            messages.append(Message(role="assistant", content=answer.text))
    return messages


def as_json(conversation: Conversation, answers: Answers, variants: Mapping[str, Variant]) -> str:
    """The conversation as one JSON document: settings, and every turn with each pane's answer and figures."""
    turns: list[dict[str, Any]] = []
    for turn, text in enumerate(conversation.user_turns):
        given = []
        for variant in conversation.variants:
            answer = answers.get((turn, variant))
            if answer is not None:
                fields = answer.model_dump(mode="json", exclude={"prompt", "conversation_id", "run_id", "row_id"})
                given.append({"variant": name_of(variants, variant), **fields})
        turns.append({"turn": turn, "user": text, "answers": given})
    document = {
        "id": conversation.id,
        "title": conversation.title,
        "created_at": conversation.created_at.isoformat(),
        "system": conversation.system,
        "variants": [{"id": variant, "name": name_of(variants, variant)} for variant in conversation.variants],
        "sampling": conversation.sampling.model_dump(mode="json"),
        "turns": turns,
    }
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"


def as_markdown(conversation: Conversation, answers: Answers, variants: Mapping[str, Variant]) -> str:
    """The conversation as Markdown; what was written stands in fences that no text in it can close."""
    parts = [f"# {conversation.title}", ""]
    if conversation.system.strip():
        parts += ["## System prompt", "", _fenced(conversation.system), ""]
    for turn, text in enumerate(conversation.user_turns):
        parts += [f"## Prompt {turn + 1}", "", _fenced(text), ""]
        for variant in conversation.variants:
            answer = answers.get((turn, variant))
            parts += [f"### {name_of(variants, variant)}", ""]
            if answer is None:
                parts += ["No answer.", ""]
                continue
            parts += [_facts(answer), "", _fenced(answer.error or answer.text), ""]
    return "\n".join(parts)


def name_of(variants: Mapping[str, Variant], variant: str) -> str:
    """A variant's name, or its id where it is gone."""
    known = variants.get(variant)
    return known.name if known is not None else variant


def _facts(answer: Completion) -> str:
    settings = answer.sampling
    told = [
        f"temperature {settings.temperature:g}",
        f"top_p {settings.top_p:g}",
        "no seed" if settings.seed is None else f"seed {settings.seed}",
        f"{answer.tokens} tokens",
        f"finish reason {answer.finish_reason or 'unknown'}",
    ]
    if answer.fingerprint:
        told.append(f"fingerprint {answer.fingerprint}" + ("" if answer.verified else " (unverified)"))
    return "; ".join(told) + "."


def _fenced(text: str) -> str:
    longest, run = 0, 0
    for character in text:
        run = run + 1 if character == "`" else 0
        longest = max(longest, run)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"
