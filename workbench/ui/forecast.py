"""What a run will need, as the New run page shows it: time and memory with their parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from workbench.ui.text import bytes_text, count, duration, plain

if TYPE_CHECKING:
    from workbench.training.forecast import Forecast

PARTS = {
    "weights": "Model weights",
    "adapter": "Adapter",
    "optimizer": "Optimizer and gradients",
    "activations": "Activations of the largest batch",
    "logits": "Logits",
    "program": "The program itself",
}


def show_forecast(forecast: Forecast) -> None:
    """Time with its range, memory against what is free, and below them what they are made of."""
    with st.container(horizontal=True, gap="medium"):
        low, high = duration(forecast.seconds_low), duration(forecast.seconds_high)
        st.metric("Time", f"about {duration(forecast.seconds)}", help=f"Between {low} and {high}.", width="content")
        free = f"{bytes_text(forecast.free_mb * 1e6)} are free now."
        st.metric("Memory", bytes_text(forecast.memory_mb * 1e6), help=free, width="content")
    if not forecast.fits:
        st.warning(
            f"This needs more memory than the {bytes_text(forecast.free_mb * 1e6)} that are free now. Lower tokens per "
            "batch, or turn on gradient checkpointing under advanced settings.",
            icon=":material/memory:",
        )
    about = "about " if forecast.sampled else ""
    st.caption(
        f"{count(forecast.steps, 'step')} over {about}{forecast.tokens:,} tokens of {about}"
        f"{count(forecast.rows, 'row')}; {forecast.held_out_rows:,} held out. Between {low} and {high}."
    )
    with st.expander("What it is made of", icon=":material/calculate:"):
        sizes = {PARTS.get(name, name): bytes_text(size * 1e6) for name, size in forecast.memory_parts.items()}
        st.table(sizes, border="horizontal", alt="Memory by part")
        st.caption(
            plain(
                f"{forecast.trained_parameters:,} weights are trained; {forecast.padding:.0%} of a batch is padding. "
                f"Time rests on {forecast.tokens_per_s:,.0f} tokens/s, from {forecast.rate_from}."
            )
        )
