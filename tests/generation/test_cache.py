"""The cache holds what each row wrote, whichever rows join and leave around it."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.generation.cache import RowCache

LAYERS, HEADS, SIZE = 2, 2, 3


def write(cache: RowCache, values: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """One step: values [rows, tokens] become keys and values of every layer, told apart by layer and head."""
    shape = (values.shape[0], HEADS, values.shape[1], SIZE)
    scale = torch.arange(1, HEADS + 1).view(1, HEADS, 1, 1)
    given = values.view(values.shape[0], 1, -1, 1).expand(shape) * scale
    out = [cache.update(given + 1000 * layer, -given - 1000 * layer, layer) for layer in range(LAYERS)]
    cache.advance(values.shape[1])
    return out


def check(cache: RowCache, seen: list[tuple[torch.Tensor, torch.Tensor]], wanted: list[list[float]]) -> None:
    mask = cache_mask(cache, seen)
    for layer, (keys, values) in enumerate(seen):
        assert torch.isfinite(keys).all() and torch.isfinite(values).all()
        for row, expected in enumerate(wanted):
            for head in range(HEADS):
                found = keys[row, head, mask[row], 0] - 1000 * layer
                assert found.tolist() == [value * (head + 1) for value in expected]
                assert torch.equal(values[row, head, mask[row], 0], -keys[row, head, mask[row], 0])


def cache_mask(cache: RowCache, seen: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    width = seen[0][0].shape[2]
    first = torch.tensor(cache.starts).unsqueeze(1) - (cache.cursor - width)
    return torch.arange(width).unsqueeze(0) >= first


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(["join", "leave", "step", "step"]), st.integers(1, 9)), max_size=40))
def test_rows_keep_their_own_columns_through_joins_leaves_and_growth(moves: list[tuple[str, int]]) -> None:
    cache, wanted, number = RowCache(columns=4), [], 0.0
    for move, size in moves:
        if move == "join":
            # Two rows of unlike lengths, read together and padded on the left, as the engine does.
            lengths = [size, max(1, size - 3)]
            prefill = RowCache([size - length for length in lengths], columns=size)
            block = torch.full((2, size), float("-7"))
            rows = []
            for row, length in enumerate(lengths):
                rows.append([number + step + 1 for step in range(length)])
                block[row, size - length :] = torch.tensor(rows[-1])
                number += length
            write(prefill, block)
            for row in (0, 1):
                cache.join(prefill, row)
                wanted.append(rows[row])
        elif move == "leave" and wanted:
            row = size % len(wanted)
            cache.leave(row)
            wanted[row] = wanted[-1]
            wanted.pop()
        elif move == "step" and wanted:
            cache.reserve(1)
            assert cache.lengths() == [len(row) for row in wanted]
            mask = cache.mask(1, "cpu")
            new = torch.arange(len(wanted)).float().unsqueeze(1) + number + 1
            number += len(wanted)
            seen = write(cache, new)
            for row, value in zip(wanted, new.squeeze(1).tolist(), strict=True):
                row.append(value)
            check(cache, seen, wanted)
            expected = cache_mask(cache, seen)
            assert bool(expected.all()) if mask is None else torch.equal(mask, expected)
