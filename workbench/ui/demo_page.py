"""Demos: those that run, with address, password and counts; those of before; and the form that starts one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from workbench.api import Workspace
from workbench.demo.configs import SHORTEST_PASSWORD, DemoConfig, check_password
from workbench.errors import UsageError
from workbench.records import Run, RunState, Variant
from workbench.ui.errors import show_problem, shown_errors
from workbench.ui.first_model import show_first_model
from workbench.ui.forms import checked_config, draw_field
from workbench.ui.links import NEW_RUN, link_to
from workbench.ui.playground import default_panes
from workbench.ui.runs import progress_line, run_link, state_badge, took
from workbench.ui.text import ago, count, exact, plain

FORM = "demo"
LOOK_EVERY_S = 2.0
MOST_VARIANTS = 4
SHOWN_ENDED = 5
MODES = {"compare": "Side by side", "arena": "Blind arena"}
HERE, NETWORK = "This machine only", "My network"
BINDS = {HERE: "127.0.0.1", NETWORK: "0.0.0.0"}  # noqa: S104 - asked for, and with a password only
DRAWN = ("variants", "modes", "title", "intro", "examples", "system", "bind")


def show_demos(ws: Workspace) -> None:
    """What runs now, refreshed while there is anything, and what ran before."""
    active = bool(ws.demos())
    st.fragment(run_every=LOOK_EVERY_S if active else None)(_active)(ws, active)
    _show_ended(ws)


def _active(ws: Workspace, drawn: bool) -> None:
    with shown_errors():
        runs = ws.demos()
        if drawn and not runs:
            st.rerun()
        for run in runs:
            _show_demo(ws, run)


def _show_demo(ws: Workspace, run: Run) -> None:
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            state_badge(run)
            st.markdown(f"**{plain(run.name, limit=80)}**", width="stretch")
            run_link(run, label="Log")
            asked = run.stop_requested_at is not None
            if st.button("Stop", icon=":material/stop_circle:", key=f"demo.stop.{run.id}", disabled=asked):
                ws.stop(run.id)
                st.rerun()
        address = run.result.get("address")
        if not isinstance(address, str) or run.progress.phase != "serving":
            st.caption(plain(progress_line(run)))
            return
        password = ws.demo_password(run.id)
        with st.container(horizontal=True, vertical_alignment="center"):
            st.link_button("Open the demo", address, icon=":material/open_in_new:")
            st.caption("Address to send:" if password else "Address, on this machine only:", width="content")
            st.code(address, language=None, width="content")
            if password:
                with st.popover("Password", icon=":material/key:", type="tertiary"):
                    st.code(password, language=None)
                    st.caption("Sent unencrypted: use it in networks you trust. Programs give it with any user name.")
        others = run.result.get("addresses")
        if isinstance(others, list) and len(others) > 1:
            st.caption(plain("Also at " + ", ".join(str(each) for each in others[1:])))
        st.caption(plain(_counts(run)))


def _counts(run: Run) -> str:
    def told(name: str) -> int:
        value = run.result.get(name)
        return value if isinstance(value, int) else 0

    refused = told("refused")
    parts = [count(told(name), name[:-1]) for name in ("visitors", "questions", "votes")]
    return " · ".join([*parts, *([f"{refused:,} refused by the limits"] if refused else []), f"up for {took(run)}"])


def _show_ended(ws: Workspace) -> None:
    ended = [run for run in ws.demos(ended=True) if not run.state.active][:SHOWN_ENDED]
    if not ended:
        return
    with st.expander(f"Ended ({len(ended)})", icon=":material/history:"):
        for run in ended:
            with st.container(horizontal=True, vertical_alignment="center"):
                state_badge(run)
                st.markdown(plain(run.name, limit=80), width="content")
                st.caption(f"{plain(_counts(run))} · {ago(run.ended_at)}", help=exact(run.ended_at), width="stretch")
                run_link(run, label="Log")
                if run.state.resumable and st.button(
                    "Start again", icon=":material/play_arrow:", key=f"demo.again.{run.id}", type="tertiary"
                ):
                    with shown_errors():
                        ws.resume(run.id)
                        st.rerun()
            if run.failure is not None and run.state in (RunState.FAILED, RunState.INTERRUPTED):
                st.caption(plain(f"{run.failure.message}. {run.failure.remedy}"))


def show_short(ws: Workspace, variants: Sequence[Variant]) -> None:
    """What to do where there are not two variants to compare."""
    if not variants:
        show_first_model(ws)
        return
    with st.container(border=True):
        st.subheader("A demo needs two variants", anchor=False)
        st.markdown("Fine-tune an adapter, then base and tuned model can be shown beside each other.")
        link_to(NEW_RUN, "Set up a training run", icon="add_circle")


def show_form(ws: Workspace, variants: Sequence[Variant]) -> None:
    """What the page shows, to whom, and the button that starts it."""
    names = {variant.id: variant.name for variant in variants}
    if f"{FORM}.variants" not in st.session_state:
        st.session_state[f"{FORM}.variants"] = default_panes(variants)
    st.subheader("New demo", anchor=False)
    with st.container(border=True):
        chosen, modes = _draw_who(names)
        values: dict[str, Any] = {"variants": tuple(chosen), "modes": tuple(modes)} | _draw_words()
        values["bind"], password = _draw_where()
        with st.expander("Sampling, limits, port and system prompt", icon=":material/tune:"):
            values["system"] = st.text_area("System prompt", key=f"{FORM}.system", persist_state="session") or ""
            with st.grid(3, min_column_width=180):
                for name, field in DemoConfig.model_fields.items():
                    if name not in DRAWN:
                        start = field.get_default(call_default_factory=True)
                        values[name] = draw_field(name, field, f"{FORM}.{name}", start)
        ready = len(chosen) >= 2 and bool(modes)
        if st.button(
            "Start the demo", type="primary", icon=":material/rocket_launch:", disabled=not ready, key="demo.start"
        ):
            _start(ws, values, password)
        if not ready:
            st.caption("Choose at least two variants and one way to show them.")


def _draw_who(names: dict[str, str]) -> tuple[list[str], list[str]]:
    with st.grid(2, min_column_width=280):
        chosen: list[str] = st.multiselect(
            "Variants",
            list(names),
            format_func=lambda item: names.get(item, item),
            key=f"{FORM}.variants",
            persist_state="session",
            max_selections=MOST_VARIANTS,
            placeholder="Choose two to four",
            help="The arena draws two of them for each question.",
        )
        modes = st.pills(
            "Ways to show them",
            list(MODES),
            format_func=lambda mode: MODES[mode],
            selection_mode="multi",
            default=list(MODES),
            key=f"{FORM}.modes",
            help="Blind arena: two unnamed answers and a vote, names after it. Votes become rankings.",
        )
    return chosen, list(modes or [])


def _draw_words() -> dict[str, Any]:
    values: dict[str, Any] = {}
    fields = DemoConfig.model_fields
    with st.grid(2, min_column_width=280):
        values["title"] = st.text_input(
            "Title", fields["title"].default, key=f"{FORM}.title", max_chars=120, persist_state="session"
        )
        values["intro"] = (
            st.text_area(
                "Introduction",
                key=f"{FORM}.intro",
                height=100,
                max_chars=2000,
                placeholder="A few words below the title",
                persist_state="session",
            )
            or ""
        )
        lines = st.text_area(
            "Example prompts",
            key=f"{FORM}.examples",
            height=100,
            placeholder="One a line, at most 12",
            help="Visitors can start from these.",
            persist_state="session",
        )
    values["examples"] = tuple(line.strip() for line in (lines or "").splitlines() if line.strip())
    return values


def _draw_where() -> tuple[str, str]:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        where = st.segmented_control("Who can reach it", [HERE, NETWORK], default=HERE, required=True, key="demo.where")
        password = ""
        if where == NETWORK:
            password = (
                st.text_input(
                    "Password",
                    type="password",
                    key=f"{FORM}.password",
                    placeholder="made for you",
                    help=f"At least {SHORTEST_PASSWORD} characters. Visitors are asked for it.",
                )
                or ""
            )
    if where == NETWORK:
        st.caption("Everybody who has the address and the password can ask the models. Nothing is encrypted.")
    return BINDS[where], password


def _start(ws: Workspace, values: dict[str, Any], password: str) -> None:
    config = checked_config(DemoConfig, values)
    if config is None:
        return
    try:
        if password:
            check_password(password)
    except UsageError as error:
        show_problem(error)
        return
    options = config.model_dump(exclude={"variants"})
    ws.start_demo([str(item) for item in values["variants"]], password=password, **options)
    st.rerun()
