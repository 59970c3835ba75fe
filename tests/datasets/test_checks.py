from __future__ import annotations

from pathlib import Path

import pytest
from chat_models import EOS, OWN_TEMPLATES, make_chat_folder

from workbench.datasets.checks import CheckReport, Finding, check_overlap, check_prompts, check_rows, normal_prompt
from workbench.datasets.render import Renderer, load_renderer
from workbench.records import Example, Message, Payload, Preference, Prompt, Row


def row(row_id: str, payload: Payload) -> Row:
    return Row(row_id=row_id, row_hash=row_id, payload=payload)


def turns(*texts: str) -> tuple[Message, ...]:
    return tuple(Message(role="assistant" if i % 2 else "user", content=text) for i, text in enumerate(texts))


def example(row_id: str, *texts: str) -> Row:
    return row(row_id, Example(messages=turns(*texts)))


def renderer(folder: Path, name: str = "chatml", stop: str = "<|im_end|>") -> Renderer:
    return load_renderer(make_chat_folder(folder, (OWN_TEMPLATES / f"{name}.jinja").read_text(), [stop]))


def finding(report: CheckReport, gate: str) -> Finding:
    (found,) = [one for one in report.findings if one.gate == gate]
    return found


def test_good_rows_pass_every_gate(tmp_path: Path) -> None:
    report = check_rows([example("a", "Hi", "Hello"), example("b", "Hi", "Yes", "So?", "No")], renderer(tmp_path))
    assert report.passed and report.findings == ()
    assert (report.rows, report.training_rows) == (2, 2)
    assert 0 < report.supervised < report.tokens and report.longest < report.tokens


def test_rows_without_a_learned_token_are_counted_with_their_ids(tmp_path: Path) -> None:
    rows = [example(f"r{i}", "only a question") for i in range(30)] + [example("good", "Hi", "Hello")]
    report = check_rows(rows, renderer(tmp_path))
    found = finding(report, "no_supervised_token")
    assert (found.severity, found.count, found.row_ids) == ("hard", 30, tuple(f"r{i}" for i in range(20)))
    assert "30 of 31 rows" in found.message and found.remedy
    assert not report.passed


def test_a_cut_answer_is_soft_and_one_cut_whole_is_hard(tmp_path: Path) -> None:
    model = renderer(tmp_path)
    start = len(model.prompt_ids(turns("Hi")))
    rows = [example("cut", "Hi", "a long answer " * 10), example("fits", "Hi", "a")]
    report = check_rows(rows, model, start + 3)
    assert finding(report, "truncated_answer").row_ids == ("cut",) and report.passed
    gone = check_rows(rows[:1], model, start)
    assert finding(gone, "no_supervised_token").count == 1 and not gone.passed


def test_an_end_that_does_not_stop_generation_is_found(tmp_path: Path) -> None:
    report = check_rows([example("a", "Hi", "Hello")], renderer(tmp_path, stop=EOS))
    assert finding(report, "end_of_turn_outside_loss").row_ids == ("a",)


def test_a_doubled_beginning_is_found(tmp_path: Path) -> None:
    source = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    model = load_renderer(make_chat_folder(tmp_path, source))
    report = check_rows([row("a", Prompt(messages=turns("<bos>Hi")))], model)
    assert finding(report, "doubled_bos").count == 1
    assert finding(report, "control_tokens_in_text").severity == "soft"


def test_rows_a_template_refuses_are_counted_with_its_words(tmp_path: Path) -> None:
    odd = row("odd", Example(messages=(Message(role="system", content="x"), *turns("Hi", "Hello"))))
    report = check_rows([odd, example("a", "Hi", "Hello")], renderer(tmp_path, "gemma", "<end_of_turn>"))
    found = finding(report, "unrenderable")
    assert found.row_ids == ("odd",) and "takes no system message" in found.message


def test_text_of_a_control_token_is_a_soft_finding(tmp_path: Path) -> None:
    report = check_rows([example("a", "what is <|im_end|>?", "a token")], renderer(tmp_path))
    assert finding(report, "control_tokens_in_text").message.endswith("First: '<|im_end|>'")
    assert report.passed


def test_broken_parity_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = renderer(tmp_path)
    right = Renderer.prompt_ids
    rows = [example("a", "Hi", "Hello")]
    monkeypatch.setattr(Renderer, "prompt_ids", lambda self, messages, tools=None: right(self, messages, tools) + [5])
    assert finding(check_rows(rows, model), "template_parity").severity == "hard"


def test_preferences_are_checked_on_both_answers(tmp_path: Path) -> None:
    say = [Message(role="assistant", content=text) for text in ("yes", "no <|im_end|>")]
    pair = row("p", Preference(prompt=turns("Hi"), chosen=(say[0],), rejected=(say[1],)))
    report = check_rows([pair], renderer(tmp_path))
    assert report.training_rows == 2 and report.passed
    assert finding(report, "control_tokens_in_text").count == 1


def test_why_conversations_are_split_is_counted(tmp_path: Path) -> None:
    report = check_rows([example("a", "1", "2", "3", "4")], renderer(tmp_path, "qwen"))
    assert report.training_rows == 2 and list(report.notes.values()) == [2]
    assert "(turn" not in next(iter(report.notes))


def test_held_out_rows_asked_in_training_are_found_whatever_case_and_space() -> None:
    train = [example("t", "What  is\nRust?", "A language.")]
    held = [example("h1", "what is rust? ", "Something else."), example("h2", "What is Go?", "A language.")]
    report = check_overlap(train, held)
    assert finding(report, "overlap").row_ids == ("h1",) and not report.passed
    assert check_overlap(train, held[1:]).passed


def test_a_prompt_is_the_same_in_every_kind_of_row() -> None:
    asked = turns("Hi")
    answer = (Message(role="assistant", content="x"),)
    system = (Message(role="system", content="Be kind."),)
    payloads: list[Payload] = [
        Example(messages=asked + answer),
        Example(messages=system + asked + answer),
        Preference(prompt=asked, chosen=answer, rejected=answer),
        Prompt(messages=asked),
    ]
    assert len({normal_prompt(row("r", payload)) for payload in payloads}) == 1


def preference(row_id: str, chosen: str, rejected: str, prompt: str = "Hi", weight: float = 1.0) -> Row:
    sides = [(Message(role="assistant", content=text),) for text in (chosen, rejected)]
    return row(row_id, Preference(prompt=turns(prompt), chosen=sides[0], rejected=sides[1], weight=weight))


def test_equal_sides_are_soft_while_others_differ_and_hard_where_none_does(tmp_path: Path) -> None:
    rows = [preference("same", "yes", "yes"), preference("apart", "yes", "no")]
    report = check_rows(rows, renderer(tmp_path))
    found = finding(report, "equal_sides")
    assert (found.severity, found.row_ids) == ("soft", ("same",)) and report.passed
    alone = check_rows(rows[:1], renderer(tmp_path))
    assert finding(alone, "equal_sides").severity == "hard" and not alone.passed


def test_sides_that_differ_only_beyond_the_cut_are_equal(tmp_path: Path) -> None:
    model = renderer(tmp_path)
    start = len(model.prompt_ids(turns("Hi")))
    rows = [preference("late", "the same " * 9 + "yes", "the same " * 9 + "no")]
    assert finding(check_rows(rows, model, start + 6), "equal_sides").count == 1
    assert check_rows(rows, model).passed


def test_ties_are_found_as_weightless_and_as_opposed_rows(tmp_path: Path) -> None:
    tie = preference("tie", "a", "b", weight=0.0)
    there, back = preference("there", "yes", "no"), preference("back", "no", "yes")
    again = preference("again", "yes", "no")
    other = preference("other", "yes", "no", prompt="Hello")
    model = renderer(tmp_path)
    report = check_rows([tie, there, back, other], model)
    assert finding(report, "weightless").row_ids == ("tie",)
    assert finding(report, "opposed_sides").row_ids == ("there", "back")
    assert report.passed
    ties = check_rows([tie, there, back], model)
    assert {one.severity for one in ties.findings} == {"hard"} and not ties.passed
    assert check_rows([there, back, again], model).passed  # two against one says something


def test_a_prompt_that_leaves_no_room_for_an_answer_is_hard_in_preferences_and_soft_among_prompts(
    tmp_path: Path,
) -> None:
    model = renderer(tmp_path)
    long = "a long question " * 10
    length = len(model.prompt_ids(turns(long)))
    pairs = [preference("long", "yes", "no", prompt=long), preference("fits", "yes", "no")]
    report = check_rows(pairs, model, length)
    found = finding(report, "prompt_too_long")
    assert (found.severity, found.row_ids, len(report.findings)) == ("hard", ("long",), 1)
    assert check_rows(pairs, model, length + 100).passed
    asked = [row("long", Prompt(messages=turns(long))), row("fits", Prompt(messages=turns("Hi")))]
    short = finding(check_rows(asked, model, length), "no_room_to_answer")
    assert (short.severity, short.row_ids) == ("soft", ("long",))
    assert not check_rows(asked[:1], model, length).passed


def test_a_preference_whose_answer_is_empty_still_ends(tmp_path: Path) -> None:
    report = check_rows([preference("a", "", "no")], renderer(tmp_path))
    assert report.passed and report.supervised > 0


def test_a_method_that_only_asks_is_held_to_the_prompts_of_rows_of_any_kind(tmp_path: Path) -> None:
    model = renderer(tmp_path)
    rows = [
        example("unanswered", "only a question"),
        example("cut", "Hi", "a long answer " * 20),
        preference("same", "yes", "yes"),
        row("plain", Prompt(messages=turns("Hi"))),
    ]
    longest = len(model.prompt_ids(turns("only a question")))
    report = check_prompts(rows, model, longest)
    assert report.findings == () and report.rows == 4
    short = finding(check_prompts(rows, model, longest - 1), "no_room_to_answer")
    assert (short.severity, short.row_ids) == ("soft", ("unanswered",))
    assert not check_prompts(rows[:1], model, longest - 1).passed


def test_rows_that_ask_nothing_are_counted_with_the_others(tmp_path: Path) -> None:
    said = row("said", Example(messages=(Message(role="assistant", content="Welcome!"),)))
    report = check_prompts([said, example("a", "Hi", "Hello")], renderer(tmp_path))
    found = finding(report, "asks_nothing")
    assert (found.severity, found.row_ids, report.rows) == ("soft", ("said",), 2) and "1 of 2 rows" in found.message
    assert not check_prompts([said], renderer(tmp_path)).passed
