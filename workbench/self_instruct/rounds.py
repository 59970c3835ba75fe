"""Grow a dataset, as a run: ask for tasks, throw out what is no good, ask for examples, round after round.

The method is "Self-Instruct" (Wang et al. 2022), or its one-step form (Taori et al. 2023). Departures: tasks are asked
for in rounds, and examples of a round's tasks right after it, so that a run can be stopped at any point and shows what
it will yield; prompts are chat turns; a task keeps its capital letters.

Every reply is in the store before anything is read from it, and is never asked for again. What is decided depends on
replies and settings alone, so a run that was killed goes on as if nothing had happened. How a model is reached is the
job's business; retries are the client's.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from workbench.errors import RunProblem, Stopped, WorkbenchError
from workbench.job import Job
from workbench.records import Completion, Message, Record, Variant, new_id, utc_now
from workbench.self_instruct import parsing, prompts
from workbench.self_instruct.configs import AUTO, SelfInstructConfig
from workbench.self_instruct.deciding import Decider
from workbench.self_instruct.filters import (
    NO_ANSWER,
    TOO_SIMILAR,
    LeakGuard,
    judge_instances,
    judge_instruction,
    reason_of,
)
from workbench.self_instruct.held_out import HeldOutShare, find_held_out, find_held_out_shares, held_out_texts
from workbench.self_instruct.seeds import install_seeds, read_seeds
from workbench.store import candidates as candidate_store
from workbench.store import datasets as dataset_store
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.store.candidates import Candidate, Instance, Reply
from workbench.store.database import Store

if TYPE_CHECKING:
    from workbench.generation.client import ChatClient

UNUSABLE = 5
"""Requests in a row without a reply, each tried several times, after which a generator counts as unusable."""
TRIES = 3
"""Requests for the same candidate's examples that may fail before it is given up."""
POLL_S = 0.5
ENDED = {
    "target": "as many tasks were kept as were wanted",
    "requests": "the limit of requests was reached",
    "rounds": "the limit of rounds was reached",
}
"""Why a run ended."""


class Plan(Record):
    """What the config named at the run's first start."""

    seeds_version_id: str
    """The seeds."""
    variant_id: str
    """Who writes."""
    held_out_version_ids: tuple[str, ...]
    """What nothing may leak from."""
    held_out_shares: tuple[HeldOutShare, ...] = ()
    """Rows that nothing may leak from, either: what training runs held out of their own dataset."""


class Ask(NamedTuple):
    """One request."""

    key: str
    step: str
    round: int
    prompt: str
    candidate: Candidate | None = None


def grow_dataset(config: SelfInstructConfig, job: Job) -> dict[str, Any]:
    """Grow tasks until there are enough or a limit is reached; a resumed run asks only for what is missing.

    Args:
        config: from what, by whom, how far.
        job: the run.

    Returns:
        `kept`, `candidates`, `rounds`, `requests` and `ended` (a key of `ENDED`).

    Raises:
        Stopped: stop was asked for; every reply is kept.
        RunProblem: the generator gives no replies.
        DataProblem: the seeds cannot be used.
    """
    plan = pin_plan(config, job)
    growth = Growth(config, job, plan)
    growth.tell("starting the model")
    variant = model_store.get_variant(job.store, plan.variant_id)
    with closing(_connect(config, job, variant)) as client:
        ended = growth.run(client)
    return {**growth.figures(), "ended": ended}


def check_grow(store: Store, config: SelfInstructConfig) -> None:
    """What can be told before a run is launched.

    Raises:
        NotFound: a dataset or the variant is not there.
        DataProblem: the seeds are no instructions with answers.
        UsageError: the seeds are held out themselves.
    """
    model_store.get_variant(store, config.variant)
    if config.seeds:
        seeds = dataset_store.find_version(store, config.seeds)[1]
        read_seeds(store, seeds)
        find_held_out(store, [each for each in config.held_out if each != AUTO], seeds=seeds)


def pin_plan(config: SelfInstructConfig, job: Job) -> Plan:
    """The plan of the first start, so that a name that has moved since changes nothing.

    Args:
        config: what the plan is made of.
        job: the run.

    Raises:
        NotFound: a dataset or variant is not there.
        UsageError: the seeds are held out themselves.
    """
    pinned = run_store.get_run(job.store, job.run_id).result.get("self_instruct")
    if isinstance(pinned, dict):
        return Plan.model_validate(pinned)
    store = job.store
    seeds = dataset_store.find_version(store, config.seeds)[1] if config.seeds else install_seeds(store)
    guards = find_held_out(store, config.held_out, seeds=seeds)
    plan = Plan(
        seeds_version_id=seeds.id,
        variant_id=model_store.get_variant(store, config.variant).id,
        held_out_version_ids=tuple(version.id for version in guards),
        held_out_shares=find_held_out_shares(store, config.held_out, seeds=seeds),
    )
    job.result(self_instruct=plan.model_dump(mode="json"))
    return plan


def load_guard(
    store: Store, version_ids: Iterable[str], threshold: float, shares: Sequence[HeldOutShare] = ()
) -> LeakGuard:
    """The guard of some held-out versions and rows; what was deleted since guards nothing any more.

    Args:
        store: the store.
        version_ids: what is held out whole.
        threshold: ROUGE-L F1 from which a text is refused.
        shares: what training runs held out of their own dataset.
    """
    known = {
        version.id: version
        for dataset in dataset_store.list_datasets(store, archived=True)
        for version in dataset_store.list_versions(store, dataset.id)
    }
    versions = [known[each] for each in version_ids if each in known]
    return LeakGuard(held_out_texts(store, versions, shares), threshold)


def _connect(config: SelfInstructConfig, job: Job, variant: Variant) -> ChatClient:
    from workbench.generation.client import ChatClient

    base_url, key, model = job.variant_endpoint(variant)
    server = model_store.get_server(job.store, variant.server_id) if variant.server_id is not None else None
    return ChatClient(
        base_url=base_url,
        key=key,
        model=model,
        variant=variant,
        verified=server is None,
        capabilities=server.capabilities if server else {},
        retries=config.retries,
        read_s=config.timeout_s if server else None,
    )


class Growth:
    """A run's candidates and replies so far, and the steps that add to them.

    Args:
        config: settings.
        job: the run.
        plan: what was pinned.
    """

    def __init__(self, config: SelfInstructConfig, job: Job, plan: Plan) -> None:
        self._config, self._job, self._store = config, job, job.store
        self._seeds = read_seeds(job.store, dataset_store.get_version(job.store, plan.seeds_version_id))
        self._guard = load_guard(job.store, plan.held_out_version_ids, config.leak_threshold, plan.held_out_shares)
        self._decider = Decider(self._seeds, config.threshold)
        self._candidates: dict[str, Candidate] = {}
        self.kept = 0
        for candidate in candidate_store.list_candidates(job.store, job.run_id):
            self._put(candidate)
            if candidate.reason is None:
                self._decider.admit(candidate.id, candidate.instruction)
        self._answered: set[str] = set()
        self._undecided: dict[str, Reply] = {}
        self._failures: dict[str, int] = {}
        self._requests, self._round, self._in_a_row = 0, 1, 0
        self._last_error = ""
        for reply in candidate_store.list_replies(job.store, job.run_id):
            self._note(reply)

    # How far it is ----------------------------------------------------------------------------------------------

    def _put(self, candidate: Candidate) -> None:
        before = self._candidates.get(candidate.id)
        self.kept += (candidate.state == "kept") - (before is not None and before.state == "kept")
        self._candidates[candidate.id] = candidate

    def figures(self) -> dict[str, int]:
        """How far the run is: kept, candidates, rounds, requests."""
        return {
            "kept": self.kept,
            "candidates": len(self._candidates),
            "rounds": self._round,
            "requests": self._requests,
        }

    def _ending(self) -> str | None:
        """Why there is no further round; None where there is one."""
        if self.kept >= self._config.target:
            return "target"
        if self._requests >= self._config.max_requests:
            return "requests"
        return "rounds" if self._round >= self._config.max_rounds else None

    def tell(self, phase: str | None = None) -> None:
        """Tell how far the work is."""
        figures = self.figures()
        note = f"round {figures['rounds']}, {figures['candidates']} candidates, {figures['requests']} requests"
        self._job.progress(phase, done=figures["kept"], total=self._config.target, unit="tasks kept", note=note)

    # Rounds -----------------------------------------------------------------------------------------------------

    def run(self, client: ChatClient) -> str:
        """Go round after round until a limit is reached; a round that was begun is always brought to its end.

        Args:
            client: who is asked.

        Returns:
            A key of `ENDED`.
        """
        while True:
            self._ask_for_tasks(client)
            self._decide()
            if self._config.style == "self_instruct":
                self._sort(client)
                self._ask_for_examples(client)
            figures = self.figures()
            self._job.metric(self._round, **{name: float(figures[name]) for name in ("kept", "candidates", "requests")})
            self.tell()
            ended = self._ending()
            if ended is not None:
                return ended
            self._round += 1

    def _ask_for_tasks(self, client: ChatClient) -> None:
        """The round's requests for new tasks; each sees other examples."""
        made = [each.instruction for each in self._candidates.values() if each.reason is None]
        asks = []
        for number in range(self._config.requests_per_round):
            key = f"{self._round}/{number}"
            if key not in self._answered:
                asks.append(Ask(key, "tasks", self._round, self._tasks_prompt(key, made)))
        if asks and not self._ask_all(client, asks, "asking for tasks"):
            self._unusable()

    def _tasks_prompt(self, key: str, made: Sequence[str]) -> str:
        dice = random.Random(f"{self._config.seed}/{key}")
        if self._config.style == "alpaca":
            shown = dice.sample(self._seeds, min(prompts.ONE_STEP_EXAMPLES, len(self._seeds)))
            return prompts.one_step_prompt(shown, self._config.count)
        shown_texts = prompts.choose_examples([seed.instruction for seed in self._seeds], made, dice)
        return prompts.instruction_prompt(shown_texts, self._config.count)

    def _decide(self) -> None:
        """Read candidates from replies that were not read yet, in the order of their requests."""
        waiting = sorted(self._undecided.values(), key=lambda reply: [int(part) for part in reply.key.split("/")])
        added: list[Candidate] = []
        parsed: dict[str, int] = {}
        for reply in waiting:
            read = parsing.parse_whole_tasks if self._config.style == "alpaca" else parsing.parse_instructions
            tasks = read(reply.text, finish_reason=reply.finish_reason)
            parsed[reply.id] = len(tasks)
            for task in tasks:
                added.append(self._judge(task, reply, len(self._candidates) + len(added)))
        if waiting:
            candidate_store.add_candidates(self._store, added, parsed)
            for candidate in added:
                self._put(candidate)
            self._undecided.clear()
            self.tell()

    def _judge(self, task: parsing.Task, reply: Reply, position: int) -> Candidate:
        """A parsed task with the decision on its instruction, and on its example where it came with one."""
        candidate = Candidate(
            id=new_id("can"),
            run_id=self._job.run_id,
            position=position,
            round=reply.round,
            reply_id=reply.id,
            instruction=task.instruction,
            reason="cut_off" if task.cut_off else judge_instruction(task.instruction, self._config.rules),
            created_at=utc_now(),
        )
        changes: dict[str, Any] = {}
        if candidate.reason is None:
            leak = self._guard.find(task.instruction)
            if leak is not None:
                changes = {
                    "reason": "leaks",
                    "score": leak.score,
                    "nearest_kind": "held_out",
                    "nearest_text": leak.text,
                }
            else:
                found = self._decider.decide(candidate.id, task.instruction)
                changes = {"score": found.score, "nearest_kind": found.kind, "nearest_id": found.id}
                changes |= {"nearest_text": found.text, "reason": None if found.novel else TOO_SIMILAR}
                changes["wanted"] = self._config.style == "self_instruct" and (
                    found.novel or found.score <= (self._config.examples_up_to or 0.0)
                )
        if self._config.style == "alpaca":
            changes |= self._judged(task.instruction, task.instances)
        return candidate.model_copy(update=changes)

    def _judged(self, instruction: str, instances: Sequence[Instance]) -> dict[str, Any]:
        """Columns of a candidate once its examples are there."""
        judged = self._guard.judge(instruction, judge_instances(instances))
        return {"instances": judged, "instance_reason": reason_of(judged)}

    # Examples ---------------------------------------------------------------------------------------------------

    def _sort(self, client: ChatClient) -> None:
        """Ask of each task that waits whether its answers are a few fixed labels."""
        asks = [
            Ask(f"sort/{each.id}", "sort", self._round, prompts.classification_prompt(each.instruction), each)
            for each in self._open()
            if each.is_classification is None
        ]
        self._ask_all(client, asks, "telling classification from other tasks")

    def _ask_for_examples(self, client: ChatClient) -> None:
        """Ask for examples of each task that waits: labels first for classification, inputs first for others."""
        asks = []
        for each in self._open():
            if each.is_classification is None:
                continue
            write = prompts.output_first_prompt if each.is_classification else prompts.input_first_prompt
            step = "labels" if each.is_classification else "inputs"
            prompt = write(each.instruction, self._config.instances)
            asks.append(Ask(f"examples/{each.id}", step, self._round, prompt, each))
        self._ask_all(client, asks, "asking for examples")

    def _open(self) -> list[Candidate]:
        """Candidates that wait for examples."""
        return [
            each
            for each in self._candidates.values()
            if each.wanted and each.instances is None and each.instance_reason is None
        ]

    def _learn(self, ask: Ask, reply: Reply) -> dict[str, Any]:
        """What a reply tells of its candidate, as columns."""
        if ask.candidate is None:
            return {}
        if reply.error is not None:
            return {"instance_reason": NO_ANSWER} if self._failures.get(ask.key, 0) + 1 >= TRIES else {}
        if ask.step == "sort":
            return {"is_classification": bool(parsing.parse_classification(reply.text))}
        read = parsing.parse_output_first if ask.step == "labels" else parsing.parse_input_first
        instances = read(reply.text, finish_reason=reply.finish_reason)[: self._config.instances]
        return self._judged(ask.candidate.instruction, instances)

    # Requests ---------------------------------------------------------------------------------------------------

    def _ask_all(self, client: ChatClient, asks: Sequence[Ask], phase: str) -> bool:
        """Ask, several at a time and no more than the limit of requests; whether there was a reply.

        Each reply is stored, with what it tells of its candidate, before the next is looked at.

        Raises:
            Stopped: stop was asked for; what was under way is kept.
            RunProblem: no reply comes any more.
        """
        queue = list(asks[: max(0, self._config.max_requests - self._requests)])
        if not queue:
            return True
        self.tell(phase)
        under_way: dict[Future[Reply], Ask] = {}
        stopping, answered = False, False
        with ThreadPoolExecutor(self._config.concurrency, thread_name_prefix="generator") as pool:
            while True:
                while queue and not stopping and len(under_way) < self._config.concurrency:
                    ask = queue.pop(0)
                    under_way[pool.submit(self._request, client, ask)] = ask
                if not under_way:
                    break
                finished, _ = wait(under_way, timeout=POLL_S, return_when=FIRST_COMPLETED)
                for future in finished:
                    answered |= self._take(under_way.pop(future), future.result())
                if self._in_a_row >= UNUSABLE:
                    queue.clear()
                if not stopping and self._job.should_stop():
                    stopping = True
                    self.tell("finishing the requests under way")
        if stopping:
            raise Stopped("stopped as asked; every reply is kept", remedy="Resume the run to go on.")
        if self._in_a_row >= UNUSABLE:
            self._unusable()
        return answered

    def _take(self, ask: Ask, reply: Reply) -> bool:
        """Store a reply and what it tells; whether it is one."""
        columns = self._learn(ask, reply)
        updates = {ask.candidate.id: columns} if ask.candidate is not None and columns else {}
        candidate_store.add_replies(self._store, [reply], updates)
        for candidate_id, changes in updates.items():
            self._put(self._candidates[candidate_id].model_copy(update=changes))
        self._note(reply)
        self._in_a_row = self._in_a_row + 1 if reply.error is not None else 0
        if reply.error is not None:
            self._job.log(f"no reply to {reply.key}: {reply.error}")
        self.tell()
        return reply.error is None

    def _note(self, reply: Reply) -> None:
        self._requests += 1
        self._round = max(self._round, reply.round)
        if reply.error is not None:
            self._failures[reply.key] = self._failures.get(reply.key, 0) + 1
            self._last_error = reply.error
            return
        self._answered.add(reply.key)
        if reply.step == "tasks" and reply.parsed is None:
            self._undecided[reply.key] = reply

    def _request(self, client: ChatClient, ask: Ask) -> Reply:
        """One request, in a thread of its own; a failure becomes a reply that says why."""
        seed = zlib.crc32(f"{self._config.seed}/{_stable(ask)}".encode())
        made: Mapping[str, Any]
        try:
            message = Message(role="user", content=ask.prompt)
            made = _answer(client.complete([message], self._config.sampling(ask.step, seed)))
        except WorkbenchError as error:
            made = {"text": "", "error": error.sentence()}
        return Reply(
            id=new_id("rep"), run_id=self._job.run_id, key=ask.key, step=ask.step, round=ask.round, prompt=ask.prompt,
            created_at=utc_now(), **made,
        )  # fmt: skip

    def _unusable(self) -> NoReturn:
        raise RunProblem(
            f"the generator gives no replies: {self._last_error}",
            place=model_store.get_variant(self._job.store, self._config.variant).name,
            remedy="Check that it answers in the Playground, then resume the run: what it replied so far is kept. "
            "Where prompts are too long for it, start a run with fewer tasks shown, or with a model that reads more.",
        )


def _stable(ask: Ask) -> str:
    """What a request's seed is made of: the same for the same request of another run with the same settings."""
    return ask.key if ask.candidate is None else f"{ask.step}/{ask.candidate.position}"


def _answer(completion: Completion) -> dict[str, Any]:
    return {
        "text": completion.text.replace("\x00", ""),
        "finish_reason": (completion.finish_reason or "")[:20] or None,
        "tokens": completion.tokens,
        "seconds": completion.seconds,
        "fingerprint": (completion.fingerprint or "")[:120] or None,
        "verified": completion.verified,
    }
