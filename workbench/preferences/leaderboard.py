"""The report over some queues: who is stronger, how sure that is, and what speaks against trusting it."""

from __future__ import annotations

from collections.abc import Sequence

from workbench.errors import NotFound
from workbench.preferences.agreement import Agreement, measure_agreement
from workbench.preferences.audits import (
    PositionShare,
    Steadiness,
    find_cycles,
    measure_steadiness,
    share_first,
)
from workbench.preferences.ratings import ROUNDS, PairRate, count_outcomes, rate_pairs, rate_variants
from workbench.preferences.votes import Votes, compare_variants, read_votes
from workbench.records import Rating, Record
from workbench.store import models as model_store
from workbench.store import rankings as rank_store
from workbench.store.database import Store


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
    def conclusions(self) -> tuple[str, ...]:
        """What each pair of variants comes to, in a sentence each."""
        return tuple(tell_pair(pair, self.names) for pair in self.pairs)


def load_leaderboard(
    store: Store, queues: Sequence[str] | None = None, *, rounds: int = ROUNDS, seed: int = 0
) -> Leaderboard:
    """Draw first conclusions from the votes of queues.

    Args:
        store: the store.
        queues: names or ids; all that are not put away when None.
        rounds: bootstrap rounds.
        seed: the same seed and votes give the same intervals.

    Raises:
        NotFound: no such queue, or there is none at all.
    """
    found = [rank_store.get_queue(store, name) for name in queues] if queues else rank_store.list_queues(store)
    if not found:
        raise NotFound("there is no queue of answers to rank yet", remedy="Make one on the Rank page.")
    ids = tuple(dict.fromkeys(queue.id for queue in found))
    variants = {variant.id: variant for variant in model_store.list_variants(store, archived=True)}
    board = build_leaderboard(read_votes(store, ids), queues=ids, rounds=rounds, seed=seed)
    used = {rating.variant_id for rating in board.ratings}
    return board.model_copy(
        update={
            "names": {each: variants[each].name for each in used if each in variants},
            "archived": tuple(sorted(each for each in used if each in variants and variants[each].archived_at)),
        }
    )


def build_leaderboard(votes: Votes, *, queues: Sequence[str] = (), rounds: int = ROUNDS, seed: int = 0) -> Leaderboard:
    """Draw first conclusions from votes; see `load_leaderboard`. Variants go by their ids."""
    comparisons = compare_variants(votes)
    counted = votes.counted
    ratings = rate_variants(comparisons, rounds=rounds, seed=seed)
    cycles = find_cycles(comparisons, count_outcomes(comparisons)[0][0]) if ratings else []
    positions = share_first(counted)
    board = Leaderboard(
        queues=tuple(queues),
        votes=len(counted),
        prompts=votes.prompts,
        raters=tuple(sorted({ballot.rater for ballot in counted})),
        all_bad=sum(ballot.all_bad for ballot in counted),
        ratings=tuple(ratings),
        pairs=tuple(rate_pairs(comparisons)),
        agreement=measure_agreement(counted),
        positions=tuple(positions),
        steadiness=tuple(measure_steadiness(votes.ballots)),
        cycles=tuple(cycles),
    )
    return board.model_copy(update={"notes": tuple(_notes(board))})


def tell_pair(pair: PairRate, names: dict[str, str]) -> str:
    """What two variants come to, in a sentence: which is preferred, or how many votes are still needed to tell."""
    better, worse = names.get(pair.better, pair.better), names.get(pair.worse, pair.worse)
    decisive = pair.wins + pair.losses
    if pair.distinguishable:
        share = pair.share
        return (
            f"{better} is preferred to {worse}: {share.value:.0%} of {share.n} votes "
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
    notes = []
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
