"""Choosing tokens and turning them into text."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from workbench.generation.sampler import RowSampler, TextStream, choose_tokens, kept_probabilities
from workbench.records import Sampling


@lru_cache
def byte_tokenizer() -> Tokenizer:
    """One token for each byte, so that every character beyond ASCII is split."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: number for number, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def pieces(text: str, stops: tuple[str, ...] = ()) -> tuple[list[str], TextStream]:
    stream = TextStream(byte_tokenizer(), stops)
    out = []
    for token in byte_tokenizer().encode(text).ids:
        out.append(stream.push(token))
        if stream.stopped:
            break
    out.append(stream.finish())
    return out, stream


@given(st.text(max_size=30))
def test_streamed_text_is_the_text_and_never_holds_half_a_character(text: str) -> None:
    out, _ = pieces(text)
    assert "".join(out) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in out)


@given(
    st.text(alphabet="ab\u00e9\u4f60 \n", max_size=30),
    st.lists(st.text(alphabet="ab\u00e9\u4f60 \n", min_size=1, max_size=4), max_size=3),
)
def test_text_ends_before_the_first_stop_text_and_none_of_it_is_shown_early(text: str, stops: list[str]) -> None:
    out, stream = pieces(text, tuple(stops))
    # The stop that is complete first ends the answer; a longer one that begins earlier cannot be seen yet.
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    if not ends:
        assert "".join(out) == text and not stream.stopped
        return
    seen = text[: min(ends)]
    assert stream.stopped
    assert "".join(out) == seen[: min(seen.find(stop) for stop in stops if stop in seen)]


def test_special_tokens_are_left_out_of_the_text() -> None:
    tokenizer = Tokenizer.from_str(byte_tokenizer().to_str())
    tokenizer.add_special_tokens(["<end>"])
    stream = TextStream(tokenizer)
    ids = [*tokenizer.encode("a").ids, tokenizer.token_to_id("<end>"), *tokenizer.encode("b").ids]
    assert "".join(stream.push(token) for token in ids) + stream.finish() == "ab"


def test_a_decoder_that_drops_the_first_space_drops_only_the_first() -> None:
    tokenizer = Tokenizer(models.WordLevel({"\u2581a": 0, "\u2581b": 1}, unk_token="\u2581a"))
    tokenizer.decoder = decoders.Metaspace()
    stream = TextStream(tokenizer)
    assert [stream.push(0), stream.push(1), stream.push(1)] == ["a", " b", " b"]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(-8, 8), min_size=4, max_size=40),
    st.floats(0.1, 2),
    st.integers(0, 50),
    st.floats(0.05, 1),
)
def test_what_is_kept_is_what_hugging_face_keeps(logits: list[float], heat: float, top_k: int, top_p: float) -> None:
    from transformers.generation.logits_process import (
        LogitsProcessorList,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    # Distinct, well apart values: at a tie or on the very edge of the nucleus either choice is right.
    distinct = sorted({round(value, 1) for value in logits})
    scores = torch.tensor([distinct])
    warpers = LogitsProcessorList([TemperatureLogitsWarper(heat)])
    if top_k:
        warpers.append(TopKLogitsWarper(min(top_k, len(distinct))))
    filtered = torch.softmax(warpers(None, scores), dim=-1)
    cumulated = filtered.sort(descending=True).values.cumsum(-1)
    if top_p < 1:
        if bool(((cumulated - top_p).abs() < 1e-4).any()):
            return
        warpers.append(TopPLogitsWarper(top_p))
    expected = torch.softmax(warpers(None, scores), dim=-1)
    kept = kept_probabilities(scores, [Sampling(temperature=heat, top_k=top_k, top_p=top_p)])
    assert torch.allclose(kept / kept.sum(), expected, atol=1e-5)


def test_samples_follow_the_distribution() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    row = RowSampler(Sampling(temperature=1, top_p=1, seed=1))
    counts = [0, 0, 0, 0]
    for _ in range(4000):
        counts[choose_tokens(logits, [row])[0]] += 1
    assert [count / 4000 for count in counts] == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)


def test_a_row_draws_the_same_whoever_is_beside_it() -> None:
    logits = torch.randn(3, 500, generator=torch.Generator().manual_seed(0))
    mixed = [Sampling(temperature=0.8, seed=4), Sampling(temperature=0), Sampling(temperature=1, top_k=3, seed=9)]
    rows, alone = [RowSampler(s) for s in mixed], [RowSampler(s) for s in mixed]
    for _ in range(20):
        together = choose_tokens(logits, rows)
        assert together == [choose_tokens(logits[i : i + 1], [alone[i]])[0] for i in range(3)]


def test_penalties_are_those_of_the_protocol() -> None:
    row = RowSampler(Sampling(temperature=0, presence_penalty=1.0, frequency_penalty=0.5))
    logits = torch.tensor([[2.0, 1.0, 0.2]])
    # 2.0 → 0.5 after one; 1.0 → −0.5 after one; then 0.5 − 0.5 = 0.0 after two
    assert [choose_tokens(logits, [row])[0] for _ in range(5)] == [0, 1, 0, 2, 0]
    assert logits.tolist() == [[2.0, 1.0, pytest.approx(0.2)]]


def test_no_seed_draws_anew_each_time() -> None:
    logits = torch.zeros(1, 10_000)
    drawn = {choose_tokens(logits, [RowSampler(Sampling(temperature=1, seed=None))])[0] for _ in range(5)}
    assert len(drawn) > 1


def test_top_p_over_a_flat_vocabulary_looks_beyond_the_first_tokens() -> None:
    kept = kept_probabilities(torch.arange(2000).float().unsqueeze(0) / 1e5, [Sampling(temperature=1, top_p=0.5)])
    assert 990 <= int((kept > 0).sum()) <= 1001
