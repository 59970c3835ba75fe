"""What the Self-instruct page says of a run: reasons in a few words, and plain advice where little came of it."""

from __future__ import annotations

from workbench.self_instruct.review import LOST, Funnel
from workbench.ui.text import count

FAIR = 0.2
"""Share of tasks kept from which there is nothing to complain of; the paper kept more, of a far larger model."""
FEW = 10
"""Tasks that are few whatever the share."""
ADVICE = {
    "too_similar": "Add seeds of other kinds, or raise the temperature; a higher threshold lets repeats through.",
    "repeats_prompt": "The generator says back what it is shown; only another one helps.",
    "cut_off": "Raise max_tokens, or ask for fewer tasks at a time.",
    "points_outside": "The list of words that point outside text is a setting.",
    "leaks": "The seeds or the generator know your held-out prompts; look at them under Candidates.",
}


def reason_label(reason: str) -> str:
    """A reason in a word or two: `instance_ends_with_colon` becomes `example ends with colon`."""
    words = reason.replace("instance_", "example ").replace("_", " ")
    return words[:1].upper() + words[1:]


def losses(funnel: Funnel) -> dict[str, int]:
    """Reason → tasks that the filters lost, over all steps."""
    return {why: n for stage in funnel.stages if stage.name in ("passed", "kept") for why, n in stage.lost.items()}


def yield_advice(funnel: Funnel, *, ended: bool) -> list[str]:
    """What to say where little is kept, and what to do; empty where the yield is fair or it is too early to tell.

    Args:
        funnel: of the run.
        ended: whether the run is over.
    """
    read = funnel.stages[0].count
    kept = next(stage.count for stage in funnel.stages if stage.name == "kept")
    if read < 20 and not ended:
        return []
    if read and kept / read >= FAIR and kept >= FEW:
        return []
    told = [
        f"**Little came of it**: {count(kept, 'task')} kept of {read:,} read"
        + (f" ({kept / read:.0%})." if read else ".")
    ]
    if funnel.unread and funnel.unread * 2 >= max(1, funnel.requests):
        told.append("Most replies held no list of tasks at all: this generator does not follow the request.")
    if funnel.failed and funnel.failed * 2 >= funnel.requests:
        told.append("Most requests got no reply at all: the log of the run says why.")
    told.append(
        "A small model such as the bundled one yields little; a larger one, on a server, yields far more. Choose "
        "another generator, and review what there is: a few good tasks are worth more than many bad ones."
    )
    lost = losses(funnel)
    worst = max(lost, key=lambda why: lost[why]) if lost else None
    if worst in ADVICE:
        told.append(f"Most were lost because: {LOST[worst]} {ADVICE[worst]}")
    return told
