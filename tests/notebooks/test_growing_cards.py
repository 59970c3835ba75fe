"""What notebooks show of a self-instruct run."""

from __future__ import annotations

from tests.growing_homes import TASKS, add_grown
from tests.notebooks.shown_html import read
from workbench.api import Workspace
from workbench.notebook.drawing import bar_chart


def test_the_yield_is_shown_with_its_reasons(home):
    ws = Workspace()
    run = add_grown(ws.store)
    told = read(ws.funnel(run.id)._repr_html_())
    assert "read from replies: 24 tasks; 100% of all" in told and "15 tasks; 62% of all" in told
    assert "too_similar" in told and "Nobody has reviewed it" not in told and "instance_empty" in told
    assert ws.funnel(run.id).stages[3].count == 15 and ws.funnel(run.id) == ws.funnel(run.id)
    ws.store.close()


def test_candidates_and_diversity_are_shown_as_text(home):
    ws = Workspace()
    hostile = ("Rewrite <script>alert(1)</script> the complaint & the praise politely.", (("", "<b>No</b>"),))
    run = add_grown(ws.store, tasks=[hostile, *TASKS])
    page = ws.candidates(run.id, state="kept")
    told = read(page._repr_html_())
    assert "<script>alert(1)</script>" in told and "<b>No</b>" in told and "16 of 16" in told
    shown = read(ws.diversity(run.id)._repr_html_())
    assert "describe smell" in shown and "16 tasks" in shown
    nothing = add_grown(ws.store, tasks=[], name="Nothing")
    for each in (ws.funnel(nothing.id), ws.diversity(nothing.id), ws.candidates(nothing.id)):
        read(each._repr_html_())
    assert bar_chart([], "tasks") == "" and "0" in read(bar_chart([("none", 0, "")], "tasks"))
    ws.store.close()
