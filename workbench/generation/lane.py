"""One model with the rows it is writing: prefill of those that join, one decoding step for all the others.

A lane is a forward pass: the base with its stacked adapters is one, each adapter that cannot be stacked is one more.
Who may join, and when, is the engine's business (`workbench.generation.engine`); a lane makes no decision but which
token comes next. All methods run on the engine's thread, under `torch.inference_mode`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from workbench.errors import GenerationProblem, ModelProblem
from workbench.generation.cache import RowCache
from workbench.generation.configs import Delta, Done, FinishReason, GenerationRequest, TokenLogprob
from workbench.generation.lora import LoraBank
from workbench.generation.sampler import RowSampler, TextStream, choose_tokens, token_logprobs

if TYPE_CHECKING:
    from workbench.generation.engine import Handle

PREFILL_TOKENS = 512
"""Prompt tokens read in one step; a longer prompt takes several, so that running answers go on between them."""
PREFILL_TOKENS_BESIDE = 256
"""The same while other answers are being written."""
_LAYER_TYPES = {"full_attention", "sliding_attention"}


class Row:
    """One answer being written.

    Args:
        handle: the request it belongs to.
        choice: which of the request's answers.
        limit: tokens it may have.
        decoder: the tokenizer.
    """

    def __init__(self, handle: Handle, choice: int, limit: int, decoder: Any) -> None:
        self.handle = handle
        self.request: GenerationRequest = handle.request
        self.choice = choice
        self.limit = limit
        self.sampler = RowSampler(self.request.sampling, choice)
        self.stream = TextStream(decoder, self.request.sampling.stop)
        self.last = 0
        self.tokens = 0
        self.over = False
        self._ids: list[int] = []
        self._logprobs: list[TokenLogprob] = []

    @property
    def columns(self) -> int:
        """Most columns of cache it will fill."""
        return len(self.request.prompt_ids) + self.limit

    def take(self, token: int, logprob: TokenLogprob | None) -> None:
        """Add a chosen token: emit text, and end where the answer ends."""
        if token in self.request.stop_ids:
            self.end("stop")
            return
        self.last = token
        self.tokens += 1
        self._ids.append(token)
        if logprob is not None:
            self._logprobs.append(logprob)
        text = self.stream.push(token)
        if text or self._logprobs:
            self._emit(text)
        if self.stream.stopped:
            self.end("stop")
        elif self.tokens >= self.limit:
            self.end("length")

    def end(self, reason: FinishReason) -> None:
        """Let go of held text and tell that the answer is over."""
        text = self.stream.finish()
        if self.stream.stopped and reason == "length":
            reason = "stop"
        if text or self._ids:
            self._emit(text)
        self.over = True
        self.handle.emit(Done(self.choice, reason, self.tokens))

    def _emit(self, text: str) -> None:
        self.handle.emit(Delta(self.choice, text, tuple(self._ids), tuple(self._logprobs)))
        self._ids, self._logprobs = [], []


@dataclass
class _Prefill:
    """A prompt being read for the rows that share it."""

    prompt: tuple[int, ...]
    adapter: str | None
    rows: list[Row]
    cache: RowCache | None = field(default=None, repr=False)
    done: int = 0

    @property
    def left(self) -> int:
        """Tokens still to read."""
        return len(self.prompt) - self.done


class Lane:
    """A model and its rows.

    Args:
        model: a causal language model of transformers in evaluation mode.
        stacked: whether adapters are stacked on it; without, every row gets the model as it is.

    Raises:
        ModelProblem: the architecture keeps more than attention keys and values.
    """

    def __init__(self, model: Any, *, stacked: bool) -> None:
        self.model = model
        self.bank = LoraBank(model) if stacked else None
        self.rows: list[Row] = []
        self.joining: list[_Prefill] = []
        self._cache: RowCache | None = None
        self._device = next(model.parameters()).device
        known = inspect.signature(model.forward).parameters
        types = set(getattr(model.config, "layer_types", None) or ())
        if "past_key_values" not in known or "attention_mask" not in known or types - _LAYER_TYPES:
            raise ModelProblem(
                "the engine cannot serve this architecture: it keeps more than attention keys and values",
                value=type(model).__name__,
                remedy="Serve it with vLLM or llama-server and add that server on the Models page.",
            )
        self._keep = "logits_to_keep" in known
        self._positions = "position_ids" in known

    @property
    def all_rows(self) -> list[Row]:
        """Rows being written or read."""
        return self.rows + [row for prefill in self.joining for row in prefill.rows]

    def admit(self, row: Row) -> None:
        """Let a row in; it shares the prefill of a row with the same prompt that has not begun."""
        request = row.request
        for prefill in self.joining:
            if prefill.done == 0 and prefill.prompt == request.prompt_ids and prefill.adapter == request.adapter:
                prefill.rows.append(row)
                return
        self.joining.append(_Prefill(request.prompt_ids, request.adapter, [row]))

    def drop(self, gone: Callable[[Row], bool], reason: FinishReason) -> None:
        """End all rows for which `gone` holds."""
        for row in self.all_rows:
            if not row.over and gone(row):
                row.end(reason)
        self._sweep()

    def step(self) -> None:
        """One chunk of prefill where rows join, then one token for every row that was already writing."""
        writing = list(self.rows)
        if self.joining:
            self._read_prompts(PREFILL_TOKENS_BESIDE if writing else PREFILL_TOKENS)
        if writing:
            try:
                self._write()
            except Exception as error:
                self._fail(self.rows, error)
                self.rows, self._cache = [], None
        self._sweep()

    def _read_prompts(self, budget: int) -> None:
        begun = [prefill for prefill in self.joining if prefill.done]
        long = next(iter([*begun, *(prefill for prefill in self.joining if prefill.left > budget)]), None)
        short: list[_Prefill] = []
        for prefill in self.joining:
            if prefill is not long and prefill.left <= budget:
                width = max([prefill.left, *(other.left for other in short)])
                if short and width * (len(short) + 1) > budget:
                    break
                short.append(prefill)
        for batch in ([long] if long else [], short):
            if not batch:
                continue
            try:
                self._read(batch, budget)
            except Exception as error:
                self._fail([row for prefill in batch for row in prefill.rows], error)
                for prefill in batch:
                    prefill.rows = []

    def _read(self, batch: Sequence[_Prefill], budget: int) -> None:
        """Read the next tokens of one long prompt, or the whole of several short ones, padded on the left."""
        parts = [prefill.prompt[prefill.done : prefill.done + budget] for prefill in batch]
        width = max(len(part) for part in parts)
        cache = batch[0].cache
        if cache is None:
            padding = [width - len(part) for part in parts]
            cache = RowCache(padding, columns=max(width, len(batch[0].prompt) if len(batch) == 1 else 0))
        ids = torch.tensor([[0] * (width - len(part)) + list(part) for part in parts], device=self._device)
        logits = self._forward(ids, cache, [prefill.adapter for prefill in batch])
        for place, (prefill, part) in enumerate(zip(batch, parts, strict=True)):
            prefill.done += len(part)
            prefill.cache = cache if len(batch) == 1 else None
            if prefill.left:
                continue
            for row in prefill.rows:
                if self._cache is None:
                    self._cache = RowCache(columns=max(cache.cursor + min(row.limit, 128), 128))
                self._cache.join(cache, place)
                self.rows.append(row)
            self._choose(logits[place : place + 1].expand(len(prefill.rows), -1), prefill.rows)

    def _write(self) -> None:
        assert self._cache is not None
        # Rows that have just been read hold their first token already; they come last and take part from now on.
        ids = torch.tensor([[row.last] for row in self.rows], device=self._device)
        live = [row for row in self.rows if not row.over]
        if not live:
            return
        logits = self._forward(ids, self._cache, [row.request.adapter for row in self.rows])
        if len(live) < len(self.rows):
            logits = logits[[place for place, row in enumerate(self.rows) if not row.over]]
        self._choose(logits, live)

    def _forward(self, ids: torch.Tensor, cache: RowCache, adapters: Sequence[str | None]) -> torch.Tensor:
        """Logits [rows, vocabulary] after these tokens [rows, tokens], whose keys and values join the cache."""
        width = ids.shape[1]
        cache.reserve(width)
        if self.bank is not None:
            self.bank.set_rows(adapters)
        mask = cache.mask(width, self._device)
        given: dict[str, Any] = {}
        if self._positions:
            first = torch.tensor(cache.lengths(), device=self._device).unsqueeze(1)
            given["position_ids"] = (first + torch.arange(width, device=self._device)).clamp_min(0)
        elif mask is None:
            seen = cache.get_seq_length() + width
            mask = torch.ones((len(ids), seen), dtype=torch.bool, device=self._device)
        if self._keep:
            given["logits_to_keep"] = 1
        out = self.model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **given)
        cache.advance(width)
        logits: torch.Tensor = out.logits[:, -1]
        return logits

    def _choose(self, logits: torch.Tensor, rows: Sequence[Row]) -> None:
        # A maximum is not finite exactly where a row holds NaN, or nothing but -inf.
        sound = torch.isfinite(logits.amax(dim=-1)).tolist()
        if not all(sound):
            self._fail(
                [row for row, fine in zip(rows, sound, strict=True) if not fine],
                GenerationProblem(
                    "the model produced values that are not numbers",
                    remedy="Its weights are damaged, or its training diverged; choose another variant.",
                ),
            )
            if not any(sound):
                return
            logits = logits[torch.tensor(sound, device=logits.device)]
            rows = [row for row, fine in zip(rows, sound, strict=True) if fine]
        tokens = choose_tokens(logits, [row.sampler for row in rows])
        logprobs: list[TokenLogprob | None] = [None] * len(rows)
        asked = [place for place, row in enumerate(rows) if row.request.top_logprobs is not None]
        if asked:
            tops = [rows[place].request.top_logprobs or 0 for place in asked]
            found = token_logprobs(logits[asked], [tokens[place] for place in asked], tops)
            for place, item in zip(asked, found, strict=True):
                logprobs[place] = item
        for row, token, logprob in zip(rows, tokens, logprobs, strict=True):
            row.take(token, logprob)

    def _fail(self, rows: Sequence[Row], error: Exception) -> None:
        for row in rows:
            row.over = True
            row.handle.fail(in_words(error))

    def _sweep(self) -> None:
        """Take rows that are over out of the batch."""
        for place in range(len(self.rows) - 1, -1, -1):
            if self.rows[place].over or self.rows[place].handle.over:
                if self._cache is not None:
                    self._cache.leave(place)
                self.rows[place] = self.rows[-1]
                self.rows.pop()
        for prefill in self.joining:
            prefill.rows = [row for row in prefill.rows if not (row.over or row.handle.over)]
        self.joining = [prefill for prefill in self.joining if prefill.rows and prefill.left]
        if not self.rows:
            self._cache = None


def in_words(error: Exception) -> Exception:
    """A step's exception as a person can act on it."""
    from workbench.errors import WorkbenchError

    if isinstance(error, WorkbenchError):
        return error
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if isinstance(error, MemoryError) or "out of memory" in text.lower() or "allocate memory" in text.lower():
        return GenerationProblem(
            "there was not enough memory for this step",
            remedy="Ask for shorter answers or fewer at once, or start the engine with a lower max_rows.",
        )
    return GenerationProblem(f"the engine could not go on with this request: {text}", remedy="Ask again.")
