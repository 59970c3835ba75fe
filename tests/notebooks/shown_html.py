"""Reads the HTML that notebooks are given, and refuses what it must not hold."""

from __future__ import annotations

from html.parser import HTMLParser


class Reader(HTMLParser):
    """Text of some HTML; fails on unclosed elements and on whatever loads or runs something."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in {"script", "iframe", "img", "link", "object", "style", "image", "foreignobject"}, tag
        for name, value in attrs:
            assert not name.startswith("on") and name not in ("href", "src", "xlink:href")
            assert "url(" not in (value or "")
        if tag != "br":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


def read(html: str) -> str:
    """The text; fails where the HTML is broken, loads something, runs something, or cannot be a file of UTF-8."""
    html.encode()
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader.text
