"""The loss on supervised tokens alone: logits are made only where a label asks for them.

For a small model with a large vocabulary most of the time of a stock step goes into logits that no label looks at
(SmolLM2: 49,152 numbers a token). Here the body of the model runs once, the hidden states of supervised positions are
picked out, and the output layer, the softmax and its gradient are worked through in tiles. The value is the model's
own: `fits` holds it against the model's own loss before a run relies on it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

TILE_CELLS = 1 << 24
"""Logits held at once: 64 MB in float32."""
TOLERANCE = 1e-4


@lru_cache(maxsize=1)
def _head_function() -> Any:
    import torch

    class HeadLoss(torch.autograd.Function):  # type: ignore[misc]
        """Cross-entropy through a frozen output layer; the gradient is made on the way forward, tile by tile."""

        @staticmethod
        def forward(
            ctx: Any,
            hidden: torch.Tensor,
            weight: torch.Tensor,
            bias: torch.Tensor | None,
            targets: torch.Tensor,
            temperature: float,
            with_entropies: bool,
        ) -> tuple[torch.Tensor, torch.Tensor]:
            gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
            losses = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
            entropies = torch.empty_like(losses) if with_entropies else losses.new_empty(0)
            tile = max(1, TILE_CELLS // weight.shape[0])
            for start in range(0, len(hidden), tile):
                part = slice(start, start + tile)
                aims = targets[part, None]
                logits = torch.nn.functional.linear(hidden[part], weight, bias).float()
                if temperature != 1:
                    logits /= temperature
                chances = torch.log_softmax(logits, dim=-1)
                losses[part] = -chances.gather(1, aims).squeeze(1)
                if with_entropies:
                    entropies[part] = -(chances.exp() * chances).sum(dim=-1)
                if gradient is not None:
                    slopes = chances.exp_().scatter_add_(1, aims, chances.new_full(aims.shape, -1.0))
                    gradient[part] = slopes.to(weight.dtype) @ weight / temperature
            if gradient is not None:
                ctx.save_for_backward(gradient)
            ctx.mark_non_differentiable(entropies)
            return losses, entropies

        @staticmethod
        def backward(ctx: Any, slopes: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, *tuple[None, ...]]:
            (gradient,) = ctx.saved_tensors
            return gradient * slopes[:, None].to(gradient.dtype), None, None, None, None, None

    return HeadLoss


def head_losses(
    hidden: torch.Tensor, head: Any, targets: torch.Tensor, *, temperature: float = 1.0, with_entropies: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of tokens through a frozen output layer, tile by tile, no logits kept.

    Args:
        hidden: [tokens, width].
        head: the output layer, a linear one.
        targets: [tokens].
        temperature: logits are divided by it.
        with_entropies: whether the entropy of each token's distribution is wanted.

    Returns:
        Both [tokens] in float32, in nats; only the first carries a gradient, and the second is empty unless wanted.
    """
    found: tuple[torch.Tensor, torch.Tensor] = _head_function().apply(
        hidden, head.weight, head.bias, targets, temperature, with_entropies
    )
    return found


def supervised_losses(
    model: Any, input_ids: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The loss of each supervised token, through the output layer at those positions only.

    Rows are padded on the right. Attention is causal, so no supervised token sees the padding and no mask is needed.

    Args:
        model: a causal language model, plain or wrapped by PEFT, whose output layer is frozen.
        input_ids: [rows, length].
        labels: [rows, length], -100 where nothing is learnt; shifted here.

    Returns:
        The sum (with gradient), the losses [tokens] in float32, in order of row and position (without gradient), and
        the row of each [tokens].
    """
    losses, wanted = _token_losses(model, input_ids, labels)
    return losses.sum(), losses.detach(), wanted.nonzero()[:, 0]


def token_logps(
    model: Any, input_ids: torch.Tensor, labels: torch.Tensor, *, attention_mask: torch.Tensor, fast: bool
) -> torch.Tensor:
    """Log-probability of each supervised token, with gradient; summed over dim 1 it is that of the row's answer.

    Args:
        model: a causal language model, plain or wrapped by PEFT.
        input_ids: [rows, length], padded on the right.
        labels: [rows, length], -100 where nothing is asked; shifted here.
        attention_mask: [rows, length], read where `fast` is off.
        fast: whether the model `fits`; else all logits are made.

    Returns:
        [rows, length - 1] in float32: nats, 0 where nothing is asked.
    """
    import torch

    targets = labels[:, 1:]
    if fast:
        losses, wanted = _token_losses(model, input_ids, labels)
        return losses.new_zeros(wanted.shape).index_put((wanted,), -losses)
    logits = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits[:, :-1].float()
    return -torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")


def _token_losses(model: Any, input_ids: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses [tokens] with gradient, and where they stand, [rows, length - 1]."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = base.base_model(input_ids=input_ids, use_cache=False).last_hidden_state[:, :-1]
    targets = labels[:, 1:]
    wanted = targets != -100
    head = base.get_output_embeddings()
    return head_losses(hidden[wanted], head, targets[wanted])[0], wanted


def fits(model: Any) -> bool:
    """Whether `supervised_losses` gives this model's own loss: tried on two short rows.

    False for a model that scales or caps its logits, carries an adapter on its output layer or trains it, or whose body
    is not `base_model`; such a model is trained with TRL's loss.
    """
    import torch

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    head = base.get_output_embeddings()
    if type(head) is not torch.nn.Linear or any(p.requires_grad for p in head.parameters()):
        return False
    if base.base_model is base:
        return False
    device, vocabulary = head.weight.device, head.weight.shape[0]
    ids = (torch.arange(2 * 12, device=device).view(2, 12) * 37 + 11) % vocabulary
    labels = ids.clone()
    labels[:, :4] = -100
    labels[1, 8:] = -100
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            total, losses, _ = supervised_losses(model, ids, labels)
            own = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
    except (TypeError, AttributeError, NotImplementedError):
        return False
    finally:
        model.train(was_training)
    loose = 1.0 if head.weight.dtype == torch.float32 else 100.0
    return bool(abs(total / len(losses) - own) <= TOLERANCE * loose * max(1.0, float(own)))
