"""Real models of a few hundred kilobytes, made in code: what every test that needs a model uses.

All of it is deterministic. What takes a moment to make (a model, an adapter) is made once per process and copied.
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

from workbench.datasets.versions import write_version
from workbench.records import DatasetKind, Example, Message, Model, ModelSource, Payload, Preference, Variant
from workbench.store import models as model_store
from workbench.store.database import Store
from workbench.store.datasets import create_dataset

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
PAD_ID, START_ID, END_ID = 0, 1, 2
SPECIALS = [PAD, START, END]

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

TEXT = [
    "What is the capital of France? The capital of France is Paris.",
    "system user assistant tool: You are a helpful assistant. Answer in one short sentence.",
    "Write a poem about the sea. The sea is wide and the sea is blue, and the wind sings over it.",
    "Name three colours: red, green and blue. Count to ten: one two three four five six seven eight nine ten.",
    "Translate into German: good morning. Guten Morgen! Wie geht es Ihnen? Naïve café, voilà, señor, 你好, 日本.",
    "The quick brown fox jumps over the lazy dog while 0123456789 numbers go by.",
]


@lru_cache(maxsize=1)
def _workshop() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="workbench-tiny-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def make_tokenizer(folder: Path, *, chat_template: str | None = CHATML, context: int = 512) -> Path:
    """A byte-level BPE of about 400 tokens, set up as SmolLM2's is; `<|im_end|>` ends an answer."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[AddedToken(text, special=True, normalized=False) for text in SPECIALS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {
        "add_prefix_space": False,
        "bos_token": START,
        "clean_up_tokenization_spaces": False,
        "eos_token": END,
        "model_max_length": context,
        "pad_token": PAD,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": PAD,
    }
    special = {key: config[key] for key in ("bos_token", "eos_token", "pad_token", "unk_token")}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2))
    if chat_template is not None:
        (folder / "chat_template.jinja").write_text(chat_template)
    return folder


def make_model(
    folder: Path,
    *,
    seed: int = 0,
    layers: int = 2,
    hidden: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    context: int = 512,
    tied: bool = False,
    tokenizer: bool = True,
    chat_template: str | None = CHATML,
) -> Path:
    """A Llama with random fp32 weights, wide enough that greedy text varies from prompt to prompt."""
    made = _made_model(seed, layers, hidden, heads, kv_heads, context, tied)
    shutil.copytree(made, folder, dirs_exist_ok=True)
    if tokenizer:
        make_tokenizer(folder, chat_template=chat_template, context=context)
    return folder


@lru_cache
def _made_model(seed: int, layers: int, hidden: int, heads: int, kv_heads: int, context: int, tied: bool) -> Path:
    import torch
    from tokenizers import Tokenizer
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    scratch = make_tokenizer(_workshop() / "tokenizer")
    config = LlamaConfig(
        vocab_size=Tokenizer.from_file(str(scratch / "tokenizer.json")).get_vocab_size(),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=context,
        initializer_range=0.2,
        tie_word_embeddings=tied,
        bos_token_id=START_ID,
        eos_token_id=END_ID,
        pad_token_id=PAD_ID,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).float().eval()
    model.generation_config = GenerationConfig(bos_token_id=START_ID, eos_token_id=END_ID, pad_token_id=PAD_ID)
    folder = _workshop() / f"model-{seed}-{layers}-{hidden}-{heads}-{kv_heads}-{context}-{tied}"
    model.save_pretrained(folder)
    return folder


def make_adapter(
    model_folder: Path,
    folder: Path,
    *,
    seed: int = 1,
    r: int = 4,
    scale: float = 0.5,
    use_dora: bool = False,
    use_rslora: bool = False,
    targets: str | list[str] = "all-linear",
) -> Path:
    """A PEFT LoRA folder whose B is not zero: standard deviation `scale`, enough to change greedy text."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    base = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    config = LoraConfig(
        r=r,
        lora_alpha=2 * r,
        lora_dropout=0.0,
        target_modules=targets,
        use_dora=use_dora,
        use_rslora=use_rslora,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".is_gradient_checkpointing. is deprecated", category=FutureWarning)
        torch.manual_seed(seed)
        model = get_peft_model(base, config)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.data.normal_(0.0, scale)
    model.save_pretrained(folder)
    (Path(folder) / "README.md").unlink(missing_ok=True)
    return Path(folder)


def register_model(store: Store, folder: Path, name: str = "tiny") -> Model:
    """Enter a made model in the store as an add run would, with its base variant of the same name."""
    from workbench.models.fingerprints import digest_weights

    config = json.loads((folder / "config.json").read_text())
    model = model_store.add_model(store, name, ModelSource.LOCAL, str(folder))
    model = model_store.update_model(
        store,
        model.id,
        path=str(folder),
        base_digest=digest_weights(folder),
        info={
            "architecture": config["architectures"][0],
            "context_length": config["max_position_embeddings"],
            "vocab_size": config["vocab_size"],
            "hidden_size": config["hidden_size"],
            "layers": config["num_hidden_layers"],
            "dtype": "float32",
            "has_chat_template": (folder / "chat_template.jinja").exists(),
        },
    )
    model_store.add_variant(store, name, model_id=model.id)
    return model


def register_variant(store: Store, model: Model, adapter: Path | None = None, name: str = "tiny tuned") -> Variant:
    """Enter a variant of a registered model: with an adapter, or a second name for the base itself."""
    from workbench.models.fingerprints import digest_adapter

    return model_store.add_variant(
        store,
        name,
        model_id=model.id,
        adapter_path=str(adapter) if adapter else None,
        adapter_digest=digest_adapter(adapter) if adapter else None,
    )


def write_asked(store: Store, prompts: int) -> None:
    """Datasets named `instructions` and `preferences`, of the words that the tiny tokenizer knows.

    Args:
        store: where they go.
        prompts: different prompts, a row each.
    """
    asked = [Message(role="user", content=f"{n} red green?") for n in range(prompts)]
    good, bad = Message(role="assistant", content="the sea"), Message(role="assistant", content="no")
    rows: dict[DatasetKind, list[Payload]] = {
        "instructions": [Example(messages=(one, good)) for one in asked],
        "preferences": [Preference(prompt=(one,), chosen=(good,), rejected=(bad,)) for one in asked],
    }
    for kind, payloads in rows.items():
        write_version(store, create_dataset(store, kind, kind).id, payloads)
