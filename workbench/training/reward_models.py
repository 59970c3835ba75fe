"""Reward models: what a finished run of kind `reward` made, found by name or run id, and scores taken with it.

A reward model says how good an answer is as one number; it cannot answer, so it is no variant. Its folder,
`<run>/reward/`, is a plain PEFT folder for sequence classification with one label (LoRA weights and the score head)
and opens with PEFT alone; `reward.json` beside them holds the bias that is subtracted from every score. How it is
trained is `reward`'s business. Nothing here imports torch before a model is loaded.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import JsonValue

from workbench.errors import ModelProblem, NotFound, RunProblem, UsageError
from workbench.models.inspecting import read_json
from workbench.records import Interval, Model, Record, Run, RunState, digest
from workbench.store import models as model_store
from workbench.store.database import Store
from workbench.store.runs import list_runs
from workbench.training.batching import plan_evaluation
from workbench.training.configs import TrainingConfig

if TYPE_CHECKING:
    import torch

KIND = "reward"
FOLDER = "reward"
FACTS = "reward.json"
TASK = "SEQ_CLS"
HEAD = "score"
TOKENS_PER_BATCH = 4096


class RewardModel(Record):
    """A trained reward model."""

    run_id: str
    """The run that made it; it goes by this id or by the name."""
    name: str
    """The run's name."""
    model_id: str
    """The base model."""
    folder: str
    """Plain PEFT folder for sequence classification, with `reward.json`."""
    digest: str
    """Of the weights, the config fields that matter, and the bias."""
    bias: float
    """Subtracted from the head's number, so that demonstrations score 0 on average."""
    max_length: int
    """Tokens to which the rows it learned from were cut."""
    accuracy: Interval | None = None
    """Share of held-out pairs in the right order; None where nothing was held out."""
    pairs: int = 0
    """Pairs it learned from."""
    created_at: datetime
    """When its run was launched."""
    archived_at: datetime | None = None
    """When its run was put away."""


def list_reward_models(store: Store, *, archived: bool = False) -> list[RewardModel]:
    """Reward models, newest first."""
    runs = list_runs(store, kinds=[KIND], states=[RunState.FINISHED], archived=archived, limit=1_000_000)
    return [made for run in runs if (made := _of_run(store, run)) is not None]


def get_reward_model(store: Store, reference: str) -> RewardModel:
    """The reward model of a run's id or name; of several of one name, the newest.

    Raises:
        NotFound: there is none.
        ModelProblem: its folder is gone.
    """
    known = list_reward_models(store, archived=True)
    found = next((made for made in known if reference in (made.run_id, made.name)), None)
    if found is None:
        names = ", ".join(repr(made.name) for made in known[:5])
        remedy = f"There is {names}." if names else "Train one on rankings: `workbench train reward --dataset NAME`."
        raise NotFound("no such reward model", value=reference, remedy=remedy)
    if not (Path(found.folder) / FACTS).is_file():
        raise ModelProblem(
            "the reward model's folder is gone", place=found.folder, remedy="Put it back, or train it again."
        )
    return found


def _scores(store: Store, adapter: str) -> bool:
    """Whether what is named as an adapter is a reward model, by its name, its run or its folder."""
    for variant in model_store.list_variants(store, archived=True):
        if adapter in (variant.id, variant.name):
            path = Path(variant.adapter_path or "") / "adapter_config.json"
            return bool(variant.adapter_path) and path.is_file() and read_json(path).get("task_type") == TASK
    return any(adapter in (record.run_id, record.name) for record in list_reward_models(store))


def refuse_scorers_as_policy(store: Store, config: TrainingConfig) -> None:
    """A reward model scores texts and cannot answer: refuse it where a policy is asked for.

    Raises:
        UsageError: `adapter` or `model` names a reward model.
    """
    if config.adapter and _scores(store, config.adapter):
        raise UsageError(
            "this is a reward model: it scores answers and cannot give any",
            place="adapter",
            value=config.adapter,
            remedy="Name a fine-tuned variant, or leave it empty. A reward model goes under reward, of rloo and grpo.",
        )
    model = model_store.get_model(store, config.model)
    if "SequenceClassification" in str(model.info.get("architecture", "")):
        raise UsageError(
            "this base model classifies texts and cannot answer",
            place="model",
            value=model.name,
            remedy="Choose a model that writes text.",
        )


def _of_run(store: Store, run: Run) -> RewardModel | None:
    told = run.result.get("reward")
    if not isinstance(told, dict):
        return None
    return RewardModel.model_validate(
        {
            **told,
            "run_id": run.id,
            "name": run.name,
            "folder": str(store.settings.run_dir(run.id) / FOLDER),
            "created_at": run.created_at,
            "archived_at": run.archived_at,
        }
    )


# The model -----------------------------------------------------------------------------------------------------------


def load_reward_base(model_record: Model, *, dtype: str = "float32", device: str = "cpu") -> Any:
    """The base model with a score head of one number instead of its output layer, in evaluation mode, dropout off.

    The head is fresh (`init_head`) until a reward model's is laid over it. No random number of the caller is drawn.

    Args:
        model_record: a model whose add run has finished.
        dtype: float32, bfloat16 or float16; the head is always float32.
        device: where to put it, in torch's words.

    Raises:
        ModelProblem: files are missing or damaged, or the architecture cannot carry a score head.
    """
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from workbench.models.inspecting import weight_files
    from workbench.models.loading import DTYPES, loading_in_words, model_folder

    if dtype not in DTYPES:
        raise ModelProblem("unknown number format", place="dtype", value=dtype, remedy=f"Use {', '.join(DTYPES)}.")
    folder = model_folder(model_record)
    weight_files(folder)
    with loading_in_words(model_record.name), _quiet_head(), torch.random.fork_rng(devices=[]):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False, num_labels=1)
        for name, value in config.to_dict().items():
            if ("dropout" in name or name.endswith("pdrop")) and isinstance(value, float):
                setattr(config, name, 0.0)
        loaded, report = AutoModelForSequenceClassification.from_pretrained(
            folder,
            config=config,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
        loaded = loaded.to(device).eval()
    missing = sorted(name for name in report["missing_keys"] if not name.startswith(f"{HEAD}."))
    if missing:
        raise ModelProblem(
            "weights are missing from the files; the rest would be random",
            place=model_record.name,
            value=missing[0],
            remedy="Fetch the model again.",
        )
    head = getattr(loaded, HEAD, None)
    if not isinstance(head, torch.nn.Linear) or head.out_features != 1 or loaded.base_model is loaded:
        raise ModelProblem(
            "a model of this architecture cannot be made a reward model",
            place=model_record.name,
            value=type(loaded).__name__,
            remedy="Use a decoder such as Llama, Qwen, Mistral, Gemma or GPT-2.",
        )
    head.float()
    return loaded


@contextmanager
def _quiet_head() -> Iterator[None]:
    """That the head is new and the output layer unused is what is wanted here, and no warning."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def init_head(model: Any, seed: int) -> None:
    """Draw the score head from a normal distribution of standard deviation 1/√(d+1) (Stiennon et al. 2020, app. B.1).

    Args:
        model: of `load_reward_base`; d is the width of its hidden states.
        seed: same seed, same head.
    """
    import torch

    weight = getattr(model, HEAD).weight
    dice = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        drawn = torch.randn(weight.shape, generator=dice) / math.sqrt(weight.shape[1] + 1)
        weight.copy_(drawn.to(weight.dtype))


def last_token_scores(model: Any, input_ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The head's number at the last token of each row, with gradient, without the bias.

    Rows are padded on the right. Attention is causal, so no token of a row sees the padding and no mask is needed; nor
    does it matter which token pads, which stock sequence classification guesses the row's end from.

    Args:
        model: of `load_reward_base`, plain or wrapped by PEFT.
        input_ids: [rows, length].
        lengths: [rows], tokens of each row.

    Returns:
        [rows] in float32.
    """
    import torch

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = base.base_model(input_ids=input_ids, use_cache=False).last_hidden_state
    last = hidden[torch.arange(len(lengths), device=hidden.device), lengths - 1]
    scores: torch.Tensor = getattr(base, HEAD)(last.float()).squeeze(-1)
    return scores


def pad_rows(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows as one tensor, padded on the right to the longest: ids [rows, length] and lengths [rows]."""
    import torch

    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.zeros((len(rows), int(lengths.max())), dtype=torch.long)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
    return ids, lengths


def score_rows(
    model: Any, rows: Sequence[Sequence[int]], *, bias: float = 0.0, tokens_per_batch: int = TOKENS_PER_BATCH
) -> list[float]:
    """Score rows of token ids with dropout off and no random number drawn; leaves the model in the mode it was in.

    Args:
        model: of `load_reward_base`, plain or wrapped by PEFT.
        rows: rendered prompt + answer + end-of-turn token each, at least one token.
        bias: subtracted from each score.
        tokens_per_batch: bound on rows × longest row of a batch.

    Raises:
        UsageError: a row is empty.
        RunProblem: a score is no number.
    """
    import torch

    if not all(len(row) for row in rows):
        raise UsageError("a row without a token cannot be scored", place="rows")
    found = [0.0] * len(rows)
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        with torch.no_grad():
            for batch in plan_evaluation([len(row) for row in rows], tokens_per_batch=tokens_per_batch):
                ids, lengths = pad_rows([rows[place] for place in batch])
                scores = last_token_scores(model, ids.to(device), lengths.to(device)).double() - bias
                for place, score in zip(batch, scores.tolist(), strict=True):
                    found[place] = score
    finally:
        model.train(was_training)
    for place, score in enumerate(found):
        if not math.isfinite(score):
            raise RunProblem(
                "the reward model's score is no number",
                place=f"answer {place + 1} of {len(rows)}",
                value=score,
                remedy="Its training diverged: train it again with a lower learning_rate.",
            )
    return found


class RewardScorer:
    """A loaded reward model.

    Args:
        model: a PEFT model over `load_reward_base`.
        bias: subtracted from each score.
    """

    def __init__(self, model: Any, bias: float) -> None:
        self.model = model
        self.bias = bias

    @classmethod
    def load(cls, reward: RewardModel, model_record: Model, device: str = "cpu", dtype: str = "float32") -> Self:
        """Load a reward model over its base. No random number of the caller is drawn.

        Args:
            reward: of `get_reward_model`.
            model_record: its base.
            device: where to put it, in torch's words.
            dtype: number format of the base; the head and the scores are float32.

        Raises:
            ModelProblem: it was made for another base, files are missing or were changed, or memory does not suffice.
        """
        import torch

        from workbench.models.loading import load_with_adapter

        check_reward_folder(reward, model_record)
        base = load_reward_base(model_record, dtype=dtype, device=device)
        with torch.random.fork_rng(devices=[]):
            model = load_with_adapter(base, Path(reward.folder))
        getattr(model.get_base_model(), HEAD).float()
        model.requires_grad_(False)
        return cls(model, reward.bias)

    def score(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """Score rows of token ids, the bias already subtracted.

        Args:
            rows: rendered prompt + answer + end-of-turn token each; read at the last one.

        Raises:
            UsageError: a row is empty.
            RunProblem: a score is no number.
        """
        return score_rows(self.model, rows, bias=self.bias)


# The folder ----------------------------------------------------------------------------------------------------------


def check_reward_folder(reward: RewardModel, model_record: Model) -> None:
    """Whether a reward model's folder is whole, unchanged, and made for this base.

    Raises:
        ModelProblem: it is not; says why.
    """
    folder = Path(reward.folder)
    if not (folder / FACTS).is_file():
        raise ModelProblem("the reward model's folder is gone", place=str(folder), remedy="Train it again.")
    made_for = read_json(folder / FACTS).get("base") or {}
    known = made_for.get("base_digest")
    if reward.model_id != model_record.id or (known and model_record.base_digest and known != model_record.base_digest):
        raise ModelProblem(
            f"the reward model {reward.name!r} was made for another base, {made_for.get('name') or 'unknown'}",
            place=str(folder),
            value=model_record.name,
            remedy="Use a reward model of this base, or the base it was made for.",
        )
    if digest_reward(folder, reward.bias) != reward.digest:
        raise ModelProblem(
            "the reward model's files are not those its run published",
            place=str(folder),
            remedy="Put the folder back as it was, or train it again.",
        )


def digest_reward(folder: Path, bias: float) -> str:
    """Digest of a reward model: weights, the config fields that matter, and the bias.

    Raises:
        ModelProblem: config or weights are missing or unreadable.
    """
    from workbench.models.fingerprints import digest_adapter

    return digest({"adapter": digest_adapter(folder), "bias": bias})


def publish_reward(
    model: Any, folder: Path, model_record: Model, *, bias: float, facts: Mapping[str, JsonValue]
) -> str:
    """Save a trained reward model as a plain PEFT folder; it appears in one step and replaces an earlier one.

    Args:
        model: the PEFT model as trained.
        folder: where to.
        model_record: the base.
        bias: subtracted from each score.
        facts: what else `reward.json` tells.

    Returns:
        Its digest.

    Raises:
        ModelProblem: it cannot be written.
    """
    from workbench.models.adapters import BASE, CONFIG, TOKENIZER_FILES, WEIGHTS
    from workbench.models.adding import hub_id
    from workbench.models.convert import fresh_folder

    base: dict[str, JsonValue] = {
        "name": model_record.name,
        "hub_id": hub_id(model_record),
        "source": model_record.source.value,
        "base_digest": model_record.base_digest,
    }
    source = Path(model_record.path or "")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="reward-") as saved, fresh_folder(folder) as aside:
        model.save_pretrained(saved, save_embedding_layers=False, selected_adapters=["default"])
        config = json.loads((Path(saved) / CONFIG).read_text("utf-8"))
        config["base_model_name_or_path"] = base["hub_id"] or model_record.path
        config["inference_mode"] = True
        (aside / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
        shutil.copyfile(Path(saved) / WEIGHTS, aside / WEIGHTS)
        for name in TOKENIZER_FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, aside / name)
        (aside / BASE).write_text(json.dumps(base, indent=2), encoding="utf-8")
        found = digest_reward(aside, bias)
        told = {"format": 1, "bias": bias, "digest": found, "base": base, **facts}
        (aside / FACTS).write_text(json.dumps(told, indent=2), encoding="utf-8")
    return found


def base_of(store: Store, reward: RewardModel) -> Model:
    """The base model of a reward model."""
    return model_store.get_model(store, reward.model_id)
