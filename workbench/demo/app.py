"""The demo's page in Gradio: side by side, blind arena, or both. Imported by the demo's worker alone.

What a model, a visitor or the demo's owner wrote is shown as text: in text boxes, in labels, or escaped where Gradio
reads Markdown. Gradio's HTML component is not used: it evaluates templates in the browser, which the page's content
policy forbids. Refusals before an answer are errors that a program sees too; what goes wrong later is told in words.
"""

from __future__ import annotations

import asyncio
import html
import re
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Any

import gradio as gr
from gradio.events import api

from workbench.demo.arena import CHOICES, Arena
from workbench.demo.compare import Asker, Pane, told_waiting
from workbench.demo.configs import DemoConfig
from workbench.demo.limits import Limits, Refused, check_prompt
from workbench.errors import WorkbenchError
from workbench.records import Variant

_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
MOST_VISITORS = 100_000
ANSWER_LINES = 24
CSS = """
footer { display: none !important; }
.gradio-container { width: 100% !important; max-width: 1180px !important; margin: 0 auto !important; }
.status, .status textarea { border: none !important; background: transparent !important; box-shadow: none !important; }
@media (max-width: 640px) { .votes button { min-height: 48px; } }
"""
# Gradio puts a prefix before each rule of `css`, which what lies around its content does not match.
HEAD = "<style>@media (max-width: 640px) { .gradio-container .main { padding: 16px 12px !important; } }</style>"


def plain(text: str) -> str:
    """Text for a place that reads Markdown, so that it shows as written; line breaks stay."""
    lines = (_PUNCTUATION.sub(r"\\\1", line.strip()) for line in text.strip().splitlines())
    return "  \n".join(lines)


def make_theme() -> Any:
    """The workbench's colours with the reader's own fonts: nothing is fetched for them."""
    return gr.themes.Base(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="slate",
        font=("ui-sans-serif", "system-ui", "sans-serif"),
        font_mono=("ui-monospace", "monospace"),
    ).set(
        button_primary_background_fill="#0F766E",
        button_primary_background_fill_dark="#0F766E",
        button_primary_text_color="white",
    )


class Desk:
    """What the page's handlers share: limits, models, votes, and counts of use.

    Args:
        config: the demo.
        variants: who answers, in the order shown.
        asker: puts questions.
        arena: keeps votes.
        limits: admits questions.
    """

    def __init__(
        self, config: DemoConfig, variants: Sequence[Variant], asker: Asker, arena: Arena, limits: Limits
    ) -> None:
        self.config = config
        self.variants = tuple(variants)
        self.asker = asker
        self.arena = arena
        self.limits = limits
        self.questions = 0
        self._seen: OrderedDict[str, None] = OrderedDict()

    @property
    def visitors(self) -> int:
        """Browser sessions that asked something."""
        return len(self._seen)

    @contextmanager
    def taken(self, prompt: str, request: gr.Request) -> Iterator[tuple[str, str]]:
        """Admit a question while the body runs: the checked prompt and the visitor.

        Raises:
            gr.Error: it is refused; the words are for the visitor.
        """
        client, visitor = client_of(request), visitor_of(request)
        with told():
            text = check_prompt(prompt, self.config.max_prompt_chars)
            self.limits.enter(client)
        try:
            self.questions += 1
            self._seen[visitor] = None
            while len(self._seen) > MOST_VISITORS:
                self._seen.popitem(last=False)
            yield text, visitor
        finally:
            self.limits.leave(client)

    async def compare(self, prompt: str, request: gr.Request) -> AsyncGenerator[tuple[str, ...]]:
        """Every variant's answer, in order, and what is going on."""
        began = time.monotonic()
        with self.taken(prompt, request) as (text, _):
            panes: list[Pane] = []
            async with aclosing(self.asker.ask(self.variants, text, self.config.sampling())) as answers:
                async for panes in answers:
                    yield (*(pane.shown() for pane in panes), told_waiting(panes, began))
            yield (*(pane.shown() for pane in panes), _summary(panes, began))

    async def battle(self, prompt: str, request: gr.Request) -> AsyncGenerator[tuple[str, str, str]]:
        """Two unnamed answers, and what is going on."""
        began = time.monotonic()
        with self.taken(prompt, request) as (text, visitor):
            self.arena.forget(visitor)
            pair = self.arena.draw(self.variants)
            panes: list[Pane] = []
            async with aclosing(self.asker.ask(pair, text, self.config.sampling())) as answers:
                async for panes in answers:
                    yield panes[0].text, panes[1].text, told_waiting(panes, began)
            status = "Which answer is better?"
            try:
                status = f"{status} {self.arena.begin(visitor, panes)}".strip()
            except Refused as refusal:
                status = str(refusal)
            yield panes[0].text, panes[1].text, status

    def vote(self, choice: str, request: gr.Request) -> tuple[str, str, str]:
        """Store a vote: both names and a sentence."""
        with told():
            battle = self.arena.vote(visitor_of(request), choice)
        names = battle.names
        sentence = f"Thank you: {battle.choice}. A was {names[0]}, B was {names[1]}."
        return names[0], names[1], sentence


def _summary(panes: Sequence[Pane], began: float) -> str:
    if not panes or not any(pane.good for pane in panes):
        return "No whole answer. Ask again in a moment."
    told = []
    for pane in panes:
        if pane.completion is not None:
            cut = " (cut at the limit)" if pane.completion.finish_reason == "length" else ""
            told.append(f"{pane.variant.name} {pane.completion.tokens}{cut}")
    return f"{time.monotonic() - began:.1f} s. Tokens: {', '.join(told)}."


@contextmanager
def told() -> Iterator[None]:
    """Turn a refusal into the error that Gradio shows in the page and passes to programs."""
    try:
        yield
    except Refused as refusal:
        raise gr.Error(html.escape(str(refusal)), title="Not now", print_exception=False) from refusal
    except WorkbenchError as error:
        words = f"That did not work: {error.what}. Try again in a moment."
        raise gr.Error(html.escape(words), print_exception=False) from error


def client_of(request: gr.Request) -> str:
    """The address that a request came from."""
    return str(request.client.host) if request.client else "unknown"


def visitor_of(request: gr.Request) -> str:
    """The browser session of a request."""
    return str(request.session_hash or client_of(request))


def build(desk: Desk) -> Any:
    """The page.

    Args:
        desk: what its handlers share.
    """
    config = desk.config
    with gr.Blocks(title=config.title, analytics_enabled=False) as page:
        gr.Markdown(f"# {plain(config.title)}", latex_delimiters=[])
        if config.intro.strip():
            gr.Markdown(plain(config.intro), latex_delimiters=[])
        if set(config.modes) == {"compare", "arena"}:
            with gr.Tabs():
                with gr.Tab("Side by side"):
                    _compare(desk)
                with gr.Tab("Blind arena"):
                    _arena(desk)
        elif "arena" in config.modes:
            _arena(desk)
        else:
            _compare(desk)
    # Own limits refuse first and in words; this bound only keeps what waits for a handler small.
    page.queue(max_size=200, default_concurrency_limit=None, api_open=False)
    return page


def _question(desk: Desk, label: str) -> tuple[Any, Any, Any]:
    config = desk.config
    prompt = gr.Textbox(
        label="Your question",
        lines=3,
        max_lines=8,
        max_length=config.max_prompt_chars,
        placeholder="Ask anything",
        html_attributes=gr.InputHTMLAttributes(spellcheck=False),
    )
    with gr.Row():
        ask = gr.Button(label, variant="primary", min_width=120)
        stop = gr.Button("Stop", min_width=80, scale=0)
    if config.examples:
        gr.Examples([[example] for example in config.examples], [prompt], label="Try", api_visibility="private")
    return prompt, ask, stop


def _answer_box(label: str) -> Any:
    return gr.Textbox(label=label, lines=6, max_lines=ANSWER_LINES, interactive=False, min_width=280, buttons=["copy"])


def _status() -> Any:
    look: dict[str, Any] = {"container": False, "elem_classes": ["status"], "lines": 1, "max_lines": 4}
    return gr.Textbox(label="Status", interactive=False, **look)


def _compare(desk: Desk) -> None:
    prompt, ask, stop = _question(desk, "Ask")
    status = _status()
    with gr.Row():
        boxes = [_answer_box(variant.name) for variant in desk.variants]

    async def compare(question: str, request: gr.Request) -> AsyncGenerator[tuple[str, ...]]:
        """Ask every model the same question; their answers in order, then a line about how it went."""
        async with aclosing(desk.compare(question, request)) as steps:
            async for step in steps:
                yield step

    asked = gr.on(
        [ask.click, prompt.submit],
        compare,
        [prompt],
        [*boxes, status],
        api_name="compare",
        show_progress="hidden",
        concurrency_limit=None,
    )
    stop.click(None, cancels=[asked], api_visibility="private")


def _arena(desk: Desk) -> None:
    prompt, ask, stop = _question(desk, "Ask two of them")
    status = _status()
    with gr.Row():
        boxes = [_answer_box("Answer A"), _answer_box("Answer B")]
    with gr.Row(elem_classes=["votes"]):
        buttons = [gr.Button(choice, interactive=False, min_width=140) for choice in CHOICES]

    def begin() -> list[Any]:
        labels = [gr.update(label=f"Answer {letter}", value="") for letter in "AB"]
        return [*labels, "", *(gr.update(interactive=False) for _ in buttons)]

    async def arena(question: str, request: gr.Request) -> AsyncGenerator[tuple[str, str, str]]:
        """Ask two models that are not named; their answers, then a line about how it went. Vote with /vote."""
        async with aclosing(desk.battle(question, request)) as steps:
            async for step in steps:
                yield step

    def offer(request: gr.Request) -> list[Any]:
        open_now = desk.arena.waits_for(visitor_of(request))
        return [gr.update(interactive=open_now) for _ in buttons]

    async def press(choice: str, request: gr.Request) -> list[Any]:
        left, right, sentence = await asyncio.to_thread(desk.vote, choice, request)
        labels = [gr.update(label=f"Answer {letter}: {name}") for letter, name in zip("AB", (left, right), strict=True)]
        return [*labels, sentence, *(gr.update(interactive=False) for _ in buttons)]

    async def vote(choice: str, request: gr.Request) -> str:
        """Vote on the last two answers: "A is better", "B is better", "Tie" or "Both are bad". Tells who was who."""
        return (await asyncio.to_thread(desk.vote, choice, request))[2]

    quiet: dict[str, Any] = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
    started = gr.on([ask.click, prompt.submit], begin, None, [*boxes, status, *buttons], **quiet)
    asked = started.then(
        arena, [prompt], [*boxes, status], api_name="arena", show_progress="hidden", concurrency_limit=None
    )
    asked.then(offer, None, buttons, **quiet)
    stop.click(None, cancels=[asked], api_visibility="private")
    for button in buttons:
        button.click(press, [button], [*boxes, status, *buttons], **quiet)
    api(vote, api_name="vote", concurrency_limit=None)
