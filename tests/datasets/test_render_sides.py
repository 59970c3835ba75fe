"""Both sides of a preference with every template: ids and mask against ones found in an independent way.

The independent way uses transformers' tokenizer and the ids alone: the prompt is what `apply_chat_template` gives to be
answered; what follows is read token by token until the answer stands there whole, then up to the first id at which
generation stops. No offsets, spans or texts of the renderer are looked at.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import pytest
from chat_models import all_fixtures, make_chat_folder

from workbench.datasets.checks import check_rows
from workbench.datasets.inspecting import inspect_payload
from workbench.datasets.render import Rendered, Renderer, load_renderer
from workbench.records import Message, Preference, Row

FIXTURES = {fixture.name: fixture for fixture in all_fixtures()}
ONE = [{"role": "user", "content": "QUESTone: how are you?"}]
MORE = [
    *ONE,
    {"role": "assistant", "content": "ANSWERone: fine, naïve 你好"},
    {"role": "user", "content": "QUESTtwo: and tomorrow?"},
]
CHOSEN, REJECTED = "BETTER: forty two\nlines", "WORSE"
ENDLESS = ("glm4moe",)  # ends a turn by beginning the next: there is no end to learn
_scratch = tempfile.TemporaryDirectory()


@functools.cache
def folder_of(name: str) -> Path:
    fixture = FIXTURES[name]
    return make_chat_folder(Path(_scratch.name) / name, fixture.source, fixture.stops)


@functools.cache
def renderer_of(name: str) -> Renderer:
    return load_renderer(folder_of(name))


@functools.cache
def tokenizer_of(name: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(folder_of(name))


def prompt_as_asked(name: str, prompt: list[dict[str, str]]) -> list[int]:
    parts = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in prompt]
    given = parts if renderer_of(name).template.takes_parts else prompt
    return list(tokenizer_of(name).apply_chat_template(given, add_generation_prompt=True)["input_ids"])


def independent_mask(name: str, ids: tuple[int, ...], prompt: list[dict[str, str]], said: str) -> list[bool]:
    tokenizer, begins = tokenizer_of(name), len(prompt_as_asked(name, prompt))
    stops = {tokenizer.convert_tokens_to_ids(text) for text in FIXTURES[name].stops}
    end = begins
    while said not in tokenizer.decode(ids[begins:end], skip_special_tokens=False):
        end += 1
    if name not in ENDLESS:
        while ids[end - 1] not in stops:
            end += 1
    return [False] * begins + [True] * (end - begins) + [False] * (len(ids) - end)


def side(name: str, prompt: list[dict[str, str]], said: str, max_length: int | None = None) -> Rendered:
    answer = [{"role": "assistant", "content": said}]
    return renderer_of(name).render_prompt_completion(prompt, answer, None, max_length)


@pytest.mark.parametrize("name", FIXTURES)
@pytest.mark.parametrize("prompt", [ONE, MORE], ids=["one turn", "three turns"])
def test_each_side_learns_its_answer_to_its_end_after_the_prompt_as_it_will_be_asked(
    name: str, prompt: list[dict[str, str]]
) -> None:
    asked = prompt_as_asked(name, prompt)
    sides = [side(name, prompt, said) for said in (CHOSEN, REJECTED)]
    for one, said in zip(sides, (CHOSEN, REJECTED), strict=True):
        assert list(one.ids[: len(asked)]) == asked
        assert list(one.mask) == independent_mask(name, one.ids, prompt, said)
        assert [label for label in one.labels if label != -100] == [
            number for number, learned in zip(one.ids, one.mask, strict=True) if learned
        ]
    assert sides[0].ids != sides[1].ids


@pytest.mark.parametrize("name", FIXTURES)
def test_a_side_is_the_row_of_the_same_conversation(name: str) -> None:
    (row,) = renderer_of(name).render([*ONE, {"role": "assistant", "content": CHOSEN}])
    assert (row.ids, row.mask) == (side(name, ONE, CHOSEN).ids, side(name, ONE, CHOSEN).mask)


@pytest.mark.parametrize("name", FIXTURES)
def test_a_cut_side_keeps_its_prompt_and_loses_its_end(name: str) -> None:
    whole, asked = side(name, ONE, CHOSEN), prompt_as_asked(name, ONE)
    cut = side(name, ONE, CHOSEN, len(asked) + 3)
    assert cut.ids == whole.ids[: len(asked) + 3] and list(cut.mask) == [False] * len(asked) + [True] * 3
    assert side(name, ONE, CHOSEN, len(asked)).supervised == 0


@pytest.mark.parametrize("name", FIXTURES)
def test_the_checks_and_the_inspector_agree_with_every_template(name: str) -> None:
    sides = [(Message(role="assistant", content=said),) for said in (CHOSEN, REJECTED)]
    payload = Preference(prompt=(Message(role="user", content="QUEST?"),), chosen=sides[0], rejected=sides[1])
    report = check_rows([Row(row_id="r", row_hash="r", payload=payload)], renderer_of(name))
    expected = {"end_of_turn_outside_loss"} if name in ENDLESS else set()
    assert {finding.gate for finding in report.findings} == expected
    chosen, rejected = inspect_payload(payload, renderer_of(name))
    assert (chosen.title, rejected.title) == ("Chosen", "Rejected")
    assert chosen.tokens + rejected.tokens == report.tokens
    assert chosen.supervised + rejected.supervised == report.supervised
