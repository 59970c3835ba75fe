from __future__ import annotations

import functools
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from chat_models import BOS, EOS, all_fixtures, make_chat_folder
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from workbench.datasets.render import Rendered, Renderer, load_renderer
from workbench.datasets.template import PLAIN_TEMPLATE
from workbench.errors import ModelProblem, TemplateProblem
from workbench.records import Message

FIXTURES = {fixture.name: fixture for fixture in all_fixtures()}
CHAT = [
    {"role": "user", "content": "QUESTone: how are you?"},
    {"role": "assistant", "content": "ANSWERone: fine, naïve 你好 🙂"},
    {"role": "user", "content": "QUESTtwo: and tomorrow?"},
    {"role": "assistant", "content": "ANSWERtwo: forty two\nlines"},
]
PLAIN_CHAT = [{**turn, "content": turn["content"].encode("ascii", "ignore").decode()} for turn in CHAT]
# What templates write of their own accord between the generation prompt and the answer.
SCAFFOLD = re.compile(r"\s*(<think>)?\s*(</think>)?\s*( to=user<\|message\|>|<\|channel\|>final<\|message\|>)?")


@functools.cache
def folder_of(name: str) -> Path:
    fixture = FIXTURES[name]
    return make_chat_folder(Path(_scratch.name) / name, fixture.source, fixture.stops)


_scratch = tempfile.TemporaryDirectory()


@functools.cache
def renderer_of(name: str) -> Renderer:
    return load_renderer(folder_of(name))


@functools.cache
def hugging_face_tokenizer(name: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(folder_of(name))


def learned_texts(row: Rendered) -> list[str]:
    """The text of each run of learned tokens, read off the mask and the offsets, not off the spans."""
    runs, start = [], None
    for position, learned in enumerate([*row.mask, False]):
        if learned and start is None:
            start = position
        if not learned and start is not None:
            runs.append(row.text[row.ends[start - 1] if start else 0 : row.ends[position - 1]])
            start = None
    return runs


def as_parts(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]


@pytest.mark.parametrize("name", FIXTURES)
def test_text_and_prompt_tokens_equal_those_of_transformers(name: str) -> None:
    renderer, theirs = renderer_of(name), hugging_face_tokenizer(name)
    for upto in (1, 3):
        given_chat = as_parts(CHAT[:upto]) if renderer.template.takes_parts else CHAT[:upto]
        expected = theirs.apply_chat_template(given_chat, add_generation_prompt=True)
        assert renderer.prompt_ids(CHAT[:upto]) == expected["input_ids"]
    given_chat = as_parts(CHAT) if renderer.template.takes_parts else CHAT
    assert renderer.template.apply(CHAT) == theirs.apply_chat_template(given_chat, tokenize=False)


@pytest.mark.parametrize("name", FIXTURES)
def test_every_answer_and_its_end_is_learned_and_nothing_else(name: str) -> None:
    fixture, renderer = FIXTURES[name], renderer_of(name)
    rows = renderer.render(CHAT)
    learned = [text for row in rows for text in learned_texts(row)]
    assert len(rows) == 1 or all(row.note for row in rows)
    assert len(learned) == 2
    for said, text in zip((CHAT[1]["content"], CHAT[3]["content"]), learned, strict=True):
        lead, tail = text.split(said)
        assert SCAFFOLD.fullmatch(lead), lead
        if name == "glm4moe":  # this one ends a turn by beginning the next: there is no end to learn
            assert tail == ""
        elif name.startswith("cohere2"):
            assert tail == "<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"
        else:
            assert tail in fixture.stops


@pytest.mark.parametrize("name", FIXTURES)
def test_each_answer_follows_exactly_the_prompt_as_it_will_be_asked(name: str) -> None:
    theirs, renderer = hugging_face_tokenizer(name), renderer_of(name)
    chat = as_parts(CHAT) if renderer.template.takes_parts else CHAT
    for row in renderer.render(CHAT):
        for span in row.spans:
            prompt = theirs.apply_chat_template(chat[: span.turn], add_generation_prompt=True)["input_ids"]
            assert list(row.ids[: span.start]) == prompt


@pytest.mark.parametrize("name", [n for n, f in FIXTURES.items() if re.search(r"{%-?\s*generation\s*-?%}", f.source)])
def test_the_mask_agrees_with_templates_that_mark_their_answers(name: str) -> None:
    """Marks may take in what the model does not write (the turn's opening, a line break after its end), never less."""
    theirs, renderer = hugging_face_tokenizer(name), renderer_of(name)
    rows = renderer.render(PLAIN_CHAT)
    chat = as_parts(PLAIN_CHAT) if renderer.template.takes_parts else PLAIN_CHAT
    marked = theirs.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
    marks = [number for number, mark in zip(marked["input_ids"], marked["assistant_masks"], strict=True) if mark]
    if len(rows) == 1:
        assert list(rows[0].ids) == marked["input_ids"]
        for ours, mark in zip(rows[0].mask, marked["assistant_masks"], strict=True):
            assert mark or not ours
        beyond = [
            number
            for number, ours, mark in zip(rows[0].ids, rows[0].mask, marked["assistant_masks"], strict=True)
            if mark and not ours
        ]
    else:
        # One row per answer: the last one learns what the template marks last, as far as its opening is the same.
        ours = [number for number, learned in zip(rows[-1].ids, rows[-1].mask, strict=True) if learned]
        said = theirs.encode(PLAIN_CHAT[-1]["content"], add_special_tokens=False)
        assert any(ours[i : i + len(said)] == said for i in range(len(ours)))
        tail = theirs.decode(marks).rstrip()
        assert tail.endswith(re.sub(r"^\s*</think>", "", theirs.decode(ours)))
        return
    assert set(re.findall(r"<\|?[^<>]+>|\w+", theirs.decode(beyond))) <= {
        "<think>", "</think>", "<|start|>", "assistant", EOS
    }  # fmt: skip


def test_a_model_without_a_template_is_taught_with_plain_words_and_no_new_token(tmp_path: Path) -> None:
    renderer = load_renderer(make_chat_folder(tmp_path, None))
    assert renderer.template.is_plain and renderer.template.source == PLAIN_TEMPLATE
    (row,) = renderer.render([{"role": "system", "content": "Be brief."}, *CHAT])
    assert row.text.startswith("Be brief.\n\nUser: QUESTone: how are you?\n\nAssistant: ANSWERone")
    assert learned_texts(row) == [f" {CHAT[1]['content']}{EOS}", f" {CHAT[3]['content']}{EOS}"]
    assert all(span.stops for span in row.spans)


def test_the_plain_template_finds_its_end_in_the_model_s_config(tmp_path: Path) -> None:
    folder = make_chat_folder(tmp_path, None, eos_token=None)
    renderer = load_renderer(folder)
    assert learned_texts(renderer.render(CHAT[:2])[0])[0].endswith(EOS)


def test_smollm2_gets_its_default_system_message() -> None:
    (row,) = renderer_of("own_smollm2").render(CHAT[:2])
    assert row.text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert learned_texts(row) == [CHAT[1]["content"] + "<|im_end|>"]
    assert row.text.endswith("<|im_end|>\n") and not row.mask[-1]


def test_labels_are_the_ids_where_learned_and_minus_100_elsewhere() -> None:
    (row,) = renderer_of("own_chatml").render(CHAT)
    assert [label for label in row.labels if label != -100] == [i for i, m in zip(row.ids, row.mask, strict=True) if m]
    assert row.supervised == sum(label != -100 for label in row.labels)
    assert row.turns == (1, 3)


def test_a_template_that_rewrites_earlier_turns_gives_one_row_per_answer_and_says_so() -> None:
    rows = renderer_of("own_qwen").render(CHAT)
    assert [row.turns for row in rows] == [(1,), (3,)]
    assert "one row per answer" in rows[0].note
    assert all(text.startswith("<think>\n\n</think>\n\nANSWER") for row in rows for text in learned_texts(row))


def test_a_generation_prompt_that_finished_turns_leave_out_is_kept_and_told() -> None:
    (row,) = renderer_of("deepseekv3").render(CHAT[:2])
    assert row.text.endswith("<think>\n" + CHAT[1]["content"] + "<｜end▁of▁sentence｜>")
    assert "'<think>\\n'" in row.note


def test_two_tags_that_begin_alike_are_not_torn(tmp_path: Path) -> None:
    source = "{% for m in messages %}{{ m.role + ': ' + ('</think>' if m.role == 'assistant' else '') + m.content }}"
    source += "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}assistant: <think>{% endif %}"
    (row,) = load_renderer(make_chat_folder(tmp_path, source)).render(CHAT[:2])
    assert learned_texts(row) == ["</think>" + CHAT[1]["content"] + EOS]
    assert row.text.endswith("assistant: <think>" + learned_texts(row)[0])


def test_an_answer_whose_start_would_merge_with_its_prompt_is_tokenized_apart(tmp_path: Path) -> None:
    source = "{% for m in messages %}{{ ('Q ' if m.role == 'user' else 'A ') + m.content + eos_token }}{% endfor %}"
    source += "{% if add_generation_prompt %}A {% endif %}"
    renderer = load_renderer(make_chat_folder(tmp_path, source))
    (row,) = renderer.render([{"role": "user", "content": "x"}, {"role": "assistant", "content": "two three"}])
    start = row.spans[0].start
    assert list(row.ids[:start]) == renderer.prompt_ids([{"role": "user", "content": "x"}])
    assert list(row.ids) != renderer.encode(row.text)
    assert learned_texts(row) == ["two three" + EOS]
    assert "merge" in row.note
    assert "".join(chip.text for chip in renderer.chips(row)) == row.text


def test_a_tokenizer_that_adds_a_space_before_text_adds_none_inside_a_row(tmp_path: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace()
    special = [AddedToken(text, special=True, normalized=False) for text in (BOS, EOS, "<unk>")]
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(["Q A hello there what is it\n" * 5], trainer)
    source = "{% for m in messages %}{{ ('Q ' if m.role == 'user' else 'A ') + m.content + eos_token }}{% endfor %}"
    source += "{% if add_generation_prompt %}A {% endif %}"
    folder = make_chat_folder(tmp_path, source)
    tokenizer.save(str(folder / "tokenizer.json"))
    renderer = load_renderer(folder)
    (row,) = renderer.render([{"role": "user", "content": "what"}, {"role": "assistant", "content": "hello there"}])
    start = row.spans[0].start
    assert list(row.ids[:start]) == renderer.prompt_ids([{"role": "user", "content": "what"}])
    assert renderer.decode(row.ids[start:]) == "hello there"
    assert row.mask[-1]


def test_an_answer_cut_by_the_maximum_length_is_reported() -> None:
    renderer = renderer_of("own_chatml")
    (whole,) = renderer.render(CHAT)
    (cut,) = renderer.render(CHAT, max_length=whole.spans[1].start + 2)
    assert len(cut.ids) == len(cut.mask) == len(cut.ends) == whole.spans[1].start + 2
    assert cut.cut_turns == (3,) and cut.truncated == len(whole.ids) - len(cut.ids)
    assert [span.stops for span in cut.spans] == [True, False]
    (bare,) = renderer.render(CHAT, max_length=whole.spans[0].start)
    assert bare.supervised == 0 and bare.spans == () and bare.cut_turns == (1, 3)
    (same,) = renderer.render(CHAT, max_length=len(whole.ids))
    assert same == whole


def test_a_first_assistant_turn_answers_nothing_and_is_not_learned() -> None:
    renderer = renderer_of("own_chatml")
    (row,) = renderer.render([{"role": "assistant", "content": "Welcome!"}, *CHAT[:2]])
    assert row.turns == (2,) and "first message" in row.note
    (alone,) = renderer.render([{"role": "assistant", "content": "Welcome!"}])
    assert alone.supervised == 0 and "nothing is learned" in alone.note


def test_tool_calls_are_learned_to_their_end() -> None:
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
    messages = [
        Message(role="user", content="Weather?"),
        Message(role="assistant", content="", tool_calls=[call]),
        Message(role="tool", content="sunny"),
        Message(role="assistant", content="It is sunny."),
    ]
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    renderer = renderer_of("qwen2_5")
    (row,) = renderer.render(messages, tools)
    first, second = learned_texts(row)
    assert first.startswith("<tool_call>") and "Oslo" in first and first.endswith("</tool_call><|im_end|>")
    assert second == "It is sunny.<|im_end|>"
    theirs = hugging_face_tokenizer("qwen2_5")
    plain = [message.as_dict() for message in messages[:3]]
    expected = theirs.apply_chat_template(plain, tools=tools, add_generation_prompt=True)["input_ids"]
    assert list(row.ids[: row.spans[1].start]) == expected


def test_an_answer_that_the_template_leaves_out_is_refused(tmp_path: Path) -> None:
    source = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{{ eos_token }}{% endfor %}"
    renderer = load_renderer(make_chat_folder(tmp_path, source))
    with pytest.raises(TemplateProblem, match="leaves out what the assistant says"):
        renderer.render(CHAT[:2])


def test_what_a_template_refuses_is_told_in_its_own_words() -> None:
    with pytest.raises(TemplateProblem, match="takes no system message"):
        renderer_of("own_gemma").render([{"role": "system", "content": "x"}, *CHAT])


def test_text_that_is_not_unicode_is_refused_in_words() -> None:
    with pytest.raises(TemplateProblem, match="not valid Unicode"):
        renderer_of("own_chatml").prompt_ids([{"role": "user", "content": "\ud800"}])


def test_a_preference_s_answer_is_learned_after_its_prompt() -> None:
    renderer = renderer_of("own_chatml")
    row = renderer.render_prompt_completion(CHAT[:3], CHAT[3:])
    assert learned_texts(row) == [CHAT[3]["content"] + "<|im_end|>"]
    assert list(row.ids[: row.spans[0].start]) == renderer.prompt_ids(CHAT[:3])
    assert row.ids == renderer.render(CHAT)[0].ids
    with pytest.raises(TemplateProblem, match="prompt and an assistant's answer"):
        renderer.render_prompt_completion(CHAT[:3], [])
    with pytest.raises(TemplateProblem, match="do not fit one row"):
        renderer_of("own_qwen").render_prompt_completion(CHAT[:1], CHAT[1:])


def test_chips_show_special_tokens_and_whitespace() -> None:
    renderer = renderer_of("own_chatml")
    ((*chips,),) = renderer.inspect(CHAT[:2])
    assert chips[0].text == "<|im_start|>" and chips[0].special and not chips[0].supervised
    assert any("↵" in chip.shown for chip in chips) and any("·" in chip.shown for chip in chips)
    assert all(chip.shown for chip in chips)
    assert {chip.turn for chip in chips if chip.supervised} == {1}
    assert all(chip.turn is None for chip in chips if not chip.supervised)


def test_a_folder_without_a_tokenizer_is_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ModelProblem, match="no tokenizer.json"):
        load_renderer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelProblem, match="cannot be read"):
        load_renderer(tmp_path)


def test_padding_and_truncation_saved_with_a_tokenizer_are_turned_off(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    folder = make_chat_folder(tmp_path, FIXTURES["own_chatml"].source, ["<|im_end|>"])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=300)
    tokenizer.save(str(folder / "tokenizer.json"))
    assert load_renderer(folder).render(CHAT)[0].ids == renderer_of("own_chatml").render(CHAT)[0].ids


def test_stop_ids_come_from_every_file_that_names_them(tmp_path: Path) -> None:
    folder = make_chat_folder(tmp_path, FIXTURES["own_gemma"].source, ["<end_of_turn>"])
    (folder / "config.json").write_text(json.dumps({"text_config": {"eos_token_id": 0}}))
    renderer = load_renderer(folder)
    names = {renderer.tokenizer.id_to_token(stop) for stop in renderer.stop_ids}
    assert names == {"<end_of_turn>", EOS, BOS}


words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ue0f7\ue0f8"), max_size=30)
control = st.sampled_from(
    ["<|im_end|>", "<|im_start|>", "</think>", "\n\n", " ", "assistant", "[/INST]", "<eos>", "🙂"]
)
contents = st.lists(st.one_of(words, control), max_size=4).map("".join)
ROUND = [
    "own_chatml",
    "own_llama3",
    "own_mistral",
    "own_qwen",
    "own_smollm2",
    "plain",
    "phi3",
    "gptoss",
    "nemotron_3_nano",
]


@st.composite
def dialogues(draw: st.DrawFn) -> list[dict[str, str]]:
    turns = draw(st.integers(1, 3))
    messages = [{"role": "system", "content": draw(contents)}] if draw(st.booleans()) else []
    for _ in range(turns):
        messages.append({"role": "user", "content": draw(contents)})
        messages.append({"role": "assistant", "content": draw(contents)})
    return messages


@functools.cache
def plain_renderer() -> Renderer:
    return load_renderer(make_chat_folder(Path(_scratch.name) / "plain", None))


@pytest.mark.parametrize("name", ROUND)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(messages=dialogues())
def test_any_dialogue_keeps_parity_and_learns_each_answer_whole(name: str, messages: list[dict[str, str]]) -> None:
    # Templates that take thinking apart may refuse an answer that is nothing but a torn tag.
    assume(name != "nemotron_3_nano" or not any("think>" in message["content"] for message in messages[1:]))
    renderer = plain_renderer() if name == "plain" else renderer_of(name)
    rows = renderer.render(messages)
    turns = [turn for row in rows for turn in row.turns]
    assert turns == [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    for row in rows:
        assert len(row.ids) == len(row.mask) == len(row.ends)
        assert "".join(chip.text for chip in renderer.chips(row)) == row.text
        spanned = {position for span in row.spans for position in range(span.start, span.end)}
        assert spanned == {position for position, learned in enumerate(row.mask) if learned}
        for span in row.spans:
            prompt = renderer.prompt_ids(messages[: span.turn])
            assert list(row.ids[: span.start]) == prompt
            assert span.stops and row.ids[span.end - 1] in renderer.stop_ids
            text = row.text[row.ends[span.start - 1] : row.ends[span.end - 1]]
            said = messages[span.turn]["content"]
            if "</think>" not in said:
                assert said.strip() in text
                assert len(text) <= len(said) + 60
