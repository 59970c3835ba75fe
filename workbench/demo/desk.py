"""What the demo's page and its programs call: admits questions, follows answers, keeps conversations and takes votes.

Refusals before an answer are errors that a program sees too; what goes wrong later is told in words. How it looks is
left to `app`.
"""

from __future__ import annotations

import html
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager

import gradio as gr

from workbench.demo.arena import Arena
from workbench.demo.compare import Asker, Pane, told_waiting
from workbench.demo.configs import DemoConfig
from workbench.demo.conversation import Conversations, Turn, check_length, read_history, told_before
from workbench.demo.limits import Limits, Refused, check_prompt
from workbench.errors import WorkbenchError
from workbench.records import Variant

MOST_VISITORS = 100_000
LAST = "That was the last question of this conversation; start a new one to ask more."


class Desk:
    """What the page's handlers share: limits, models, conversations, votes, and counts of use.

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
        self.conversations = Conversations(config)
        self.questions = 0
        self._seen: OrderedDict[str, None] = OrderedDict()

    @property
    def visitors(self) -> int:
        """Browser sessions that asked something."""
        return len(self._seen)

    @contextmanager
    def taken(self, question: str, request: gr.Request) -> Iterator[None]:
        """Admit a question while the body runs.

        Raises:
            gr.Error: it is refused; the words are for the visitor.
        """
        client, visitor = client_of(request), visitor_of(request)
        with told():
            self.limits.enter(client)
        try:
            self.questions += 1
            self._seen[visitor] = None
            while len(self._seen) > MOST_VISITORS:
                self._seen.popitem(last=False)
            yield
        finally:
            self.limits.leave(client)

    def checked(self, prompt: str) -> str:
        """A question that is neither empty nor too long.

        Raises:
            gr.Error: it is; the words are for the visitor.
        """
        with told():
            return check_prompt(prompt, self.config.max_prompt_chars)

    async def compare(self, prompt: str, history: object, request: gr.Request) -> AsyncGenerator[tuple[str, ...]]:
        """Every variant's answer, in order, and what is going on; what was said before comes with the question."""
        question = self.checked(prompt)
        with told():
            turns = read_history(history, self.config, len(self.variants))
            check_length(turns, question, self.config)
        began = time.monotonic()
        with self.taken(question, request):
            panes: list[Pane] = []
            async with aclosing(self._answers(question, turns)) as answers:
                async for panes in answers:
                    yield (*(pane.shown() for pane in panes), told_waiting(panes, began))
            yield (*(pane.shown() for pane in panes), _summary(panes, began))

    async def converse(self, prompt: str, request: gr.Request) -> AsyncGenerator[tuple[list[Turn], bool, str]]:
        """The visitor's conversation with the newest turn, whether that is being written, and what is going on.

        What is there when the visitor stops is kept as the answer; a question that nobody answered is not.
        """
        question, visitor = self.checked(prompt), visitor_of(request)
        with told():
            self.conversations.check(visitor, question)  # before it counts as one of the visitor's questions
        began, panes = time.monotonic(), list[Pane]()
        with self.taken(question, request):
            conversation = self.conversations.enter(visitor, question)
            before = list(conversation.turns)
            try:
                async with aclosing(self._answers(question, before)) as answers:
                    async for panes in answers:
                        if not self.conversations.is_open(visitor, conversation):
                            return
                        yield [*before, _turn(question, panes)], True, told_waiting(panes, began)
            finally:
                self.conversations.leave(conversation, _turn(question, panes) if panes else None)
        status = " ".join(part for part in (_summary(panes, began), self._told_turns(len(conversation.turns))) if part)
        yield [*before, _turn(question, panes)], False, status

    def _answers(self, question: str, turns: Sequence[Turn]) -> AsyncGenerator[list[Pane]]:
        before = [told_before(turns, number) for number in range(len(self.variants))]
        return self.asker.ask(self.variants, question, self.config.sampling(), before)

    def _told_turns(self, asked: int) -> str:
        most = self.config.max_turns
        if most == 1 or not asked:
            return ""
        return f"Question {asked:,} of {most:,}." if asked < most else LAST

    def start_anew(self, request: gr.Request) -> None:
        """The visitor's conversation is over, or the page was closed."""
        self.conversations.forget(visitor_of(request))

    async def battle(self, prompt: str, request: gr.Request) -> AsyncGenerator[tuple[str, str, str]]:
        """Two unnamed answers, and what is going on."""
        question, visitor = self.checked(prompt), visitor_of(request)
        began = time.monotonic()
        with self.taken(question, request):
            self.arena.forget(visitor)
            pair = self.arena.draw(self.variants)
            panes: list[Pane] = []
            async with aclosing(self.asker.ask(pair, question, self.config.sampling())) as answers:
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


def _turn(question: str, panes: Sequence[Pane]) -> Turn:
    """What came of a question; an answer that broke off is shown and not told to the model again."""
    answers = tuple(pane.text for pane in panes)
    notes = tuple(pane.problem for pane in panes)
    return Turn(question, answers, notes)


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
