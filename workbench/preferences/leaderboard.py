"""The report over some queues: who is stronger, how sure that is, and what speaks against trusting it.

It is about people's votes. Scorers' are looked at by themselves or beside them, where that is asked for or where there
are no others, and never without saying so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

from workbench.errors import NotFound, UsageError
from workbench.preferences.agreement import Agreement, measure_agreement
from workbench.preferences.audits import (
    PositionShare,
    Steadiness,
    find_cycles,
    measure_steadiness,
    share_first,
)
from workbench.preferences.ratings import ROUNDS, PairRate, count_outcomes, rate_pairs, rate_variants
from workbench.preferences.votes import Votes, compare_variants, read_votes, uncollected
from workbench.records import Rating, Record
from workbench.store import models as model_store
from workbench.store import rankings as rank_store
from workbench.store.database import Store
from workbench.store.rankings import SCORER, Sources

BY_SCORERS = "Made by a scorer, not by people."
"""Says so wherever a scorer's votes are shown."""


class Leaderboard(Record):
    """First conclusions from the votes of some queues."""

    queues: tuple[str, ...]
    """Queue ids."""
    votes: int
    """Votes that count: skips, hidden repeats and what was taken back are left out."""
    prompts: int
    """Different prompts they are about."""
    raters: tuple[str, ...]
    """Who voted, by name."""
    sources: Sources = "people"
    """Whose votes these are: people's, only demo visitors', scorers', or all."""
    voted: dict[str, int] = {}
    """All votes of the queues by source (rank, playground, demo, import, scorer), whoever's are counted here."""
    rater_sources: dict[str, tuple[str, ...]] = {}
    """Rater → where their votes come from."""
    all_bad: int = 0
    """Votes that called every answer bad; they count as ties."""
    names: dict[str, str] = {}
    """Variant id → name."""
    archived: tuple[str, ...] = ()
    """Ids of variants that were put away meanwhile; their votes count all the same."""
    ratings: tuple[Rating, ...] = ()
    """The strongest first."""
    pairs: tuple[PairRate, ...] = ()
    """Every pair that met, the clearest first."""
    agreement: Agreement
    """How far raters agree."""
    positions: tuple[PositionShare, ...] = ()
    """Pull to the first displayed: everybody's, then each rater's."""
    steadiness: tuple[Steadiness, ...] = ()
    """Each rater on hidden repeats."""
    cycles: tuple[tuple[str, str, str], ...] = ()
    """Variant ids of which each beats the next by majority, and the last the first."""
    notes: tuple[str, ...] = ()
    """What a reader has to know, in sentences."""

    @property
    def flagged(self) -> tuple[str, ...]:
        """Raters who take the first displayed nearly always."""
        return tuple(share.rater for share in self.positions if share.flagged and share.rater is not None)

    @property
    def made_by(self) -> str:
        """Who made these votes and whose were left out, in a sentence; empty where all the votes are people's."""
        by_scorers = self.voted.get(SCORER, 0)
        if not by_scorers:
            return ""
        if self.sources == "scorers":
            people = sum(self.voted.values()) - by_scorers
            return BY_SCORERS + (f" People's {people:,} votes are left out." if people else "")
        if self.sources == "all":
            return f"{by_scorers:,} of {self.votes:,} votes were made by a scorer, not by people."
        return f"Votes of people; {by_scorers:,} that a scorer made are left out."

    @property
    def conclusions(self) -> tuple[str, ...]:
        """What each pair of variants comes to, in a sentence each."""
        above = "is placed above" if self.sources == "scorers" else "is preferred to"
        return tuple(tell_pair(pair, self.names, above) for pair in self.pairs)


def load_leaderboard(
    store: Store,
    queues: Sequence[str] | None = None,
    *,
    sources: Sources | None = None,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> Leaderboard:
    """Draw first conclusions from the votes of queues.

    Args:
        store: the store.
        queues: names or ids; all that are not put away when None.
        sources: whose votes: `people`, of them only demo `visitors`, `scorers`, or `all`. People's when None, or
            scorers' where nobody else voted; `Leaderboard.sources` and its notes tell which.
        rounds: bootstrap rounds.
        seed: the same seed and votes give the same intervals.

    Raises:
        NotFound: no such queue, or there is none at all.
        UsageError: no such sources.
    """
    found = [rank_store.get_queue(store, name) for name in queues] if queues else rank_store.list_queues(store)
    if not found:
        raise NotFound("there is no queue of answers to rank yet", remedy="Make one on the Rank page.")
    ids = tuple(dict.fromkeys(queue.id for queue in found))
    return name_variants(store, rate_queues(store, ids, sources=sources, rounds=rounds, seed=seed))


def rate_queues(
    store: Store, queue_ids: Sequence[str], *, sources: Sources | None = None, rounds: int = ROUNDS, seed: int = 0
) -> Leaderboard:
    """What of a leaderboard changes with votes alone: it holds as long as `votes_stamp` stays. Variants go by ids.

    Args:
        store: the store.
        queue_ids: queue ids.
        sources: as in `load_leaderboard`.
        rounds: bootstrap rounds.
        seed: the same seed and votes give the same intervals.
    """
    if sources is not None and sources not in get_args(Sources):
        known = ", ".join(get_args(Sources))
        raise UsageError("no such votes", place="sources", value=sources, remedy=f"Choose one of: {known}.")
    voted = rank_store.count_by_source(store, queue_ids)
    whose = sources or usual_sources(voted)
    with uncollected():
        votes = read_votes(store, queue_ids, whose)
        return build_leaderboard(votes, queues=queue_ids, sources=whose, voted=voted, rounds=rounds, seed=seed)


def usual_sources(voted: Mapping[str, int]) -> Sources:
    """Whose votes are shown unasked: people's, or scorers' where nobody else voted.

    Args:
        voted: votes by source.
    """
    return "scorers" if set(voted) == {SCORER} else "people"


def name_variants(store: Store, board: Leaderboard) -> Leaderboard:
    """The leaderboard with the names its variants have now."""
    variants = {variant.id: variant for variant in model_store.list_variants(store, archived=True)}
    used = {rating.variant_id for rating in board.ratings}
    return board.model_copy(
        update={
            "names": {each: variants[each].name for each in used if each in variants},
            "archived": tuple(sorted(each for each in used if each in variants and variants[each].archived_at)),
        }
    )


def build_leaderboard(
    votes: Votes,
    *,
    queues: Sequence[str] = (),
    sources: Sources = "people",
    voted: Mapping[str, int] | None = None,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> Leaderboard:
    """Draw first conclusions from votes; see `load_leaderboard`. Variants go by their ids."""
    comparisons = compare_variants(votes)
    counted = votes.counted
    ratings = rate_variants(comparisons, rounds=rounds, seed=seed)
    cycles = find_cycles(comparisons, count_outcomes(comparisons)[0][0]) if ratings else []
    positions = share_first(counted)
    came: dict[str, set[str]] = {}
    for ballot in counted:
        came.setdefault(ballot.rater, set()).add(ballot.source)
    board = Leaderboard(
        queues=tuple(queues),
        votes=len(counted),
        prompts=votes.prompts,
        raters=tuple(sorted(came)),
        sources=sources,
        voted=dict(voted or {}),
        rater_sources={rater: tuple(sorted(told)) for rater, told in sorted(came.items())},
        all_bad=sum(ballot.all_bad for ballot in counted),
        ratings=tuple(ratings),
        pairs=tuple(rate_pairs(comparisons)),
        agreement=measure_agreement(counted),
        positions=tuple(positions),
        steadiness=tuple(measure_steadiness(votes.ballots)),
        cycles=tuple(cycles),
    )
    return board.model_copy(update={"notes": tuple(_notes(board))})


def tell_pair(pair: PairRate, names: dict[str, str], above: str = "is preferred to") -> str:
    """What two variants come to, in a sentence: which is preferred, or how many votes are still needed to tell."""
    better, worse = names.get(pair.better, pair.better), names.get(pair.worse, pair.worse)
    decisive = pair.wins + pair.losses
    if pair.distinguishable:
        share = pair.share
        return (
            f"{better} {above} {worse}: {share.value:.0%} of {share.n} votes "
            f"({share.low:.0%} to {share.high:.0%}, ties counted half)."
        )
    if not decisive:
        return f"{better} and {worse} are not distinguishable yet: all {pair.ties} votes are ties."
    told = (
        f"{better} and {worse} are not distinguishable yet: {pair.wins} to {pair.losses} in {decisive} decisive votes"
    )
    if pair.still_needed is None:
        return f"{told}, an even split."
    return f"{told}; if that holds, it takes about {pair.still_needed:,} more to tell."


def _notes(board: Leaderboard) -> list[str]:
    notes = [board.made_by] if board.made_by else []
    if not board.votes:
        notes.append("There are no votes yet.")
    elif not board.pairs:
        notes.append("No vote compares two different variants, so there is nothing to rate.")
    elif not any(pair.distinguishable for pair in board.pairs):
        notes.append("No two variants are distinguishable yet.")
    if board.all_bad:
        notes.append(f"{board.all_bad} votes call every answer bad; they count as ties.")
    notes += [
        f"{share.rater} ranked the first displayed answer best in {share.first.value:.0%} of {share.first.n} votes, "
        f"where {share.expected:.0%} is expected: look at these votes before you trust them."
        for share in board.positions
        if share.flagged
    ]
    if board.cycles:
        notes.append(f"Majorities go round in circles {len(board.cycles)} times, so one order does not tell it all.")
    if board.pairs and not _connected(board):
        notes.append("Some variants never met, not even by way of others: do not compare their strengths.")
    if board.agreement.contradicted:
        notes.append(f"Raters contradict each other on {board.agreement.contradicted} pairs of answers.")
    return notes


def _connected(board: Leaderboard) -> bool:
    """Whether every variant met every other, at least by way of others."""
    reached = {board.ratings[0].variant_id}
    while True:
        more = {
            other
            for pair in board.pairs
            for one, other in ((pair.better, pair.worse), (pair.worse, pair.better))
            if one in reached and other not in reached
        }
        if not more:
            return len(reached) == len(board.ratings)
        reached |= more
