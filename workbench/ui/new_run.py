"""Setting up a training run: data and model, preset, every setting, forecast, checks, and the same run elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import streamlit as st

from workbench.api import Workspace
from workbench.errors import NotFound, UsageError, WorkbenchError
from workbench.records import Model, ModelSource
from workbench.runs.kinds import KINDS, get_kind, training_kinds
from workbench.store import datasets as dataset_store
from workbench.store.drafts import drop_draft, load_draft, save_draft
from workbench.store.lineage import read_inputs
from workbench.training.configs import TrainingConfig
from workbench.ui.errors import show_problem
from workbench.ui.forecast import show_forecast
from workbench.ui.forms import NOTHING, checked_config, config_form, given_value, has_values, put_values
from workbench.ui.gates import show_gates
from workbench.ui.links import DATASETS, RANK, REWARD, RUNS, go_to, link_to
from workbench.ui.run_details import show_snippets
from workbench.ui.state import CLONE_PARAM, DATASET_PARAM, KIND_PARAM, REWARD_PARAM, RUN_PARAM, new_run_draft
from workbench.ui.text import plain
from workbench.ui.version_choice import choose_version, split_reference

if TYPE_CHECKING:
    from collections.abc import Sequence

DRAWN_HERE = ("name", "dataset", "model", "preset", "held_out", "adapter", "reward", "overrule_gates")
PRESET_WORDS = {
    "quick": "A first look: one pass with a high learning rate.",
    "balanced": "A good start for most data.",
    "thorough": "Slower and finer: more passes, a lower learning rate.",
    "custom": "Plain defaults; nothing is filled in for you.",
}


def show_new_run(ws: Workspace) -> None:
    """The whole form of a new training run."""
    kinds = [kind.name for kind in training_kinds()]
    if not _learnable(ws, [name for kind in kinds for name in _method(kind).dataset_kinds]):
        with st.container(border=True):
            st.subheader("There is nothing to train on yet", anchor=False)
            st.markdown("A run learns from a dataset of instructions. Install a starter kit or import a file.")
            if st.button("Go to datasets", type="primary", icon=":material/table_rows:"):
                go_to(DATASETS)
        return
    kind = _asked_kind(ws, kinds)
    if len(kinds) > 1:
        kind = st.segmented_control(
            "Method", kinds, default=kind, required=True, format_func=lambda name: KINDS[name].title, key="new_run.kind"
        )
    config_class, key = _method(kind), f"new_run.{kind}"
    st.caption(plain((config_class.__doc__ or "").strip().splitlines()[0]))
    if not _learnable(ws, config_class.dataset_kinds):
        _nothing_for(config_class)
        return
    if "reward" in config_class.model_fields and not ws.reward_models():
        _no_reward_model()
        return
    _start_values(ws, kind, config_class, key)
    form, side = st.columns([3, 2], gap="medium")
    with form:
        values = _data_and_model(ws, config_class, key)
    skip = [name for name in DRAWN_HERE if name in config_class.model_fields]
    values |= config_form(config_class, key=key, skip=skip, columns=3)
    with side:
        _side(ws, kind, config_class, key, values)
    _keep_draft(ws, kind, values)


def _method(kind: str) -> type[TrainingConfig]:
    """A training kind's config class."""
    config_class = get_kind(kind).load_config()
    assert issubclass(config_class, TrainingConfig)
    return config_class


def _learnable(ws: Workspace, kinds: Sequence[str]) -> list[str]:
    """Names of the datasets of these kinds that have a version: what a method asks for first, held-out parts last."""
    filled = dataset_store.version_counts(ws.store)
    found = [item for item in ws.datasets() if item.kind in kinds and item.id in filled]
    found.sort(key=lambda item: (item.name.endswith(dataset_store.HELD_OUT_END), kinds.index(item.kind)))
    return [item.name for item in found]


def _nothing_for(config_class: type[TrainingConfig]) -> None:
    with st.container(border=True):
        wanted = " or ".join(config_class.dataset_kinds)
        st.subheader(f"There is no dataset of {wanted} yet", anchor=False)
        if "preferences" in config_class.dataset_kinds and "instructions" not in config_class.dataset_kinds:
            st.markdown("Rank answers and make a version of the rankings, or import preferences from a file.")
            if st.button("Go to Rank", type="primary", icon=":material/social_leaderboard:"):
                go_to(RANK)
        else:
            st.markdown("Install a starter kit or import a file.")
            if st.button("Go to datasets", type="primary", icon=":material/table_rows:", key="new_run.to_datasets"):
                go_to(DATASETS)


def _no_reward_model() -> None:
    with st.container(border=True):
        st.subheader("There is no reward model yet", anchor=False)
        st.markdown("This method learns from a reward. Train a reward model on preferences first.")
        if st.button("Go to Reward", type="primary", icon=":material/military_tech:"):
            go_to(REWARD)


def _asked_kind(ws: Workspace, kinds: Sequence[str]) -> str:
    asked = st.query_params.get(KIND_PARAM)
    clone = st.query_params.get(CLONE_PARAM)
    if clone and asked is None:
        asked = ws.run(clone).kind
    return asked if asked is not None and asked in kinds else kinds[0]


def _start_values(ws: Workspace, kind: str, config_class: type[TrainingConfig], key: str) -> None:
    """Fill the form once: from the run to clone, else from the draft, else from the class; then the asked dataset."""
    clone, asked = st.query_params.get(CLONE_PARAM), st.query_params.get(DATASET_PARAM)
    reward = st.query_params.get(REWARD_PARAM) if "reward" in config_class.model_fields else None
    seen = f"{key}:from"
    origin = f"{clone or ''}|{asked or ''}|{reward or ''}"
    if st.session_state.get(seen) == origin and has_values(key, config_class):
        return
    if clone:
        run = ws.run(clone)
        fields = {name: value for name, value in run.spec.items() if name in config_class.model_fields}
        put_values(key, fields | {"name": f"{run.name} again"})
    elif not has_values(key, config_class):
        draft = load_draft(ws.store, new_run_draft(kind))
        put_values(key, {**config_class.presets["balanced"], **_known_fields(config_class, draft)})
    if asked:
        put_values(key, _as_asked(ws, config_class, ws.dataset(asked).name))
    if reward:
        put_values(key, _as_rewarded(ws, reward))
    st.session_state[seen] = origin


def _as_asked(ws: Workspace, config_class: type[TrainingConfig], dataset: str) -> dict[str, Any]:
    """The dataset an address names, measured on the part that was kept aside with it where there is one."""
    aside = dataset + dataset_store.HELD_OUT_END
    if "held_out" in config_class.model_fields and aside in _learnable(ws, config_class.dataset_kinds):
        return {"dataset": dataset, "held_out": aside}
    return {"dataset": dataset}


def _as_rewarded(ws: Workspace, reference: str) -> dict[str, Any]:
    """The reward model with its base and the adapter it started from, whose answers it judges as a rule."""
    made = next((each for each in ws.reward_models(archived=True) if reference in (each.run_id, each.name)), None)
    if made is None:
        show_problem(NotFound("no such reward model", value=reference, remedy="Choose one of those below."))
        return {}
    adapter = read_inputs(ws.store, made.run_id).get("adapter_id")
    return {"reward": made.run_id, "model": made.model_id, **({"adapter": adapter} if adapter else {})}


def _known_fields(config_class: type[TrainingConfig], draft: object) -> dict[str, Any]:
    if not isinstance(draft, Mapping):
        return {}
    return {name: value for name, value in draft.items() if name in config_class.model_fields}


def _data_and_model(ws: Workspace, config_class: type[TrainingConfig], key: str) -> dict[str, Any]:
    fields = config_class.model_fields
    values: dict[str, Any] = {}
    names = _learnable(ws, config_class.dataset_kinds)
    models = ws.models()
    grid = st.grid(2, min_column_width=200)
    if "dataset" in fields:
        with grid.cell(column_span="all"):
            asked, number = split_reference(ws, given_value(key, config_class, "dataset"), names)
            fresh = f"{key}.dataset" not in st.session_state
            chosen = _choice(
                "Dataset", names, f"{key}.dataset", asked, _dataset_label(ws), help=fields["dataset"].description
            )
            start = number if fresh and chosen == asked else None
            values["dataset"] = choose_version(ws, str(chosen), key=f"{key}.version.{chosen}", start=start)
    with grid:
        if "model" in fields:
            labels = {item.id: item.name for item in models}
            values["model"] = _choice(
                "Base model", list(labels), f"{key}.model", given_value(key, config_class, "model"),
                lambda name: labels.get(name, name), help=fields["model"].description,
            )  # fmt: skip
        if "held_out" in fields:
            options = [0.02, 0.05, 0.1, 0.2, None, *names]
            start = given_value(key, config_class, "held_out")
            values["held_out"] = _choice(
                "Held-out rows", options, f"{key}.held_out", start, _held_out_label, help=fields["held_out"].description
            )
        if "name" in fields:
            st.session_state.setdefault(f"{key}.name", given_value(key, config_class, "name") or "")
            values["name"] = st.text_input(
                "Name", key=f"{key}.name", max_chars=200, placeholder="From dataset and preset",
                help=fields["name"].description, persist_state="session",
            )  # fmt: skip
        if "adapter" in fields:
            on = "Start from" if "on_top" in fields else "Go on from"
            adapters = {
                item.id: item.name
                for item in ws.variants()
                if item.adapter_path and item.model_id == values.get("model")
            }
            values["adapter"] = _choice(
                "Adapter", [None, *adapters], f"{key}.adapter", given_value(key, config_class, "adapter"),
                lambda name: "A new one" if name is None else f"{on} {adapters.get(name, name)}",
                help=fields["adapter"].description,
            )  # fmt: skip
        if "reward" in fields:
            rewards = {made.run_id: made.name for made in ws.reward_models()}
            values["reward"] = _choice(
                "Reward model", list(rewards), f"{key}.reward", given_value(key, config_class, "reward"),
                lambda name: rewards.get(name, name), help=fields["reward"].description,
            )  # fmt: skip
    if "preset" in fields:
        st.session_state.setdefault(f"{key}.preset", given_value(key, config_class, "preset"))
        values["preset"] = st.segmented_control(
            "Preset", list(config_class.presets), key=f"{key}.preset", required=True, format_func=str.capitalize,
            on_change=_fill_preset, args=(key, config_class), persist_state="session",
        )  # fmt: skip
        st.caption(PRESET_WORDS[values["preset"] or "custom"])
    return values


def _dataset_label(ws: Workspace) -> Any:
    rows = {item.name: dataset_store.version_counts(ws.store).get(item.id, (0, 0))[1] for item in ws.datasets()}
    return lambda name: f"{name} ({rows[name]:,} rows)" if name in rows else str(name)


def _held_out_label(value: object) -> str:
    if value is None:
        return "None"
    return f"{value:.0%} of the prompts" if isinstance(value, float) else f"All of {value}"


def _choice(label: str, options: list[Any], key: str, start: Any, format_func: Any, *, help: str | None) -> Any:
    """A selectbox that also offers the value it starts with, should that no longer be listed."""
    # A selectbox that holds None shows as empty, so "no value" is a word of its own.
    words = [NOTHING if option is None else option for option in options]
    held = st.session_state.get(key, NOTHING if start is None and None in options else start)
    if held not in words and held not in (None, ""):
        words = [held, *words]
    if key not in st.session_state:
        st.session_state[key] = held if held in words else words[0]
    picked = st.selectbox(
        label,
        words,
        format_func=lambda word: format_func(None if word == NOTHING else word),
        key=key,
        help=help,
        persist_state="session",
    )
    return None if picked == NOTHING else picked


def _fill_preset(key: str, config_class: type[TrainingConfig]) -> None:
    preset = st.session_state[f"{key}.preset"]
    fill = dict(config_class.presets.get(preset) or {})
    if preset == "custom":
        fill = {name: config_class.model_fields[name].get_default() for name in config_class.presets["balanced"]}
    put_values(key, {name: value for name, value in fill.items() if name in config_class.model_fields})


def _side(ws: Workspace, kind: str, config_class: type[TrainingConfig], key: str, values: dict[str, Any]) -> None:
    config = checked_config(config_class, values)
    if config is None:
        return
    model = ws.model(str(values["model"])) if values.get("model") else None
    if model is not None and model.path is None:
        _unready(ws, model)
        return
    with st.container(border=True):
        st.markdown("**Forecast**")
        try:
            show_forecast(ws.forecast(kind, config))
        except UsageError as problem:
            st.caption(plain(problem.what[:1].upper() + problem.what[1:]) + ".")
        except WorkbenchError as problem:
            show_problem(problem)
    with st.container(border=True):
        st.markdown("**Checks of the rows**")
        try:
            clear = show_gates(ws, config)
        except WorkbenchError as problem:
            show_problem(problem)
            clear = False
    if "overrule_gates" in config_class.model_fields and not clear:
        values["overrule_gates"] = st.toggle(
            "Train all the same",
            key=f"{key}.overrule_gates",
            help=config_class.model_fields["overrule_gates"].description,
        )
        clear = bool(values["overrule_gates"])
        config = checked_config(config_class, values) or config
    if st.button(
        "Launch",
        type="primary",
        icon=":material/rocket_launch:",
        disabled=not clear,
        width="stretch",
        key="new_run.launch",
    ):
        name = str(values.get("name") or "").strip() or f"{values.get('dataset')}, {values.get('preset', kind)}"
        run = ws.launch(kind, config, name=name)
        drop_draft(ws.store, new_run_draft(kind))
        if "name" in config_class.model_fields:
            put_values(key, {"name": ""})  # the next run is another one
        go_to(RUNS, **{RUN_PARAM: run.id})
    with st.expander("The same run elsewhere", icon=":material/terminal:"):
        show_snippets(kind, config.model_dump(mode="json"))


def _unready(ws: Workspace, model: Model) -> None:
    adding = [run for run in ws.runs(kinds=["add_model"], limit=20) if run.state.active]
    with st.container(border=True):
        if adding:
            st.markdown(f"**{plain(model.name)} is being made ready**")
            link_to(RUNS, "See how far it is", icon="monitoring", **{RUN_PARAM: adding[0].id})
            return
        st.markdown(f"**{plain(model.name)} is not ready yet**")
        st.caption("Its files are converted once, in the background; the bundled model takes about a minute.")
        if model.source is ModelSource.BUNDLED and st.button(
            "Make it ready", type="primary", icon=":material/deployed_code:"
        ):
            run = ws.add_model("bundled")
            go_to(RUNS, **{RUN_PARAM: run.id})


def _keep_draft(ws: Workspace, kind: str, values: dict[str, Any]) -> None:
    plain_values = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    seen = f"new_run.{kind}:saved"
    if st.session_state.get(seen) != plain_values:
        save_draft(ws.store, new_run_draft(kind), plain_values)
        st.session_state[seen] = plain_values
