"""What a training run will need, told before it starts: memory by its parts, steps, tokens and time.

How it is computed:

- weights: the model's parameters × bytes of the number format.
- adapter: rank × (inputs + outputs) of every layer that gets one, in float32, from the shapes in the weight files.
- optimizer: AdamW's two moments and the gradient, each the size of the adapter.
- activations: for each token of the largest batch, what the backward pass needs of each layer: about 1.5 times the
  inputs and outputs of its linear layers (measured on SmolLM2-135M). Checkpointing keeps the layers' inputs and one
  layer's activations instead.
- logits: two tiles of `losses.TILE_CELLS`, because logits are made for supervised tokens only, tile by tile.
- program: Python, torch and transformers themselves.
- time: tokens, padding included, ÷ a rate. The rate is the median of finished runs on this model where there are any,
  else the arithmetic (4 operations a parameter and token: forward and the backward's half that frozen weights need)
  ÷ what a core or GPU usually does; the range says how sure that is.

Nothing here imports torch. Large datasets are not rendered whole: a spread sample stands for them.
"""

from __future__ import annotations

import math
import statistics
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pydantic import JsonValue

from workbench.errors import ModelProblem, TemplateProblem, UsageError
from workbench.records import Example, Labelled, Model, Preference, Record, Row, RunConfig, RunState, Version
from workbench.store import models as model_store
from workbench.store.database import Store
from workbench.store.datasets import get_version
from workbench.store.runs import list_runs
from workbench.training.batching import measure_run
from workbench.training.configs import PlannedConfig, SFTConfig
from workbench.training.losses import TILE_CELLS
from workbench.training.rows import Inputs, render_rows, resolve_inputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workbench.datasets.render import Renderer

MB = 1e6
PROGRAM_MB = 650.0
SAMPLE_ROWS = 1000
"""Rows rendered for a forecast; a larger dataset is sampled in ten places."""
CPU_GFLOPS_PER_CORE = 45.0
"""What one core does in practice over a whole step in float32: about half of what its bare matrix products reach."""
GPU_GFLOPS = {"float32": 15_000.0, "bfloat16": 60_000.0}
PAIR_COST = 4 / 3
"""A pair's tokens are read forward and backward once, and forward once more for the reference."""
OVERHEAD_S = 20.0
"""Starting, loading and publishing."""


class Machine(Record):
    """What the forecast needs to know of a machine."""

    cores: int
    """Threads a run may use."""
    memory_mb: float
    """Memory in all."""
    free_mb: float
    """Memory that is free now."""
    gpu: bool = False
    """Whether training goes to a GPU."""


class Forecast(Record):
    """What a run will need."""

    memory_parts: dict[str, float]
    """MB by part: weights, adapter, optimizer, activations, logits, program."""
    memory_mb: float
    """Their sum."""
    free_mb: float
    """Memory free on this machine now."""
    rows: int
    """Training rows."""
    held_out_rows: int
    """Rows the held-out loss is measured on."""
    steps: int
    """Optimizer steps."""
    tokens: int
    """Tokens trained in all, prompts included, padding not."""
    padding: float
    """Share of the batches that is padding."""
    trained_parameters: int
    """Weights of the adapter."""
    seconds: float
    """Likely time."""
    seconds_low: float
    """Time if all goes well."""
    seconds_high: float
    """Time if the machine is busy."""
    tokens_per_s: float
    """The rate it rests on."""
    rate_from: str
    """Where the rate comes from, in words."""
    sampled: bool
    """Whether lengths were estimated from a sample of the rows."""

    @property
    def fits(self) -> bool:
        """Whether the memory that is free now suffices."""
        return self.memory_mb <= self.free_mb

    def sentence(self) -> str:
        """The forecast in one line."""
        about = "about " if self.sampled else ""
        return (
            f"{self.steps} steps over {about}{self.tokens:,} tokens; {_minutes(self.seconds_low)} to "
            f"{_minutes(self.seconds_high)}; {self.memory_mb / 1000:.1f} GB of memory, {self.free_mb / 1000:.1f} free."
        )


class RowStats(NamedTuple):
    """Lengths of training rows, counted or estimated."""

    lengths: tuple[int, ...]
    """Tokens of each training row."""
    sampled: bool
    """Whether a sample stands for the whole."""


class Layer(NamedTuple):
    """A linear layer."""

    name: str
    """Name of its weight."""
    outputs: int
    """Rows of the weight."""
    inputs: int
    """Columns of the weight."""


def forecast_run(store: Store, config: RunConfig) -> Forecast:
    """Forecast a training run on this machine.

    Raises:
        NotFound: dataset or model are not there.
        UsageError: the kind of run has no forecast.
        ModelProblem: the model has not been added yet.
    """
    if not isinstance(config, PlannedConfig):
        raise UsageError("there is no forecast for this method: its time depends on how long answers become")
    inputs = resolve_inputs(store, config)
    model = model_store.get_model(store, inputs.model_id)
    if model.path is None:
        raise ModelProblem("the model has not been added yet", place=model.name, remedy="Add it on the Models page.")
    stats = measure_rows(store, get_version(store, inputs.version_id), model, config.max_length)
    held_out = _held_out_rows(store, config, inputs, len(stats.lengths))
    if inputs.held_out_version_id is None and held_out:
        kept = len(stats.lengths) - held_out
        stats = stats._replace(lengths=stats.lengths[:kept])
    machine = this_machine(store, config)
    return forecast(config, model, stats, machine, held_out_rows=held_out, rate=learnt_rate(store, model, config))


def forecast(
    config: PlannedConfig,
    model: Model,
    stats: RowStats,
    machine: Machine,
    *,
    held_out_rows: int = 0,
    rate: float | None = None,
) -> Forecast:
    """Forecast a run from lengths and shapes alone.

    Args:
        config: the run's settings.
        model: the base model, added.
        stats: lengths of the training rows.
        machine: where it will run.
        held_out_rows: rows that each evaluation reads.
        rate: tokens per second that finished runs reached on this model, where known.
    """
    extent = measure_run(
        stats.lengths,
        tokens_per_batch=config.tokens_per_batch,
        batches_per_step=config.gradient_accumulation_steps,
        seed=config.seed,
        epochs=config.epochs,
        max_steps=config.max_steps,
        max_tokens=config.max_tokens if isinstance(config, SFTConfig) else None,
    )
    layers = linear_layers(Path(model.path or ""))
    parameters = _parameters(model, layers)
    width = 2 if _dtype(config, machine) == "bfloat16" else 4
    trained = adapter_parameters(config, layers)
    parts = {
        "weights": parameters * width / MB,
        "adapter": trained * 4 / MB,
        "optimizer": trained * 12 / MB,
        "activations": extent.largest * _activation_bytes(config, model, layers, width) / MB,
        "logits": 2 * TILE_CELLS * 4 / MB,
        "program": PROGRAM_MB,
    }
    found, told, spread = _rate(rate, parameters, machine, config)
    cost = 1.0 if isinstance(config, SFTConfig) else PAIR_COST
    evaluated = held_out_rows * _evaluations(config) * (sum(stats.lengths) / max(1, len(stats.lengths)))
    seconds = OVERHEAD_S + cost * (extent.tokens / max(0.01, 1 - extent.padding) + evaluated / 2.5) / found
    return Forecast(
        memory_parts={name: round(value, 1) for name, value in parts.items()},
        memory_mb=round(sum(parts.values()), 1),
        free_mb=machine.free_mb,
        rows=len(stats.lengths),
        held_out_rows=held_out_rows,
        steps=extent.steps,
        tokens=extent.tokens,
        padding=extent.padding,
        trained_parameters=trained,
        seconds=seconds,
        seconds_low=seconds / spread,
        seconds_high=seconds * spread,
        tokens_per_s=found,
        rate_from=told,
        sampled=stats.sampled,
    )


def measure_rows(store: Store, version: Version, model: Model, max_length: int) -> RowStats:
    """Lengths of a version's training rows; of a sample, repeated to the whole, where it is large."""
    return _measured(store, version.id, str(model.path), max_length)


@lru_cache(maxsize=64)
def _measured(store: Store, version_id: str, folder: str, max_length: int) -> RowStats:
    from workbench.datasets.render import load_renderer

    version = get_version(store, version_id)
    rows = _sample(store, version)
    lengths = _lengths(rows, load_renderer(folder), max_length)
    if len(rows) == version.rows or not lengths:
        return RowStats(tuple(lengths), False)
    whole = round(len(lengths) * version.rows / len(rows))
    return RowStats(tuple(lengths[place % len(lengths)] for place in range(whole)), True)


def _lengths(rows: Sequence[Row], renderer: Renderer, max_length: int) -> list[int]:
    """Tokens of each training row; of a preference, both of its sides at the longer one's length."""
    answered = [row.payload for row in rows if isinstance(row.payload, Preference | Labelled)]
    lengths = render_rows([row for row in rows if isinstance(row.payload, Example)], renderer, max_length=max_length)
    found = list(lengths.lengths)
    for row in answered:
        sides = (row.completion,) if isinstance(row, Labelled) else (row.chosen, row.rejected)
        try:
            read = [len(renderer.render_prompt_completion(row.prompt, side, None, max_length).ids) for side in sides]
        except TemplateProblem:
            continue  # the checks name it
        found.append(len(read) * max(read))
    return found


def _sample(store: Store, version: Version) -> list[Row]:
    from workbench.datasets.versions import iter_rows, read_page

    if version.rows <= SAMPLE_ROWS:
        return list(iter_rows(store, version))
    found: list[Row] = []
    for place in range(10):
        offset = place * (version.rows - SAMPLE_ROWS // 10) // 9
        found += read_page(store, version, offset=offset, limit=SAMPLE_ROWS // 10).rows
    return found


def weight_matrices(folder: Path) -> list[Layer]:
    """All weights with two sides, embedding and output layer among them, from the headers of the weight files."""
    from workbench.models.inspecting import read_tensor_places, weight_files

    return [
        Layer(place.name, place.shape[0], place.shape[1])
        for file in weight_files(folder)
        for place in read_tensor_places(file)
        if len(place.shape) == 2 and place.name.endswith(".weight")
    ]


def linear_layers(folder: Path) -> list[Layer]:
    """The model's linear layers but for embedding and output layer."""
    return [layer for layer in weight_matrices(folder) if ".layers." in f".{layer.name}"]


def is_target(name: str, targets: str | Sequence[str]) -> bool:
    """Whether a layer gets an adapter, as PEFT decides it: a target is a layer's name or the end of its path.

    Args:
        name: of the layer, with its path.
        targets: `all-linear`, or names.
    """
    return targets == "all-linear" or any(name == each or name.endswith(f".{each}") for each in targets)


def adapter_parameters(config: PlannedConfig, layers: Sequence[Layer]) -> int:
    """Weights that the adapter will have."""
    total = 0
    for layer in layers:
        if is_target(layer.name.removesuffix(".weight"), config.target_modules):
            total += config.lora_r * (layer.inputs + layer.outputs) + (layer.outputs if config.use_dora else 0)
    return total


def learnt_rate(store: Store, model: Model, config: PlannedConfig) -> float | None:
    """Median tokens per second of the last finished runs on this model, None where there is none."""
    rates = []
    for run in list_runs(store, kinds=["sft"], states=[RunState.FINISHED], limit=50):
        tokens, seconds = run.result.get("trained_tokens"), run.result.get("seconds")
        same = run.spec.get("model") in (model.id, model.name)
        same = (
            same and run.spec.get("device", "auto") == config.device and run.spec.get("dtype", "auto") == config.dtype
        )
        if same and isinstance(tokens, int | float) and isinstance(seconds, int | float) and seconds > 1:
            rates.append(tokens / seconds)
    return statistics.median(rates[:5]) if rates else None


def this_machine(store: Store, config: PlannedConfig) -> Machine:
    """The machine in use. A GPU is seen by its driver's device file, because asking torch would import it."""
    import psutil

    memory = psutil.virtual_memory()
    gpu = config.device in ("auto", "cuda") and Path("/dev/nvidia0").exists()
    return Machine(cores=store.settings.threads, memory_mb=memory.total / MB, free_mb=memory.available / MB, gpu=gpu)


def _rate(rate: float | None, parameters: int, machine: Machine, config: PlannedConfig) -> tuple[float, str, float]:
    if rate is not None:
        return rate, "earlier runs on this model", 1.3
    if machine.gpu:
        speed = GPU_GFLOPS[_dtype(config, machine)]
        return speed * 1e9 / (4.0 * parameters), f"a usual GPU's {speed / 1000:.0f} TFLOP/s", 3.0
    speed = CPU_GFLOPS_PER_CORE * machine.cores
    told = f"{machine.cores} cores at a usual {CPU_GFLOPS_PER_CORE:.0f} GFLOP/s each"
    return speed * 1e9 / (4.0 * parameters) * (0.75 if config.gradient_checkpointing else 1.0), told, 2.0


def _dtype(config: PlannedConfig, machine: Machine) -> str:
    return config.dtype if config.dtype != "auto" else "bfloat16" if machine.gpu else "float32"


def _parameters(model: Model, layers: Sequence[Layer]) -> int:
    known: JsonValue = model.info.get("parameters")
    if isinstance(known, int):
        return known
    vocabulary, hidden = (int(str(model.info.get(key) or 0)) for key in ("vocab_size", "hidden_size"))
    return sum(layer.inputs * layer.outputs for layer in layers) + vocabulary * hidden


def _activation_bytes(config: PlannedConfig, model: Model, layers: Sequence[Layer], width: int) -> float:
    whole = 1.5 * sum(layer.inputs + layer.outputs for layer in layers) * width
    if not config.gradient_checkpointing:
        return whole
    depth = max(1, int(str(model.info.get("layers") or 1)))
    return whole / depth + depth * int(str(model.info.get("hidden_size") or 0)) * width


def _evaluations(config: PlannedConfig) -> int:
    return 2 + (math.ceil(1 / config.eval_every) if 0 < config.eval_every < 1 else 1)


def _held_out_rows(store: Store, config: PlannedConfig, inputs: Inputs, rows: int) -> int:
    if inputs.held_out_version_id is not None:
        return get_version(store, inputs.held_out_version_id).rows
    if isinstance(config.held_out, float) and rows > 1:
        return max(1, round(config.held_out * rows))
    return 0


def _minutes(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
