"""Reinforcement from a reward model, by RLOO or by GRPO: the run, from top to bottom.

TRL's `RLOOTrainer` and `GRPOTrainer` turn the crank: advantages, clipping, where KL enters, and the losses are theirs.
Departures from stock: prompts come finished from `workbench.datasets.render`; answers are drawn and probabilities
taken by `rollouts`; which step asks which prompts is `rl_prompts.plan_prompts`, a pure function, so that a resumed
run goes on with the same ones; checkpoints are whole and fall between two sets of answers; KL is measured alike for
both methods (`rl_watch`). An SFT adapter is continued: it is not stacked upon, and a frozen copy of it, TRL's adapter
`ref`, is the reference, so that there is one base in memory; the published adapter holds the policy alone.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import ModelProblem, RunProblem
from workbench.job import Job
from workbench.records import Model, Variant
from workbench.store import models as model_store
from workbench.training.adapter_rank import tell_large_rank
from workbench.training.batching import RunPlan
from workbench.training.crank import (
    checkpointed,
    choose_device,
    failures_in_words,
    layers_in_words,
    load_policy,
    lora_config,
    one_device,
    publish,
    random_state,
    require_finite,
    train_to_end,
    trainer_arguments,
)
from workbench.training.losses import fits
from workbench.training.measuring import sample_answer
from workbench.training.rl_configs import GRPOConfig, RLConfig, RLOOConfig
from workbench.training.rl_prompts import AskedPrompt, load_prompts, plan_prompts
from workbench.training.rl_rewards import (
    Reward,
    RewardFunction,
    Scored,
    load_reward,
    make_answer,
    pin_reward,
    score_answers,
)
from workbench.training.rl_watch import (
    HeldOutPoint,
    RLReporter,
    find_blind_spots,
    find_outwitting,
    find_over_optimisation,
    interval_of_mean,
    measure_yardsticks,
    reward_series,
)
from workbench.training.rollouts import answer_log_probs, draw_answers
from workbench.training.rows import pin_inputs

if TYPE_CHECKING:
    import torch

    from workbench.datasets.render import Renderer

HELD_OUT_FILE = "held_out_answers.jsonl"
SHOWN_PROMPTS = 3
"""Held-out prompts whose answers are kept as samples."""


def train_rloo(config: RLOOConfig, job: Job, reward: Reward | None = None) -> dict[str, Any]:
    """Reinforce an adapter by RLOO (Ahmadian et al. 2024): REINFORCE, the mean of the other answers as baseline.

    KL enters as a penalty on the reward of the whole answer: β times the log-ratio summed over its tokens. Arguments,
    result and errors as `reinforce`.
    """
    import trl

    own = {"normalize_advantages": config.normalize_advantages}
    return reinforce(config, job, trl.RLOOTrainer, trl.RLOOConfig, own, reward)


def train_grpo(config: GRPOConfig, job: Job, reward: Reward | None = None) -> dict[str, Any]:
    """Reinforce an adapter by GRPO (Shao et al. 2024): advantages within a prompt's group of answers.

    KL enters in the loss of each token, by Schulman's always positive estimator k3. Arguments, result and errors as
    `reinforce`.
    """
    import trl

    own = {"scale_rewards": config.scale_rewards, "loss_type": config.loss_type}
    return reinforce(config, job, trl.GRPOTrainer, trl.GRPOConfig, own, reward)


def reinforce(
    config: RLConfig, job: Job, trainer_base: type, args_class: type, own: Mapping[str, Any], reward: Reward | None
) -> dict[str, Any]:
    """Draw answers to prompts, score them, and move the adapter to what scored better; publish it as a variant.

    Goes on from the newest whole checkpoint in the run's folder, where there is one.

    Args:
        config: what to reinforce with which reward, and how.
        job: the run.
        trainer_base: TRL's trainer.
        args_class: its arguments.
        own: those of them that only this method has.
        reward: who judges, instead of the reward model that the config names.

    Returns:
        adapter_path, variant_id, adapter_digest, steps, seconds, answers, eval_reward, eval_reward_start, eval_kl,
        the same two of each of `watch_scorers`, warnings.

    Raises:
        Stopped: Stop was pressed; the checkpoint is written.
        RunProblem: the reward failed or is gone, the loss is no number, or memory or disk ran out.
        UsageError: settings that do not fit the model, or a reward model where a policy is asked for.
    """
    from workbench.datasets.render import load_renderer
    from workbench.models.loading import model_folder

    job.progress(phase="reading the prompts", note="")
    reward_record = pin_reward(config, job) if reward is None else None
    inputs = pin_inputs(config, job)
    model_record = model_store.get_model(job.store, inputs.model_id)
    start_from = model_store.get_variant(job.store, inputs.adapter_id) if inputs.adapter_id else None
    renderer = load_renderer(model_folder(model_record))
    if not renderer.stop_ids:
        raise ModelProblem("the model has no token that ends an answer", place=model_record.name)
    train_prompts, held_out = load_prompts(job, config, inputs, model_record, renderer)
    plan = plan_prompts(
        [len(prompt.ids) for prompt in train_prompts],
        prompts_per_step=config.prompts_per_step,
        answers_per_prompt=config.answers_per_prompt,
        iterations=config.num_iterations,
        seed=config.seed,
        epochs=config.epochs,
        max_steps=config.max_steps,
    )
    anchor = start_from.name if start_from else f"{model_record.name}, since no adapter is named"
    job.log(
        f"{len(train_prompts)} prompts, {len(held_out)} held out; {plan.steps} steps of {config.prompts_per_step} "
        f"prompts × {config.answers_per_prompt} answers; KL is measured to {anchor}"
    )
    told: list[str] = []
    if config.beta == 0:
        told.append(
            "There is no KL anchor: beta is 0, and nothing holds the model near the one it started from. Watch the KL, "
            "and read the answers: a rising reward alone says little."
        )
    if len(train_prompts) == 1:
        told.append(
            "There is one prompt to learn from: what is learned holds for it, and nothing can be said beyond it. Give "
            "more prompts."
        )
    told += find_blind_spots([prompt.reference for prompt in held_out], config.watch_scorers)
    for warning in told:
        job.log(f"WARNING: {warning}")
    job.result(warnings=list(told))

    with failures_in_words("Lower answers_per_batch or max_answer_tokens"):
        job.progress(phase="loading the model", done=0, total=plan.steps, unit="steps", note="")
        device, dtype = choose_device(config)
        if reward is None:
            assert reward_record is not None
            reward = load_reward(job, reward_record, model_record, renderer, device, dtype)
        judge = RewardFunction(reward, renderer, train_prompts, config.missing_end_score)
        build = TrainerParts(trainer_base, args_class, own)
        trainer = build_trainer(config, job, model_record, start_from, renderer, judge, plan, build)
        if start_from is None:
            told += tell_large_rank(trainer.model, job)
            job.result(warnings=list(told))

        def evaluate(step: int) -> None:
            job.progress(phase="answering the held-out prompts")
            try:
                scored, kls = trainer.measure(held_out)
            except RunProblem:
                trainer.keep()
                raise
            point = HeldOutPoint(
                step=step,
                rewards=scored.rewards,
                kl=statistics.fmean(kls),
                yardsticks=measure_yardsticks(scored.answers, config.watch_scorers),
            )
            trainer.points = [known for known in trainer.points if known.step < step] + [point]
            figures = {"reward": scored.rewards} | {name: point.figures(name) for name in config.watch_scorers}
            lengths = [len(answer.ids) for answer in scored.answers]
            job.metric(
                step,
                **{key: value for name, values in figures.items() for key, value in _told_mean(name, values)},
                eval_kl=point.kl,
                eval_kl_per_token=sum(kls) / sum(lengths),
                eval_ended=scored.ended,
                eval_answer_tokens=statistics.fmean(lengths),
            )
            for slot, answer in enumerate(scored.answers[:SHOWN_PROMPTS], start=len(config.sample_prompts)):
                job.sample(step, slot, answer.prompt.messages[-1].content, answer.text)
            write_held_out(scored, kls, point.yardsticks, job.folder / HELD_OUT_FILE)
            found = find_over_optimisation(trainer.points) + find_outwitting(trainer.points)
            for warning in found:
                job.log(f"WARNING: {warning}")
            job.result(warnings=told + found)

        def sample(step: int) -> None:
            job.progress(phase="sampling answers")
            for slot, prompt in enumerate(config.sample_prompts):
                text = sample_answer(trainer.model, renderer, prompt, config.max_answer_tokens)
                job.sample(step, slot, prompt, text)

        reporter = RLReporter(
            job,
            plan,
            iterations=config.num_iterations,
            eval_every=config.eval_every if held_out else None,
            save_every=config.save_every,
            sample_every=config.sample_every if config.sample_prompts else None,
            evaluate=evaluate,
            sample=sample,
        )
        trainer.reporter = reporter
        train_to_end(trainer, job, plan.steps)

        if held_out and (not trainer.points or trainer.points[-1].step != plan.steps):  # resumed after the last step
            evaluate(plan.steps)
        told += find_over_optimisation(trainer.points) + find_outwitting(trainer.points)
        if trainer.told_apart == 0:
            told.append(
                "In no step did the reward tell the answers to a prompt apart, so nothing was learned from it. Look "
                "whether answers end (raise max_answer_tokens) and whether the reward model scores them differently."
            )
            job.log(f"WARNING: {told[-1]}")
        job.progress(phase="saving")
        named = config.model_copy(update={"name": config.name or f"{(start_from or model_record).name} reinforced"})
        variant = publish(trainer.model, named, job, model_record)
    points = trainer.points
    return {
        "adapter_path": variant.adapter_path,
        "variant_id": variant.id,
        "adapter_digest": variant.adapter_digest,
        "reference_id": start_from.id if start_from else None,
        "steps": plan.steps,
        "seconds": reporter.seconds,
        "answers": round(reporter.weight),
        "train_loss": reporter.mean_loss,
        "eval_reward": points[-1].reward if points else None,
        "eval_reward_start": points[0].reward if points else None,
        "eval_kl": points[-1].kl if points else None,
        **{f"eval_{name}": points[-1].figure(name) for name in config.watch_scorers if points},
        **{f"eval_{name}_start": points[0].figure(name) for name in config.watch_scorers if points},
        "warnings": told,
    }


def _told_mean(name: str, values: Sequence[float]) -> list[tuple[str, float]]:
    """The series of a held-out figure: its mean and the ends of its interval; none where there is nothing."""
    if not values:
        return []
    low, high = interval_of_mean(values)
    return [(f"eval_{name}", statistics.fmean(values)), (f"eval_{name}_low", low), (f"eval_{name}_high", high)]


def write_held_out(
    scored: Scored, kls: Sequence[float], yardsticks: Mapping[str, Sequence[float | None]], path: Path
) -> None:
    """Write the answers to the held-out prompts, the lowest reward first, as JSON lines."""
    entries: list[dict[str, Any]] = [
        {
            "row_id": answer.prompt.row_id,
            "prompt": answer.prompt.messages[-1].content,
            "answer": answer.text,
            "reward": reward,
            "score": raw,
            "ended": answer.ended,
            "tokens": len(answer.ids),
            "kl": kl,
            **{name: values[place] for name, values in yardsticks.items()},
        }
        for place, (answer, reward, raw, kl) in enumerate(
            zip(scored.answers, scored.rewards, scored.raw, kls, strict=True)
        )
    ]
    entries.sort(key=lambda entry: entry["reward"])
    path.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries), encoding="utf-8")


class TrainerParts:
    """What one method hands to `build_trainer`."""

    def __init__(self, trainer_base: type, args_class: type, own: Mapping[str, Any]) -> None:
        self.trainer_base = trainer_base
        self.args_class: Callable[..., Any] = args_class
        self.own = own


def build_trainer(
    config: RLConfig,
    job: Job,
    model_record: Model,
    start_from: Variant | None,
    renderer: Renderer,
    judge: RewardFunction,
    plan: RunPlan,
    parts: TrainerParts,
) -> Any:
    """TRL's trainer over the base model, the continued or a new adapter, the reference, and the planned prompts."""
    from datasets import Dataset

    from workbench.models.loading import load_tokenizer, load_with_adapter

    device, dtype = choose_device(config)
    model: Any = load_policy(config, job, model_record, device, dtype)
    if start_from is not None:
        model = load_with_adapter(model, Path(start_from.adapter_path or ""), trainable=True)
    tokenizer = load_tokenizer(model_record)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(min(renderer.stop_ids))
    answers = config.prompts_per_step * config.answers_per_prompt
    batch = max(size for size in range(1, min(config.answers_per_batch, answers) + 1) if answers % size == 0)
    args = one_device(
        parts.args_class(
            **trainer_arguments(config, job, plan.steps, device),
            **parts.own,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=answers // batch,
            activation_checkpointing=config.gradient_checkpointing,
            disable_dropout=True,  # the reference is read without it: with it, KL would be above 0 from the start
            num_generations=config.answers_per_prompt,
            max_completion_length=config.max_answer_tokens,
            temperature=config.temperature,
            beta=config.beta,
            num_iterations=config.num_iterations,
            epsilon=config.epsilon,
            shuffle_dataset=False,
        )
    )
    prompts = judge.prompts
    table = Dataset.from_dict({"prompt": [prompt.text for prompt in prompts], "row": list(range(len(prompts)))})
    with layers_in_words(config):
        trainer = reinforcing(parts.trainer_base)(
            model=model,
            reward_funcs=judge,
            args=args,
            train_dataset=table,
            processing_class=tokenizer,
            peft_config=lora_config(config) if start_from is None else None,
        )
        if start_from is not None and "ref" not in trainer.model.peft_config:  # GRPO without a penalty makes none
            add_reference(trainer.model)
    trainer.plan = plan
    trainer.renderer = renderer
    trainer.judge = judge
    trainer.eos_token_ids = sorted(renderer.stop_ids)
    trainer.keep_checkpoints = config.keep_checkpoints
    trainer.fast = fits(trainer.model)
    return trainer


def add_reference(model: Any) -> None:
    """Keep a frozen copy of the adapter `default` as `ref`, as TRL does where its loss needs one."""
    model.add_adapter("ref", model.peft_config["default"])
    for name, weight in model.named_parameters():
        if ".default." in name:
            model.get_parameter(name.replace(".default.", ".ref.")).data.copy_(weight.data)


def reinforcing(base: type) -> type:
    """TRL's trainer with the departures named at the top of this file.

    Args:
        base: `trl.RLOOTrainer` or `trl.GRPOTrainer`.
    """
    import torch
    from torch.utils.data import DataLoader
    from trl.trainer.utils import identity, use_adapter

    class Reinforced(checkpointed(base)):  # type: ignore[misc]
        plan: RunPlan
        renderer: Renderer
        judge: RewardFunction

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.fast = False
            self.points: list[HeldOutPoint] = []
            self.told_apart = 0
            self._captured: list[torch.Tensor] | None = None  # while answers are drawn and scored
            self._kept: tuple[torch.Tensor, torch.Tensor] | None = None
            self._row: torch.Tensor | None = None
            self._policy: torch.Tensor | None = None
            self._fresh = 0  # batches of this step whose answers the policy has just drawn
            self._kls: list[float] = []
            self._tokens = 0
            self._seconds: dict[str, float] = {}
            super().__init__(*args, **kwargs)

        def more_files(self) -> Mapping[str, bytes]:
            kept = {"points": [point.model_dump() for point in self.points], "told_apart": self.told_apart}
            return {"watch.json": json.dumps(kept).encode()}

        def restore_files(self, folder: Path) -> None:
            kept = json.loads((folder / "watch.json").read_bytes())
            self.points = [HeldOutPoint.model_validate(point) for point in kept["points"]]
            self.told_apart = kept["told_apart"]

        def get_train_dataloader(self) -> Any:
            # TRL takes the whole step's prompts with each of its batches, and looks at them when it draws.
            asked = [[row for row in step for _ in range(self.num_generations)] for step in self.plan.batches]
            repeated = [rows for rows in asked for _ in range(self.args.gradient_accumulation_steps)]
            return DataLoader(
                self.train_dataset, batch_sampler=repeated, collate_fn=identity, generator=torch.Generator()
            )

        # Drawing and scoring answers ---------------------------------------------------------------------------------

        def _tokenize_prompts(self, prompts: list[str]) -> Any:
            return [self.renderer.encode(prompt) for prompt in prompts], None, {}

        def _generate_single_turn(self, prompt_ids: list[list[int]], *_: Any, **__: Any) -> Any:
            began = time.perf_counter()
            ids = self.draw(prompt_ids[:: self.num_generations], self.num_generations)
            self._seconds["generate_s"] = time.perf_counter() - began
            return ids if self._name == "RLOO" else (ids, None)

        def draw(self, prompts: Sequence[Sequence[int]], each: int, generator: Any = None) -> list[list[int]]:
            """Answers to prompts by the policy as it is."""
            return draw_answers(
                self.model,
                prompts,
                each=each,
                most_tokens=self.max_completion_length,
                stop_ids=self.renderer.stop_ids,
                temperature=self.temperature,
                generator=generator,
            )

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            began, self._before = time.perf_counter(), random_state()
            self._captured = []
            try:
                with quiet_checkpointing():
                    output = super()._generate_and_score_completions(inputs)
                if self.beta == 0:
                    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
                    mask = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
                    with torch.no_grad():
                        self.reference(ids, mask, output["completion_ids"].shape[1])
                output["ref_per_token_logps"] = self._captured[-1]
                output["row"] = torch.arange(len(output["completion_ids"]), device=output["completion_ids"].device)
            finally:
                self._captured = None
            self._fresh, self._kls = self.args.gradient_accumulation_steps, []
            self._tokens = int(output["prompt_mask"].sum() + output["completion_mask"].sum())
            told = self._seconds["generate_s"] + self._seconds["score_s"]
            self._seconds["reference_s"] = time.perf_counter() - began - told
            return output

        def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                found = super()._calculate_rewards(*args, **kwargs)
            except RunProblem:
                # Kept as it was before these answers were drawn, so that resuming draws the very same ones.
                restore_random_state(self._before)
                self.keep()
                raise
            self._seconds["score_s"] = time.perf_counter() - began
            return found

        def keep(self) -> None:
            """Write a checkpoint of what is learned, between two sets of answers; before the first step none."""
            if self.state.global_step and self.state.global_step % self.num_iterations == 0:
                self._save_checkpoint(self.model, None)

        # Probabilities -----------------------------------------------------------------------------------------------

        def _get_per_token_logps_and_entropies(
            self,
            model: Any,
            input_ids: torch.Tensor,
            attention_mask: torch.Tensor,
            logits_to_keep: int,
            batch_size: int | None = None,
            compute_entropy: bool = False,
            **rest: Any,
        ) -> Any:
            if self._captured is None and self._kept is not None:
                (logps, entropies), self._kept = self._kept, None
                found = (logps[self._row], entropies[self._row], None)
            elif not self.fast:
                found = super()._get_per_token_logps_and_entropies(
                    model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **rest
                )
            else:
                keep = self._captured == [] and self.reads_once
                found = self._read(model, input_ids, attention_mask, logits_to_keep, batch_size, keep)
            if self._captured is not None:
                self._captured.append(found[0].detach())
            else:
                self._policy = found[0].detach()
            return found

        @property
        def reads_once(self) -> bool:
            """Whether what RLOO reads of the policy for its penalty can serve its loss too, gradient and all.

            That is so where a step is one batch and the only one on its answers; a third of a step's reading is spared.
            """
            batches = self.args.gradient_accumulation_steps * self.num_iterations
            return self._name == "RLOO" and batches == 1 and not self.args.activation_checkpointing

        def _read(
            self, model: Any, ids: torch.Tensor, mask: torch.Tensor, columns: int, batch_size: int | None, keep: bool
        ) -> tuple[torch.Tensor, torch.Tensor, None]:
            size = batch_size or len(ids)
            with torch.enable_grad() if keep else contextlib.nullcontext():
                parts = [
                    answer_log_probs(model, ids[at : at + size], mask[at : at + size], columns, self.temperature)
                    for at in range(0, len(ids), size)
                ]
                logps, entropies = (torch.cat(side) for side in zip(*parts, strict=True))
            if keep:
                self._kept = logps, entropies
            return logps.detach() if keep else logps, entropies, None

        def reference(self, ids: torch.Tensor, mask: torch.Tensor, columns: int) -> torch.Tensor:
            """Log-probabilities of the policy the run started from."""
            model = self.accelerator.unwrap_model(self.model)
            with use_adapter(model, "ref" if "ref" in model.peft_config else None):
                size = self.args.per_device_train_batch_size
                return self._get_per_token_logps_and_entropies(self.model, ids, mask, columns, size)[0]

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            self._row = inputs["row"]  # TRL has shuffled the answers meanwhile
            loss = super().compute_loss(model, inputs, *args, **kwargs)
            require_finite(loss, self.state.global_step)
            if self._fresh:
                self._fresh -= 1
                ratios = (self._policy - inputs["ref_per_token_logps"]) * inputs["completion_mask"]
                self._kls += ratios.double().sum(dim=1).tolist()
            return loss

        # Watching ----------------------------------------------------------------------------------------------------

        def measure(self, prompts: Sequence[AskedPrompt]) -> tuple[Scored, list[float]]:
            """One answer to each prompt, always drawn with the run's seed: its score, and its KL in nats.

            Disturbs no random number that training draws on.
            """
            dice = torch.Generator(self.args.device).manual_seed(self.args.seed)
            size = self.args.per_device_train_batch_size
            answers, kls = [], []
            with torch.no_grad(), eval_mode(self.model):
                for at in range(0, len(prompts), size):
                    part = prompts[at : at + size]
                    drawn = self.draw([prompt.ids for prompt in part], 1, dice)
                    answers += [
                        make_answer(prompt, ids, self.renderer) for prompt, ids in zip(part, drawn, strict=True)
                    ]
                    ids, mask, columns = beside([prompt.ids for prompt in part], drawn, self.args.device)
                    policy = self._get_per_token_logps_and_entropies(self.model, ids, mask, columns)[0]
                    ratios = (policy - self.reference(ids, mask, columns)) * mask[:, -columns:]
                    kls += ratios.double().sum(dim=1).tolist()
            return score_answers(self.judge.reward, answers, self.judge.missing_end_score), kls

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            found, self._metrics["train"] = self._metrics["train"], type(self._metrics["train"])(list)
            if "loss" not in logs:
                return
            more: dict[str, float] = {}
            if self._kls:  # else a further step on answers that were told of before
                scored = self.judge.last
                assert scored is not None
                more = reward_series(scored, self.num_generations) | self._seconds
                tokens = sum(len(answer.ids) for answer in scored.answers)
                more |= {"kl": statistics.fmean(self._kls), "kl_per_token": sum(self._kls) / tokens}
                self.told_apart += more["same_reward"] < 1
                self._kls = []
            self.reporter.report(
                self.state.global_step,
                loss=logs["loss"],
                learning_rate=logs["learning_rate"],
                grad_norm=float(logs["grad_norm"]),
                weight=self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps,
                tokens=self._tokens,
                entropy=statistics.fmean(found["entropy"]),
                clipped=statistics.fmean(found["clip_ratio/region_mean"]),
                **more,
            )

    return Reinforced


def beside(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], device: Any) -> tuple[Any, Any, int]:
    """Prompts padded on the left beside answers padded on the right: ids, mask, and columns of the answers."""
    import torch

    left, right = max(map(len, prompts)), max(map(len, answers))
    ids = torch.zeros((len(prompts), left + right), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        begin, end = left - len(prompt), left + len(answer)
        ids[row, begin:end] = torch.tensor([*prompt, *answer])
        mask[row, begin:end] = 1
    return ids.to(device), mask.to(device), right


@contextlib.contextmanager
def eval_mode(model: Any) -> Iterator[None]:
    """The model in evaluation mode, and back in the one it was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextlib.contextmanager
def quiet_checkpointing() -> Iterator[None]:
    """TRL turns activation checkpointing off and on by deprecated names; nobody here can act on it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated", category=FutureWarning)
        yield


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Put the random generators back to what `random_state` gave."""
    import random

    import numpy as np
    import torch

    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.random.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.random.set_rng_state(state["cuda"])
