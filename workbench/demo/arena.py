"""Blind battles: two unnamed answers in random order, one vote each, kept in the store as a ranking of source `demo`.

A battle lives in this process until it is voted on; only then are question and answers stored, so what nobody judged
leaves no trace. A vote is stored once however often it is sent.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from workbench.demo.compare import Pane
from workbench.demo.configs import DemoConfig
from workbench.demo.limits import Refused
from workbench.errors import Conflict, NotFound
from workbench.preferences.queues import LETTERS, leak_sentence, leaks
from workbench.records import Completion, Message, RankQueue, Variant
from workbench.store import answers as answer_store
from workbench.store import models as model_store
from workbench.store import rankings as ranking_store
from workbench.store.database import Store
from workbench.store.datasets import check_name

Choice = Literal["A is better", "B is better", "Tie", "Both are bad"]
CHOICES: tuple[Choice, ...] = ("A is better", "B is better", "Tie", "Both are bad")
MOST_BATTLES = 2_000
GUIDELINES = "Votes of visitors who did not know which model wrote which answer."


@dataclass
class Battle:
    """Two whole answers that wait for a vote."""

    nonce: str
    """Stored with the vote; the same battle is one ranking."""
    prompt: tuple[Message, ...]
    """What was asked."""
    answers: tuple[Completion, Completion]
    """Left and right, as shown."""
    names: tuple[str, str]
    """Who wrote them."""
    shown_at: float
    """When both were whole, by `time.monotonic`."""
    item_id: str | None = None
    """The stored item, once a vote was on its way."""
    choice: Choice | None = None
    """The vote, once it is stored."""


class Arena:
    """Draws pairs, remembers each visitor's battle, and stores votes.

    Args:
        store: where votes go.
        config: title and variants.
        run_id: the demo's run, told in the queue's source.
    """

    def __init__(self, store: Store, config: DemoConfig, run_id: str) -> None:
        self._store = store
        self._config = config
        self._run_id = run_id
        self._models = {model.id: model for model in model_store.list_models(store, archived=True)}
        self._salt = secrets.token_bytes(16)
        self._battles: OrderedDict[str, Battle] = OrderedDict()
        self._lock = threading.Lock()
        self.votes = 0

    def draw(self, variants: Sequence[Variant]) -> tuple[Variant, Variant]:
        """Two different variants in random order."""
        left, right = secrets.SystemRandom().sample(list(variants), 2)
        return left, right

    def begin(self, visitor: str, panes: Sequence[Pane]) -> str:
        """Two answers are there and may be voted on by the visitor who asked.

        Args:
            visitor: the browser session.
            panes: left and right.

        Returns:
            A warning where an answer tells who may have written it; empty otherwise.

        Raises:
            Refused: there is nothing to choose between.
        """
        left, right = panes
        self.forget(visitor)
        if not left.good or not right.good or left.completion is None or right.completion is None:
            raise Refused("One of the two models could not answer. Ask again in a moment.")
        if left.text.strip() == right.text.strip():
            raise Refused("Both answers are the same, so there is nothing to choose. Ask something else.")
        battle = Battle(
            nonce=f"demo-{secrets.token_hex(16)}",
            prompt=left.completion.prompt,
            answers=(left.completion, right.completion),
            names=(left.variant.name, right.variant.name),
            shown_at=time.monotonic(),
        )
        with self._lock:
            self._battles[visitor] = battle
            while len(self._battles) > MOST_BATTLES:
                self._battles.popitem(last=False)
        return self._warning(panes)

    def _warning(self, panes: Sequence[Pane]) -> str:
        """As in Rank: both writers' names count in either answer."""
        who = [pane.variant for pane in panes]
        bases = [self._models[each.model_id] for each in who if each.model_id in self._models]
        prompt = panes[0].completion.prompt if panes[0].completion is not None else ()
        telling = [
            letter
            for letter, pane in zip(LETTERS, panes, strict=False)
            if leaks(pane.text, who, models=bases, prompt=prompt)
        ]
        return leak_sentence(telling)

    def forget(self, visitor: str) -> None:
        """A visitor asks something new: the last battle is over, voted on or not."""
        with self._lock:
            self._battles.pop(visitor, None)

    def waits_for(self, visitor: str) -> bool:
        """Whether a visitor has two answers to vote on."""
        with self._lock:
            battle = self._battles.get(visitor)
            return battle is not None and battle.choice is None

    def vote(self, visitor: str, choice: str) -> Battle:
        """Store a visitor's vote; sent again, it changes nothing.

        Args:
            visitor: the browser session.
            choice: one of `CHOICES`.

        Returns:
            The battle, with the choice that counts.

        Raises:
            Refused: there is nothing to vote on, or no such choice.
            StoreProblem: the vote cannot be kept now; it may be sent again.
        """
        if choice not in CHOICES:
            raise Refused(f"A vote is one of: {', '.join(CHOICES)}.")
        with self._lock:
            battle = self._battles.get(visitor)
            if battle is None:
                raise Refused("Ask a question first, and wait until both answers are written.")
            if battle.choice is None:
                self._keep(battle, visitor, choice)
                battle.choice = choice
                self.votes += 1
            return battle

    def _keep(self, battle: Battle, visitor: str, choice: str) -> None:
        ids = tuple(answer.id for answer in battle.answers)
        if battle.item_id is None:
            known = {answer.id for answer in battle.answers if self._is_kept(answer)}
            answer_store.add_completions(self._store, [each for each in battle.answers if each.id not in known])
            battle.item_id = self._add_item(battle, ids)
        tiers = {CHOICES[0]: [ids[:1], ids[1:]], CHOICES[1]: [ids[1:], ids[:1]], CHOICES[2]: [ids]}
        ranking_store.submit_ranking(
            self._store,
            battle.item_id,
            self._rater(visitor),
            nonce=battle.nonce,
            shown=ids,
            tiers=tiers.get(choice, ()),  # type: ignore[call-overload]
            all_bad=choice == CHOICES[3],
            seconds=round(time.monotonic() - battle.shown_at, 3),
            source=ranking_store.DEMO,
        )

    def _is_kept(self, completion: Completion) -> bool:
        try:
            answer_store.get_completion(self._store, completion.id)
        except NotFound:
            return False
        return True

    def _add_item(self, battle: Battle, ids: tuple[str, ...]) -> str:
        item = ranking_store.NewItem(prompt=battle.prompt, completions=ids)
        for _ in range(2):
            queue = self._queue()
            if queue is not None:
                return ranking_store.add_items(self._store, queue.id, [item])[0].id
            try:
                # A queue is made with its first item, so a demo without votes leaves no empty one.
                source = {"demo": self._run_id, "variants": list(self._config.variants)}
                made = ranking_store.create_queue(
                    self._store, self.queue_name, [item], guidelines=GUIDELINES, source=source
                )
                return ranking_store.list_items(self._store, [made.id])[0].id
            except Conflict:
                continue  # another demo of this title made it just now
        raise Conflict("the queue of votes cannot be made", place=self.queue_name, remedy="Vote again.")

    @property
    def queue_name(self) -> str:
        """The queue that votes go to."""
        return check_name(f"Demo: {self._config.title}", "queue")

    def _queue(self) -> RankQueue | None:
        try:
            return ranking_store.get_queue(self._store, self.queue_name)
        except NotFound:
            return None

    def _rater(self, visitor: str) -> str:
        # The session's own id would let whoever reads the store speak for the visitor while the page is open.
        return "visitor-" + hashlib.blake2b(visitor.encode(), key=self._salt, digest_size=6).hexdigest()
