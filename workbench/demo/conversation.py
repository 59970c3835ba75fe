"""Visitors' conversations: what was asked, what each model answered, and how long a conversation may get.

A conversation lives in this process while its page is open and is never stored. Each model is told its own earlier
answers and none of the others'. How answers are written is left to `compare`, the arena's votes to `arena`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from workbench.demo.configs import DemoConfig
from workbench.demo.limits import Refused, check_prompt
from workbench.records import Message

MOST_CONVERSATIONS = 1_000
"""Conversations remembered at once; the one that was quiet longest is forgotten first."""
NEW = "Start a new conversation."
SHAPE = "The history is a list of [question, [answers]] with one answer of each model in the order shown."


@dataclass(frozen=True)
class Turn:
    """One question and what came of it."""

    question: str
    """As asked."""
    answers: tuple[str, ...]
    """Of each model in order; empty where a model gave none."""
    notes: tuple[str, ...] = ()
    """What went wrong, of each model in order; empty for none."""

    def kept(self, number: int) -> bool:
        """Whether a model is told this turn with its next question: not where it gave no answer, or a broken one.

        Args:
            number: the model's place.
        """
        return bool(self.answers[number].strip()) and not (self.notes and self.notes[number])

    @property
    def answered(self) -> bool:
        """Whether any model's answer is kept."""
        return any(self.kept(number) for number in range(len(self.answers)))

    def shown(self, number: int) -> str:
        """What the page shows of one model's answer.

        Args:
            number: the model's place.
        """
        note = self.notes[number] if self.notes else ""
        return "\n\n".join(part for part in (self.answers[number], note and f"[{note}]") if part) or "[no words]"


@dataclass
class Conversation:
    """The turns of one page."""

    turns: list[Turn] = field(default_factory=list)
    """Oldest first; a question that no model answered is none."""
    busy: bool = False
    """Whether a question is being answered."""


def told_before(turns: Sequence[Turn], number: int) -> list[Message]:
    """What one model is told of a conversation.

    Args:
        turns: oldest first.
        number: the model's place.
    """
    return [
        Message(role=role, content=text)
        for turn in turns
        if turn.kept(number)
        for role, text in (("user", turn.question), ("assistant", turn.answers[number]))
    ]


def check_length(turns: Sequence[Turn], question: str, config: DemoConfig) -> None:
    """Whether a conversation has room for a question.

    Args:
        turns: so far.
        question: what is asked now, checked by itself.
        config: holds the limits.

    Raises:
        Refused: it has none; the message is for the visitor.
    """
    if len(turns) >= config.max_turns:
        if config.max_turns == 1:
            raise Refused(f"A conversation has one question here. {NEW}")
        raise Refused(f"This conversation has its {config.max_turns:,} questions. {NEW}")
    if not turns:
        return
    longest = max(
        sum(len(message.content) for message in told_before(turns, number)) for number in range(len(turns[0].answers))
    )
    if (length := longest + len(question)) > config.max_conversation_chars:
        most = config.max_conversation_chars
        raise Refused(f"With this question the conversation has {length:,} characters; {most:,} are the most. {NEW}")


def read_history(history: object, config: DemoConfig, models: int) -> list[Turn]:
    """The turns that a program gives with its question.

    Args:
        history: a list of `[question, [answer, …]]`, oldest first; None for none.
        config: holds the limits.
        models: answers that each turn has.

    Raises:
        Refused: it has another shape, or is too long.
    """
    if history is None:
        return []
    if not isinstance(history, list):
        raise Refused(SHAPE)
    turns = []
    for entry in history:
        match entry:
            case [str(question), [*answers]] if len(answers) == models and all(isinstance(it, str) for it in answers):
                turns.append(Turn(check_prompt(question, config.max_prompt_chars), tuple(answers)))
            case _:
                raise Refused(SHAPE)
    return turns


class Conversations:
    """Every visitor's conversation; used from the demo's one event loop only, so it takes no locks.

    Args:
        config: holds the limits.
    """

    def __init__(self, config: DemoConfig) -> None:
        self._config = config
        self._of: OrderedDict[str, Conversation] = OrderedDict()

    def __len__(self) -> int:
        """Conversations remembered now."""
        return len(self._of)

    def check(self, visitor: str, question: str) -> None:
        """Whether a visitor may ask; nothing is remembered of it, so that whoever is refused displaces nobody.

        Raises:
            Refused: a question of the conversation is being answered, or it has no room.
        """
        conversation = self._of.get(visitor, Conversation())
        if conversation.busy:
            raise Refused("Your last question is still being answered. Wait for it, or press Stop.")
        check_length(conversation.turns, question, self._config)

    def enter(self, visitor: str, question: str) -> Conversation:
        """A visitor asks: the conversation, held until `leave`.

        Raises:
            Refused: as `check` says.
        """
        self.check(visitor, question)
        conversation = self._of.setdefault(visitor, Conversation())
        self._of.move_to_end(visitor)
        while len(self._of) > MOST_CONVERSATIONS:
            self._of.popitem(last=False)
        conversation.busy = True
        return conversation

    def leave(self, conversation: Conversation, turn: Turn | None) -> None:
        """A question is over.

        Args:
            conversation: as `enter` gave it; where it was forgotten since, the turn is forgotten with it.
            turn: what came of it; None where nothing did.
        """
        conversation.busy = False
        if turn is not None and turn.answered:
            conversation.turns.append(turn)

    def is_open(self, visitor: str, conversation: Conversation) -> bool:
        """Whether this is still the visitor's conversation."""
        return self._of.get(visitor) is conversation

    def forget(self, visitor: str) -> None:
        """A visitor starts anew, or went."""
        self._of.pop(visitor, None)
