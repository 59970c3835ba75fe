"""`launch`: from the click to the first optimizer step, beside a bare TRL script on the same rows and model."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.bundled import model_folder
from benchmarks.figures import Figure

TIMES = 3
SCRIPT = """
import json, sys, time
import torch, trl
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, TrainerCallback
model_folder, rows, output = sys.argv[1:4]
class First(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        print("FIRST", time.time(), flush=True)
        control.should_training_stop = True
table = load_dataset("json", data_files=rows, split="train", cache_dir=output + "/cache")
args = trl.SFTConfig(output_dir=output, per_device_train_batch_size=6, max_steps=2, learning_rate=1e-3,
                     report_to="none",
                     disable_tqdm=True, save_strategy="no", use_cpu=True, bf16=False, gradient_checkpointing=False,
                     dataloader_pin_memory=False)
model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
trl.SFTTrainer(model=model, args=args, train_dataset=table, callbacks=[First()],
               peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")).train()
"""


def measure() -> list[Figure]:
    """Median over a few launches, ours and the script's in turn."""
    with tempfile.TemporaryDirectory() as folder:
        ours, bare = [], []
        for number in range(TIMES):
            ours.append(_ours(Path(folder) / f"home{number}"))
            bare.append(_script(Path(folder) / f"script{number}"))
    peers = {"bare TRL script": statistics.median(bare)}
    return [Figure("launch", "first_step", statistics.median(ours), "s", TIMES, peers)]


def _ours(home: Path) -> float:
    from workbench.api import Workspace
    from workbench.records import ModelSource
    from workbench.settings import Settings
    from workbench.store import models as model_store

    ws = Workspace(settings=Settings(home=home))
    model = model_store.add_model(ws.store, "bundled", ModelSource.LOCAL, str(model_folder()))
    model_store.update_model(ws.store, model.id, path=str(model_folder()))
    train, _ = ws.install_kit()
    began = time.time()
    run = ws.train("sft", train.id, model=model.id, preset="quick", held_out=None)
    while not (points := ws.metrics(run.id, ["loss"])):
        if not ws.run(run.id).state.active:
            raise RuntimeError(f"the run ended: {ws.run(run.id).failure}")
        time.sleep(0.05)
    first = points[0].at.timestamp() - began
    ws.stop(run.id)
    ws.wait(run.id)
    ws.store.close()
    return first


def _script(folder: Path) -> float:
    folder.mkdir()
    kit = Path(__file__).resolve().parents[1] / "workbench/datasets/kits/assistant/train.jsonl"
    rows = folder / "rows.jsonl"
    with rows.open("w", encoding="utf-8") as stream:
        for line in kit.read_text("utf-8").splitlines():
            row = json.loads(line)
            prompt = [{"role": "user", "content": row["instruction"]}]
            completion = [{"role": "assistant", "content": row["response"]}]
            stream.write(json.dumps({"prompt": prompt, "completion": completion}) + "\n")
    began = time.time()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(model_folder()), str(rows), str(folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    first = next(line for line in done.stdout.splitlines() if line.startswith("FIRST"))
    return float(first.split()[1]) - began
