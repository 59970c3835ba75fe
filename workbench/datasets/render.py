"""The one render: messages and a chat template in, token ids and the supervised mask out.

Trainers, the inspector, the forecast and the local engine all ask here, so what is shown is what is trained and what is
asked. Loss falls on answers only: every assistant turn, up to and with the token that ends it, and nothing after it.

Template parity is kept by construction: the ids before a supervised turn are those of `prompt_ids(messages[:turn])`.
A conversation is one row where the template and the tokenizer keep the prefix from turn to turn, and one row per
assistant turn where they do not; `Rendered.note` then says why. `workbench.datasets.template` writes the text,
`workbench.datasets.checks` judges whole datasets. Neither torch nor transformers is imported.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from workbench.datasets.template import ChatTemplate, Turn, as_dict, load_template, read_json
from workbench.errors import ModelProblem, TemplateProblem

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

IGNORED = -100
"""Label of a token that is read but not learned."""

_MARK = "\ue0f7\ue0f8\ue0f7"
_VISIBLE = str.maketrans({" ": "·", "\n": "↵\n", "\t": "→", "\r": "␍", "\u00a0": "⍽"})
_Offsets = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Span:
    """The supervised tokens of one assistant turn."""

    turn: int
    """Index of the message."""
    start: int
    """First supervised token."""
    end: int
    """One past the last supervised token."""
    stops: bool
    """Whether the last one is a token that stops generation."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """One training row."""

    ids: tuple[int, ...]
    """Token ids."""
    mask: tuple[bool, ...]
    """Which of them are learned."""
    spans: tuple[Span, ...]
    """The supervised turns, in order."""
    text: str
    """The text the ids stand for."""
    ends: tuple[int, ...]
    """Where each token ends in `text`, in characters."""
    note: str = ""
    """Why the conversation is not one plain row, in words; empty where it is."""
    truncated: int = 0
    """Tokens cut off at the right."""
    cut_turns: tuple[int, ...] = ()
    """Assistant turns that lost tokens to the cut."""

    @property
    def turns(self) -> tuple[int, ...]:
        """Indices of the messages that are learned, wholly or in part."""
        return tuple(span.turn for span in self.spans)

    @property
    def labels(self) -> list[int]:
        """The ids where learned, −100 elsewhere."""
        return [token if learned else IGNORED for token, learned in zip(self.ids, self.mask, strict=True)]

    @property
    def supervised(self) -> int:
        """Number of learned tokens."""
        return sum(self.mask)


@dataclass(frozen=True, slots=True)
class Chip:
    """One token as the inspector shows it."""

    id: int
    """Token id."""
    text: str
    """Its part of the text; a row's chips joined are its text. A character of several tokens is in the first one."""
    shown: str
    """The same with whitespace made visible, never empty."""
    supervised: bool
    """Whether it is learned."""
    special: bool
    """Whether it is a special token."""
    turn: int | None
    """The assistant turn it belongs to, where it is learned."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """An assistant turn with the texts around it."""

    turn: int
    message: Mapping[str, Any]
    prompt: str
    prompt_ids: list[int]
    upto: str


class Renderer:
    """A model's tokenizer and chat template as one function. `load_renderer` builds it.

    Args:
        tokenizer: of the `tokenizers` library; padding and truncation are turned off on it.
        template: the model's chat template.
        stop_ids: ids at which generation stops.
    """

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate, stop_ids: Sequence[int]) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokenizer = tokenizer
        self.template = template
        self.stop_ids = frozenset(stop_ids)
        added = tokenizer.get_added_tokens_decoder()
        self.special_ids = frozenset(number for number, token in added.items() if token.special)
        self.control_tokens = tuple(sorted((t.content for t in added.values() if t.special), key=len, reverse=True))
        bos = template.special_tokens.get("bos_token")
        self.bos_id: int | None = tokenizer.token_to_id(bos) if bos else None
        # Some tokenizers put a space before any text they are given; see _encode_on.
        self._prepends = tokenizer.encode("x", add_special_tokens=False).tokens[:1] != ["x"]

    def encode(self, text: str) -> list[int]:
        """Token ids of finished text; special tokens written in it are read as such, none is added."""
        return list(self._encode(text).ids)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of token ids."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def prompt_text(self, messages: Sequence[Turn], tools: Sequence[JsonValue] | None = None) -> str:
        """What the model reads before it answers `messages`."""
        return self.template.apply(messages, tools, add_generation_prompt=True)

    def prompt_ids(self, messages: Sequence[Turn], tools: Sequence[JsonValue] | None = None) -> list[int]:
        """Token ids of what the model reads before it answers: `apply_chat_template(…, add_generation_prompt=True)`.

        Args:
            messages: the conversation to answer.
            tools: tool definitions in the OpenAI form.

        Raises:
            TemplateProblem: the template refuses the messages.
        """
        return self.encode(self.prompt_text(messages, tools))

    def render(
        self, messages: Sequence[Turn], tools: Sequence[JsonValue] | None = None, max_length: int | None = None
    ) -> list[Rendered]:
        """The training rows of a conversation: one, or one per assistant turn where the template forces it.

        Args:
            messages: a conversation; every assistant turn that follows another message is learned.
            tools: tool definitions in the OpenAI form.
            max_length: longest row in tokens, cut at the right; None leaves rows whole.

        Raises:
            TemplateProblem: the template refuses the messages, or leaves the answers out.
        """
        turns = [index for index, message in enumerate(messages) if as_dict(message)["role"] == "assistant"]
        return [_cut(row, max_length) for row in self._rows([as_dict(m) for m in messages], turns, tools)]

    def render_prompt_completion(
        self,
        prompt: Sequence[Turn],
        completion: Sequence[Turn],
        tools: Sequence[JsonValue] | None = None,
        max_length: int | None = None,
    ) -> Rendered:
        """One row in which only the completion is learned, for preference methods.

        Args:
            prompt: the conversation up to the answer.
            completion: the answer; usually one assistant turn.
            tools: tool definitions in the OpenAI form.
            max_length: longest row in tokens, cut at the right.

        Raises:
            TemplateProblem: the completion has no answer, or its turns do not fit one row with this template.
        """
        messages = [as_dict(message) for message in (*prompt, *completion)]
        turns = [i for i in range(len(prompt), len(messages)) if messages[i]["role"] == "assistant"]
        if not prompt or not turns:
            raise TemplateProblem(
                "A preference needs a prompt and an assistant's answer",
                value=[m["role"] for m in messages],
                remedy="Fill both or drop the row.",
            )
        rows = self._rows(messages, turns, tools)
        if len(rows) > 1:
            raise TemplateProblem(
                f"The answer has {len(turns)} assistant turns, which do not fit one row. {rows[0].note}",
                remedy="Keep one assistant turn per answer, or use a model whose chat template keeps earlier turns.",
            )
        return _cut(rows[0], max_length)

    def inspect(
        self, messages: Sequence[Turn], tools: Sequence[JsonValue] | None = None, max_length: int | None = None
    ) -> list[list[Chip]]:
        """Every training row of a conversation as chips, for the eye. Arguments and errors as `render`."""
        return [self.chips(row) for row in self.render(messages, tools, max_length)]

    def chips(self, row: Rendered) -> list[Chip]:
        """A rendered row as chips."""
        turn_of = {position: span.turn for span in row.spans for position in range(span.start, span.end)}
        chips, at = [], 0
        for position, (token, end) in enumerate(zip(row.ids, row.ends, strict=True)):
            end = len(row.text) if position == len(row.ids) - 1 else max(at, end)
            text, at = row.text[at:end], end
            special = token in self.special_ids
            shown = text if special else text.translate(_VISIBLE)
            chips.append(Chip(token, text, shown or "⋯", row.mask[position], special, turn_of.get(position)))
        return chips

    def _rows(
        self, messages: list[dict[str, Any]], turns: Sequence[int], tools: Sequence[JsonValue] | None
    ) -> list[Rendered]:
        full = self.template.apply(messages, tools)
        answers = [self._answer(messages, turn, full, tools) for turn in turns if turn > 0]
        encoding = self._encode(full)
        ids, offsets = list(encoding.ids), list(encoding.offsets)
        note = "" if answers else "No assistant turn answers anything, so nothing is learned."
        if 0 in turns and answers:
            note = "The first message is an assistant turn: it answers nothing and is not learned."
        spans = []
        for answer in answers:
            span, apart = self._in_whole(ids, offsets, full, answer)
            if span is None:
                return [self._alone(one, messages, tools, apart, note) for one in answers]
            spans.append(span)
        return [_row(ids, offsets, full, spans, note)]

    def _answer(
        self, messages: list[dict[str, Any]], turn: int, full: str, tools: Sequence[JsonValue] | None
    ) -> _Answer:
        prompt = self.prompt_text(messages[:turn], tools)
        upto = full if turn == len(messages) - 1 else self.template.apply(messages[: turn + 1], tools)
        return _Answer(turn, messages[turn], prompt, self.encode(prompt), upto)

    def _in_whole(self, ids: list[int], offsets: _Offsets, full: str, answer: _Answer) -> tuple[Span | None, str]:
        """An answer's tokens in the row of the whole conversation; None and why, where it cannot be learned there."""
        place = f"turn {answer.turn + 1}"
        start, begins = len(answer.prompt_ids), len(answer.prompt)
        ends = len(answer.upto) if full.startswith(answer.upto) else len(os.path.commonprefix([full, answer.upto]))
        span = None
        if not answer.upto.startswith(answer.prompt):
            why = "The template closes an answer differently from how it opens one"
        elif not full.startswith(answer.prompt):
            why = "The template rewrites earlier turns as the conversation goes on"
        elif ids[:start] != answer.prompt_ids:
            why = "The first tokens of the answer would merge with its prompt"
        else:
            why = "The template rewrites an answer as the conversation goes on"
            span = self._span(ids, offsets, full, answer, start, begins, ends)
            # What follows the stop token may differ from the answer's own form: it is not learned.
            if span is not None and not span.stops and ends < len(answer.upto):
                span = None
        return span, f"{why} ({place}): one row per answer."

    def _alone(
        self, answer: _Answer, messages: list[dict[str, Any]], tools: Sequence[JsonValue] | None, apart: str, note: str
    ) -> Rendered:
        """The row of one assistant turn: its prompt exactly as it will be asked, then the answer."""
        prompt, prompt_ids = answer.prompt, answer.prompt_ids
        if answer.upto.startswith(prompt):
            said = answer.upto[len(prompt) :]
        else:
            said, apart = self._bridge(answer, messages, tools)
        text = prompt + said
        encoding = self._encode(text)
        ids, offsets = list(encoding.ids), list(encoding.offsets)
        if ids[: len(prompt_ids)] != prompt_ids:
            more = self._encode_on(said)
            ids = prompt_ids + [token for token, _, _ in more]
            head = list(self._encode(prompt).offsets)
            offsets = head + [(start + len(prompt), end + len(prompt)) for _, start, end in more]
        span = self._span(ids, offsets, text, answer, len(prompt_ids), len(prompt), len(text))
        if span is None:
            raise _left_out(answer.turn)
        return _row(ids, offsets, text, [span], f"{apart} {note}".strip())

    def _bridge(
        self, answer: _Answer, messages: list[dict[str, Any]], tools: Sequence[JsonValue] | None
    ) -> tuple[str, str]:
        """The answer's text where the finished conversation does not begin with its own prompt, and why it does not."""
        before = messages[: answer.turn]
        marked = self.template.apply([*before, {**answer.message, "content": _MARK}], tools)
        at = marked.find(_MARK)
        if at < 0:
            raise _left_out(answer.turn)
        shared = os.path.commonprefix([answer.prompt, marked[:at]])
        if shared.rfind("<") > shared.rfind(">"):  # two different tags begin alike: <think> and </think>
            shared = shared[: shared.rfind("<")]
        base = self.template.apply(before, tools)
        if answer.prompt.startswith(base) and len(shared) >= len(base) and answer.upto.startswith(shared):
            extra = answer.prompt[len(shared) :]
            return answer.upto[len(shared) :], (
                f"The generation prompt ends with {extra!r}, which finished turns leave out: "
                "each answer is a row of its own and is learned after that text, as it will be asked."
            )
        if answer.upto.startswith(marked[:at]):
            return answer.upto[at:], (
                "The template writes earlier turns differently once an answer follows: "
                "each answer is a row of its own, after the prompt as it will be asked."
            )
        raise TemplateProblem(
            "The chat template rewrites the conversation around this answer, so no row can begin as it will be asked",
            place=f"turn {answer.turn + 1}",
            remedy="Use a model with a simpler chat template, or remove control text such as <think> from the answer.",
        )

    def _span(
        self, ids: list[int], offsets: _Offsets, text: str, answer: _Answer, start: int, begins: int, ends: int
    ) -> Span | None:
        """Where the answer ends: at the first stop token after what the assistant says; None where that is not there.

        Args:
            ids: of the row.
            offsets: of the row, in characters of `text`.
            text: of the row.
            answer: the turn.
            start: the answer's first token.
            begins: the answer's first character.
            ends: one past the turn's last character, which may lie after the stop token.
        """
        limit = max(start, bisect_left(offsets, ends, key=lambda pair: pair[0]))
        said: int | None
        if answer.message.get("tool_calls"):
            said = self._calls_end(ids, offsets, text, start, limit)
        else:
            said = _said_end(str(answer.message.get("content", "")), text, begins, ends)
        if said is None:
            return None
        for position in range(start, limit):
            if ids[position] in self.stop_ids and offsets[position][1] > said:
                return Span(answer.turn, start, position + 1, True)
        # No stop token: leave out the whitespace that only separates turns, but keep the turn's closing token.
        end = limit
        while end > start and ids[end - 1] not in self.special_ids and offsets[end - 1][0] >= said:
            if not text[slice(*offsets[end - 1])].isspace():
                break
            end -= 1
        return Span(answer.turn, start, end, False)

    def _calls_end(self, ids: list[int], offsets: _Offsets, text: str, start: int, limit: int) -> int:
        """The character at which tool calls end: templates write them their own way, only what closes is known."""
        end = limit
        while end > start and (ids[end - 1] in self.special_ids or text[slice(*offsets[end - 1])].isspace()):
            end -= 1
        return offsets[end][0] if end < len(offsets) else len(text)

    def _encode(self, text: str) -> Encoding:
        try:
            return self.tokenizer.encode(text, add_special_tokens=False)
        except (TypeError, UnicodeError) as error:
            raise TemplateProblem(
                "The conversation holds characters that are not valid Unicode",
                remedy="Import the file again with the right encoding, or correct the row.",
            ) from error

    def _encode_on(self, text: str) -> list[tuple[int, int, int]]:
        """Id, start and end of the tokens of text that continues another.

        A tokenizer that puts a space before any text is given a line break first, which is then dropped.
        """
        if self._prepends:
            first = self.encode("\n")
            encoding = self._encode("\n" + text)
            if encoding.ids[: len(first)] == first:
                pairs = zip(encoding.ids[len(first) :], encoding.offsets[len(first) :], strict=True)
                return [(token, start - 1, end - 1) for token, (start, end) in pairs]
        encoding = self._encode(text)
        return [(token, start, end) for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)]


def _said_end(content: str, text: str, begins: int, ends: int) -> int | None:
    """The character at which the assistant's own words end between two others; None where they are not there."""
    for form in (content, content.strip()):
        found = text.find(form, begins, ends)
        if found >= 0:
            return found + len(form)
    # Templates may rewrite an answer's thinking; its last word must be there all the same.
    return begins if text.find(content.split()[-1], begins, ends) >= 0 else None


def _left_out(turn: int) -> TemplateProblem:
    return TemplateProblem(
        "The chat template leaves out what the assistant says",
        place=f"turn {turn + 1}",
        remedy="Correct the row, or use a model whose chat template writes such turns.",
    )


def _row(ids: list[int], offsets: _Offsets, text: str, spans: Sequence[Span], note: str) -> Rendered:
    mask = [False] * len(ids)
    for span in spans:
        mask[span.start : span.end] = [True] * (span.end - span.start)
    kept = tuple(span for span in spans if span.end > span.start)
    return Rendered(tuple(ids), tuple(mask), kept, text, tuple([end for _, end in offsets]), note)


def _cut(row: Rendered, max_length: int | None) -> Rendered:
    """The row cut at the right to `max_length` tokens."""
    if max_length is None or len(row.ids) <= max_length:
        return row
    spans = tuple(
        span if span.end <= max_length else replace(span, end=max_length, stops=False)
        for span in row.spans
        if span.start < max_length
    )
    return Rendered(
        ids=row.ids[:max_length],
        mask=row.mask[:max_length],
        spans=spans,
        text=row.text[: row.ends[max_length - 1]] if max_length else "",
        ends=row.ends[:max_length],
        note=row.note,
        truncated=len(row.ids) - max_length,
        cut_turns=tuple(span.turn for span in row.spans if span.end > max_length),
    )


def load_renderer(folder: str | Path) -> Renderer:
    """The renderer of a model folder.

    Reads `tokenizer.json`, the chat template, and the stop ids: `eos_token_id` of `generation_config.json` and
    `config.json`, and the tokenizer's `eos_token`.

    Raises:
        ModelProblem: there is no readable `tokenizer.json`.
        TemplateProblem: the template is broken.
    """
    from tokenizers import Tokenizer

    folder = Path(folder)
    path = folder / "tokenizer.json"
    if not folder.is_dir():
        raise ModelProblem("the model's folder is gone", value=str(folder), remedy="Put it back, or add it again.")
    if not path.is_file():
        raise ModelProblem(
            "the model has no tokenizer.json",
            place=str(folder),
            remedy="Add the model again: adding converts its tokenizer.",
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for any malformed file
        raise ModelProblem(
            f"tokenizer.json cannot be read: {error}", place=str(folder), remedy="Add the model again."
        ) from error
    template = load_template(folder)
    eos = template.special_tokens.get("eos_token")
    stops = [tokenizer.token_to_id(eos)] if eos else []
    for name in ("generation_config.json", "config.json"):
        config = read_json(folder / name)
        found = config.get("eos_token_id", (config.get("text_config") or {}).get("eos_token_id"))
        stops += found if isinstance(found, list) else [found]
    known = [stop for stop in stops if isinstance(stop, int) and tokenizer.id_to_token(stop) is not None]
    if template.is_plain and not eos and known:
        # The plain template closes answers with the end-of-text token, whichever file names it.
        special = {**template.special_tokens, "eos_token": str(tokenizer.id_to_token(known[0]))}
        template = replace(template, special_tokens=special)
    return Renderer(tokenizer, template, known)
