import pytest
from pydantic import ValidationError

from workbench.errors import UsageError
from workbench.training.configs import PRESETS, SFTConfig, apply_preset


def test_a_preset_fills_what_is_not_given_and_leaves_what_is():
    filled = SFTConfig(dataset="d", preset="quick", learning_rate=1e-4)
    assert filled.learning_rate == 1e-4
    assert filled.epochs == PRESETS["quick"]["epochs"]
    assert apply_preset({"preset": "thorough", "epochs": 7})["epochs"] == 7


def test_without_a_preset_it_is_balanced_and_the_plain_defaults_are_the_same():
    assert SFTConfig(dataset="d").model_dump(exclude={"preset"}) == SFTConfig(dataset="d", preset="custom").model_dump(
        exclude={"preset"}
    )


def test_a_saved_spec_comes_back_as_it_was():
    config = SFTConfig(dataset="d", preset="thorough", target_modules=("q_proj",), sample_prompts=("a", "b"))
    assert SFTConfig.model_validate_json(config.model_dump_json()) == config


def test_every_field_has_help_and_a_group():
    for name, field in SFTConfig.model_fields.items():
        assert field.description, name
        assert isinstance(field.json_schema_extra, dict) and field.json_schema_extra["group"], name


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"preset": "fast"}, "no such preset"),
        ({"preset": ["quick"]}, "no such preset"),
        ({"held_out": 1.5}, "held-out share"),
        ({"target_modules": ("q_proj", "lm_head")}, "output layer"),
        ({"target_modules": ()}, "no layer"),
        ({"max_length": 65536, "tokens_per_batch": 512}, "tokens_per_batch"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused_in_words(values, words):
    with pytest.raises(UsageError, match=words):
        SFTConfig(dataset="d", **values)


@pytest.mark.parametrize(
    "values",
    [
        {"learning_rate": 0},
        {"epochs": 0},
        {"lora_dropout": 1},
        {"seed": -1},
        {"device": "tpu"},
        {"colour": 1},
        {"dataset": ""},
    ],
)
def test_values_out_of_bounds_and_unknown_names_are_refused(values):
    with pytest.raises(ValidationError):
        SFTConfig(**({"dataset": "d"} | values))
