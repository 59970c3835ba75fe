"""What the tasks ask for: the verb an instruction begins its order with, and the noun it is about.

The paper parses sentences for this; here is a light reading by position, since no parser comes with the workbench. The
verb is the first word that is known as an order to an assistant; the noun is the last word of the phrase right behind
it, up to the first preposition, conjunction or mark. Questions and orders without such a phrase have none and are
counted as such. It is right about most plain orders, and wrong where a word of the list stands there as a noun.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from workbench.records import Record

_VERBS = frozenset(
    """
    add adjust adapt advertise advise analyse analyze answer arrange assess assign balance brainstorm break build
    calculate categorise categorize change check choose cite clarify classify combine comment compare compile complete
    compose compute condense connect construct continue convert correct count create criticise criticize decide decode
    deduce define delete demonstrate derive describe design detect determine develop devise diagnose differentiate
    discuss distinguish divide draft edit elaborate encode estimate evaluate examine expand explain express extend
    extract fill find finish fix formulate gather generate give group guess highlight identify illustrate imagine
    improve include infer insert interpret invent judge justify label list locate make mark match mention merge modify
    name negate offer order organise organize outline paraphrase pick plan point predict prepare present prioritise
    prioritize produce proofread propose prove provide punctuate put rank rate rearrange reason recall recommend
    reconstruct record reduce reformulate remove rename reorder replace rephrase report respond restate retell reverse
    review revise reword rewrite say scale select separate set share shorten show simplify simulate sketch solve sort
    spell split state structure suggest summarise summarize sum support swap take talk teach tell test think trace
    transcribe transform translate turn underline update use verify weigh word work write
    """.split()
)  # fmt: skip
_SKIPPED = frozenset(
    """
    a an the this that these those some any each every all both my your his her its our their me us you him them it
    one two three four five six seven eight nine ten several few many most least more other another following given
    please just own very
    """.split()
)
_BOUNDARIES = frozenset(
    """
    about above after against along among around as at because before behind below between by down during for from how
    if in inside into like near of off on onto or out over per since so than through to toward towards under until up
    upon using via was were what when where whether which while who whose why with within without and but is are be
    can could should would will may might must do does did has have had then not
    """.split()
)
_BEFORE_NOUNS = frozenset("a an the this that these those my your his her its our their".split())
_PARTICLES = frozenset({"up", "out", "of", "about"})
_TOKEN = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|\d+|[^\w\s]")
_LOOK = 12
"""Words within which the verb must stand."""
_SAME = {
    "analyse": "analyze", "categorise": "categorize", "criticise": "criticize", "organise": "organize",
    "prioritise": "prioritize", "summarise": "summarize",
}  # fmt: skip


class VerbNoun(NamedTuple):
    """What an instruction asks for."""

    verb: str
    """Lower case."""
    noun: str | None
    """Lower case, one form for one and several as far as the ending tells; None where the order names nothing."""


class PairCount(Record):
    """How often a verb stands with a noun."""

    verb: str
    """The verb."""
    noun: str
    """The noun."""
    count: int
    """Tasks."""


class Diversity(Record):
    """What a set of tasks asks for."""

    pairs: tuple[PairCount, ...]
    """All verb-noun pairs, most frequent first."""
    verbs: dict[str, int]
    """Tasks of each verb, most frequent first, those without a noun counted."""
    tasks: int
    """All tasks."""
    without_verb: int
    """Tasks in which no verb was found, as plain questions."""


@lru_cache(maxsize=65_536)
def verb_noun(instruction: str) -> VerbNoun | None:
    """The verb and noun of an instruction; None where no verb is found.

    Args:
        instruction: the text.
    """
    tokens = [token.lower() for token in _TOKEN.findall(instruction)[: _LOOK + 40]]
    before = ["", *tokens]
    at = next(
        (n for n, token in enumerate(tokens[:_LOOK]) if token in _VERBS and before[n] not in _BEFORE_NOUNS),
        None,
    )
    if at is None:
        return None
    start = at + 2 if tokens[at + 1 : at + 2] and tokens[at + 1] in _PARTICLES else at + 1
    phrase: list[str] = []
    for token in tokens[start:]:
        if token in _SKIPPED or token.isdigit():
            if phrase:
                break
            continue
        if token in _BOUNDARIES or not token[0].isalpha() or len(phrase) == 4:
            break
        phrase.append(token)
    return VerbNoun(_SAME.get(tokens[at], tokens[at]), _singular(phrase[-1]) if phrase else None)


def measure_diversity(instructions: Iterable[str]) -> Diversity:
    """Verbs and verb-noun pairs of some instructions.

    Args:
        instructions: the texts.
    """
    pairs: Counter[tuple[str, str]] = Counter()
    verbs: Counter[str] = Counter()
    tasks = 0
    for instruction in instructions:
        tasks += 1
        found = verb_noun(instruction)
        if found is not None:
            verbs[found.verb] += 1
            if found.noun is not None:
                pairs[found.verb, found.noun] += 1
    ordered = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
    return Diversity(
        pairs=tuple(PairCount(verb=verb, noun=noun, count=count) for (verb, noun), count in ordered),
        verbs=dict(sorted(verbs.items(), key=lambda item: (-item[1], item[0]))),
        tasks=tasks,
        without_verb=tasks - verbs.total(),
    )


def _singular(noun: str) -> str:
    noun = re.sub(r"['’]s$", "", noun)
    if len(noun) > 4 and noun.endswith("ies"):
        return noun[:-3] + "y"
    if len(noun) > 3 and noun.endswith("s") and not noun.endswith(("ss", "us", "is")):
        return noun[:-1]
    return noun
