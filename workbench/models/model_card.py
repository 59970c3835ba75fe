"""The model card: what a variant is, what it was made from, how well it does where that was measured, and its limits.

A card is text from facts; where the facts come from (store, lineage, answer runs) is left to whoever exports. Only what
was recorded is claimed: a figure stands with its n and interval, and what is not known is said to be not known.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import JsonValue

from workbench.records import Interval, Record


class DataFact(Record):
    """One dataset version that went into a variant."""

    use: str
    """trained on, measured on, …"""
    name: str
    """Dataset and version number."""
    rows: int
    """Rows."""
    content_hash: str
    """Digest over the ordered row hashes."""
    source: str = ""
    """File, kit, hub id or rankings it came from."""
    licence: str | None = None
    """Of the data, where its source said."""
    raters: int = 0
    """People whose rankings it was made from."""


class Figure(Record):
    """One measured figure."""

    measure: str
    """What was measured."""
    variant: str
    """Of whom."""
    value: Interval
    """The figure with its interval."""
    prompts: str = ""
    """The prompt set with its version."""
    percent: bool = False
    """Whether it is a share."""


class CardFacts(Record):
    """Everything a card says."""

    name: str
    """Name of the variant."""
    weights: str
    """adapter or merged."""
    base_name: str
    """Shown name of the base."""
    base_id: str | None = None
    """Its hub id, where it has one."""
    base_digest: str | None = None
    """Digest of its weights."""
    base_licence: str | None = None
    """Its licence."""
    adapter_digest: str | None = None
    """Digest of the adapter."""
    method: str = ""
    """How it was trained."""
    data: tuple[DataFact, ...] = ()
    """What it was trained and measured on."""
    settings: Mapping[str, JsonValue] = {}
    """The training run's settings."""
    made_with: Mapping[str, JsonValue] = {}
    """Code and library versions, threads."""
    losses: Mapping[str, float] = {}
    """Training and held-out loss."""
    figures: tuple[Figure, ...] = ()
    """Measured figures."""
    dtype: str = "float32"
    """Number format of merged weights."""
    notes: str = ""
    """A person's words on what it is for."""
    licence: str | None = None
    """Licence a person chose for it."""


def write_card(facts: CardFacts) -> str:
    """The card as Markdown with the header the hub reads."""
    parts = [
        _header(facts),
        f"# {_line(facts.name)}",
        facts.notes.strip()
        or f"{_article(facts)} of {_line(facts.base_name)}, made with the instruction-tuning workbench.",
        _use(facts),
        _data(facts),
        _settings(facts),
        _figures(facts),
        _licences(facts),
        _limits(facts),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _article(facts: CardFacts) -> str:
    if facts.weights == "adapter":
        return "A LoRA adapter"
    return "A fine-tuned copy" if facts.adapter_digest else "A copy"


def _header(facts: CardFacts) -> str:
    header: dict[str, Any] = {"pipeline_tag": "text-generation"}
    header["library_name"] = "peft" if facts.weights == "adapter" else "transformers"
    if facts.base_id:
        header["base_model"] = facts.base_id
    licence = facts.licence or facts.base_licence
    if licence:
        header["license"] = licence
    header["tags"] = (
        ["lora", "instruction-tuning-workbench"] if facts.adapter_digest else ["instruction-tuning-workbench"]
    )
    # JSON is YAML: no text of a person can break out of its place.
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in header.items()]
    return "\n".join(["---", *lines, "---"])


def _use(facts: CardFacts) -> str:
    if facts.weights == "adapter":
        base = facts.base_id or "FOLDER_OF_THE_BASE"
        code = [
            "from peft import PeftModel",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            f"base = AutoModelForCausalLM.from_pretrained({json.dumps(base)})",
            'model = PeftModel.from_pretrained(base, "FOLDER")',
        ]
    else:
        code = [
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            'model = AutoModelForCausalLM.from_pretrained("FOLDER")',
        ]
    code += [
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
        'messages = [{"role": "user", "content": "…"}]',
        "inputs = tokenizer.apply_chat_template(",
        '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True',
        ")",
        "answer = model.generate(**inputs, do_sample=False, max_new_tokens=160)",
        'print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))',
    ]
    return "## Use\n\n```python\n" + "\n".join(code) + "\n```"


def _data(facts: CardFacts) -> str:
    lines = ["## What it was made from", "", f"- Base: {_line(facts.base_name)}"]
    if facts.base_digest:
        lines.append(f"- Digest of the base's weights: `{facts.base_digest}`")
    if facts.adapter_digest:
        lines.append(f"- Digest of the adapter: `{facts.adapter_digest}`")
    if not facts.data:
        if facts.adapter_digest:
            lines.append("- Its training data is not known here: the adapter was made elsewhere, or its run is gone.")
        return "\n".join(lines)
    lines += ["", "| Data | Use | Rows | Content hash | Source | Licence |", "|---|---|---|---|---|---|"]
    for item in facts.data:
        source = item.source + (f", ranked by {item.raters} rater{'s' * (item.raters != 1)}" if item.raters else "")
        cells = (item.name, item.use, f"{item.rows:,}", f"`{item.content_hash}`", source, item.licence or "not stated")
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(lines)


def _settings(facts: CardFacts) -> str:
    shown = {key: value for key, value in facts.settings.items() if value not in (None, "", [], {})}
    if not shown:
        return ""
    lines = ["## How it was trained", ""]
    if facts.method:
        lines += [facts.method + ".", ""]
    lines += ["| Setting | Value |", "|---|---|"]
    lines += [f"| {_cell(key)} | {_cell(_told(value))} |" for key, value in {**shown, **facts.made_with}.items()]
    return "\n".join(lines)


def _figures(facts: CardFacts) -> str:
    lines = ["## Figures", ""]
    if facts.losses:
        told = ", ".join(f"{name} {value:.4f}" for name, value in facts.losses.items())
        lines += [f"Loss per token: {told}.", ""]
    if not facts.figures:
        lines.append("No answers of it were measured.")
        return "\n".join(lines)
    lines += ["| Measure | Of | Value | 95 % interval | n | Prompts |", "|---|---|---|---|---|---|"]
    for item in facts.figures:
        form = "{:.1%}" if item.percent else "{:.3g}"
        value, low, high = (form.format(number) for number in (item.value.value, item.value.low, item.value.high))
        cells = (item.measure, item.variant, value, f"{low} to {high}", str(item.value.n), item.prompts)
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(lines)


def _licences(facts: CardFacts) -> str:
    lines = ["## Licence", "", f"- Base: {_line(facts.base_licence or 'not stated')}"]
    data: Sequence[str] = sorted({item.licence or "not stated" for item in facts.data})
    if data:
        lines.append(f"- Data: {_line(', '.join(data))}")
    if facts.licence:
        lines.append(f"- This model: {_line(facts.licence)}")
    lines.append("- Whoever shares it answers for its keeping to both.")
    return "\n".join(lines)


def _limits(facts: CardFacts) -> str:
    lines = ["## Limits", ""]
    lines.append(
        "- It inherits what the base says wrongly or unfairly; fine-tuning on a small dataset does not mend it."
    )
    if facts.adapter_digest:
        lines.append("- It was tuned on the data above and was not tested for anything else.")
    if facts.figures:
        lines.append("- The figures hold for these prompts, greedy or seeded as recorded; n says how much they weigh.")
    if facts.weights == "merged" and facts.dtype != "float32":
        lines.append(f"- Weights are rounded to {facts.dtype}: answers may differ from the adapter's in close cases.")
    return "\n".join(lines)


def _line(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return _line(text).replace("|", "\\|")


def _told(value: JsonValue) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
