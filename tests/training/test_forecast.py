import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from workbench.datasets.versions import write_version
from workbench.errors import UsageError
from workbench.records import Example, Message, RunConfig, RunState
from workbench.store.datasets import create_dataset
from workbench.store.runs import add_run, update_run
from workbench.training import forecast as forecast_module
from workbench.training.configs import SFTConfig
from workbench.training.forecast import Machine, RowStats, adapter_parameters, forecast, forecast_run, linear_layers


@pytest.fixture
def model(store, tmp_path):
    return tiny.register_model(store, tiny.make_model(tmp_path / "base"))


@pytest.fixture
def dataset(store):
    rows = [
        Example(
            messages=(Message(role="user", content=f"{n} the sea"), Message(role="assistant", content="is blue " * n))
        )
        for n in range(1, 41)
    ]
    return write_version(store, create_dataset(store, "rows", "instructions").id, rows)


MACHINE = Machine(cores=2, memory_mb=8000, free_mb=6000)


def test_steps_and_tokens_are_those_of_the_run_itself(store, model, dataset):
    found = forecast_run(store, SFTConfig(dataset="rows", model="tiny", held_out=None, epochs=2, tokens_per_batch=256))
    from workbench.datasets.render import load_renderer
    from workbench.datasets.versions import iter_rows
    from workbench.training.batching import plan_run
    from workbench.training.rows import render_rows

    lengths = render_rows(iter_rows(store, dataset), load_renderer(model.path), max_length=1024).lengths
    plan = plan_run(lengths, tokens_per_batch=256, batches_per_step=1, seed=0, epochs=2)
    assert (found.rows, found.steps, found.tokens) == (40, plan.steps, plan.tokens)
    assert found.memory_mb == pytest.approx(sum(found.memory_parts.values()), abs=0.5)
    assert found.seconds_low < found.seconds < found.seconds_high
    assert not found.sampled
    assert "steps over" in found.sentence()


def test_the_adapters_size_is_what_peft_makes(store, model):
    import torch
    from peft import LoraConfig, get_peft_model

    from workbench.models.loading import load_base, quiet_peft

    torch.set_num_threads(1)
    named = ("q_proj", "down_proj"), ("self_attn.q_proj", "0.mlp.up_proj")
    for targets, dora in (("all-linear", False), *((each, False) for each in named), ("all-linear", True)):
        config = SFTConfig(dataset="d", lora_r=4, target_modules=targets, use_dora=dora)
        names = targets if isinstance(targets, str) else list(targets)
        with quiet_peft():
            made = get_peft_model(
                load_base(model), LoraConfig(r=4, target_modules=names, use_dora=dora, task_type="CAUSAL_LM")
            )
        expected = sum(p.numel() for p in made.parameters() if p.requires_grad)
        assert adapter_parameters(config, linear_layers(Path(model.path))) == expected


def test_more_tokens_a_batch_need_more_memory_and_checkpointing_less(model):
    stats = RowStats(tuple([100] * 200), False)
    sizes = [
        forecast(SFTConfig(dataset="d", **changes), model, stats, MACHINE).memory_parts["activations"]
        for changes in ({"tokens_per_batch": 4096, "gradient_checkpointing": True}, {}, {"tokens_per_batch": 4096})
    ]
    assert sizes[1] < sizes[2]
    assert sizes[0] < sizes[2]


def test_a_token_budget_bounds_tokens_and_time(model):
    stats = RowStats(tuple([100] * 200), False)
    whole = forecast(SFTConfig(dataset="d"), model, stats, MACHINE)
    part = forecast(SFTConfig(dataset="d", max_tokens=5000), model, stats, MACHINE)
    assert part.tokens <= 5000 < whole.tokens
    assert part.seconds < whole.seconds


def test_finished_runs_on_the_model_teach_the_rate(store, model, dataset):
    config = SFTConfig(dataset="rows", model="tiny")
    assert "cores" in forecast_run(store, config).rate_from or "GPU" in forecast_run(store, config).rate_from
    for number, seconds in enumerate((10.0, 20.0, 40.0)):
        run = add_run(store, kind="sft", name=f"r{number}", slot="train", spec={"model": model.id})
        update_run(store, run.id, state=RunState.FINISHED, result={"trained_tokens": 1000, "seconds": seconds})
    found = forecast_run(store, config)
    assert found.tokens_per_s == 50
    assert found.rate_from == "earlier runs on this model"


def test_a_large_dataset_is_sampled(store, model, dataset, monkeypatch):
    monkeypatch.setattr(forecast_module, "SAMPLE_ROWS", 20)
    forecast_module._measured.cache_clear()
    found = forecast_run(store, SFTConfig(dataset="rows", model="tiny", held_out=None))
    assert found.sampled
    assert found.rows == 40


def test_other_kinds_of_run_have_no_forecast(store):
    with pytest.raises(UsageError, match="no forecast"):
        forecast_run(store, RunConfig())


def test_neither_the_forecast_nor_the_methods_file_imports_torch():
    code = (
        "import sys, workbench.training.forecast, workbench.training.sft, workbench.training.callback\n"
        "assert not {'torch', 'transformers', 'trl', 'peft'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
