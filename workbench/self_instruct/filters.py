"""What is thrown out and why: every filter has a name that stays with the candidate (Wang et al. 2022, section 2.2).

Instructions are judged in the order of `INSTRUCTION_REASONS`, then their instances in that of `INSTANCE_REASONS`.
Words and thresholds are settings. Novelty itself is `novelty`; what becomes of a candidate is `rounds` and `review`.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from workbench.records import Record
from workbench.self_instruct.novelty import NoveltyPool, split_words
from workbench.self_instruct.prompts import repeats_prompt
from workbench.store.candidates import Instance

POINTING_WORDS = (
    "image", "images", "graph", "graphs", "picture", "pictures", "photo", "photos", "file", "files", "map", "maps",
    "draw", "plot", "go to", "video", "audio", "attached",
)  # fmt: skip
"""Words of tasks that need something outside their text; the paper's list and a few more."""
INSTRUCTION_REASONS = {
    "cut_off": "The answer ended in the middle of it.",
    "too_short": "It has too few words to be a task.",
    "too_long": "It has too many words.",
    "points_outside": "It speaks of an image, a file or something else that text alone does not hold.",
    "asks_for_program": "It starts with “Write a program”, of which generators give far too many.",
    "starts_with_punctuation": "It starts with a punctuation mark, mostly the rest of a broken list.",
    "starts_not_ascii": "It starts with a letter outside English.",
    "repeats_prompt": "It says back what the generator was asked.",
    "leaks": "It is too close to something held out for evaluation.",
    "too_similar": "It is too close to a seed or to a task that came before.",
}
"""Why an instruction is thrown out, in the order in which it is asked."""
INSTANCE_REASONS = {
    "no_instances": "No example could be read from the answer.",
    "instance_cut_off": "The answer ended in the middle of it.",
    "instance_empty": "Its output is empty.",
    "instance_echoes": "Its output repeats the input.",
    "instance_ends_with_colon": "Its input or output ends with a colon, so something is missing.",
    "instance_repeats_prompt": "Its output says back what the generator was asked or shown.",
    "instance_repeats": "It is the same as another example of the task.",
    "instance_contradicts": "Examples of the task give different outputs for the same input.",
    "instance_leaks": "It is too close to something held out for evaluation.",
}
"""Why an instance is thrown out, in the order in which it is asked."""
NO_ANSWER = "no_answer"
TOO_SIMILAR = "too_similar"
REASONS = {**INSTRUCTION_REASONS, **INSTANCE_REASONS, NO_ANSWER: "The generator gave no answer for it, several times."}
"""Every reason with its words."""
MIN_LEAK_WORDS = 8
"""Answers shorter than this are not held against reference answers: every “Yes” would be found in the test set."""


class InstructionRules(Record):
    """Settings of the instruction filters."""

    min_words: int = 4
    """Fewest words."""
    max_words: int = 150
    """Most words."""
    words: tuple[str, ...] = POINTING_WORDS
    """Words that point outside text."""
    programs: bool = True
    """Whether "Write a program" is thrown out."""


class Leak(NamedTuple):
    """What a text comes too close to."""

    score: float
    """ROUGE-L F1."""
    text: str
    """The held-out text."""


def judge_instruction(instruction: str, rules: InstructionRules | None = None) -> str | None:
    """The first reason to throw an instruction out by its own words, None where there is none.

    Args:
        instruction: the text; white space at its ends does not count.
        rules: thresholds and words; the paper's when None.
    """
    rules = rules or InstructionRules()
    text = instruction.strip()
    count = len(text.split())
    if count < rules.min_words or not text:
        return "too_short"
    if count > rules.max_words:
        return "too_long"
    if find_word(text, rules.words) is not None:
        return "points_outside"
    if rules.programs and text.startswith("Write a program"):
        return "asks_for_program"
    if text[0] in string.punctuation:
        return "starts_with_punctuation"
    if not text[0].isascii():
        return "starts_not_ascii"
    return "repeats_prompt" if repeats_prompt(text) else None


def find_word(text: str, words: Iterable[str]) -> str | None:
    """The first of some words that stands in a text as a word of its own, letter case aside.

    Args:
        text: where to look.
        words: words or phrases; empty ones are passed over.
    """
    for word in words:
        wanted = r"\s+".join(re.escape(part) for part in word.split())
        if wanted and re.search(rf"(?<!\w){wanted}(?!\w)", text, re.IGNORECASE):
            return word
    return None


def judge_instances(instances: Sequence[Instance], *, last_cut_off: bool = False) -> tuple[Instance, ...]:
    """Instances of one task, each with the reason why it is thrown out or None.

    Where two of them give different outputs for the same input, nothing of the task can be trusted: all are out.

    Args:
        instances: as parsed, in order; reasons they have already stay.
        last_cut_off: whether the answer was cut by length, so that the last one is not whole.
    """
    judged: list[Instance] = []
    seen: set[tuple[str, str]] = set()
    for number, instance in enumerate(instances, 1):
        reason = instance.reason or _judge_instance(instance, last_cut_off and number == len(instances))
        pair = (instance.input.strip(), instance.output.strip())
        if reason is None and pair in seen:
            reason = "instance_repeats"
        seen.add(pair)
        judged.append(instance.model_copy(update={"reason": reason}))
    outputs: dict[str, set[str]] = {}
    for instance in judged:
        if instance.reason is None:
            outputs.setdefault(instance.input.strip(), set()).add(instance.output.strip())
    if any(len(given) > 1 for given in outputs.values()):
        return tuple(each.model_copy(update={"reason": each.reason or "instance_contradicts"}) for each in judged)
    return tuple(judged)


def _judge_instance(instance: Instance, cut_off: bool) -> str | None:
    given, output = instance.input.strip(), instance.output.strip()
    if cut_off:
        return "instance_cut_off"
    if not output:
        return "instance_empty"
    if output == given:
        return "instance_echoes"
    if given.endswith(":") or output.endswith(":"):
        return "instance_ends_with_colon"
    return "instance_repeats_prompt" if repeats_prompt(output) else None


def reason_of(instances: Sequence[Instance]) -> str | None:
    """Why a task has no usable instance: what its first one was thrown out for; None where one is usable.

    Args:
        instances: judged instances.
    """
    if any(instance.reason is None for instance in instances):
        return None
    return instances[0].reason if instances else "no_instances"


class LeakGuard:
    """Keeps what is held out for evaluation out of the training data.

    An instruction, alone and with its input, is held against held-out prompts and answers; so is an output that has
    `MIN_LEAK_WORDS` words or more.

    Args:
        texts: held-out prompts and reference answers.
        threshold: ROUGE-L F1 from which a text is refused.
    """

    def __init__(self, texts: Iterable[str], threshold: float = 0.7) -> None:
        self._pool = NoveltyPool(dict.fromkeys(texts))
        self._threshold = threshold

    def __len__(self) -> int:
        return len(self._pool)

    def find(self, text: str) -> Leak | None:
        """The held-out text that a text comes too close to, None where there is none.

        Args:
            text: an instruction, an instruction with its input, or an answer.
        """
        found = self._pool.nearest(text)
        return Leak(found.score, self._pool.text(found.place)) if found.score >= self._threshold else None

    def judge(self, instruction: str, instances: Sequence[Instance]) -> tuple[Instance, ...]:
        """Instances with `instance_leaks` on those that come too close.

        Args:
            instruction: the task.
            instances: judged instances; only those kept so far are looked at.
        """
        return tuple(
            each.model_copy(update={"reason": "instance_leaks"})
            if each.reason is None and self._instance_leaks(instruction, each)
            else each
            for each in instances
        )

    def _instance_leaks(self, instruction: str, instance: Instance) -> bool:
        if instance.input.strip() and (self.find(f"{instruction}\n{instance.input}") or self._long(instance.input)):
            return True
        return self._long(instance.output)

    def _long(self, text: str) -> bool:
        return len(split_words(text)) >= MIN_LEAK_WORDS and self.find(text) is not None
