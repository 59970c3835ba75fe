from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenize import tokenize

from workbench.errors import UsageError
from workbench.self_instruct.novelty import NoveltyPool, rouge_l, score_pair, split_words

SCORER = RougeScorer(["rougeL"], use_stemmer=False)
WORDS = ["sort", "the", "the", "words", "a", "b", "İstanbul", "naïve", "it's", "3.5", "—", "x", "名前"]
texts = st.one_of(st.text(max_size=40), st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join))


def peer(left: str, right: str) -> float:
    return float(SCORER.score(left, right)["rougeL"].fmeasure)


@given(texts)
@example("İ K ﬁ ǅ")
def test_words_are_those_that_rouge_score_compares(text: str):
    assert split_words(text) == tokenize(text, None)


@given(texts, texts)
@example("", "")
@example("a b", "")
def test_a_pair_scores_as_rouge_score_scores_it_to_the_last_bit(left: str, right: str):
    assert score_pair(left, right) == peer(left, right) == score_pair(right, left)


@settings(max_examples=150)
@given(st.lists(texts, max_size=30), texts, st.sampled_from([0.0, 0.3, 0.5, 2 / 3, 0.7, 1.0]))
def test_nearest_and_decision_are_those_of_scoring_every_pair(pool: list[str], text: str, threshold: float):
    scores = [peer(known, text) for known in pool]
    best = max(scores, default=0.0)
    found = NoveltyPool(pool).nearest(text)
    assert found.score == best
    assert found.place == (scores.index(best) if best > 0 else -1)
    assert NoveltyPool(pool).is_novel(text, threshold) == (best <= threshold)


def random_texts(seeds: list[str], count: int, seed: int) -> list[str]:
    dice = random.Random(seed)
    words = [word for text in seeds for word in text.split()]
    made = []
    for _ in range(count):
        text = dice.choice(seeds).split()
        for _ in range(dice.randrange(len(text) + 1)):
            text[dice.randrange(len(text))] = dice.choice(words)
        made.append(" ".join(text[: dice.randrange(1, len(text) + 1)] if dice.random() < 0.3 else text))
    return made


def test_decisions_on_twenty_thousand_pairs_are_those_of_rouge_score():
    dice = random.Random(3)
    vocabulary = [f"w{n}" for n in range(60)]
    seeds = [" ".join(dice.choice(vocabulary) for _ in range(dice.randrange(3, 24))) for _ in range(150)]
    candidates = random_texts(seeds, 140, 4)
    assert len(seeds) * len(candidates) >= 20_000
    pool = NoveltyPool(seeds)
    tokens = [tokenize(text, None) for text in seeds]
    for candidate in candidates:
        mine = tokenize(candidate, None)
        scores = [peer_on_tokens(known, mine) for known in tokens]
        best = max(scores)
        found = pool.nearest(candidate)
        assert (found.score, found.place) == (best, scores.index(best))
        assert pool.is_novel(candidate, 0.7) == (best <= 0.7)


def peer_on_tokens(target: list[str], prediction: list[str]) -> float:
    from rouge_score.rouge_scorer import _score_lcs

    return float(_score_lcs(target, prediction).fmeasure)


def test_decisions_on_the_real_seeds_are_those_of_rouge_score(shared_data: Path):
    lines = (shared_data / "self_instruct_seed_tasks.jsonl").read_text("utf-8").splitlines()
    seeds = [json.loads(line)["instruction"] for line in lines]
    assert len(seeds) == 175
    pool = NoveltyPool()
    tokens: list[list[str]] = []
    for text in seeds:
        mine = tokenize(text, None)
        best = max((peer_on_tokens(known, mine) for known in tokens), default=0.0)
        assert pool.nearest(text).score == best
        assert pool.is_novel(text, 0.7) == (best <= 0.7)
        pool.add(text)
        tokens.append(mine)


def test_long_texts_and_many_distinct_words_are_compared_exactly():
    long = " ".join(f"w{n % 90}" for n in range(700))
    shifted = " ".join(f"w{(n * 7) % 90}" for n in range(650))
    assert NoveltyPool([long]).nearest(shifted).score == peer(long, shifted)


def test_word_numbers_beyond_unicode_compare_with_those_below(monkeypatch: pytest.MonkeyPatch):
    from workbench.self_instruct import novelty

    plain = NoveltyPool(["a b c d", "e f g h"]).nearest("e x g h b")
    monkeypatch.setattr(novelty, "_LETTERS", 5)
    assert NoveltyPool(["a b c d", "e f g h"]).nearest("e x g h b") == plain


def test_equally_near_texts_give_the_first():
    pool = NoveltyPool(["no", "same words here", "same words here"])
    assert tuple(pool.nearest("same words here")) == (1.0, 1)
    assert pool.text(1) == "same words here" and len(pool) == 3


def test_a_threshold_out_of_bounds_is_refused():
    with pytest.raises(UsageError, match="between 0 and 1"):
        NoveltyPool(["a"]).is_novel("a", 1.1)


def test_no_common_word_scores_nothing():
    assert rouge_l(0, 0, 0) == 0.0
    assert tuple(NoveltyPool(["a b"]).nearest("c d")) == (0.0, -1)
    assert NoveltyPool(["!!"]).is_novel("!!", 0.0)
