"""What went wrong, as the page says it."""

from __future__ import annotations

from streamlit.testing.v1 import AppTest


def test_a_problem_is_told_with_its_value_in_one_readable_sentence(home):
    def script() -> None:
        from workbench.errors import NotFound, UsageError
        from workbench.ui.errors import show_problem

        show_problem(NotFound("no such run", value="a b", remedy="Look at the list."))
        show_problem(UsageError("too long", place="name"))

    at = AppTest.from_function(script).run()
    first, second = (item.value.replace("\\", "") for item in at.error)
    assert first == "No such run (got 'a b').\n\nLook at the list."
    assert second == "**name**: too long."
