"""What is copied from a run gives the same run again."""

from __future__ import annotations

import shlex
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.runs.kinds import parse_config
from workbench.runs.snippets import as_command, as_python, as_yaml, changed_fields
from workbench.training.configs import PRESETS, SFTConfig

TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=30).filter(
    lambda text: text.strip().lower() not in ("none", "null")
)
CONFIGS = st.fixed_dictionaries(
    {"dataset": TEXTS},
    optional={
        "name": TEXTS,
        "preset": st.sampled_from(sorted(PRESETS)),
        "held_out": st.one_of(st.none(), st.floats(0.01, 0.9)),
        "learning_rate": st.floats(1e-7, 1.0),
        "epochs": st.integers(1, 1000),
        "max_steps": st.one_of(st.none(), st.integers(1, 10_000)),
        "use_dora": st.booleans(),
        "sample_prompts": st.lists(TEXTS, max_size=3).map(tuple),
        "target_modules": st.sampled_from(["all-linear", ("q_proj", "v_proj")]),
    },
)


def read_command(line: str) -> dict[str, Any]:
    """Options of a command line as the command line reads them."""
    words = shlex.split(line.replace(" \\\n", " "))
    assert words[:3] == ["workbench", "train", "sft"]
    found: dict[str, Any] = {}
    place = 3
    while place < len(words):
        name = words[place].removeprefix("--").replace("-", "_")
        if name in SFTConfig.model_fields and SFTConfig.model_fields[name].annotation is bool:
            found[name], place = True, place + 1
        elif name.startswith("no_"):
            found[name.removeprefix("no_")], place = False, place + 1
        else:
            value: Any = None if words[place + 1] == "none" else words[place + 1]
            if name == "held_out" and value is not None:
                value = float(value)
            if name in ("sample_prompts", "target_modules") and value != "all-linear":
                found.setdefault(name, []).append(value)
            else:
                found[name] = value
            place += 2
    return found


@settings(deadline=None, max_examples=80)
@given(CONFIGS)
def test_every_form_gives_the_same_config_again(values: dict[str, Any]) -> None:
    config = SFTConfig.model_validate(values)
    assert SFTConfig.model_validate(read_command(as_command("sft", config))) == config
    spec = yaml.safe_load(as_yaml("sft", config))
    assert spec.pop("kind") == "sft"
    assert SFTConfig.model_validate(spec) == config

    class Recorder:
        def train(self, method: str, dataset: str, **options: Any) -> Recorder:
            assert method == "sft"
            self.config = SFTConfig.model_validate({"dataset": dataset, **options})
            return self

        id = "run"

        def wait(self, run_id: str) -> None:
            pass

    recorder = Recorder()
    cell = as_python("sft", config).replace("from workbench import Workspace", "")
    exec(cell, {"Workspace": lambda: recorder})
    assert recorder.config == config


def test_only_what_differs_is_named() -> None:
    config = SFTConfig(dataset="rows", preset="quick")
    assert changed_fields("sft", config) == {"dataset": "rows", "preset": "quick"}
    assert as_command("sft", config) == "workbench train sft --dataset rows --preset quick"


def test_a_saved_spec_gives_the_short_form_too() -> None:
    saved = SFTConfig(dataset="rows", lora_r=8).model_dump(mode="json")
    assert changed_fields("sft", saved) == {"dataset": "rows", "lora_r": 8}


def test_other_kinds_have_a_command_of_their_own() -> None:
    config = parse_config("import", {"source": "/tmp/a b.csv", "dataset": "x", "mapping": {"output": "a"}})
    assert as_command("import", config).startswith("workbench data import --source '/tmp/a b.csv' --dataset x")
    assert "--mapping output=a" in as_command("import", config)
    assert as_command("tour", {}) == "workbench tour"
    assert yaml.safe_load(as_yaml("tour", {"quick": True})) == {"kind": "tour", "quick": True}
