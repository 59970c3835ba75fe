"""The demo's page in Gradio: side by side, blind arena, or both. Imported by the demo's worker alone.

What a model, a visitor or the demo's owner wrote is shown as text: in text boxes, in labels, or escaped where Gradio
reads Markdown or HTML. Gradio's HTML component is not used: it evaluates templates in the
browser, which the page's content policy forbids. What happens behind the page is `desk`.
"""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import gradio as gr
from gradio.events import api

from workbench.demo.arena import CHOICES
from workbench.demo.conversation import Turn
from workbench.demo.desk import Desk, visitor_of

_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
ANSWER_LINES = 24
CHAT_HEIGHT = "clamp(240px, 42vh, 620px)"
CSS = """
footer { display: none !important; }
.gradio-container { width: 100% !important; max-width: 1180px !important; margin: 0 auto !important; }
.chat button[aria-label="Clear"] { display: none; }
.status, .status textarea { border: none !important; background: transparent !important; box-shadow: none !important; }
@media (max-width: 640px) { .votes button { min-height: 48px; } }
"""
# Gradio puts a prefix before each rule of `css`, which what lies around its content does not match.
HEAD = "<style>@media (max-width: 640px) { .gradio-container .main { padding: 16px 12px !important; } }</style>"


def plain(text: str) -> str:
    """Text for a place that reads Markdown, so that it shows as written; line breaks stay."""
    lines = (_PUNCTUATION.sub(r"\\\1", line.strip()) for line in text.strip().splitlines())
    return "  \n".join(lines)


def literal(text: str) -> str:
    """Text for a chat, which reads HTML even where it renders no Markdown, so that it shows as written."""
    return html.escape(text, quote=False)


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

        async def close(request: gr.Request) -> None:
            desk.start_anew(request)

        page.unload(close)
    # Own limits refuse first and in words; this bound only keeps what waits for a handler small.
    page.queue(max_size=200, default_concurrency_limit=None, api_open=False)
    return page


def _question(desk: Desk, label: str, *more: str) -> tuple[Any, ...]:
    """The box for a question; buttons that ask and stop, and further ones."""
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
        others = [gr.Button(name, min_width=80 if len(name) < 8 else 190, scale=0) for name in ("Stop", *more)]
    if config.examples:
        gr.Examples([[example] for example in config.examples], [prompt], label="Try", api_visibility="private")
    return prompt, ask, *others


def _answer_box(label: str) -> Any:
    return gr.Textbox(label=label, lines=6, max_lines=ANSWER_LINES, interactive=False, min_width=280, buttons=["copy"])


def _status() -> Any:
    look: dict[str, Any] = {"container": False, "elem_classes": ["status"], "lines": 1, "max_lines": 4}
    return gr.Textbox(label="Status", interactive=False, **look)


def _chat(name: str) -> Any:
    return gr.Chatbot(
        label=name,
        height=CHAT_HEIGHT,  # follows what is written to the bottom, which a largest height alone does not
        min_width=280,
        buttons=[],  # its copy button would copy what `literal` made of the text
        layout="bubble",
        render_markdown=False,
        latex_delimiters=[],
        allow_file_downloads=False,
        group_consecutive_messages=False,
        feedback_options=None,
        placeholder="Answers appear here.",
        elem_classes=["chat"],
    )


def _messages(turns: Sequence[Turn], number: int, *, writing: bool) -> list[dict[str, str]]:
    """What one model's chat shows; while the last answer is being written, dots stand where there is none yet."""
    told = []
    for place, turn in enumerate(turns):
        waits = writing and place == len(turns) - 1 and not turn.answers[number] and not turn.notes[number]
        told.append({"role": "user", "content": literal(turn.question)})
        told.append({"role": "assistant", "content": "…" if waits else literal(turn.shown(number))})
    return told


def _compare(desk: Desk) -> None:
    prompt, ask, stop, anew = _question(desk, "Ask", "New conversation")
    status = _status()
    with gr.Row():
        chats = [_chat(variant.name) for variant in desk.variants]

    async def converse(question: str, request: gr.Request) -> AsyncGenerator[list[Any]]:
        asked = False
        async with aclosing(desk.converse(question, request)) as steps:
            async for turns, writing, words in steps:
                # The question leaves its box once it is taken, and comes back where nobody answered it.
                box: Any = gr.skip() if asked else ""
                if not writing and not turns[-1].answered:
                    box = question
                shown = [_messages(turns, number, writing=writing) for number in range(len(chats))]
                yield [box, *shown, words]
                asked = True

    async def clear(request: gr.Request) -> list[Any]:  # not on a thread: conversations take no locks
        desk.start_anew(request)
        return [*([] for _ in chats), ""]

    asked = gr.on(
        [ask.click, prompt.submit],
        converse,
        [prompt],
        [prompt, *chats, status],
        api_visibility="private",
        show_progress="hidden",
        concurrency_limit=None,
    )
    stop.click(None, cancels=[asked], api_visibility="private")
    anew.click(
        clear, None, [*chats, status], cancels=[asked], queue=False, api_visibility="private", show_progress="hidden"
    )
    _compare_for_programs(desk)


def _compare_for_programs(desk: Desk) -> None:
    async def compare(question: str, request: gr.Request, history: list | None = None):  # type: ignore[no-untyped-def,type-arg]  # noqa: ANN202
        """Ask every model the same question; their answers in order, then a line about how it went.

        history: earlier turns as [question, [answer of each model in order]], oldest first; each model is told its own.
        """
        async with aclosing(desk.compare(question, history, request)) as steps:
            async for step in steps:
                yield step

    # Gradio reads the outputs from the annotation, and how many there are depends on the variants.
    compare.__annotations__["return"] = tuple[(str,) * (len(desk.variants) + 1)]  # type: ignore[misc]
    api(compare, api_name="compare", concurrency_limit=None)


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
