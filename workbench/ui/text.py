"""Text, times and numbers as the pages show them.

What a model or a person wrote is shown as text: `st.text`, `st.code`, or `plain` where Streamlit would read Markdown
(labels, captions, errors). It is never HTML, never loads a remote image, never becomes a formula or a link.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from datetime import datetime

import streamlit as st

from workbench.records import Message, utc_now

_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
_CALLS = re.compile(r"\\[:@](?=[A-Za-z0-9_+\\-])|\bwww(?=\\\.)", re.IGNORECASE)
"""What begins an emoji, an icon, a web or mail address once escapes are resolved."""
ROLE_ICONS = {
    "system": ":material/settings:",
    "user": ":material/person:",
    "assistant": ":material/smart_toy:",
    "tool": ":material/build:",
}


def plain(text: str, *, limit: int | None = None) -> str:
    """Text for a place that reads Markdown, so that it shows as written.

    Args:
        text: what a person or a model wrote.
        limit: shortened to this many characters.
    """
    if limit is not None:
        text = shorten(text, limit)
    # Every ASCII punctuation mark may be escaped in CommonMark. A word joiner keeps `:name:` from being turned into an
    # emoji or icon and `http://…` into a link, which happens after escapes are resolved.
    return _CALLS.sub(lambda found: f"{found.group()}\u2060", _PUNCTUATION.sub(r"\\\1", " ".join(text.split())))


def shorten(text: str, limit: int) -> str:
    """The beginning of a text on one line, with an ellipsis where something was cut."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def escape_html(text: str) -> str:
    """Text for `st.html`: markup escaped, line breaks visible."""
    return html.escape(text, quote=True)


def show_messages(messages: Sequence[Message]) -> None:
    """A conversation, one bubble a turn, its text as text."""
    for message in messages:
        label = message.role if message.name is None else f"{message.role}, {message.name}"
        with st.chat_message(message.role, avatar=ROLE_ICONS[message.role]):
            st.caption(plain(label.capitalize()))
            if message.content:
                st.text(message.content)
            if message.tool_calls:
                st.json(message.tool_calls, expanded=1)


def count(number: int | float, noun: str, plural: str | None = None) -> str:
    """`1 row`, `1,204 rows`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def bytes_text(size: float) -> str:
    """`812 B`, `1.4 MB`, `3.2 GB` (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 999.5 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" or size >= 99.5 else f"{size:.1f} {unit}"
        size /= 1000
    return ""


def duration(seconds: float | None) -> str:
    """`12 s`, `4 min 10 s`, `2 h 5 min`; a dash where it is not known."""
    if seconds is None:
        return "–"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        minutes, rest = divmod(whole, 60)
        return f"{minutes} min {rest} s" if rest and minutes < 10 else f"{minutes} min"
    hours, rest = divmod(whole, 3600)
    if hours < 48:
        return f"{hours} h {rest // 60} min" if rest >= 60 else f"{hours} h"
    return f"{hours // 24} days"


def ago(moment: datetime | None, *, now: datetime | None = None) -> str:
    """`just now`, `5 min ago`, `3 days ago`; the exact time belongs into the help beside it, from `exact`."""
    if moment is None:
        return "–"
    seconds = ((now or utc_now()) - moment).total_seconds()
    if seconds < 45:
        return "just now"
    if seconds < 5400:
        return f"{max(1, round(seconds / 60))} min ago"
    if seconds < 129_600:
        return f"{round(seconds / 3600)} h ago"
    return f"{round(seconds / 86_400)} days ago"


def exact(moment: datetime | None) -> str:
    """The full time in the browser's zone, or in the server's where the browser does not tell."""
    if moment is None:
        return "not yet"
    try:
        from zoneinfo import ZoneInfo

        zone = ZoneInfo(st.context.timezone) if st.context.timezone else None
    except (KeyError, ValueError, OSError):
        zone = None
    return moment.astimezone(zone).strftime("%Y-%m-%d %H:%M:%S %Z")


def figure(value: float | int | None, digits: int = 4) -> str:
    """A number with so many significant digits: `0.0002`, `1.234`, `12,400`."""
    if value is None:
        return "–"
    if isinstance(value, int) or (abs(value) >= 1000 and float(value).is_integer()):
        return f"{int(value):,}"
    return f"{value:.{digits}g}"
