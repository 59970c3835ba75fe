"""A form drawn from a config class, with every kind of field, gives that config again."""

from __future__ import annotations

from streamlit.testing.v1 import AppTest


def script() -> None:
    from enum import StrEnum
    from typing import Literal

    import streamlit as st
    from pydantic import Field

    from workbench.records import RunConfig, Sampling
    from workbench.ui.forms import checked_config, config_form, put_values

    class Colour(StrEnum):
        RED = "red"
        BLUE = "blue"

    class Odd(RunConfig):
        text: str = Field(default="hello", min_length=2)
        whole: int = Field(default=3, ge=1, lt=10)
        maybe: int | None = Field(default=None, ge=1)
        rate: float = Field(default=1e-4, gt=0, le=1)
        negative: float = 0.0
        on: bool = True
        word: Literal["a", "b"] = "b"
        maybe_word: Literal["a", "b"] | None = None
        colour: Colour = Colour.BLUE
        several: tuple[str, ...] = ("x",)
        offered: tuple[str, ...] = Field(default=(), json_schema_extra={"choices": ["p", "q"]})
        all_or_some: Literal["all"] | tuple[str, ...] = "all"
        share_or_name: float | str | None = 0.5
        table: dict[str, str] = {"k": "v"}
        sampling: Sampling = Field(default=Sampling(seed=4), json_schema_extra={"advanced": True, "group": "Text"})

    if st.button("Other values"):
        put_values("odd", {"whole": 7, "all_or_some": ("q", "v"), "maybe": 5, "share_or_name": "rows", "on": False})
    config = checked_config(Odd, config_form(Odd, key="odd"))
    st.session_state["config"] = None if config is None else config.model_dump(mode="json")
    st.session_state["default"] = Odd().model_dump(mode="json")


def draw() -> AppTest:
    app = AppTest.from_function(script).run()
    assert not app.exception
    return app


def test_untouched_it_gives_the_defaults() -> None:
    app = draw()
    assert app.session_state["config"] == app.session_state["default"]
    assert not app.error


def test_what_a_list_offers_can_be_combined() -> None:
    app = draw()
    assert list(app.multiselect(key="odd.offered").options) == ["p", "q"]
    for picked in (["q"], ["q", "p"]):
        app.multiselect(key="odd.offered").set_value(picked).run()
        assert app.session_state["config"]["offered"] == picked


def test_values_from_elsewhere_are_taken_over() -> None:
    app = draw()
    app.button[0].click().run()
    config = app.session_state["config"]
    assert (config["whole"], config["all_or_some"], config["maybe"]) == (7, ["q", "v"], 5)
    assert (config["share_or_name"], config["on"]) == ("rows", False)
    app.number_input(key="odd.whole").set_value(8).run()
    assert app.session_state["config"]["whole"] == 8


def test_a_field_that_does_not_hold_is_named_in_words_without_a_traceback() -> None:
    app = draw()
    app.text_input(key="odd.text").set_value("x").run()
    assert app.session_state["config"] is None
    assert app.error[0].value.startswith("**Text**: String should have at least 2 characters")
    app.text_input(key="odd.text").set_value("long enough")
    app.text_area(key="odd.table").set_value("{broken").run()
    assert "Table" in app.error[0].value


def test_an_optional_field_can_be_emptied() -> None:
    app = draw()
    app.number_input(key="odd.maybe").set_value(4).run()
    assert app.session_state["config"]["maybe"] == 4
    app.number_input(key="odd.maybe").set_value(None).run()
    assert app.session_state["config"]["maybe"] is None
    app.text_input(key="odd.share_or_name").set_value("").run()
    assert app.session_state["config"]["share_or_name"] is None
