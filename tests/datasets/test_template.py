from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.datasets.template import PLAIN_TEMPLATE, ChatTemplate, load_template
from workbench.errors import TemplateProblem
from workbench.records import Message

HELLO = [Message(role="user", content="Hello")]


def test_a_template_file_goes_before_the_tokenizer_config(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "config", "bos_token": "<s>"}))
    assert load_template(tmp_path).apply(HELLO) == "config"
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}file")
    assert load_template(tmp_path).apply(HELLO) == "<s>file"


def test_of_several_named_templates_the_default_is_taken_and_tool_use_for_tools(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools {{ tools | length }}"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    template = load_template(tmp_path)
    assert template.apply(HELLO) == "plain"
    assert template.apply(HELLO, [{"type": "function"}]) == "tools 1"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": {"rag": "x"}}))
    with pytest.raises(TemplateProblem, match="none is called 'default'"):
        load_template(tmp_path)


def test_a_model_without_a_template_gets_the_plain_one(tmp_path: Path) -> None:
    template = load_template(tmp_path)
    assert template.is_plain and template.source == PLAIN_TEMPLATE
    assert template.apply(HELLO, add_generation_prompt=True) == "User: Hello\n\nAssistant:"


def test_special_tokens_are_read_in_both_forms(tmp_path: Path) -> None:
    config = {"eos_token": {"content": "</s>", "lstrip": False}, "bos_token": "<s>", "pad_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"unk_token": "<unk>", "bos_token": "old"}))
    assert load_template(tmp_path).special_tokens == {"eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"}


def test_a_mistake_in_a_template_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("fine\n{% if %}")
    with pytest.raises(TemplateProblem, match="line 2.*has a mistake"):
        load_template(tmp_path)


def test_a_broken_config_is_told_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(TemplateProblem, match="tokenizer_config.json"):
        load_template(tmp_path)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ raise_exception('Only tea.') }}", "Only tea."),
        ("{{ messages[3].content.x }}", "no element 3"),
        ("{{ 1 + 'a' }}", "unsupported operand"),
        ("{% for i in range(10 ** 30) %}{% endfor %}", "too many numbers"),
        ("{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}", "too many numbers"),
        ("{{ 'a' * 10 ** 12 }}", "repeats a text"),
        ("{{ 9 ** 9999999 }}", "to the power"),
        ("{% for i in range(90000) %}{{ 'a' * 1000 }}{% endfor %}", "writes more than"),
        ("{{ messages.append(1) }}", "not safely callable|unsafe"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% set ns = namespace(_x=1) %}", "may not use"),
    ],
)
def test_a_template_that_fails_or_runs_wild_is_stopped_in_words(source: str, words: str) -> None:
    with pytest.raises(TemplateProblem, match=words):
        ChatTemplate(source).apply(HELLO)


def test_json_keeps_its_characters_as_transformers_writes_them() -> None:
    template = ChatTemplate("{{ tools | tojson }}{{ tools | tojson(indent=1) }}")
    assert template.apply(HELLO, [{"ü": "<'&>"}]) == '[{"ü": "<\'&>"}]' + '[\n {\n  "ü": "<\'&>"\n }\n]'


def test_generation_marks_let_their_body_through_and_keep_its_variables_inside() -> None:
    template = ChatTemplate("{% set x = 1 %}{% generation %}{% set x = 2 %}[{{ x }}]{% endgeneration %}{{ x }}")
    assert template.apply(HELLO) == "[2]1"


def test_a_conversation_without_messages_is_refused() -> None:
    with pytest.raises(TemplateProblem, match="no message"):
        ChatTemplate("x").apply([])


def test_a_template_that_reads_parts_is_given_parts() -> None:
    parts = "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"
    assert ChatTemplate(parts).takes_parts and ChatTemplate(parts).apply(HELLO) == "Hello"
    assert not ChatTemplate("{{ messages[0].content }}").takes_parts


def test_rendering_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, workbench.datasets.checks, tokenizers; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'trl')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
