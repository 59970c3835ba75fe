"""Draws answers from the policy, and says how likely it and its reference hold them.

TRL draws with transformers' `generate` and puts every position, prompts included, through the output layer. Here a
prompt is read once for all of its answers, answers that have ended leave the batch, and logits are made for answer
tokens only. What is drawn and measured is the same: the softmax of the logits over the temperature, no nucleus, no
top-k, because what is learned from must be what the probabilities are of.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from workbench.errors import RunProblem
from workbench.training.losses import head_losses

if TYPE_CHECKING:
    import torch


def draw_answers(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    each: int,
    most_tokens: int,
    stop_ids: Collection[int],
    temperature: float,
    generator: torch.Generator | None = None,
) -> list[list[int]]:
    """Draw answers to prompts, token by token, from the whole distribution.

    Args:
        model: a causal language model; put into evaluation mode meanwhile.
        prompts: token ids of each prompt.
        each: answers to each prompt.
        most_tokens: longest answer.
        stop_ids: tokens that end an answer; the one that did is part of it.
        temperature: above 0.
        generator: where chance comes from; torch's own, which checkpoints keep, where None.

    Returns:
        `each` answers to the first prompt, then to the second, …

    Raises:
        RunProblem: the model's logits are no numbers.
    """
    import torch

    was_training, device = model.training, next(model.parameters()).device
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    seen = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    stops = torch.tensor(sorted(stop_ids), device=device)
    answers: list[list[int]] = [[] for _ in range(each * len(prompts))]
    model.eval()
    try:
        with torch.no_grad():
            positions = (seen.cumsum(1) - 1).clamp(min=0)
            output = model(input_ids=ids, attention_mask=seen, position_ids=positions, use_cache=True, logits_to_keep=1)
            cache, logits = output.past_key_values, output.logits[:, -1].repeat_interleave(each, 0)
            cache.batch_repeat_interleave(each)
            seen, position = seen.repeat_interleave(each, 0), positions[:, -1:].repeat_interleave(each, 0)
            row_of = list(range(len(answers)))  # which answer each row of the batch is
            open_rows = torch.ones(len(answers), dtype=torch.bool, device=device)
            while True:
                tokens = draw_tokens(logits, temperature, generator)
                for row, token, is_open in zip(row_of, tokens.tolist(), open_rows.tolist(), strict=True):
                    if is_open:
                        answers[row].append(token)
                open_rows &= ~torch.isin(tokens, stops)
                if not open_rows.any() or max(map(len, answers)) >= most_tokens:
                    return answers
                if open_rows.sum() <= 0.75 * len(row_of):  # below that, copying the cache costs less than it saves
                    stay = open_rows.nonzero()[:, 0]
                    cache.batch_select_indices(stay)
                    tokens, seen, position = tokens[stay], seen[stay], position[stay]
                    row_of = [row_of[place] for place in stay.tolist()]
                    open_rows = open_rows[stay]
                position = position + 1
                seen = torch.cat([seen, seen.new_ones(len(seen), 1)], dim=1)
                output = model(
                    input_ids=tokens[:, None],
                    attention_mask=seen,
                    position_ids=position,
                    past_key_values=cache,
                    use_cache=True,
                )
                logits = output.logits[:, -1]
    finally:
        model.train(was_training)


def draw_tokens(logits: torch.Tensor, temperature: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """One token a row, by the inverse of the cumulative distribution: one random number a row, not one a token.

    Args:
        logits: [rows, vocabulary].
        temperature: above 0.
        generator: where chance comes from.

    Raises:
        RunProblem: a logit is no number.
    """
    import torch

    chances = torch.softmax(logits.float() / temperature, dim=-1)
    reached = chances.double().cumsum(dim=-1)
    if not torch.isfinite(reached[:, -1]).all():
        raise RunProblem(
            "the model's logits are no longer numbers: training has diverged",
            remedy="Lower learning_rate (a third is a good try), or raise beta, and start again. "
            "The checkpoint before is intact.",
        )
    aims = torch.rand(len(logits), 1, generator=generator, device=logits.device, dtype=torch.float64) * reached[:, -1:]
    return torch.searchsorted(reached, aims, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)


def answer_log_probs(
    model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, answer_columns: int, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and entropy of each answer token, in nats, for a model that `losses.fits`.

    Rows are moved to the left, so that no padding lies between tokens: positions are those of the text, and causal
    attention needs no mask.

    Args:
        model: a causal language model, plain or wrapped by PEFT, whose output layer is frozen.
        input_ids: [rows, length], prompts padded on the left and answers on the right.
        attention_mask: [rows, length], 1 where there is a token.
        answer_columns: columns of the answers, the last ones.
        temperature: logits are divided by it.

    Returns:
        Both [rows, answer_columns]; 0 where there is no token. Only the first carries a gradient.
    """
    import torch

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    answers = attention_mask[:, -answer_columns:].bool()
    first = attention_mask.argmax(dim=1, keepdim=True)  # padding on the left
    width = int(attention_mask.sum(dim=1).max())
    columns = torch.arange(input_ids.shape[1], device=input_ids.device)
    places = (columns[None, :width] + first).clamp(max=input_ids.shape[1] - 1)
    hidden = base.base_model(input_ids=input_ids.gather(1, places), use_cache=False).last_hidden_state
    before = (columns[None, -answer_columns:] - first - 1).expand_as(answers)  # the token that predicts each one
    rows = torch.arange(len(input_ids), device=input_ids.device)[:, None].expand_as(answers)
    head = base.get_output_embeddings()
    losses, entropies = head_losses(
        hidden[rows[answers], before[answers]],
        head,
        input_ids[:, -answer_columns:][answers],
        temperature=temperature,
        with_entropies=True,
    )
    shape = answers.shape
    empty = losses.new_zeros(shape)
    return empty.masked_scatter(answers, -losses), empty.masked_scatter(answers, entropies)
