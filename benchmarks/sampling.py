"""`sampling`: 64 prompts of mixed length, four sampled answers each; tokens a second beside `generate` in batches."""

from __future__ import annotations

import time

from benchmarks.bundled import load_model, model_folder, rows_of_known_lengths, threads
from benchmarks.figures import Figure

PROMPTS, ANSWERS, TOKENS = 64, 4, 32
PEER_BATCHES = (1, 8, 16)


def measure() -> list[Figure]:
    """Ours over all answers; each peer over as many as make a steady figure."""
    import torch

    torch.set_num_threads(threads())
    prompts = _prompts()
    ours = _ours(prompts)
    peers = {f"generate, batch {size}": _peer(prompts, size) for size in PEER_BATCHES}
    return [Figure("sampling", "throughput", ours, "tok/s", PROMPTS * ANSWERS, peers)]


def _prompts() -> list[list[int]]:
    from workbench.datasets.render import load_renderer

    renderer = load_renderer(model_folder())
    pairs = rows_of_known_lengths(PROMPTS, 40, 300, PROMPTS * 110)
    return [renderer.prompt_ids([{"role": "user", "content": f"{prompt} {answer}"}]) for prompt, answer in pairs]


def _ours(prompts: list[list[int]]) -> float:
    from workbench.datasets.render import load_renderer
    from workbench.generation.configs import Delta, GenerationRequest
    from workbench.generation.engine import Engine
    from workbench.records import Sampling

    engine = Engine(load_model(), load_renderer(model_folder()).tokenizer, threads=threads())
    began = time.perf_counter()
    asked = [
        engine.submit(
            GenerationRequest(
                prompt_ids=tuple(prompt),
                adapter=None,
                sampling=Sampling(temperature=0.7, top_p=0.95, max_tokens=TOKENS, seed=number),
                n=ANSWERS,
            )
        )
        for number, prompt in enumerate(prompts)
    ]
    made = sum(len(event.token_ids) for one in asked for event in one if isinstance(event, Delta))
    taken = time.perf_counter() - began
    engine.close()
    assert made == PROMPTS * ANSWERS * TOKENS, made
    return made / taken


def _peer(prompts: list[list[int]], size: int) -> float:
    import torch

    model = load_model()
    chosen = [prompt for prompt in prompts for _ in range(ANSWERS)][:: max(1, PROMPTS * ANSWERS // (4 * size))]
    began, made = time.perf_counter(), 0
    for first in range(0, len(chosen), size):
        batch = chosen[first : first + size]
        width = max(map(len, batch))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in batch])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in batch])
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=TOKENS,
                do_sample=True,
                temperature=0.7,
                top_p=0.95,
                eos_token_id=None,
                pad_token_id=0,
            )
        made += out.shape[0] * (out.shape[1] - width)
    return made / (time.perf_counter() - began)
