"""`instructgpt`: the tour's whole protocol on the bundled model, stage by stage, on held-out prompts.

Fine-tuning, rankings by the kit's scorer, a reward model, RLOO, and DPO from the same rankings. Half an hour or more on
two cores. A document that `workbench tour --protocol instructgpt --json` has printed already is taken instead where
WORKBENCH_BENCH_PROTOCOL names its file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure

STAGES = {"base": "base", "sft": "fine-tuned", "rloo": "RLOO", "dpo": "DPO"}


def measure() -> list[Figure]:
    """Mean score with its interval, gain over the fine-tuned model, KL and seconds; accuracy of the reward model."""
    document = _document()
    stages = {_called(stage["stage"]): stage for stage in document["stages"]}
    base = stages["base"]["score"]["value"]
    figures = []
    for name, stage in stages.items():
        score = stage["score"]
        assert score["low"] <= score["value"] <= score["high"], stage
        peers = {"low": score["low"], "high": score["high"], "base": base}
        figures.append(Figure("instructgpt", f"score {name}", score["value"], "of 100", score["n"], peers))
        gain = document["gains"].get(stage["stage"])
        if gain is not None:
            bounds = {"low": gain["low"], "high": gain["high"]}
            figures.append(Figure("instructgpt", f"gain {name}", gain["value"], "points", gain["n"], bounds))
        if stage["kl_sequence"] is not None:
            bounds = {"low": stage["kl_sequence"]["low"], "high": stage["kl_sequence"]["high"]}
            moved = stage["kl_sequence"]["value"]
            figures.append(Figure("instructgpt", f"kl {name}", moved, "nats an answer", 32, bounds))
        if stage["seconds"] is not None:
            figures.append(Figure("instructgpt", f"time {name}", stage["seconds"], "s", 1))
    accuracy = document["reward"]["accuracy"]
    bounds = {"low": accuracy["low"], "high": accuracy["high"]}
    figures.append(Figure("instructgpt", "reward_accuracy", accuracy["value"], "of 1", accuracy["n"], bounds))
    figures.append(Figure("instructgpt", "time whole", document["seconds"], "s", 1))
    return figures


def _called(stage: str) -> str:
    """`rloo_2` is RLOO of the second round."""
    name, _, number = stage.partition("_")
    return f"{STAGES[name]}, round {number}" if number else STAGES[name]


def _document() -> dict[str, Any]:
    taken = os.environ.get("WORKBENCH_BENCH_PROTOCOL")
    if taken:
        told: dict[str, Any] = json.loads(Path(taken).read_text("utf-8"))
        return told
    with tempfile.TemporaryDirectory(prefix="workbench-bench-") as home:
        command = [sys.executable, "-m", "workbench", "tour", "--protocol", "instructgpt", "--json"]
        done = subprocess.run(
            command, env=os.environ | {"WORKBENCH_HOME": home}, stdout=subprocess.PIPE, text=True, check=True
        )
    found: dict[str, Any] = json.loads(done.stdout)
    return found
