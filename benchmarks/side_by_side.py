"""`side_by_side`: one prompt, base and tuned, 48 tokens each; beside `generate` twice and PEFT's mixed batch."""

from __future__ import annotations

import statistics
import time
from typing import Any

from benchmarks.bundled import load_model, make_adapter, model_folder, threads
from benchmarks.figures import Figure

TOKENS, TIMES = 48, 5
PROMPT = "Explain why the sky is blue, in a few sentences."


def measure() -> list[Figure]:
    """Ours and the peers in turn, `TIMES` rounds; the texts are compared first."""
    import torch

    torch.set_num_threads(threads())
    ours, peers = Ours(), Peers()
    same = ours.answer([None, "a1"]) == [peers.base(), peers.tuned()]
    taken: dict[str, list[float]] = {}
    for _ in range(TIMES):
        for name, action in (
            ("one", lambda: ours.answer([None, "a1"])),
            ("three", lambda: ours.answer([None, "a1", "a2", "a3"])),
            ("twice", lambda: (peers.base(), peers.tuned())),
            ("mixed", peers.mixed),
            ("limit", peers.base_pair),
        ):
            began = time.perf_counter()
            action()
            taken.setdefault(name, []).append(time.perf_counter() - began)
    seconds = {name: statistics.median(values) for name, values in taken.items()}
    ours.close()
    return [
        Figure("side_by_side", "same_text", float(same), "", 1),
        Figure(
            "side_by_side",
            "base_and_one",
            seconds["one"],
            "s",
            TIMES,
            {"generate twice": seconds["twice"], "PEFT mixed batch": seconds["mixed"]},
            seconds["limit"],
        ),
        Figure(
            "side_by_side",
            "base_and_three",
            seconds["three"],
            "s",
            TIMES,
            {"base and one, ours": seconds["one"], "generate four times (2 × twice)": 2 * seconds["twice"]},
        ),
    ]


class Ours:
    """The engine with three adapters."""

    def __init__(self) -> None:
        from workbench.datasets.render import load_renderer
        from workbench.generation.engine import Engine

        renderer = load_renderer(model_folder())
        self.prompt = tuple(renderer.prompt_ids([{"role": "user", "content": PROMPT}]))
        self.engine = Engine(load_model(), renderer.tokenizer, threads=threads())
        for number in (1, 2, 3):
            self.engine.load_adapter(f"a{number}", make_adapter(number), load_model)

    def answer(self, adapters: list[str | None]) -> list[list[int]]:
        """Greedy token ids of each, all asked at once."""
        from workbench.generation.configs import Delta, GenerationRequest
        from workbench.records import Sampling

        sampling = Sampling(temperature=0, max_tokens=TOKENS)
        asked = [
            self.engine.submit(GenerationRequest(prompt_ids=self.prompt, adapter=adapter, sampling=sampling))
            for adapter in adapters
        ]
        return [[token for event in one if isinstance(event, Delta) for token in event.token_ids] for one in asked]

    def close(self) -> None:
        """End the engine's thread."""
        self.engine.close()


class Peers:
    """transformers' `generate` on the base and on a PEFT model."""

    def __init__(self) -> None:
        import torch
        from peft import PeftModel

        from workbench.datasets.render import load_renderer
        from workbench.models.loading import quiet_peft

        self.ids = torch.tensor([load_renderer(model_folder()).prompt_ids([{"role": "user", "content": PROMPT}])])
        self.model = load_model()
        with quiet_peft():
            self.peft: Any = PeftModel.from_pretrained(load_model(), str(make_adapter(1)), adapter_name="a1").eval()

    def _generate(self, model: Any, rows: int = 1, **more: Any) -> list[list[int]]:
        import torch

        ids = self.ids.expand(rows, -1)
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=TOKENS,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
                **more,
            )
        return [row[ids.shape[1] :].tolist() for row in out]

    def base(self) -> list[int]:
        """The base's answer."""
        return self._generate(self.model)[0]

    def tuned(self) -> list[int]:
        """The adapter's answer."""
        return self._generate(self.peft)[0]

    def mixed(self) -> list[list[int]]:
        """Both through PEFT's mixed batch."""
        return self._generate(self.peft, 2, adapter_names=["__base__", "a1"])

    def base_pair(self) -> list[list[int]]:
        """A batch of two without any adapter: what an adapter at no cost would take."""
        return self._generate(self.model, 2)
