"""Many LoRA adapters on one base in one batch: every adapter's A and B stacked into one pair of matrices a layer.

"LoRA" (Hu et al. 2021, section 4.1): y = Wx + s·B·A·x. Here A = [A1; A2; …] and B = [B1 B2 …], and between the two a
mask a row that is s of the row's own adapter on its columns and 0 elsewhere, so each row gets its own adapter's term
and a row of the base gets exact zeros. Departures: adapters whose effect is not this sum over plain linear layers
(DoRA, biases, trained embeddings or heads, …) are not stacked; `stacking_problem` says why, and the engine gives them
a forward pass of their own.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from workbench.errors import ModelProblem

PREFIX = "base_model.model."
FEW_ROWS = 4
"""Up to so many tokens in all, a CPU takes weights · inputsᵀ instead of inputs · weightsᵀ: see `few_rows_linear`."""
FEW_ROWS_WIDE = 16
"""The same for layers that are much wider than their input, such as the output over the vocabulary."""
FEW_ROWS_NARROW = 2
"""The same for layers that are much narrower than their input, such as the end of an MLP."""
# Fields of adapter_config.json that make more of an adapter than a sum of B·A over linear layers.
_SPECIAL = {
    "use_dora": "it is a DoRA adapter",
    "use_qalora": "it is a QALoRA adapter",
    "lora_bias": "it has biases of its own",
    "modules_to_save": "it replaces whole modules",
    "trainable_token_indices": "it trains single embeddings",
    "alora_invocation_tokens": "it switches on at certain tokens",
    "layer_replication": "it repeats layers",
    "target_parameters": "it adapts bare parameters",
    "use_bdlora": "it is a block-diagonal adapter",
    "arrow_config": "it routes between adapters",
    "kasa_config": "it is a KaSA adapter",
    "monteclora_config": "it is a MonteCLoRA adapter",
}
_NEUTRAL_STARTS = (None, True, False, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True)
class Pair:
    """One adapter's two matrices for one linear layer."""

    a: torch.Tensor
    """[rank, in]"""
    b: torch.Tensor
    """[out, rank]"""
    scaling: float
    """alpha / rank, or alpha / √rank."""


def stacking_problem(config: dict[str, Any]) -> str | None:
    """Why an adapter of this config cannot share a batch; None where it can."""
    if config.get("peft_type") != "LORA":
        return f"it is of type {config.get('peft_type')}"
    for field, reason in _SPECIAL.items():
        if config.get(field):
            return reason
    if config.get("bias", "none") != "none":
        return "it has biases of its own"
    if config.get("init_lora_weights") not in _NEUTRAL_STARTS:
        return "it changes the base weights when it is loaded"
    return None


def read_adapter(folder: Path, model: nn.Module) -> dict[str, Pair] | str:
    """An adapter's matrices by module name, or why it cannot be stacked on this model.

    Args:
        folder: a PEFT folder with `adapter_config.json` and `adapter_model.safetensors`.
        model: the base; gives dtype and device.

    Raises:
        ModelProblem: the files are missing or damaged, do not fit the base, or hold values that are not numbers.
    """
    config, tensors = _read_files(folder)
    _check_finite(tensors, folder)
    problem = stacking_problem(config)
    if problem:
        return problem
    halves: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        match = re.fullmatch(r"(.+)\.lora_([AB])\.weight", key.removeprefix(PREFIX))
        if match is None:
            return f"it holds '{key}'"
        halves.setdefault(match[1], {})[match[2]] = tensor
    modules = dict(model.named_modules())
    pairs = {}
    for name, half in halves.items():
        layer = modules.get(name)
        if layer is None:
            raise ModelProblem(
                "the adapter was made for another base model",
                place=str(folder),
                value=name,
                remedy="Use it with the base that its adapter_config.json names.",
            )
        if type(layer) not in (nn.Linear, StackedLinear):
            return f"'{name}' is no plain linear layer"
        if set(half) != {"A", "B"}:
            raise ModelProblem("the adapter's file is incomplete", place=str(folder), value=name)
        pairs[name] = _pair(name, half["A"], half["B"], layer, config, folder)
    if not pairs:
        raise ModelProblem("the adapter's file holds no weights", place=str(folder))
    return pairs


def _read_files(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "adapter_model.safetensors")
    except FileNotFoundError as error:
        raise ModelProblem(
            "the adapter's files are gone",
            place=str(folder),
            remedy="It needs adapter_config.json and adapter_model.safetensors.",
        ) from error
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelProblem("the adapter's files cannot be read", place=str(folder), value=str(error)) from error
    return config, tensors


def _check_finite(tensors: dict[str, torch.Tensor], folder: Path) -> None:
    # One NaN would reach every row of the batch through the mask: 0 · NaN is NaN.
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelProblem(
                "the adapter holds values that are not numbers",
                place=str(folder),
                value=key,
                remedy="Its training diverged; use an earlier checkpoint or train again with a lower learning rate.",
            )


def _pair(name: str, a: torch.Tensor, b: torch.Tensor, layer: nn.Module, config: dict[str, Any], folder: Path) -> Pair:
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    if a.shape[1] != weight.shape[1] or b.shape[0] != weight.shape[0] or a.shape[0] != b.shape[1]:
        raise ModelProblem(
            f"the adapter does not fit this base: {tuple(b.shape)}·{tuple(a.shape)} on {tuple(weight.shape)}",
            place=str(folder),
            value=name,
            remedy="Use it with the base that it was trained on.",
        )
    rank = a.shape[0]
    alpha = float(_by_pattern(config.get("alpha_pattern"), name, config.get("lora_alpha") or 8))
    scaling = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    to = {"dtype": weight.dtype, "device": weight.device}
    return Pair(a.to(**to).contiguous(), b.to(**to).contiguous(), scaling)


def _by_pattern(patterns: dict[str, Any] | None, name: str, default: Any) -> Any:
    """The value of the first pattern that PEFT would apply to a module name."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return default


def few_rows_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """A linear layer for a handful of tokens on a CPU.

    BLAS libraries choose their kernel by the outer sides of a product. With weights first, two tokens take a third to
    a half of the time of `torch.nn.functional.linear`, and less than its matrix-vector product takes for one, which
    is why a single token is computed twice (measured with MKL, 576 × 576 to 576 × 49,152, fp32).

    Args:
        x: [..., in], few tokens.
        weight: [out, in].
        bias: [out] or None.

    Returns:
        [..., out]
    """
    flat = x.reshape(-1, x.shape[-1])
    rows = flat.shape[0]
    # repeat, not expand: a stride of 0 would keep BLAS out
    y = torch.mm(weight, (flat.repeat(2, 1) if rows == 1 else flat).t())
    y = y[:, :rows].t().contiguous().view(*x.shape[:-1], weight.shape[0])
    return y if bias is None else y + bias


class StackedLinear(nn.Module):  # type: ignore[misc]  # torch is skipped by mypy
    """A linear layer with the stacked adapters of those rows that are in the batch.

    Args:
        base: the layer whose weights it uses; not copied.
        bank: tells which adapters are active and which row uses which.
    """

    def __init__(self, base: nn.Linear, bank: LoraBank) -> None:
        super().__init__()
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        plain = base.weight.device.type == "cpu" and base.weight.dtype == torch.float32
        shape = base.out_features / base.in_features
        few = FEW_ROWS_WIDE if shape >= 8 else FEW_ROWS_NARROW if shape <= 0.5 else FEW_ROWS
        self._few = few * base.in_features if plain else 0
        self.bank = bank
        self.pairs: dict[str, Pair] = {}
        self.down: torch.Tensor | None = None
        self.up: torch.Tensor | None = None
        self.signature: tuple[tuple[str, int, float], ...] = ()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, tokens, in] → [rows, tokens, out]."""
        few = x.numel() <= self._few
        y = few_rows_linear(x, self.weight, self.bias) if few else functional.linear(x, self.weight, self.bias)
        if self.up is None or not self.bank.needed:
            return y
        mask = self.bank.masks.get(self.signature)
        if mask is None:
            return y
        hidden = functional.linear(x, self.down) * mask
        # up is kept as [ranks, out]: the sum goes into y without a copy.
        y.view(-1, self.out_features).addmm_(hidden.view(-1, hidden.shape[-1]), self.up)
        return y

    def stack(self, active: Sequence[str]) -> None:
        """Build the stacked matrices of these adapters."""
        here = [(key, self.pairs[key]) for key in active if key in self.pairs]
        self.signature = tuple((key, pair.a.shape[0], pair.scaling) for key, pair in here)
        self.down = torch.cat([pair.a for _, pair in here]) if here else None
        self.up = torch.cat([pair.b.t() for _, pair in here]).contiguous() if here else None


class LoraBank:
    """The adapters loaded onto one base model.

    Args:
        model: the base; its plain linear layers are replaced.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers: dict[str, StackedLinear] = {}
        self.keys: set[str] = set()
        self.active: tuple[str, ...] = ()
        self.needed = False
        self.masks: dict[tuple[tuple[str, int, float], ...], torch.Tensor | None] = {}
        self._rows: tuple[str | None, ...] | None = None
        for name, layer in list(model.named_modules()):
            if type(layer) is nn.Linear:
                parent, _, child = name.rpartition(".")
                self.layers[name] = StackedLinear(layer, self)
                setattr(model.get_submodule(parent), child, self.layers[name])

    def add(self, key: str, pairs: dict[str, Pair]) -> None:
        """Make an adapter known under a key."""
        self.remove(key)
        for name, pair in pairs.items():
            self.layers[name].pairs[key] = pair
        self.keys.add(key)

    def remove(self, key: str) -> None:
        """Forget an adapter."""
        self.keys.discard(key)
        for layer in self.layers.values():
            layer.pairs.pop(key, None)
        if key in self.active:
            self._activate(tuple(name for name in self.active if name != key))

    def set_rows(self, rows: Sequence[str | None]) -> None:
        """Tell which adapter each row of the next forward pass uses; None is the base.

        Stacks are rebuilt only when a row needs an adapter that is not in them.
        """
        wanted = tuple(rows)
        if wanted == self._rows:
            return
        live = {key for key in wanted if key is not None}
        if not live <= set(self.active):
            self._activate(tuple(sorted(live)))
        self._rows = wanted
        self.needed = bool(live)
        self.masks = {}
        for layer in self.layers.values():
            if layer.up is not None and layer.signature not in self.masks:
                self.masks[layer.signature] = self._mask(layer.signature, wanted, layer.up)

    def _mask(
        self, signature: tuple[tuple[str, int, float], ...], rows: tuple[str | None, ...], like: torch.Tensor
    ) -> torch.Tensor | None:
        """[rows, 1, ranks]: a row's scaling on its own adapter's columns, 0 elsewhere; None where all is 0."""
        ranks = sum(rank for _, rank, _ in signature)
        mask = torch.zeros((len(rows), 1, ranks), dtype=torch.float32)
        at = 0
        for key, rank, scaling in signature:
            for row, wanted in enumerate(rows):
                if wanted == key:
                    mask[row, 0, at : at + rank] = scaling
            at += rank
        return mask.to(dtype=like.dtype, device=like.device) if bool(mask.any()) else None

    def _activate(self, keys: tuple[str, ...]) -> None:
        self.active = keys
        self._rows = None
        for layer in self.layers.values():
            layer.stack(keys)
