"""Text areas that are committed while a person types, not only when the field is left.

Streamlit sends a text area's text on blur and on Ctrl+Enter. What is typed in Craft is kept as a draft, and a refresh
in the middle of a sentence must not lose it: a small script presses Ctrl+Enter after a short rest.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import streamlit as st

WAIT_MS = 450
_SCRIPT = """
export default function ({ data, parentElement }) {
  if (parentElement.shown !== data.shown) {
    parentElement.shown = data.shown;
    // On a phone the fields stand below the list that they were opened from.
    if (window.innerWidth < 640) document.querySelector(data.within)?.scrollIntoView({ behavior: "smooth" });
  }
  if (parentElement.keeper) return;
  const timers = new WeakMap();
  const commit = (area) => area.isConnected && area.dispatchEvent(new KeyboardEvent("keydown", {
    key: "Enter", code: "Enter", ctrlKey: true, bubbles: true, cancelable: true,
  }));
  const onInput = (event) => {
    const area = event.target;
    if (!(area instanceof HTMLTextAreaElement) || !area.closest(data.within) || event.isComposing) return;
    clearTimeout(timers.get(area));
    timers.set(area, setTimeout(commit, data.wait, area));
  };
  document.addEventListener("input", onInput, true);
  parentElement.keeper = onInput;
  return () => {
    document.removeEventListener("input", onInput, true);
    parentElement.keeper = null;
  };
}
"""


@cache
def _component() -> Any:
    return st.components.v2.component("workbench_typing_kept", js=_SCRIPT)


def keep_typing(within: str, shown: str) -> None:
    """Commit the text areas in a container while they are typed in.

    Args:
        within: key of the container.
        shown: what is shown there; when it changes, a narrow window is scrolled to it.
    """
    css_class = ".st-key-" + within.replace(".", "-")
    _component()(key=f"{within}.keeper", data={"within": css_class, "wait": WAIT_MS, "shown": shown}, height=1)
