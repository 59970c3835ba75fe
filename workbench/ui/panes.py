"""One answer of one variant as a card: who, what produced it, how fast, the text as text; live while it is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import streamlit as st

from workbench.records import Completion, Variant
from workbench.ui.streams import View
from workbench.ui.text import plain

FINISHES: dict[str, tuple[str, str]] = {
    "stop": ("complete", "The model ended its answer by itself, or met a stop text."),
    "length": ("cut at the length limit", "The answer reached the longest length; raise max tokens to read on."),
    "cancelled": ("stopped", "Stopped before it was complete."),
    "error": ("failed", "There is no whole answer."),
}
CARD_WIDTH = 240
SHORT_FINGERPRINT = 11


def card_columns(panes: int) -> int:
    """How many cards stand side by side where the window is wide enough."""
    return {0: 1, 1: 1, 2: 2, 4: 2}.get(panes, 3)


def show_kept(
    answer: Completion, variants: Mapping[str, Variant], *, retry: Callable[[], None] | None, key: str
) -> None:
    """A kept answer.

    Args:
        answer: from the store.
        variants: by id, for the name.
        retry: asks again; offered where the answer failed.
        key: unique in the page.
    """
    with st.container(border=True, gap="small"):
        _head(answer.variant_id, variants, answer)
        if answer.text:
            st.text(answer.text)
        elif answer.error is None:
            st.caption("Stopped before the first word." if answer.finish_reason == "cancelled" else "An empty answer.")
        if answer.error is not None:
            st.error(plain(answer.error), icon=":material/error:")
        else:
            _figures(answer)
        if answer.error is not None and retry is not None:
            st.button("Try again", icon=":material/refresh:", key=key, on_click=retry)


def show_missing(variant: str, variants: Mapping[str, Variant], *, retry: Callable[[], None] | None, key: str) -> None:
    """A pane that has no answer, because the app ended while it was written."""
    with st.container(border=True, gap="small"):
        _head(variant, variants, None)
        st.caption("No answer was kept: the app ended before it was complete.")
        if retry is not None:
            st.button("Ask again", icon=":material/refresh:", key=key, on_click=retry)


def show_view(view: View, variants: Mapping[str, Variant]) -> None:
    """A pane that is being answered, as it stands now."""
    with st.container(border=True, gap="small"):
        _head(view.variant_id, variants, view.completion)
        variant = variants.get(view.variant_id)
        local = variant is None or variant.server_id is None
        if view.text:
            st.text(view.text)
        if view.phase == "connecting":
            words = "Starting the engine…" if local and view.seconds > 1 else "Connecting…"
            st.caption(f":material/hourglass_empty: {words} {view.seconds:.0f} s")
        elif view.phase == "reading":
            st.caption(f":material/more_horiz: Reading the prompt… {view.seconds:.1f} s")
        elif view.phase == "writing":
            st.caption(f":material/edit: Writing… {_speed(view.pieces, view.seconds)}")
        if view.unsaved:
            st.warning(f"This answer could not be kept. {plain(view.unsaved)}", icon=":material/warning:")


def _head(variant_id: str, variants: Mapping[str, Variant], answer: Completion | None) -> None:
    variant = variants.get(variant_id)
    name = variant.name if variant is not None else variant_id
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"**{plain(name)}**", width="content")
        if answer is not None:
            show_fingerprint(answer.fingerprint, verified=answer.verified)
        elif variant is not None and variant.server_id is not None:
            st.badge("unverified", color="orange", help="A remote server: what produces its answers cannot be checked.")


def show_fingerprint(fingerprint: str | None, *, verified: bool) -> None:
    """The fingerprint of what produced an answer, shortened, whole in the help; marked where it is only a claim."""
    if fingerprint and verified:
        st.badge(
            fingerprint[:SHORT_FINGERPRINT],
            icon=":material/fingerprint:",
            color="gray",
            help=f"{plain(fingerprint)}: base and adapter weights, tokenizer, template and number format that "
            "produced this answer.",
        )
    elif not verified:
        claim = f"It says {plain(fingerprint)}; that" if fingerprint else "It names no fingerprint, and what it says"
        st.badge("unverified", color="orange", help=f"A remote server's answer. {claim} cannot be checked.")


def _figures(answer: Completion) -> None:
    word, meaning = FINISHES.get(answer.finish_reason or "", (answer.finish_reason or "unknown ending", ""))
    parts = [_speed(answer.tokens, answer.seconds)] if answer.tokens else []
    if answer.first_token_s is not None:
        parts.append(f"first token {answer.first_token_s:.2f} s")
    parts.append(plain(word))
    seed = answer.sampling.seed
    settings = f"temperature {answer.sampling.temperature:g}, top p {answer.sampling.top_p:g}, " + (
        "no seed" if seed is None else f"seed {seed}"
    )
    st.caption(" · ".join(parts), help=f"{meaning} Asked with {settings}; {answer.seconds:.2f} s in all.".strip())


def _speed(tokens: int, seconds: float) -> str:
    told = f"{tokens:,} token{'' if tokens == 1 else 's'}"
    return f"{told} · {tokens / seconds:.1f} tokens/s" if seconds > 0.05 and tokens else told
