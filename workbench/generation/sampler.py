"""From logits to tokens, and from tokens to text: one row's state and the choice for a whole batch.

Greedy rows are chosen together. A sampled row draws one number a token from its own generator and takes the token at
that point of the cumulated distribution in order of token id, so the answer depends on seed, settings and prompt, not
on which other rows are in the batch. The loop that calls this is in `workbench.generation.engine`.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, Protocol

import torch

from workbench.generation.configs import TokenLogprob
from workbench.records import Sampling

NUCLEUS_TRY = 256
"""Most likely tokens looked at first for top_p; the whole vocabulary is sorted only where they do not reach it."""


class Decoder(Protocol):
    """What is needed of a `tokenizers.Tokenizer`."""

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of these tokens."""


class RowSampler:
    """Choices of one answer: its settings, generator and the tokens counted for penalties.

    Args:
        sampling: the request's settings.
        choice: number of the answer among the request's `n`; each has a stream of its own.
    """

    def __init__(self, sampling: Sampling, choice: int = 0) -> None:
        self.sampling = sampling
        self.greedy = sampling.temperature == 0
        self.penalised = bool(sampling.presence_penalty or sampling.frequency_penalty)
        self.counts: dict[int, int] = {}
        seed = secrets.randbits(62) if sampling.seed is None else (sampling.seed + choice * 0x9E3779B97F4A7C15) % 2**63
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self) -> float:
        """The next number in [0, 1) of this answer's own stream."""
        return float(torch.rand((), generator=self.generator, dtype=torch.float64))

    def note(self, token: int) -> None:
        """Count a chosen token."""
        if self.penalised:
            self.counts[token] = self.counts.get(token, 0) + 1

    def penalise(self, logits: torch.Tensor) -> None:
        """Subtract presence and frequency penalties in place from logits [vocabulary]."""
        if not (self.penalised and self.counts):
            return
        ids = torch.tensor(list(self.counts), device=logits.device)
        times = torch.tensor(list(self.counts.values()), dtype=logits.dtype, device=logits.device)
        logits[ids] -= self.sampling.presence_penalty + self.sampling.frequency_penalty * times


def choose_tokens(logits: torch.Tensor, rows: Sequence[RowSampler]) -> list[int]:
    """One token for each row.

    Args:
        logits: [rows, vocabulary], finite; left as they are.
        rows: the state of each row; draws and counts are made in it.
    """
    logits = logits.float()
    penalised = [i for i, row in enumerate(rows) if row.penalised and row.counts]
    if penalised:
        logits = logits.clone()
        for i in penalised:
            rows[i].penalise(logits[i])
    chosen: list[int]
    sampled = [i for i, row in enumerate(rows) if not row.greedy]
    if len(sampled) == len(rows):
        chosen = _sample(logits, rows)
    else:
        chosen = logits.argmax(dim=-1).tolist()
        if sampled:
            drawn = _sample(logits[torch.tensor(sampled, device=logits.device)], [rows[i] for i in sampled])
            for i, token in zip(sampled, drawn, strict=True):
                chosen[i] = token
    for row, token in zip(rows, chosen, strict=True):
        row.note(token)
    return chosen


def kept_probabilities(logits: torch.Tensor, settings: Sequence[Sampling]) -> torch.Tensor:
    """The distribution that is sampled from: temperature, then top_k, then top_p, as Hugging Face orders them.

    Tokens that tie with the last one kept are kept too, so the result does not depend on how a sort breaks ties.
    top_p: Holtzman et al. 2020, section 3.1.

    Args:
        logits: [rows, vocabulary].
        settings: one for each row, temperature above 0.

    Returns:
        Weights [rows, vocabulary], not normalised after top_p.
    """
    vocabulary = logits.shape[-1]
    # A temperature near 0 would overflow; the best token then has all of the mass either way.
    heat = torch.tensor([max(s.temperature, 1e-4) for s in settings], device=logits.device).unsqueeze(1)
    scaled = (logits - logits.amax(dim=-1, keepdim=True)) / heat
    cut = [i for i, s in enumerate(settings) if 0 < s.top_k < vocabulary]
    if cut:
        index = torch.tensor(cut, device=logits.device)
        widths = torch.tensor([settings[i].top_k - 1 for i in cut], device=logits.device).unsqueeze(1)
        best = scaled[index].topk(int(widths.max()) + 1, dim=-1).values
        scaled[index] = scaled[index].masked_fill(scaled[index] < best.gather(1, widths), float("-inf"))
    weights = torch.softmax(scaled, dim=-1)
    cut = [i for i, s in enumerate(settings) if s.top_p < 1]
    if cut:
        index = torch.tensor(cut, device=logits.device)
        shares = torch.tensor([settings[i].top_p for i in cut], device=logits.device).unsqueeze(1)
        floor = _nucleus_floor(weights[index], shares)
        weights[index] = weights[index].masked_fill(weights[index] < floor, 0.0)
    return weights


def _nucleus_floor(weights: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Smallest probability inside the nucleus of each row: [rows, vocabulary], [rows, 1] → [rows, 1]."""
    width = weights.shape[-1]
    best = weights.topk(min(NUCLEUS_TRY, width), dim=-1).values
    total = best.cumsum(dim=-1)
    if best.shape[-1] < width and bool((total[:, -1:] < shares).any()):
        best = weights.sort(dim=-1, descending=True).values
        total = best.cumsum(dim=-1)
    last = (total < shares).sum(dim=-1, keepdim=True).clamp_max(best.shape[-1] - 1)
    return best.gather(1, last)


def _sample(logits: torch.Tensor, rows: Sequence[RowSampler]) -> list[int]:
    weights = kept_probabilities(logits, [row.sampling for row in rows])
    total = weights.cumsum(dim=-1, dtype=torch.float64)
    draws = torch.tensor([row.draw() for row in rows], dtype=torch.float64, device=logits.device).unsqueeze(1)
    # right=True steps over tokens of weight 0, whose cumulated value equals their neighbour's.
    tokens: list[int] = torch.searchsorted(total, draws * total[:, -1:], right=True).squeeze(1).tolist()
    return tokens


def token_logprobs(logits: torch.Tensor, tokens: Sequence[int], tops: Sequence[int]) -> list[TokenLogprob]:
    """Log probabilities of chosen tokens and of the most likely ones under the model itself.

    Args:
        logits: [rows, vocabulary].
        tokens: the token of each row.
        tops: number of alternatives for each row, at most `MAX_TOP_LOGPROBS`.
    """
    scores = torch.log_softmax(logits.float(), dim=-1)
    found = []
    for i, (token, top) in enumerate(zip(tokens, tops, strict=True)):
        best = scores[i].topk(min(top, scores.shape[-1])) if top else None
        pairs = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True)) if best else ()
        found.append(TokenLogprob(token, float(scores[i, token]), pairs))
    return found


class TextStream:
    """Turns tokens into text as they come: whole characters only, special tokens left out, cut before a stop text.

    Args:
        decoder: the tokenizer.
        stops: texts that end the answer.
    """

    def __init__(self, decoder: Decoder | Any, stops: Sequence[str] = ()) -> None:
        self._decoder = decoder
        self._stops = tuple(stop for stop in stops if stop)
        self._ids: list[int] = []
        # Text up to `_read` is out; decoding again from `_prefix` gives the decoder the token before, because some
        # decoders drop a leading space and byte-level ones need all bytes of a character.
        self._prefix = 0
        self._read = 0
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Text that can be shown after this token; may be empty."""
        self._ids.append(token)
        before = self._decoder.decode(self._ids[self._prefix : self._read], skip_special_tokens=True)
        after = self._decoder.decode(self._ids[self._prefix :], skip_special_tokens=True)
        if len(after) <= len(before) or after.endswith("\ufffd"):
            return ""
        self._prefix, self._read = self._read, len(self._ids)
        return self._release(after[len(before) :])

    def finish(self) -> str:
        """What was still held back."""
        if self.stopped:
            return ""
        before = self._decoder.decode(self._ids[self._prefix : self._read], skip_special_tokens=True)
        after = self._decoder.decode(self._ids[self._prefix :], skip_special_tokens=True)
        text = self._release(after[len(before) :])
        if not self.stopped:
            text, self._held = text + self._held, ""
        return text

    def _release(self, more: str) -> str:
        text = self._held + more
        places = [at for at in (text.find(stop) for stop in self._stops) if at >= 0]
        if places:
            self.stopped, self._held = True, ""
            return text[: min(places)]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a proper beginning of `stop`."""
    for size in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
