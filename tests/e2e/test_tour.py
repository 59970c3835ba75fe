"""The tour on the real bundled model, from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from workbench.settings import Settings
from workbench.store import runs as run_store
from workbench.store.database import open_store

pytestmark = [pytest.mark.bundled, pytest.mark.timeout(1200)]


def test_the_quick_tour_prints_one_document_in_which_the_tuned_model_does_better(toured: tuple[Path, dict[str, Any]]):
    home, document = toured
    held_out = document["held_out"]
    assert held_out["base"]["n"] == held_out["tuned"]["n"] == 12
    assert held_out["base"]["share"] <= 0.10
    assert held_out["tuned"]["share"] > held_out["base"]["share"]
    for side in held_out.values():
        assert 0 <= side["low"] <= side["share"] <= side["high"] <= 1
    assert len(document["answers"]) == 3
    for answer in document["answers"]:
        assert answer["prompt"] and answer["base"] and answer["tuned"] and answer["base"] != answer["tuned"]
    assert document["adapter_fingerprint"].startswith("fp_")
    store = open_store(Settings(home=home))
    runs = {run.kind: run for run in run_store.list_runs(store)}
    assert {"tour", "sft", "answer", "serve", "add_model"} <= set(runs)
    assert runs["sft"].id == document["run"]
    points = run_store.list_metrics(store, document["run"])
    assert {"loss", "eval_loss", "learning_rate", "tokens_per_s"} <= {point.name for point in points}
    losses = [point.value for point in points if point.name == "eval_loss"]
    assert losses[-1] < losses[0]
    store.close()


def test_the_tour_s_adapter_opens_with_peft_alone_from_another_place(
    toured: tuple[Path, dict[str, Any]], tmp_path: Path
):
    import shutil
    import subprocess
    import sys

    home, document = toured
    adapter = tmp_path / "elsewhere"
    shutil.copytree(home / "runs" / document["run"] / "adapter", adapter)
    code = f"""
import sys
sys.modules["workbench"] = None
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base = AutoModelForCausalLM.from_pretrained({str(home / "models" / "mdl_smollm2_135m")!r}, dtype=torch.float32)
model = PeftModel.from_pretrained(base, {str(adapter)!r}).eval()
tokenizer = AutoTokenizer.from_pretrained({str(adapter)!r})
text = tokenizer.apply_chat_template([{{"role": "user", "content": {document["answers"][0]["prompt"]!r}}}],
                                     tokenize=False, add_generation_prompt=True)
ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=120)
print(tokenizer.decode(out[0, ids.shape[1]:], skip_special_tokens=True), end="")
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == document["answers"][0]["tuned"]
