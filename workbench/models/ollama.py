"""A folder that `ollama create` takes: safetensors weights and a Modelfile with the model's own chat template.

Ollama reads Go templates, models come with jinja ones. A template is translated by looking at what it writes: what
stands before and after each role's text, found by rendering conversations of marked texts, and then proved by rendering
others. A template that is no such sequence of turns (one that moves the system text into the first question, say)
cannot be translated and is refused in words. Parameters and names follow Ollama's Modelfile reference.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from workbench.errors import TemplateProblem
from workbench.records import Message, Record

Apply = Callable[[Sequence[Message], bool], str]
"""Renders a conversation, with or without the beginning of an answer: the model's own chat template."""

ADAPTER_FAMILIES = ("llama", "mistral", "gemma", "gemma2")
"""Families whose LoRA adapters Ollama reads as safetensors; of others it takes merged models."""
_S, _U, _A, _V = "systemmark5231", "usermark7713", "answermark9407", "usermark1189"


class TurnShape(Record):
    """What a chat template writes around each turn."""

    without_system: str
    """Before the first turn where there is no system text; some templates put one of their own there."""
    system: tuple[str, str]
    """Before and after a system text; what begins the conversation is part of it."""
    user: tuple[str, str]
    """Before and after a user's text."""
    assistant: tuple[str, str]
    """Before and after an answer."""
    begin_answer: str
    """After the last turn, before the model goes on."""

    def render(self, messages: Sequence[Message], begin_answer: bool) -> str:
        """A conversation as this shape says it."""
        text = "" if messages and messages[0].role == "system" else self.without_system
        around = {"system": self.system, "user": self.user, "assistant": self.assistant}
        for message in messages:
            before, after = around[message.role]
            text += before + message.content + after
        return text + (self.begin_answer if begin_answer else "")

    def without_prefix(self, prefix: str) -> TurnShape:
        """The same without what the runtime writes by itself before everything."""
        if not prefix or not self.system[0].startswith(prefix) or not self.without_system.startswith(prefix):
            return self
        system = (self.system[0].removeprefix(prefix), self.system[1])
        return self.model_copy(update={"system": system, "without_system": self.without_system.removeprefix(prefix)})


def read_shape(apply: Apply) -> TurnShape:
    """What a chat template writes around each turn, proved on conversations it was not read from.

    Args:
        apply: the model's own chat template.

    Raises:
        TemplateProblem: it does not write a conversation as a sequence of turns, or refuses plain ones.
    """
    system, user, answer, again = (
        Message(role="system", content=_S),
        Message(role="user", content=_U),
        Message(role="assistant", content=_A),
        Message(role="user", content=_V),
    )
    one, begun = apply([user], False), apply([user], True)
    talk, led = apply([user, answer, again], True), apply([system, user], True)
    try:
        head, tail = begun.split(_U)
        start, rest = talk.split(_U)
        middle, rest = rest.split(_A)
        between, end = rest.split(_V)
        before_system, rest = led.split(_S)
        behind_system, led_end = rest.split(_U)
    except ValueError as error:
        raise _untold("it leaves out a turn, or writes one twice") from error
    # Some templates end a conversation with a text of its own where no answer is asked for; then what ends a question
    # cannot be told from what begins an answer, and need not be.
    after_user = one.partition(_U)[2] if begun.startswith(one) else ""
    if (start, end, led_end) != (head, tail, tail) or not middle.startswith(after_user):
        raise _untold("what it writes around a turn depends on the turns beside it")
    # Between an answer and the next question stand the end of the one and the beginning of the other. Most templates
    # end every turn alike; where this one does not, the question begins with what it begins with elsewhere.
    before_user = between.removeprefix(after_user) if after_user else ""
    if not before_user or not (head.endswith(before_user) and behind_system.endswith(before_user)):
        before_user = _common_ending(_common_ending(head, between), behind_system)
    shape = TurnShape(
        without_system=head.removesuffix(before_user),
        system=(before_system, behind_system.removesuffix(before_user)),
        user=(before_user, after_user),
        assistant=(middle.removeprefix(after_user), between.removesuffix(before_user)),
        begin_answer=tail.removeprefix(after_user),
    )
    _prove(shape, apply)
    return shape


def _common_ending(one: str, other: str) -> str:
    size = 0
    while size < min(len(one), len(other)) and one[-1 - size] == other[-1 - size]:
        size += 1
    return one[len(one) - size :]


def _prove(shape: TurnShape, apply: Apply) -> None:
    words = ["Be brief, please.", "What is 2 + 2?\nSay it in {{ words }}.", "Four: 4.", "Why “four”?", "Because.", "?"]
    roles = ("system", "user", "assistant", "user", "assistant", "user")
    turns = [Message(role=role, content=text) for role, text in zip(roles, words, strict=True)]
    for talk in (turns[:2], turns[1:2], turns[:4], turns[1:4], turns, turns[1:]):
        if shape.render(talk, True) != apply(talk, True):
            raise _untold("what it writes around a turn depends on the turns beside it")


def _untold(why: str) -> TemplateProblem:
    return TemplateProblem(
        f"this chat template cannot be written as one of Ollama's: {why}",
        remedy="Export merged weights instead, and serve them with a program that reads the template itself.",
    )


def go_template(shape: TurnShape) -> str:
    """The template in Go's language, as Ollama fills it: with `.System`, `.Messages`, `.Role` and `.Content`."""
    text = f"{{{{ if not .System }}}}{_literal(shape.without_system)}{{{{ end }}}}" if shape.without_system else ""
    text += "{{ range .Messages }}"
    for word, role in (("if", "system"), ("else if", "user"), ("else if", "assistant")):
        before, after = getattr(shape, role)
        text += f'{{{{ {word} eq .Role "{role}" }}}}{_literal(before)}{{{{ .Content }}}}{_literal(after)}'
    return text + "{{ end }}{{ end }}" + _literal(shape.begin_answer)


def _literal(text: str) -> str:
    """Text outside of actions; braces that Go would take for one are written as a string inside one."""
    return text.replace("{{", '{{ "{{" }}')


class Modelfile(Record):
    """What `ollama create` is told."""

    weights: str = "./model"
    """Folder of the (base or merged) weights."""
    adapter: str | None = None
    """Folder of the adapter."""
    template: str
    """Go template."""
    stops: tuple[str, ...]
    """Texts that end an answer."""
    context_length: int | None = None
    """Longest conversation in tokens."""
    licence: str | None = None
    """What the base's licence is called."""

    def text(self) -> str:
        """The file.

        Raises:
            TemplateProblem: a text holds what ends a text in a Modelfile.
        """
        if '"""' in self.template:
            raise _untold("it holds three quotation marks in a row")
        lines = ["# Made by the instruction-tuning workbench. `ollama create NAME -f Modelfile` takes it in."]
        lines.append(f"FROM {self.weights}")
        if self.adapter is not None:
            lines.append(f"ADAPTER {self.adapter}")
        lines.append(f'TEMPLATE """{self.template}"""')
        lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in self.stops]
        lines.append("PARAMETER temperature 0")
        if self.context_length is not None:
            lines.append(f"PARAMETER num_ctx {self.context_length}")
        if self.licence:
            lines.append(f'LICENSE """{self.licence}"""')
        return "\n".join(lines) + "\n"


def prefix_added(tokenizer_folder: Path, bos_token: str | None) -> str:
    """The token that Ollama will put before everything by itself, as the tokenizer asks for it; empty where none."""
    if not bos_token:
        return ""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    begun = tokenizer.encode("x", add_special_tokens=True).tokens
    config = tokenizer_folder / "tokenizer_config.json"
    asked = bool(config.is_file() and json.loads(config.read_text("utf-8")).get("add_bos_token"))
    return bos_token if asked or begun[:1] == [bos_token] else ""


def write_modelfile(folder: Path, modelfile: Modelfile) -> None:
    """Write the Modelfile into an export's folder.

    Raises:
        TemplateProblem: a text holds what ends a text in a Modelfile.
    """
    (folder / "Modelfile").write_text(modelfile.text(), encoding="utf-8")
