"""Chat templates: messages in, the text a model was taught to read out.

Set up as transformers sets them up (`transformers/utils/chat_template_utils.py`), so that the text is the same, without
importing transformers, which would pull torch into the page process. Templates come with models and are programs of
strangers: they run in jinja2's immutable sandbox, under limits on loops, repetition and output. Nothing here knows
about tokens; `workbench.datasets.render` does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
from pydantic import JsonValue

from workbench.errors import TemplateProblem
from workbench.records import Message

PLAIN_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{{- 'Assistant: ' + message['content'] + (eos_token or '') + '\\n\\n' -}}"
    "{%- elif message['role'] == 'system' -%}"
    "{{- message['content'] + '\\n\\n' -}}"
    "{%- elif message['role'] == 'tool' -%}"
    "{{- 'Tool: ' + message['content'] + '\\n\\n' -}}"
    "{%- else -%}"
    "{{- 'User: ' + message['content'] + '\\n\\n' -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- 'Assistant:' -}}{%- endif -%}"
)
"""The template of a model that has none. It needs no token the model does not have: an answer ends with the
end-of-text token. The generation prompt has no space at its end because in most vocabularies the space is part of the
answer's first token."""

MAX_OUTPUT = 20_000_000
"""Characters a template may write for one conversation."""
MAX_STEPS = 1_000_000
"""Numbers that `range` may yield in one rendering, all calls together."""

SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_REMEDY = "Open the chat template on the model's page, or choose a model whose template accepts this conversation."

Turn = Message | Mapping[str, Any]
"""A message as a record or as a dict of the OpenAI form."""


class _Generation(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}`: marks answers in some templates; here it only lets its body through.

    The body is a call block as in transformers, so that a variable set inside it stays inside.
    """

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """Turn the tag into a call block."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_through"), [], [], body).set_lineno(line)

    def _through(self, caller: Callable[[], str]) -> str:
        return caller()


class _Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The sandbox of transformers with one more fence: no repetition or power that fills the memory."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        """Refuse `'x' * 10**9` and `9 ** 9 ** 9`; everything else as usual."""
        if operator == "*":
            for text, times in ((left, right), (right, left)):
                if isinstance(text, (str, list, tuple)) and isinstance(times, int) and len(text) * times > MAX_OUTPUT:
                    raise jinja2.TemplateRuntimeError(f"repeats a text {times} times")
        elif isinstance(right, (int, float)) and abs(right) > 1000:
            raise jinja2.TemplateRuntimeError(f"raises a number to the power {right}")
        return super().call_binop(context, operator, left, right)


class _TemplateDict:
    """`dict(…)` and `dict.fromkeys(…)` for templates, without the type behind them."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args, **kwargs)


class _TemplateNamespace(jinja2.utils.Namespace):
    """`namespace(…)` that refuses underscore names, which could reach the interpreter."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # noqa: N805 - so that `namespace(self=…)` works, as in jinja2
        self, rest = args[0], args[1:]
        values = dict(*rest, **kwargs)
        for name in values:
            _refuse_underscore(name)
        jinja2.utils.Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_underscore(name)
        super().__setitem__(name, value)


def _refuse_underscore(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"sets the name {name!r}, which templates may not use")


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja2's own filter escapes HTML characters, which models were not taught.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _environment() -> jinja2.Environment:
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["dict"] = _TemplateDict()
    environment.globals["namespace"] = _TemplateNamespace
    return environment


@lru_cache(maxsize=64)
def _compile(source: str) -> jinja2.Template:
    try:
        return _environment().from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateProblem(
            f"The chat template has a mistake: {error.message}", place=f"line {error.lineno}", remedy=_REMEDY
        ) from error
    except (jinja2.TemplateError, RecursionError, ValueError, TypeError) as error:
        raise TemplateProblem(f"The chat template cannot be read: {error}", remedy=_REMEDY) from error


class _Range:
    """`range` with one budget for a whole rendering, so that nested loops end too."""

    def __init__(self) -> None:
        self._left = MAX_STEPS

    def __call__(self, *bounds: int) -> range:
        numbers = range(*bounds)
        # Taken by the bounds, not len(): len() of a huge range overflows with a message nobody understands.
        steps = max(0, -(-(numbers.stop - numbers.start) // numbers.step))
        self._left -= steps
        if steps > jinja2.sandbox.MAX_RANGE or self._left < 0:
            raise jinja2.TemplateRuntimeError("loops over too many numbers")
        return numbers


@dataclass(frozen=True)
class ChatTemplate:
    """A model's chat template, ready to apply."""

    source: str
    """The jinja source."""
    is_plain: bool = False
    """Whether the model has none and `PLAIN_TEMPLATE` stands in."""
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    """`bos_token`, `eos_token`, … as the template sees them."""
    tool_source: str | None = None
    """Another source for conversations that offer tools, where the model has one."""

    def apply(
        self,
        messages: Sequence[Turn],
        tools: Sequence[JsonValue] | None = None,
        add_generation_prompt: bool = False,
    ) -> str:
        """The conversation as the model reads it.

        Args:
            messages: one turn or more.
            tools: tool definitions in the OpenAI form.
            add_generation_prompt: end with what opens an answer.

        Raises:
            TemplateProblem: the template is broken or refuses these messages, in its own words.
        """
        if not messages:
            raise TemplateProblem("There is no message to render", remedy="Begin with a user or system message.")
        turns = [as_dict(message) for message in messages]
        if self.takes_parts:
            turns = [_in_parts(turn) for turn in turns]
        source = self.tool_source if tools is not None and self.tool_source else self.source
        return self._write(source, turns, None if tools is None else list(tools), add_generation_prompt)

    @cached_property
    def takes_parts(self) -> bool:
        """Whether the template reads a message's text only as a list of parts, as those of some vision models do.

        Given plain text such a template fails or, worse, silently leaves the text out; so it is tried once.
        """
        mark = "\ue0f1\ue0f2"
        turn = {"role": "user", "content": mark}
        try:
            return mark not in self._write(self.source, [turn]) and mark in self._write(self.source, [_in_parts(turn)])
        except TemplateProblem:
            try:
                return mark in self._write(self.source, [_in_parts(turn)])
            except TemplateProblem:
                return False

    def _write(
        self,
        source: str,
        turns: list[dict[str, Any]],
        tools: list[JsonValue] | None = None,
        add_generation_prompt: bool = False,
    ) -> str:
        template = _compile(source)
        written, pieces = 0, []
        try:
            for piece in template.generate(
                messages=turns,
                tools=tools,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                range=_Range(),
                **self.special_tokens,
            ):
                written += len(piece)
                if written > MAX_OUTPUT:
                    raise jinja2.TemplateRuntimeError(f"writes more than {MAX_OUTPUT:,} characters")
                pieces.append(piece)
        except Exception as error:  # a template is a stranger's program: it can fail in any way
            raise TemplateProblem(
                f"The chat template does not accept this conversation: {error or type(error).__name__}",
                value=" → ".join(str(turn.get("role")) for turn in turns[:12]),
                remedy=_REMEDY,
            ) from error
        return "".join(pieces)


def _in_parts(turn: dict[str, Any]) -> dict[str, Any]:
    content = turn.get("content")
    return {**turn, "content": [{"type": "text", "text": content}]} if isinstance(content, str) else turn


def as_dict(message: Turn) -> dict[str, Any]:
    """A message as templates expect it: absent fields left out, not None."""
    if isinstance(message, Message):
        return message.as_dict()
    return {key: value for key, value in message.items() if value is not None}


def read_json(path: Path) -> dict[str, Any]:
    """A model's JSON file, `{}` where it is absent.

    Raises:
        TemplateProblem: the file is there but is no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, OSError) as error:
        raise TemplateProblem(
            f"Cannot be read: {error}", place=str(path), remedy="Download the model's files again."
        ) from error
    if not isinstance(content, dict):
        raise TemplateProblem("Is not a JSON object", place=str(path), remedy="Download the model's files again.")
    return content


def load_template(folder: str | Path) -> ChatTemplate:
    """The chat template of a model folder, or the plain one where it has none.

    `chat_template.jinja` and `chat_templates/*.jinja` go before `chat_template` in `tokenizer_config.json`, as in
    transformers. The source is compiled here, so that a mistake in it shows when a model is added.

    Raises:
        TemplateProblem: a file cannot be read, a template has a mistake, or there are several and none is "default".
    """
    folder = Path(folder)
    config = read_json(folder / "tokenizer_config.json")
    special = _special_tokens({**read_json(folder / "special_tokens_map.json"), **config})
    sources = _sources(folder, config)
    if not sources:
        return ChatTemplate(PLAIN_TEMPLATE, is_plain=True, special_tokens=special)
    if "default" not in sources:
        raise TemplateProblem(
            "The model has several chat templates and none is called 'default'",
            place=str(folder),
            value=sorted(sources),
            remedy="Save the one to use as chat_template.jinja in the model's folder.",
        )
    for source in sources.values():
        _compile(source)
    return ChatTemplate(sources["default"], special_tokens=special, tool_source=sources.get("tool_use"))


def _sources(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Every template of a folder by name."""
    files = {path.stem: path for path in sorted((folder / "chat_templates").glob("*.jinja"))}
    if (folder / "chat_template.jinja").is_file():
        files["default"] = folder / "chat_template.jinja"
    if files:
        try:
            return {name: path.read_text(encoding="utf-8") for name, path in files.items()}
        except (OSError, UnicodeDecodeError) as error:
            raise TemplateProblem(f"Cannot be read: {error}", place=str(folder)) from error
    found = config.get("chat_template")
    if isinstance(found, str):
        return {"default": found}
    if isinstance(found, Mapping):
        return {str(name): str(source) for name, source in found.items()}
    if isinstance(found, list):
        return {str(one["name"]): str(one["template"]) for one in found if isinstance(one, Mapping) and "name" in one}
    return {}


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """The named special tokens that are set; older files write them as objects with a `content`."""
    tokens = {}
    for name in SPECIAL_TOKENS:
        value = config.get(name)
        if isinstance(value, Mapping):
            value = value.get("content")
        if isinstance(value, str):
            tokens[name] = value
    return tokens
