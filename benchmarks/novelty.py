"""`novelty`: a candidate against a pool of instructions, ~16 words each, beside rouge_score and plain rapidfuzz.

Decisions and scores are held against rouge_score first: on the 175 seeds of Wang et al. 2022 where they are at hand,
and on twenty thousand pairs more. The pool grows as in a run; every candidate gets its exact nearest neighbour.
"""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

from benchmarks.figures import Figure, median_seconds

THRESHOLD = 0.7
POOL, CANDIDATES = 2_000, 500
CHECKED_POOL, CHECKED = 200, 110
WHOLE = 52_000
PEER_PAIRS = 400
PROJECT = Path(__file__).resolve().parents[1]
REAL = PROJECT.parent / "shared" / "data" / "self_instruct_seed_tasks.jsonl"
SHIPPED = PROJECT / "workbench" / "datasets" / "kits" / "seeds" / "seeds.jsonl"


def measure() -> list[Figure]:
    """Check decisions, then time ours and the peers on the same texts, then fill a whole pool."""
    seeds = _seeds()
    texts = make_texts(seeds, POOL + CANDIDATES + CHECKED_POOL + CHECKED, seed=1)
    pairs = _check(seeds, texts[: CHECKED_POOL + CHECKED])
    rest = texts[CHECKED_POOL + CHECKED :]
    ours, peers = _time(rest[:POOL], rest[POOL:])
    seconds, kept, compared = _fill(seeds)
    return [
        Figure("novelty", "same_decisions", 1.0, "share of pairs", pairs),
        Figure("novelty", "pair", ours, "µs", POOL * CANDIDATES, peers),
        Figure("novelty", f"whole_pool of {WHOLE:,} ({kept:,} kept)", seconds / 60, "min", compared),
    ]


def _seeds() -> list[str]:
    lines = (REAL if REAL.is_file() else SHIPPED).read_text("utf-8").splitlines()
    return [json.loads(line)["instruction"] for line in lines]


def make_texts(seeds: list[str], count: int, *, seed: int) -> list[str]:
    """Instructions of about 16 words: three in ten are seeds with words exchanged, the others drawn word by word.

    Words are drawn as often as the seeds use them, so that texts share their small words as real ones do.
    """
    dice = random.Random(seed)
    words = [word for text in seeds for word in text.split()]
    made = []
    for _ in range(count):
        if dice.random() < 0.3:
            text = dice.choice(seeds).split()
            for _ in range(dice.randrange(len(text) + 1)):
                text[dice.randrange(len(text))] = dice.choice(words)
        else:
            text = [dice.choice(words) for _ in range(max(4, round(dice.gauss(16, 6))))]
        made.append(" ".join(text))
    return made


def _check(seeds: list[str], texts: list[str]) -> int:
    """Hold every score and decision against rouge_score; the number of pairs."""
    from rouge_score.rouge_scorer import RougeScorer

    from workbench.self_instruct.novelty import NoveltyPool

    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    pairs = 0

    def hold(pool: NoveltyPool, known: list[str], text: str) -> None:
        nonlocal pairs
        best = max((scorer.score(other, text)["rougeL"].fmeasure for other in known), default=0.0)
        assert pool.nearest(text).score == best, text
        assert pool.is_novel(text, THRESHOLD) == (best <= THRESHOLD), text
        pairs += len(known)

    growing = NoveltyPool()
    for place, text in enumerate(seeds):
        hold(growing, seeds[:place], text)
        growing.add(text)
    known = texts[:CHECKED_POOL]
    fixed = NoveltyPool(known)
    for text in texts[CHECKED_POOL:]:
        hold(fixed, known, text)
    assert pairs >= 20_000, pairs
    return pairs


def _time(pool: list[str], candidates: list[str]) -> tuple[float, dict[str, float]]:
    """Microseconds a pair: ours over all pairs, each peer over as many as make a steady figure."""
    from rapidfuzz.distance import LCSseq
    from rouge_score import rouge_scorer, tokenize

    from workbench.self_instruct.novelty import NoveltyPool

    mine = NoveltyPool(pool)
    ours = median_seconds(lambda: [mine.nearest(text) for text in candidates], times=5, warmup=1)
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    some = [(pool[n % len(pool)], candidates[n % len(candidates)]) for n in range(PEER_PAIRS)]
    split = [(tokenize.tokenize(a, None), tokenize.tokenize(b, None)) for a, b in some]
    numbers: dict[str, int] = {}
    ids = [tuple([numbers.setdefault(word, len(numbers)) for word in words] for words in pair) for pair in split]
    peers = {
        "rouge_score": lambda: [scorer.score(a, b) for a, b in some],
        "rouge_score's LCS on words": lambda: [rouge_scorer._score_lcs(a, b) for a, b in split],
        "rapidfuzz LCSseq on ids": lambda: [LCSseq.similarity(a, b) for a, b in ids],
    }
    taken = {name: median_seconds(act, times=5, warmup=1) / PEER_PAIRS * 1e6 for name, act in peers.items()}
    return ours / (len(pool) * len(candidates)) * 1e6, taken


def _fill(seeds: list[str]) -> tuple[float, int, int]:
    """Seconds to decide a whole pool's candidates one after the other, how many were kept, and pairs decided."""
    from workbench.self_instruct.novelty import NoveltyPool

    texts = make_texts(seeds, WHOLE, seed=2)
    pool, compared = NoveltyPool(seeds), 0
    began = time.perf_counter()
    for text in texts:
        compared += len(pool)
        if pool.nearest(text).score <= THRESHOLD:
            pool.add(text)
    return time.perf_counter() - began, len(pool) - len(seeds), compared
