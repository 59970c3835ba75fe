from __future__ import annotations

import random

from workbench.self_instruct import prompts
from workbench.self_instruct.filters import judge_instruction
from workbench.self_instruct.parsing import parse_input_first, parse_instructions, parse_output_first, parse_whole_tasks
from workbench.self_instruct.prompts import SeedTask, choose_examples, repeats_prompt

SEEDS = [f"Seed task number {n} of many." for n in range(30)]
MADE = [f"Made task number {n} of many." for n in range(10)]


def test_six_tasks_by_people_and_two_by_the_generator_are_shown_in_a_seeded_order():
    chosen = choose_examples(SEEDS, MADE, random.Random(1))
    assert len(chosen) == len(set(chosen)) == 8
    assert sum(text in MADE for text in chosen) == 2
    assert chosen == choose_examples(SEEDS, MADE, random.Random(1)) != choose_examples(SEEDS, MADE, random.Random(2))
    firsts = {choose_examples(SEEDS, MADE, random.Random(n))[0] in MADE for n in range(40)}
    assert firsts == {True, False}  # shuffled


def test_at_the_start_all_eight_are_by_people_as_far_as_there_are_so_many():
    assert set(choose_examples(SEEDS, [], random.Random(1))) < set(SEEDS)
    assert len(choose_examples(SEEDS, MADE[:1], random.Random(1))) == 8
    assert sorted(choose_examples(SEEDS[:3], MADE, random.Random(1)))[2:] == sorted(SEEDS[:3])
    assert choose_examples(SEEDS[:1], [], random.Random(1)) == SEEDS[:1]


def test_a_list_that_is_carried_on_as_asked_is_read_back():
    prompt = prompts.instruction_prompt(["Sort\nthis list.", "Tell a story."], 3)
    assert "1. Sort this list.\n2. Tell a story.\n" in prompt and "numbered 3 to 5" in prompt
    assert [task.instruction for task in parse_instructions("3. One.\n4. Two.\n5. Three.")] == [
        "One.",
        "Two.",
        "Three.",
    ]


def test_the_examples_in_prompts_are_in_the_form_that_is_read():
    shown = prompts.input_first_prompt("X").partition("Task: Change")[2].partition("\nTask: Name")[0]
    assert [each.input.split()[0] for each in parse_input_first(shown)] == ["The", "We"]
    shown = prompts.output_first_prompt("X").partition("Task: Decide")[2].partition("\nTask: Tell")[0]
    assert [each.output for each in parse_output_first(shown)] == ["service", "price", "food"]
    seed = SeedTask(row_id="r", instruction="Sort\nthis.", input="b a", output="a b")
    shown = prompts.one_step_prompt([seed, seed.model_copy(update={"input": ""})]).partition("\n\n")[2]
    tasks = parse_whole_tasks(shown)
    assert [(task.instruction, task.instances[0].input, task.instances[0].output) for task in tasks] == [
        ("Sort this.", "b a", "a b"),
        ("Sort this.", "", "a b"),
    ]


def test_sorting_shows_tasks_of_both_kinds_and_ends_with_the_question():
    prompt = prompts.classification_prompt("Sort\nthis.")
    assert prompt.count("Fixed labels: yes") == prompt.count("Fixed labels: no") == 5
    assert prompt.endswith("Task: Sort this.\nFixed labels:")


def test_what_a_prompt_says_itself_is_known():
    assert repeats_prompt("Sure: THE list below, holds 8 tasks for an assistant")
    assert not repeats_prompt("The list below holds some tasks.") and not repeats_prompt("")
    assert judge_instruction("Describe a quiet morning at a railway station in three sentences.") == "repeats_prompt"
