"""The leaderboard: how strong each variant is, how sure that is, and what speaks against trusting it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from workbench.api import Workspace
from workbench.preferences.leaderboard import Leaderboard, name_variants, rate_queues, usual_sources
from workbench.records import Interval, RankQueue
from workbench.store import rankings
from workbench.store.rankings import Sources, VotesStamp, sum_votes
from workbench.ui import charts
from workbench.ui.links import RANK, go_to, link_to, queue_query
from workbench.ui.rank_export import show_export
from workbench.ui.state import QUEUE_PARAM
from workbench.ui.store import store_key
from workbench.ui.text import count, plain

MOST_SENTENCES = 6
PICKED = "leaderboard.queues"
WHOSE = "leaderboard.sources"
SOURCES: dict[Sources, str] = {
    "people": "People",
    "visitors": "Demo visitors",
    "scorers": "Scorers",
    "all": "All together",
}
ORIGINS = {"rank": "Rank", "playground": "Playground", "demo": "Demo", "import": "File", "scorer": "Scorer"}
"""Where a rater's votes come from, as shown."""


def show_no_queue() -> None:
    """What to do where nothing can be ranked yet: one action."""
    with st.container(border=True):
        st.subheader("Nothing has been ranked yet", anchor=False)
        st.markdown("Rank a few answers blind; strengths with intervals appear here from the first vote on.")
        if st.button("Go to Rank", type="primary", icon=":material/social_leaderboard:", key="leaderboard.start"):
            go_to(RANK)


def pick_queues(ws: Workspace) -> list[RankQueue]:
    """The choice of queues: the one of the address, or all that are not put away."""
    known = {queue.id: queue for queue in rankings.list_queues(ws.store, archived=True)}
    named = st.query_params.get(QUEUE_PARAM, "")
    if named and st.session_state.get(f"{PICKED}.named") != named:
        st.session_state[f"{PICKED}.named"] = named
        wanted = [key for key, queue in known.items() if named in (key, queue.name)]
        st.session_state[PICKED] = wanted
    st.session_state[PICKED] = [key for key in st.session_state.get(PICKED, []) if key in known]
    picked = st.multiselect(
        "Queues",
        list(known),
        format_func=lambda key: known[key].name if key in known else key,
        key=PICKED,
        placeholder="All that are not put away",
        help="Votes of several queues count together.",
    )
    return [known[key] for key in picked] or [queue for queue in known.values() if queue.archived_at is None]


def pick_sources(voted: Mapping[str, int]) -> Sources:
    """Whose votes are looked at: people's unless others are chosen; no choice where there is nothing to choose.

    Args:
        voted: votes by source.
    """
    votes = sum_votes(voted)
    people = votes.get("people", 0)
    offered = {
        "people": people > 0,
        "visitors": 0 < votes.get("visitors", 0) < people,
        "scorers": "scorers" in votes,
        "all": people > 0 and "scorers" in votes,
    }
    options = [group for group in SOURCES if offered[group]]
    usual = usual_sources(voted)
    if len(options) < 2:
        return usual
    if st.session_state.get(WHOSE) not in options:
        st.session_state[WHOSE] = usual
    picked: Sources | None = st.segmented_control(
        "Votes of",
        options,
        format_func=lambda group: SOURCES[group],
        required=True,
        key=WHOSE,
        help="A scorer's votes are kept apart from people's: they count only where you choose them.",
    )
    return picked or usual


# Votes are read once for each time one is given or taken back, however often the page is drawn.
@st.cache_data(max_entries=64, show_spinner=False)
def _count(_ws: Workspace, home: str, queue_ids: tuple[str, ...], stamp: VotesStamp) -> dict[str, int]:
    return rankings.count_by_source(_ws.store, queue_ids)


@st.cache_data(max_entries=64, show_spinner=False)
def _rate(_ws: Workspace, home: str, queue_ids: tuple[str, ...], sources: Sources, stamp: VotesStamp) -> Leaderboard:
    return rate_queues(_ws.store, queue_ids, sources=sources)


def show_leaderboard(ws: Workspace, queues: Sequence[RankQueue]) -> None:
    """Everything the votes of these queues say."""
    ids = tuple(queue.id for queue in queues)
    home, stamp = store_key(ws), rankings.votes_stamp(ws.store)
    voted = _count(ws, home, ids, stamp)
    board = name_variants(ws.store, _rate(ws, home, ids, pick_sources(voted), stamp))
    if board.made_by:
        kind = st.caption if board.sources == "people" else st.warning
        kind(plain(board.made_by))
    with st.container(horizontal=True):
        st.metric("Votes", f"{board.votes:,}", border=True, help="Without skips and hidden repeats.")
        st.metric("Prompts", f"{board.prompts:,}", border=True)
        st.metric("Scorers" if board.sources == "scorers" else "Raters", f"{len(board.raters):,}", border=True)
        st.metric("All bad", f"{board.all_bad:,}", border=True, help="Votes that call every answer bad.")
    if not board.votes:
        st.info("There are no votes yet.", icon=":material/how_to_vote:")
        if len(queues) == 1:
            link_to(RANK, "Rank its answers", icon="social_leaderboard", **queue_query(queues[0].id))
        return
    show_export(ws, queues, sum(voted.values()))
    if board.ratings:
        _show_strengths(board)
    if board.pairs:
        _show_pairs(board)
    _show_trust(board)


def _show_strengths(board: Leaderboard) -> None:
    st.subheader("Strength", anchor=False)
    st.caption("Bradley–Terry with ties, mean 0, with 95 % intervals from a bootstrap over prompts.")
    names = board_names(board)
    estimates = {
        names[item.variant_id]: Interval(value=item.strength, low=item.low, high=item.high, n=item.comparisons)
        for item in board.ratings
    }
    charts.show(
        charts.interval_figure(estimates, "strength (natural log)"),
        key="leaderboard.strengths",
        alt="Strength of each variant with its interval",
    )
    st.dataframe(
        strength_table(board),
        hide_index=True,
        height="content",
        key="leaderboard.ratings",
        alt="Strength of each variant, the strongest first",
        column_config={
            "rank": st.column_config.NumberColumn(
                "Rank", width=60, help="1 + number of variants whose interval lies wholly above this one's."
            ),
            "variant": st.column_config.TextColumn("Variant", width=240),
            "strength": st.column_config.NumberColumn("Strength", format="%+.2f"),
            "interval": st.column_config.TextColumn("95 % interval", help="Bootstrap over prompts."),
            "share": st.column_config.NumberColumn("Won", format="%.0f %%", help="Comparisons won, ties half."),
            "comparisons": st.column_config.NumberColumn("Comparisons", format="localized"),
        },
    )


def board_names(board: Leaderboard) -> dict[str, str]:
    """Shown names of variants: one that is gone goes by its id, one that was put away says so."""
    return {
        item.variant_id: board.names.get(item.variant_id, item.variant_id)
        + (" (put away)" if item.variant_id in board.archived else "")
        for item in board.ratings
    }


def strength_table(board: Leaderboard) -> pd.DataFrame:
    """One line a variant, the strongest first."""
    names = board_names(board)
    return pd.DataFrame(
        [
            {
                "rank": item.rank,
                "variant": names[item.variant_id],
                "strength": item.strength,
                "interval": f"{item.low:+.2f} to {item.high:+.2f}",
                "share": 100 * item.wins / item.comparisons if item.comparisons else None,
                "comparisons": item.comparisons,
            }
            for item in board.ratings
        ]
    )


def _show_pairs(board: Leaderboard) -> None:
    st.subheader("Against each other", anchor=False)
    for sentence, pair in list(zip(board.conclusions, board.pairs, strict=True))[:MOST_SENTENCES]:
        icon, color = (":material/check_circle:", "green") if pair.distinguishable else (":material/pending:", "gray")
        st.markdown(f":{color}[{icon}] {plain(sentence)}")
    if len(board.pairs) > MOST_SENTENCES:
        st.caption(f"All {count(len(board.pairs), 'pair')} stand in the table.")
    st.dataframe(
        pair_table(board),
        hide_index=True,
        height="content",
        key="leaderboard.pairs",
        alt="Win rate of each pair of variants, the clearest first",
        column_config={
            "better": st.column_config.TextColumn("Better", width=150),
            "worse": st.column_config.TextColumn("Worse", width=150),
            "share": st.column_config.NumberColumn("Win rate", format="%.0f %%", help="Ties count half."),
            "interval": st.column_config.TextColumn("95 % interval", help="Wilson score interval."),
            "votes": st.column_config.TextColumn("Won, lost, tied"),
            "needed": st.column_config.TextColumn(
                "Votes still needed",
                width=140,
                help="Decisive votes until the share seen so far could be told from a coin, with power 80 %.",
            ),
        },
    )


def pair_table(board: Leaderboard) -> pd.DataFrame:
    """One line a pair of variants, the clearest first."""
    names = board_names(board)
    return pd.DataFrame(
        [
            {
                "better": names.get(pair.better, pair.better),
                "worse": names.get(pair.worse, pair.worse),
                "share": 100 * pair.share.value,
                "interval": _percent(pair.share),
                "votes": f"{pair.wins}, {pair.losses}, {pair.ties}",
                "needed": "told apart" if pair.distinguishable else _missing(pair.still_needed),
            }
            for pair in board.pairs
        ]
    )


def _missing(votes: int | None) -> str:
    return "an even split so far" if votes is None else f"about {votes:,}"


def _show_trust(board: Leaderboard) -> None:
    st.subheader("Can these votes be trusted?", anchor=False)
    for note in board.notes:
        if note != board.made_by:  # stands above
            st.markdown(f":material/info: {plain(note)}")
    agreement, everybody = board.agreement, next((each for each in board.positions if each.rater is None), None)
    with st.grid(4, min_column_width=170):
        _figure(
            "Agreement on pairs (α)",
            agreement.alpha_pairs,
            f"{count(agreement.items, 'item')} ranked by several"
            if agreement.items
            else "no item was ranked by two people",
            "Krippendorff's α: 1 is full agreement, 0 is chance.",
        )
        _figure("Agreement on order (τ)", agreement.tau, _percent(agreement.same, "same order"), "Kendall's τ-b, mean.")
        if board.sources != "scorers":  # nothing is shown to a scorer, or twice
            _share("First shown is best", everybody.first if everybody else None, _expected(everybody))
            _share("Same judgement twice", _pooled(board), "hidden repeats")
    for cycle in board.cycles[:MOST_SENTENCES]:
        names = [plain(board.names.get(each, each)) for each in (*cycle, cycle[0])]
        st.markdown(":orange[:material/cycle:] " + " beats ".join(names) + ".")
    _show_raters(board)


def _figure(label: str, value: float | None, below: str, help_text: str) -> None:
    with st.container(border=True, gap="xsmall", height="stretch"):
        st.metric(label, "–" if value is None else f"{value:.2f}", help=help_text)
        st.caption(below or "not enough votes")


def _share(label: str, share: Interval | None, below: str) -> None:
    with st.container(border=True, gap="xsmall", height="stretch"):
        st.metric(label, "–" if share is None else f"{share.value:.0%}")
        st.caption(f"{_percent(share)}, n = {share.n}; {below}" if share else f"no votes; {below}")


def _expected(share: Any) -> str:
    return f"{share.expected:.0%} expected" if share is not None else "position of the best"


def _pooled(board: Leaderboard) -> Interval | None:
    """All raters' repeats together."""
    from workbench.preferences.shares import wilson

    told = [each.same for each in board.steadiness if each.same is not None]
    pairs = sum(each.n for each in told)
    return wilson(round(sum(each.value * each.n for each in told)), pairs) if pairs else None


def _percent(share: Interval | None, what: str = "") -> str:
    if share is None:
        return ""
    return f"{share.low:.0%} to {share.high:.0%}" + (f" {what}" if what else "")


def _show_raters(board: Leaderboard) -> None:
    st.markdown("**Raters**")
    st.dataframe(
        rater_table(board),
        hide_index=True,
        height="content",
        key="leaderboard.raters",
        alt="Raters with what speaks against their votes",
        column_config={
            "rater": st.column_config.TextColumn("Rater", width=150),
            "source": st.column_config.TextColumn(
                "From", width=110, help="Where the votes were given; a scorer is no person."
            ),
            "first": st.column_config.NumberColumn("First is best", format="%.0f %%"),
            "interval": st.column_config.TextColumn("95 % interval"),
            "votes": st.column_config.NumberColumn("Votes", format="localized", help="With one best answer."),
            "again": st.column_config.NumberColumn("Same twice", format="%.0f %%"),
            "repeats": st.column_config.NumberColumn("Hidden repeats"),
            "flag": st.column_config.TextColumn("Flag", width=160),
        },
    )
    if len(board.agreement.pairs) > 0:
        with st.expander("Rater by rater", icon=":material/group:"):
            st.dataframe(
                pd.DataFrame(
                    [
                        {
                            "Rater": pair.raters[0],
                            "and": pair.raters[1],
                            "Items both ranked": pair.items,
                            "Same order": "" if pair.same is None else f"{pair.same.value:.0%} ({_percent(pair.same)})",
                            "τ": None if pair.tau is None else round(pair.tau, 2),
                        }
                        for pair in board.agreement.pairs
                    ]
                ),
                hide_index=True,
                height="content",
                alt="Agreement of each pair of raters",
            )


def rater_table(board: Leaderboard) -> pd.DataFrame:
    """One line a rater."""
    positions = {each.rater: each for each in board.positions if each.rater is not None}
    steady = {each.rater: each for each in board.steadiness}
    rows = []
    for rater in board.raters:
        place, again = positions.get(rater), steady.get(rater)
        rows.append(
            {
                "rater": rater,
                "source": ", ".join(ORIGINS.get(each, each) for each in board.rater_sources.get(rater, ())),
                "first": 100 * place.first.value if place else None,
                "interval": _percent(place.first) if place else "",
                "votes": place.first.n if place else None if board.sources == "scorers" else 0,
                "again": 100 * again.same.value if again and again.same else None,
                "repeats": again.repeats if again else 0,
                "flag": "takes the first shown" if place and place.flagged else "",
            }
        )
    return pd.DataFrame(rows)
