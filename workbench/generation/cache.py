"""Keys and values of a changing set of rows, behind transformers' cache interface.

All rows end at one column, the cursor, and are padded on the left: a step writes one column for every row, whatever
their lengths, and relative positions inside the buffer are those of the text, so sliding windows hold too. Rows join
by being copied in so that they end at the cursor, and leave by the last row moving into their place. Buffers double
when they are full. Which row is which is the engine's business.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

FIRST_COLUMNS = 128


class _Layer(CacheLayerMixin):  # type: ignore[misc]  # transformers is untyped
    """Keys and values of one layer: [row capacity, heads, column capacity, head size]."""

    is_sliding = False

    def __init__(self, rows: RowCache) -> None:
        super().__init__()
        self._rows = rows

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate, in zeros: a masked column still enters a product with weight 0, which no NaN survives."""
        rows, columns = self._rows.capacity
        self.keys = key_states.new_zeros((rows, key_states.shape[1], columns, key_states.shape[3]))
        self.values = value_states.new_zeros((rows, value_states.shape[1], columns, value_states.shape[3]))
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new columns at the cursor and return everything from the first used column on."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        rows, low, at = self._rows.count, self._rows.low, self._rows.cursor
        end = at + key_states.shape[2]
        self.keys[:rows, :, at:end] = key_states
        self.values[:rows, :, at:end] = value_states
        return self.keys[:rows, :, low:end], self.values[:rows, :, low:end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns that attention sees in this step, and the offset of the first."""
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        """Columns before this step."""
        return self._rows.cursor - self._rows.low

    def get_max_length(self) -> int:
        """No bound of its own."""
        return -1


class RowCache(Cache):  # type: ignore[misc]  # transformers is untyped
    """Keys and values of `count` rows that all end at `cursor`.

    Args:
        starts: first used column of each row; a new prefill of `k` rows left-padded to one length gives their padding.
        columns: columns to allocate at first.
    """

    def __init__(self, starts: list[int] | None = None, columns: int = FIRST_COLUMNS) -> None:
        super().__init__(layers=[])
        self.layers: list[_Layer]
        self.starts: list[int] = list(starts or [])
        self.cursor = 0
        self.capacity = (max(1, len(self.starts)), max(1, columns))

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self.starts)

    @property
    def low(self) -> int:
        """First column any row uses."""
        return min(min(self.starts), self.cursor) if self.starts else self.cursor

    @property
    def buffers(self) -> list[torch.Tensor]:
        """All allocated buffers."""
        made = [layer for layer in self.layers if layer.is_initialized]
        return [buffer for layer in made for buffer in (layer.keys, layer.values)]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add one layer's new columns; `advance` moves the cursor once all layers have theirs."""
        while len(self.layers) <= layer_idx:
            self.layers.append(_Layer(self))
        found: tuple[torch.Tensor, torch.Tensor] = self.layers[layer_idx].update(key_states, value_states)
        return found

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns before this step."""
        return self.cursor - self.low

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Columns that attention sees in this step, and the offset of the first."""
        return self.get_seq_length() + query_length, 0

    def lengths(self) -> list[int]:
        """Tokens each row holds."""
        return [self.cursor - start for start in self.starts]

    def reserve(self, columns: int) -> None:
        """Make room for so many more columns: close the gap on the left, or double the buffers."""
        if self.cursor + columns <= self.capacity[1]:
            return
        gap = self.low
        used = self.cursor - gap
        if used + columns > self.capacity[1] or gap < self.capacity[1] // 4:
            size = self.capacity[1]
            while size < used + columns:
                size *= 2
            if size == self.capacity[1]:
                size *= 2
            self._resize(self.capacity[0], size, self.cursor - gap)
        else:
            self._shift(used)

    def advance(self, columns: int) -> None:
        """Count columns that a forward pass has written."""
        self.cursor += columns

    def mask(self, columns: int, device: torch.device | str) -> torch.Tensor | None:
        """Which columns each row may see in a step of `columns` tokens: [rows, seen], or None where all may."""
        low = self.low
        starts = [start - low for start in self.starts]
        if not any(starts):
            return None
        width = self.cursor + columns - low
        first = torch.tensor(starts, device=device).unsqueeze(1)
        return torch.arange(width, device=device).unsqueeze(0) >= first

    def join(self, other: RowCache, row: int) -> None:
        """Take in a copy of one row of another cache; it becomes the last row here."""
        length = other.cursor - other.starts[row]
        if self.count == 0:
            self.cursor = max(length, 0)
            if length > self.capacity[1]:
                self._grow_empty(length)
        elif length > self.cursor:
            if length > self.capacity[1]:
                size = self.capacity[1]
                while size < length:
                    size *= 2
                self._resize(self.capacity[0], size, length)
            else:
                self._shift(length)
        if self.count == self.capacity[0]:
            self._resize(self.capacity[0] * 2, self.capacity[1], self.cursor)
        place, start = self.count, self.cursor - length
        while len(self.layers) < len(other.layers):
            self.layers.append(_Layer(self))
        for layer, source in zip(self.layers, other.layers, strict=True):
            if not source.is_initialized:
                continue
            if not layer.is_initialized:
                layer.lazy_initialization(source.keys, source.values)
            for mine, theirs in ((layer.keys, source.keys), (layer.values, source.values)):
                mine[place, :, :start] = 0
                mine[place, :, start : self.cursor] = theirs[row, :, other.starts[row] : other.cursor]
        self.starts.append(start)

    def leave(self, row: int) -> None:
        """Drop a row; the last row takes its number."""
        last = self.count - 1
        if row != last:
            start = self.starts[last]
            for buffer in self.buffers:
                buffer[row, :, :start] = 0
                buffer[row, :, start : self.cursor] = buffer[last, :, start : self.cursor]
            self.starts[row] = start
        self.starts.pop()

    def _shift(self, cursor: int) -> None:
        """Move all columns so that the last one used comes to lie before `cursor`."""
        low, old, rows = self.low, self.cursor, self.count
        for buffer in self.buffers:
            moved = buffer[:rows, :, low:old].clone()
            buffer[:rows, :, : cursor - (old - low)] = 0
            buffer[:rows, :, cursor - (old - low) : cursor] = moved
        self.starts = [start + cursor - old for start in self.starts]
        self.cursor = cursor

    def _resize(self, rows: int, columns: int, cursor: int) -> None:
        """Move into buffers of another capacity, ending at `cursor`."""
        low, old, count = self.low, self.cursor, self.count
        self.capacity = (rows, columns)
        for layer in self.layers:
            if not layer.is_initialized:
                continue
            for name in ("keys", "values"):
                buffer = getattr(layer, name)
                bigger = buffer.new_zeros((rows, buffer.shape[1], columns, buffer.shape[3]))
                bigger[:count, :, cursor - (old - low) : cursor] = buffer[:count, :, low:old]
                setattr(layer, name, bigger)
        self.starts = [start + cursor - old for start in self.starts]
        self.cursor = cursor

    def _grow_empty(self, columns: int) -> None:
        size = self.capacity[1]
        while size < columns:
            size *= 2
        self.capacity = (self.capacity[0], size)
        self.layers = []
