"""What the generator is asked, in the steps of Wang et al. 2022, section 2.2, in our own words.

Every prompt is one user turn, so that any chat model can be asked. The examples in it are written here, except those of
the instruction step, which are drawn from the seeds and from what was made so far. Answers are read by `parsing`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache

from workbench.records import Record
from workbench.self_instruct.novelty import split_words

EXAMPLES = 8
"""Numbered instructions in the instruction step."""
MACHINE_EXAMPLES = 2
"""How many of them the generator wrote itself, once it has written enough."""
ONE_STEP_EXAMPLES = 3
"""Whole tasks shown in the one-step style."""
_REPEATED = 7
"""Words in a row from a prompt that are no accident."""


class SeedTask(Record):
    """A task written by a person, with one example."""

    row_id: str
    """Its row in the seed dataset."""
    instruction: str
    """What to do."""
    input: str = ""
    """What to do it to."""
    output: str
    """The answer."""
    is_classification: bool | None = None
    """Whether the answer is one of a few labels; None where the dataset does not say."""


def choose_examples(
    seeds: Sequence[str], made: Sequence[str], dice: random.Random, *, total: int = EXAMPLES
) -> list[str]:
    """Instructions to show: six by people and two by the generator, all by people at the start; shuffled.

    Args:
        seeds: instructions by people, at least one.
        made: instructions the generator wrote and that passed the filters.
        dice: draws them.
        total: how many, 1 to 20; fewer where there are not so many.
    """
    own = dice.sample(list(made), min(MACHINE_EXAMPLES, len(made), max(0, total - 1)))
    people = dice.sample(list(seeds), min(total - len(own), len(seeds)))
    chosen = [*people, *own]
    dice.shuffle(chosen)
    return chosen


def instruction_prompt(examples: Sequence[str], count: int = 8) -> str:
    """Ask for new instructions that carry a numbered list on.

    Args:
        examples: instructions to show, each put on one line.
        count: how many new ones to ask for.
    """
    first = len(examples) + 1
    listed = "\n".join(f"{number}. {' '.join(text.split())}" for number, text in enumerate(examples, 1))
    return (
        f"The list below holds {len(examples)} tasks for an assistant that reads and writes text. Carry it on with "
        f"{count} new tasks, numbered {first} to {first + count - 1}.\n"
        "- Make each new task different from those listed and from each other: another subject, another kind of work, "
        "another way of asking.\n"
        "- Each must be clear on its own and possible with text alone: no images, no files, no websites.\n"
        "- One or two sentences each. Give the task only, not its answer.\n\n"
        f"{listed}\n"
    )


_SORTED_TASKS = (
    ("Decide whether the comment below praises the restaurant or complains about it.", True),
    ("Describe a quiet morning at a railway station in three sentences.", False),
    ("Tell whether the number given is prime. Answer prime or not prime.", True),
    ("Turn the shopping list into a polite request to a neighbour.", False),
    ("Which season does the poem speak of: spring, summer, autumn or winter?", True),
    ("Work out how many tiles are needed for the floor and show each step.", False),
    ("Say if the two sentences mean the same thing.", True),
    ("Explain to a ten-year-old why bread rises.", False),
    ("Sort the message into one of these folders: billing, technical help, praise.", True),
    ("Suggest four names for a bakery that only opens at night.", False),
)


def classification_prompt(instruction: str) -> str:
    """Ask whether a task's answer is one of a few fixed labels.

    Args:
        instruction: the task.
    """
    shown = "\n\n".join(f"Task: {task}\nFixed labels: {'yes' if sort else 'no'}" for task, sort in _SORTED_TASKS)
    return (
        "For each task, say whether every answer to it must be one of a few fixed labels. Reply yes or no only.\n\n"
        f"{shown}\n\nTask: {' '.join(instruction.split())}\nFixed labels:"
    )


_INPUT_FIRST = """Task: Change the sentence so that it speaks of the past.
Example 1
Input: The gardener waters the roses before breakfast.
Output: The gardener watered the roses before breakfast.
Example 2
Input: We hear thunder behind the hills.
Output: We heard thunder behind the hills.

Task: Name three things to check before a long bicycle ride.
Example 1
Input: none
Output: Check the pressure of both tyres, the brakes at full pull, and whether the chain runs clean and oiled.

Task: Work out the total price and show the steps.
Example 1
Input: Four notebooks at 2.50 each and a pen at 1.20
Output: The notebooks cost 4 × 2.50 = 10.00. With the pen that is 10.00 + 1.20 = 11.20.
Example 2
Input: Six eggs at 0.35 each, bought with a voucher worth 0.60
Output: The eggs cost 6 × 0.35 = 2.10. Less the voucher that is 2.10 - 0.60 = 1.50.

Task: Write a short invitation for the occasion.
Example 1
Input: A neighbourhood evening to mend broken toys, Friday at six, library cellar
Output: Bring what is broken! On Friday at six we mend toys together in the library cellar. Tools and tea are there."""

_OUTPUT_FIRST = """Task: Decide whether the review is about food, service or price.
Labels: food, service, price
Label: service
Input: We waited forty minutes until somebody came to our table.
Label: price
Input: Eleven for a cup of soup is more than I pay for dinner elsewhere.
Label: food
Input: The dumplings were light and the broth tasted of real ginger.

Task: Tell whether the statement can be true of a triangle.
Labels: possible, impossible
Label: possible
Input: All three sides are equally long.
Label: impossible
Input: Two of its angles are right angles.

Task: Does the second sentence follow from the first?
Labels: yes, no
Label: yes
Input: First: Every shop in the lane was shut. Second: The shoe shop in the lane was shut.
Label: no
Input: First: Ada owns two boats. Second: Ada sails every weekend."""


def input_first_prompt(instruction: str, count: int = 5) -> str:
    """Ask for examples of a task, each input before its output.

    Args:
        instruction: the task.
        count: at most how many.
    """
    return (
        f"Write up to {count} worked examples for the last task, in the form shown. No two inputs may be alike. "
        "Where a task needs no input, write one example with “Input: none”. Finish every output.\n\n"
        f"{_INPUT_FIRST}\n\nTask: {' '.join(instruction.split())}\n"
    )


def output_first_prompt(instruction: str, count: int = 5) -> str:
    """Ask for examples of a classification task: a label first, then an input that it fits, so that labels balance.

    Args:
        instruction: the task.
        count: at most how many.
    """
    return (
        "For the last task, name its labels, then write one input for each label, in the form shown; "
        f"{count} at most. Use every label before you repeat one.\n\n"
        f"{_OUTPUT_FIRST}\n\nTask: {' '.join(instruction.split())}\n"
    )


def one_step_prompt(examples: Sequence[SeedTask], count: int = 20) -> str:
    """Ask for whole tasks at once, as Alpaca did (Taori et al. 2023): instruction, input and output, 20 at a time.

    Args:
        examples: tasks to show.
        count: how many new ones to ask for.
    """
    shown = "\n###\n".join(
        f"{number}. Instruction: {' '.join(task.instruction.split())}\n"
        f"Input: {task.input.strip() or 'none'}\nOutput: {task.output.strip()}"
        for number, task in enumerate(examples, 1)
    )
    first = len(examples) + 1
    return (
        f"Invent {count} tasks with which to test how well an assistant follows instructions, numbered {first} to "
        f"{first + count - 1}, in the form of those below.\n"
        "- Begin with another verb each time, and mix questions with orders.\n"
        "- Vary the kind of task: writing, sorting, rewriting, explaining, calculating, planning and others.\n"
        "- Text alone must be enough, and the assistant cannot act in the world or look anything up.\n"
        "- The instruction is one or two sentences. The input, where one is needed, holds real material, under a "
        "hundred words, never a placeholder; otherwise write none.\n"
        "- The output answers the instruction fully, in under a hundred words.\n\n"
        f"{shown}\n###\n"
    )


def repeats_prompt(text: str) -> bool:
    """Whether a text says back what stands in a prompt: seven words in a row, of the request or its fixed examples.

    Small models often do. Seeds and tasks made so far do not count; those are a matter of novelty.

    Args:
        text: an instruction or an output.
    """
    words = split_words(text)
    return any(tuple(words[at : at + _REPEATED]) in _own_words() for at in range(len(words) - _REPEATED + 1))


@lru_cache(maxsize=1)
def _own_words() -> frozenset[tuple[str, ...]]:
    whole = [
        *(instruction_prompt([""] * EXAMPLES, count) for count in (8, 20)),
        one_step_prompt([]),
        classification_prompt(""),
        input_first_prompt(""),
        output_first_prompt(""),
    ]
    runs: set[tuple[str, ...]] = set()
    for prompt in whole:
        words = split_words(prompt)
        runs |= {tuple(words[at : at + _REPEATED]) for at in range(len(words) - _REPEATED + 1)}
    return frozenset(runs)
