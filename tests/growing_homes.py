"""Self-instruct runs as real ones leave them, made in code without any generation."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from workbench.records import Attempt, Message, Progress, Prompt, Run, RunState, new_id, utc_now
from workbench.self_instruct.configs import SelfInstructConfig
from workbench.self_instruct.deciding import Decider
from workbench.self_instruct.filters import TOO_SIMILAR, judge_instances, judge_instruction, reason_of
from workbench.self_instruct.held_out import find_held_out
from workbench.self_instruct.rounds import Plan, load_guard
from workbench.self_instruct.seeds import install_seeds, read_seeds
from workbench.store import candidates as candidate_store
from workbench.store import datasets as dataset_store
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.store.candidates import Candidate, Instance, Reply
from workbench.store.database import Store

GUARDED = "Write a polite refusal to a wedding invitation from a distant cousin."
TASKS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("Describe the smell of a bakery at five in the morning in two sentences.",
     (("", "Warm yeast and butter fill the dark street. Under it lies a trace of burnt sugar from the first tray."),)),
    ("Rewrite the complaint so that it stays firm but polite.",
     (("Your driver left my parcel in the rain again. Are you even trying?",
       "My parcel was left in the rain for the second time. Please tell me how you will prevent this from now on."),
      ("The soup was cold and nobody cared.",
       "My soup arrived cold, and when I mentioned it nothing was done. I would appreciate a reply."))),
    ("Sort the ingredients by when they go into the pan.",
     (("garlic, onion, spinach, oil", "1. oil\n2. onion\n3. garlic\n4. spinach"),)),
    ("Explain to a child why the moon seems to follow the car.",
     (("", "The moon is so far away that moving a little changes nothing about where you see it. Trees are near, so "
       "they rush past; the moon stays where it was, and it looks as if it came along."),)),
    ("Judge whether the review is about the room, the food or the staff.",
     (("The bed creaked all night.", "room"), ("They carried our bags without being asked.", "staff"))),
    ("Invent a name for a ferry that only runs in winter.", (("", "The Frostward"),)),
    ("Turn the list of facts into one flowing paragraph.",
     (("Otters hold hands while sleeping. They use stones as tools. They eat a quarter of their weight a day.",
       "Otters, which use stones as tools and eat a quarter of their own weight each day, hold hands while they "
       "sleep."),)),
    ("Work out how long the trip takes with one stop.",
     (("120 km at 80 km/h, with a stop of 15 minutes", "120 / 80 = 1.5 hours, plus 15 minutes: 1 hour 45 minutes."),)),
    ("Suggest three questions for an interview with a beekeeper.",
     (("", "When did you last get stung? What does a hive sound like before it swarms? Which honey do you eat?"),)),
    ("Summarise the meeting notes in a single line.",
     (("Ana wants the launch moved. Bo disagrees. They settle on the 14th.", "The launch moves to the 14th."),)),
    ("Outline a morning routine for somebody who works night shifts.",
     (("", "Darken the room, eat something light, put the phone away, and sleep before ten."),)),
    ("Compare rowing and running as exercise for sore knees.",
     (("", "Rowing spares the knees, since they carry no weight; running strains them with every step."),)),
    ("Correct the grammar and keep the meaning.",
     (("She don't has time for go.", "She doesn't have time to go."),)),
    ("Write a haiku about an empty car park.",
     (("", "White lines wait in rows\nfor wheels that went home at dusk.\nOne gull counts them all."),)),
    ("Name two arguments against open-plan offices and one in favour.",
     (("", "Noise breaks concentration, and illness spreads; on the other hand, questions are answered at once."),)),
)  # fmt: skip
BAD: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("Sing.", ()),
    ("Describe what the picture shows in detail.", ()),
    ("Write a program that sorts a list of names.", ()),
    ("!! Compare two cities of your choice.", ()),
    (GUARDED, ()),
    ("Explain to a child why the moon seems to follow the train.", (("", "Because it is far away."),)),
    ("Rewrite the complaint so that it stays firm and polite.", ()),
    ("Paint the words of a storm without naming any weather.", (("", ""),)),
    ("Give the opposite of the word and use both in a sentence.", (("tall", "tall"),)),
)


def add_grown(
    store: Store,
    *,
    state: RunState = RunState.FINISHED,
    name: str = "Grow tasks with writer",
    tasks: Sequence[tuple[str, tuple[tuple[str, str], ...]]] = (*TASKS, *BAD),
    **fields: object,
) -> Run:
    """A run whose candidates were decided as a real one decides them, from the seeds that ship."""
    known = {variant.name: variant for variant in model_store.list_variants(store)}
    if "writer" not in known:
        server = model_store.add_server(store, "lab", "http://127.0.0.1:9/v1", {})
        known["writer"] = model_store.add_variant(store, "writer", server_id=server.id, remote_model="writer")
    guard_prompts(store)
    config = SelfInstructConfig.model_validate({"variant": known["writer"].id, "target": 20, **fields})
    run = run_store.add_run(store, kind="self_instruct", name=name, slot="bulk", spec=config.model_dump(mode="json"))
    version = install_seeds(store)
    plan = Plan(
        seeds_version_id=version.id,
        variant_id=known["writer"].id,
        held_out_version_ids=tuple(each.id for each in find_held_out(store, config.held_out, seeds=version)),
    )
    made = decide(store, run, config, plan, tasks)
    kept = sum(each.state == "kept" for each in made)
    result: dict[str, object] = {"self_instruct": plan.model_dump(mode="json")}
    changes: dict[str, object] = {"state": state, "attempt": 1, "started_at": utc_now()}
    if state.active:
        changes["progress"] = Progress(phase="asking for tasks", done=kept, total=20, unit="tasks kept")
    else:
        changes["ended_at"] = utc_now()
        result |= {"kept": kept, "candidates": len(made), "rounds": 2, "requests": 9, "ended": "requests"}
    run_store.update_run(store, run.id, result=result, **changes)
    # A run of another machine is left alone by the look for vanished processes.
    host = f"not-{socket.gethostname()}"
    run_store.put_attempt(store, Attempt(run_id=run.id, number=1, host=host, boot_id="b", started_at=utc_now()))
    store.settings.run_dir(run.id).mkdir(parents=True, exist_ok=True)
    return run_store.get_run(store, run.id)


def guard_prompts(store: Store) -> None:
    """A prompt set that nothing may leak from."""
    from workbench.datasets.versions import write_version

    if any(dataset.kind == "prompts" for dataset in dataset_store.list_datasets(store)):
        return
    dataset = dataset_store.create_dataset(store, "House prompts", "prompts")
    write_version(store, dataset.id, [Prompt(messages=(Message(role="user", content=GUARDED),))])


def decide(
    store: Store,
    run: Run,
    config: SelfInstructConfig,
    plan: Plan,
    tasks: Sequence[tuple[str, tuple[tuple[str, str], ...]]],
) -> list[Candidate]:
    """Store one reply a round of eight tasks and the candidates read from it."""
    seeds = read_seeds(store, dataset_store.get_version(store, plan.seeds_version_id))
    guard = load_guard(store, plan.held_out_version_ids, config.leak_threshold)
    decider, made, replies = Decider(seeds, config.threshold), [], []
    for position, (instruction, pairs) in enumerate(tasks):
        if position % 8 == 0:
            number = position // 8
            replies.append(Reply(id=new_id("rep"), run_id=run.id, key=f"{number + 1}/0", step="tasks",
                                 round=number + 1, prompt="The list below", text="9. …", parsed=8,
                                 fingerprint="fp_1", created_at=utc_now()))  # fmt: skip
        candidate = Candidate(id=new_id("can"), run_id=run.id, position=position, round=position // 8 + 1,
                              reply_id=replies[-1].id, instruction=instruction, created_at=utc_now(),
                              reason=judge_instruction(instruction, config.rules))  # fmt: skip
        if candidate.reason is None:
            leak = guard.find(instruction)
            changes: dict[str, object]
            if leak is not None:
                changes = {"reason": "leaks", "score": leak.score, "nearest_kind": "held_out"}
                changes["nearest_text"] = leak.text
            else:
                found = decider.decide(candidate.id, instruction)
                changes = {"score": found.score, "nearest_kind": found.kind, "nearest_id": found.id}
                changes |= {"nearest_text": found.text, "reason": None if found.novel else TOO_SIMILAR}
                if found.novel:
                    judged = judge_instances([Instance(input=given, output=output) for given, output in pairs])
                    changes |= {"wanted": True, "is_classification": instruction.startswith("Judge")}
                    changes |= {"instances": judged, "instance_reason": reason_of(judged)}
            candidate = candidate.model_copy(update=changes)
        made.append(candidate)
    candidate_store.add_replies(store, replies)
    candidate_store.add_candidates(store, made, {})
    return made
