"""The engine's promise on the real bundled model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.bundled import bundled_model_folder
from tests.tiny import make_adapter
from workbench.datasets.render import load_renderer
from workbench.generation.configs import Delta, GenerationRequest
from workbench.generation.engine import Engine
from workbench.models.loading import quiet_peft
from workbench.records import Sampling

__all__ = ["bundled_model_folder"]

QUESTIONS = ["Why is the sky blue?", "Write one sentence about the sea.", "What is 2 + 2?"]
TOKENS = 16


@pytest.mark.bundled
@pytest.mark.slow
def test_base_and_tuned_rows_of_one_batch_write_what_generate_writes(
    bundled_model_folder: Path, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    def load() -> torch.nn.Module:
        return AutoModelForCausalLM.from_pretrained(bundled_model_folder, dtype=torch.float32).eval()

    adapter = make_adapter(bundled_model_folder, tmp_path / "adapter", r=8, scale=0.02)
    torch.set_num_threads(2)
    renderer = load_renderer(bundled_model_folder)
    prompts = [tuple(renderer.prompt_ids([{"role": "user", "content": question}])) for question in QUESTIONS]
    engine = Engine(load(), renderer.tokenizer, threads=2)
    try:
        engine.load_adapter("tuned", adapter, lambda: None)
        handles = [
            engine.submit(
                GenerationRequest(
                    prompt_ids=prompt,
                    adapter=name,
                    stop_ids=renderer.stop_ids,
                    sampling=Sampling(temperature=0, max_tokens=TOKENS),
                )
            )
            for prompt in prompts
            for name in (None, "tuned")
        ]
        written = [
            [token for event in handle if isinstance(event, Delta) for token in event.token_ids] for handle in handles
        ]
    finally:
        engine.close()
    with quiet_peft():
        tuned = PeftModel.from_pretrained(load(), adapter).eval()
    expected = []
    with torch.inference_mode():
        for prompt in prompts:
            for model in (load(), tuned):
                ids = torch.tensor([prompt])
                out = model.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False
                )
                answer = out[0, len(prompt) :].tolist()
                cut = next((at for at, token in enumerate(answer) if token in renderer.stop_ids), len(answer))
                expected.append(answer[:cut])
    assert written == expected
    assert written[0::2] != written[1::2]
