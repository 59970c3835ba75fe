"""Chat templates as the tests know them, and a byte-level tokenizer made in code that knows their control tokens."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trl

TRL_TEMPLATES = Path(trl.__file__).parent / "chat_templates" if trl.__file__ else Path()
OWN_TEMPLATES = Path(__file__).parent / "templates"
CONTROL = re.compile(
    r"<\|[\w ▁.-]+\|>|<｜[^<>'\"{}]+｜>|<(?:start|end)_of_(?:turn|utterance)>|<end▁of▁sentence>|\[/?INST\]"
    r"|<\|?(?:turn|channel|tool_call|tool_response)\|?>|<eos>|</s>|\[gMASK\]<sop>"
)
BOS, EOS = "<bos>", "<eos>"

STOPS = {
    "chatml": ["<|im_end|>"],
    "smollm2": ["<|im_end|>"],
    "llama3": ["<|eot_id|>", "<|end_of_text|>"],
    "mistral": [EOS],
    "gemma": ["<end_of_turn>", EOS],
    "gemma3": ["<end_of_turn>", EOS],
    "gemma4": ["<turn|>", EOS],
    "diffusion_gemma": ["<turn|>", EOS],
    "qwen": ["<|im_end|>"],
    "cohere": ["<|END_OF_TURN_TOKEN|>"],
    "deepseek": ["<｜end▁of▁sentence｜>"],
    "glm4moe": ["<|user|>", "<|observation|>", "<|endoftext|>"],
    "gptoss": ["<|return|>", "<|call|>"],
    "idefics3": ["<end_of_utterance>"],
    "smolvlm": ["<end_of_utterance>"],
    "lfm2": ["<|im_end|>"],
    "llava": ["</s>"],
    "muse": ["<|eot|>"],
    "nemotron": ["<|im_end|>"],
    "phi3": ["<|end|>"],
}
TEXT = [
    "Hello there, how are you today?",
    "The answer is forty two.",
    "naïve café 你好 🙂🎉",
    "one two three\n\nfour\tfive",
]


def stops_of(name: str) -> list[str]:
    return STOPS[max((key for key in STOPS if name.startswith(key)), key=len)]


def make_chat_folder(folder: Path, source: str | None, stops: list[str] | None = None, **config: Any) -> Path:
    """A model folder without weights: tokenizer.json, tokenizer_config.json, generation_config.json, template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    folder.mkdir(parents=True, exist_ok=True)
    stops = stops or [EOS]
    special = list(dict.fromkeys([BOS, EOS, *stops, *sorted(set(CONTROL.findall(source or "")))]))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=[AddedToken(text, special=True, normalized=False) for text in special],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    values = {
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": EOS,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **config,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    ids = [tokenizer.token_to_id(text) for text in stops]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids if len(ids) > 1 else ids[0]}))
    if source is not None:
        (folder / "chat_template.jinja").write_text(source, encoding="utf-8", newline="")
    return folder


@dataclass(frozen=True)
class Fixture:
    """One template under test."""

    name: str
    source: str
    stops: list[str]


def all_fixtures() -> list[Fixture]:
    """Our own fixtures and every template TRL ships."""
    files = [*sorted(OWN_TEMPLATES.glob("*.jinja")), *sorted(TRL_TEMPLATES.glob("*.jinja"))]
    return [
        Fixture(
            path.stem if path.parent == TRL_TEMPLATES else f"own_{path.stem}",
            path.read_text(encoding="utf-8"),
            stops_of(path.stem),
        )
        for path in files
    ]
