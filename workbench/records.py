"""The nouns of the workbench as frozen records.

Each record is what a store function returns and what the pages, the command line and notebooks show. Records hold no
behaviour beyond derived properties and no connection to the store.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")

DatasetKind = Literal["instructions", "preferences", "labels", "prompts"]
DATASET_KINDS: tuple[DatasetKind, ...] = ("instructions", "preferences", "labels", "prompts")


def utc_now() -> datetime:
    """The current time, aware, in UTC."""
    return datetime.now(UTC)


def new_id(prefix: str) -> str:
    """A short, sortable, file-name-safe id such as `run_01k3x5j2m7q4`.

    Args:
        prefix: the noun, letters only.
    """
    alphabet = "0123456789abcdefghjkmnpqrstvwxyz"
    stamp, text = int(time.time() * 1000), ""
    for _ in range(9):
        stamp, digit = divmod(stamp, 32)
        text = alphabet[digit] + text
    return f"{prefix}_{text}{''.join(secrets.choice(alphabet) for _ in range(5))}"


def canonical_json(value: object) -> str:
    """JSON with sorted keys, no spaces, unicode kept: the text that hashes are taken over."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: object) -> str:
    """First 32 hex digits of the SHA-256 of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:32]


class Record(BaseModel):
    """Base of all records: frozen, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class RunConfig(Record):
    """Base of every run's config: the form, the command-line options and the saved spec are all made from its fields.

    Each field has a default or is required, bounds by `Field(ge=…)`, and a docstring that is its help text.
    `Field(json_schema_extra={"group": "Optimisation"})` puts it under a heading; `"advanced": True` folds it away.
    """

    model_config = ConfigDict(allow_inf_nan=False)  # a spec is JSON, which has neither


class Message(Record):
    """One turn of a conversation."""

    role: Role
    """Who speaks."""
    content: str
    """The text; may be empty where the assistant only calls tools."""
    name: str | None = None
    """Speaker's or tool's name, where given."""
    tool_calls: list[JsonValue] | None = None
    """Tool calls of an assistant turn, in the OpenAI form."""
    tool_call_id: str | None = None
    """The call a tool turn answers."""

    def as_dict(self) -> dict[str, Any]:
        """The message as chat templates and the OpenAI protocol expect it: absent fields are left out."""
        return self.model_dump(exclude_none=True)


class Example(Record):
    """A row to imitate."""

    messages: tuple[Message, ...] = Field(min_length=1)
    """The conversation; at least one assistant turn is supervised."""
    tools: list[JsonValue] | None = None
    """Tool definitions offered to the assistant."""
    meta: dict[str, JsonValue] = {}
    """Columns of the source that are kept but not trained on: topic, id, …"""


LEAST_WEIGHT, MOST_WEIGHT = 1e-9, 1e6
"""Bounds of a weight that may be written into a row, where it is not 0; beyond them a loss is no number, or nothing."""


class Preference(Record):
    """A prompt with a better and a worse answer."""

    prompt: tuple[Message, ...] = Field(min_length=1)
    """The conversation up to the answer."""
    chosen: tuple[Message, ...] = Field(min_length=1)
    """The better answer."""
    rejected: tuple[Message, ...] = Field(min_length=1)
    """The worse answer."""
    weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Weight in the loss."""
    meta: dict[str, JsonValue] = {}
    """Provenance and other kept columns."""


class Labelled(Record):
    """A prompt with one answer that is told good or bad."""

    prompt: tuple[Message, ...] = Field(min_length=1)
    """The conversation up to the answer."""
    completion: tuple[Message, ...] = Field(min_length=1)
    """The answer."""
    label: bool
    """Whether the answer is a good one."""
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Weight in the loss."""
    meta: dict[str, JsonValue] = {}
    """Provenance and other kept columns."""


class Prompt(Record):
    """A prompt to answer, with a reference answer where the source has one."""

    messages: tuple[Message, ...] = Field(min_length=1)
    """The conversation to answer; ends with a user turn."""
    reference: str | None = None
    """A good answer, for scorers that compare."""
    meta: dict[str, JsonValue] = {}
    """Topic, category, id, …"""


Payload = Example | Preference | Labelled | Prompt
PAYLOADS: dict[DatasetKind, type[Example] | type[Preference] | type[Labelled] | type[Prompt]] = {
    "instructions": Example,
    "preferences": Preference,
    "labels": Labelled,
    "prompts": Prompt,
}


class Row(Record):
    """One row of a version."""

    row_id: str
    """Stable through edits."""
    row_hash: str
    """Digest of the payload."""
    payload: Payload
    """What the row says."""


class Dataset(Record):
    """A named chain of immutable versions."""

    id: str
    """`ds_…`"""
    name: str
    """Unique among datasets."""
    kind: DatasetKind
    """What a row is."""
    description: str = ""
    """A person's words."""
    tags: tuple[str, ...] = ()
    """A person's labels."""
    created_at: datetime
    """When it was made."""
    archived_at: datetime | None = None
    """When it was put away."""


class Version(Record):
    """An immutable state of a dataset."""

    id: str
    """`ver_…`"""
    dataset_id: str
    """The dataset it belongs to."""
    number: int
    """1 for the first."""
    parent_id: str | None
    """The version it was made from."""
    content_hash: str
    """Digest over the ordered row hashes; equal content gives an equal hash whatever wrote the files."""
    rows: int
    """Number of rows."""
    manifest: dict[str, JsonValue]
    """Which segment files, replacements and removals make it up; see `workbench.datasets.versions`."""
    message: str = ""
    """What changed."""
    provenance: dict[str, JsonValue] = {}
    """Source file, detected format, encoding, run."""
    created_at: datetime
    """When it was made."""


class ModelSource(StrEnum):
    """Where a base model comes from."""

    BUNDLED = "bundled"
    HUB = "hub"
    LOCAL = "local"
    GGUF = "gguf"


class Model(Record):
    """A base model in the catalog."""

    id: str
    """`mdl_…`; the bundled one is `mdl_smollm2_135m`."""
    name: str
    """Shown name, unique."""
    source: ModelSource
    """How it came here."""
    reference: str
    """Hub id, folder or file it came from."""
    path: str | None
    """Folder of plain safetensors and `tokenizer.json`; None until the add run has finished."""
    base_digest: str | None = None
    """Digest of the weights."""
    info: dict[str, JsonValue] = {}
    """architecture, parameters, context_length, vocab_size, hidden_size, layers, dtype, licence, has_chat_template."""
    created_at: datetime
    """When it was added."""
    archived_at: datetime | None = None
    """When it was put away."""


class Server(Record):
    """A remote OpenAI-compatible server. Its key is in the 0600 keys file, never here."""

    id: str
    """`srv_…`"""
    name: str
    """Unique."""
    base_url: str
    """Ends before `/chat/completions`."""
    capabilities: dict[str, JsonValue] = {}
    """What probing found: models, stream, seed, logprobs, system_fingerprint."""
    created_at: datetime
    """When it was added."""


class Variant(Record):
    """What can answer: a base model, a base with an adapter, or a model on a remote server."""

    id: str
    """`var_…`"""
    name: str
    """Unique."""
    model_id: str | None
    """The base model; None for a remote variant."""
    adapter_path: str | None = None
    """Plain PEFT folder; None for the base itself."""
    adapter_digest: str | None = None
    """Digest of adapter weights and normalised config."""
    run_id: str | None = None
    """The run that made the adapter."""
    server_id: str | None = None
    """The remote server."""
    remote_model: str | None = None
    """The model's name on that server."""
    tags: tuple[str, ...] = ()
    """A person's labels."""
    notes: str = ""
    """A person's words."""
    created_at: datetime
    """When it was made."""
    archived_at: datetime | None = None
    """When it was put away."""


class RunState(StrEnum):
    """Where a run is in its life."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"
    INTERRUPTED = "interrupted"

    @property
    def active(self) -> bool:
        """Whether the run waits or works."""
        return self in (RunState.QUEUED, RunState.STARTING, RunState.RUNNING)

    @property
    def resumable(self) -> bool:
        """Whether Resume makes sense."""
        return self in (RunState.FAILED, RunState.STOPPED, RunState.INTERRUPTED)


class Progress(Record):
    """How far a run is."""

    phase: str = ""
    """Plain words: "loading the model", "training", …"""
    done: float = 0.0
    """Units done."""
    total: float | None = None
    """Units in all, where known."""
    unit: str = ""
    """steps, rows, prompts, tokens, …"""
    eta_s: float | None = None
    """Seconds left, where it can be told."""
    note: str = ""
    """One line of detail."""

    @property
    def share(self) -> float | None:
        """Between 0 and 1, None where the total is unknown."""
        return None if not self.total else min(1.0, max(0.0, self.done / self.total))


class Failure(Record):
    """Why a run ended badly."""

    error: str
    """The exception's class, or `signal 9`."""
    message: str
    """What happened, in plain words."""
    remedy: str = ""
    """What a person can do."""


class Run(Record):
    """One background job."""

    id: str
    """`run_…`"""
    kind: str
    """A key of `workbench.runs.kinds.KINDS`."""
    name: str
    """Shown name."""
    state: RunState
    """Where it is in its life."""
    slot: str
    """train, bulk, io or service."""
    spec: dict[str, JsonValue]
    """The config as saved: what reproduces the run."""
    progress: Progress = Progress()
    """How far it is."""
    attempt: int = 0
    """Number of starts."""
    failure: Failure | None = None
    """Why it ended badly."""
    result: dict[str, JsonValue] = {}
    """What it made: adapter path, variant id, version id, figures."""
    tags: tuple[str, ...] = ()
    """A person's labels."""
    notes: str = ""
    """A person's words."""
    created_at: datetime
    """When it was launched."""
    started_at: datetime | None = None
    """When its last attempt began."""
    ended_at: datetime | None = None
    """When its last attempt ended."""
    heartbeat_at: datetime | None = None
    """Last sign of life; shown, decides nothing."""
    stop_requested_at: datetime | None = None
    """When Stop was pressed."""
    archived_at: datetime | None = None
    """When it was put away."""


class Attempt(Record):
    """One start of a run."""

    run_id: str
    """The run."""
    number: int
    """1 for the first."""
    host: str
    """Host name."""
    boot_id: str
    """Kernel boot id, so that a pid of before a reboot is never mistaken."""
    supervisor_pid: int | None = None
    """Process id of the supervisor."""
    supervisor_start: float | None = None
    """Its start time, seconds since the epoch."""
    worker_pid: int | None = None
    """Process id of the worker."""
    worker_start: float | None = None
    """Its start time, seconds since the epoch."""
    started_at: datetime
    """When it began."""
    ended_at: datetime | None = None
    """When it ended."""
    exit_code: int | None = None
    """Exit code, negative for a signal."""
    resumed_step: int | None = None
    """The step it continued from."""


class Metric(Record):
    """One point of a run's series."""

    attempt: int
    """The attempt that wrote it."""
    step: int
    """Optimizer step or item number."""
    name: str
    """loss, eval_loss, learning_rate, tokens_per_s, memory_mb, …"""
    value: float
    """The value; never NaN (those are stored as a failure)."""
    at: datetime
    """When it was measured."""


class Sampling(Record):
    """How text is sampled. Field names are the OpenAI protocol's."""

    temperature: float = Field(default=0.7, ge=0, le=2)
    """0 is greedy."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Nucleus share kept."""
    top_k: int = Field(default=0, ge=0)
    """Most likely tokens kept; 0 keeps all."""
    max_tokens: int = Field(default=256, ge=1, le=8192)
    """Longest answer, in tokens."""
    seed: int | None = Field(default=0, ge=0, lt=2**63)
    """Same seed, settings and prompt give the same text; None draws a new one each time."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer; not part of it."""
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    """Subtracted once from the logit of each token already in the answer."""
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2)
    """Subtracted from a token's logit for each time it stands in the answer."""


class Completion(Record):
    """Text a variant gave for a prompt with given settings."""

    id: str
    """`cmp_…`"""
    variant_id: str
    """Who answered."""
    prompt: tuple[Message, ...]
    """What was asked."""
    text: str
    """The answer."""
    sampling: Sampling
    """With which settings."""
    fingerprint: str | None = None
    """What really produced it; a remote server's own claim is unverified."""
    verified: bool = False
    """Whether the fingerprint is the local engine's."""
    finish_reason: str | None = None
    """stop, length, cancelled, error."""
    tokens: int = 0
    """Length of the answer."""
    seconds: float = 0.0
    """From request to last token."""
    first_token_s: float | None = None
    """From request to first token."""
    error: str | None = None
    """Why there is no whole answer."""
    run_id: str | None = None
    """The run that asked, for prompt sets."""
    row_id: str | None = None
    """The prompt's row, for prompt sets."""
    conversation_id: str | None = None
    """The Playground conversation."""
    pane: int | None = None
    """The pane in it."""
    turn: int | None = None
    """The user turn it answers, from 0."""
    created_at: datetime
    """When it was made."""


class Score(Record):
    """What a scorer says of one completion."""

    completion_id: str
    """The completion."""
    scorer: str
    """The scorer's name."""
    passed: bool | None = None
    """Whether it follows all rules, for rule scorers."""
    value: float | None = None
    """The figure: a metric's, a reward, or the share of rules kept in percent."""
    detail: dict[str, JsonValue] = {}
    """Rule by rule."""


class Conversation(Record):
    """A Playground conversation: one composer, several panes."""

    id: str
    """`cnv_…`"""
    title: str
    """First words of the first prompt, or a person's."""
    system: str = ""
    """System prompt."""
    variants: tuple[str, ...] = ()
    """Variant id of each pane."""
    sampling: Sampling = Sampling()
    """Settings all panes share."""
    user_turns: tuple[str, ...] = ()
    """What the person wrote."""
    created_at: datetime
    """When it began."""
    archived_at: datetime | None = None
    """When it was put away."""


class Interval(Record):
    """An estimate with its interval."""

    value: float
    """The estimate."""
    low: float
    """Lower bound."""
    high: float
    """Upper bound."""
    n: int
    """How many items it rests on."""


class RankQueue(Record):
    """Prompts whose answers people rank."""

    id: str
    """`rq_…`"""
    name: str
    """Unique."""
    guidelines: str = ""
    """What raters are told to look for."""
    overlap: int = Field(default=1, ge=1)
    """How many raters see each item."""
    repeats: float = Field(default=0.0, ge=0, le=0.5)
    """Share of items shown to the same rater a second time, unannounced, for self-consistency."""
    source: dict[str, JsonValue] = {}
    """Where the items come from: version of the prompt set, variants, sampling, run, conversation or file."""
    created_at: datetime
    """When it was made."""
    archived_at: datetime | None = None
    """When it was put away."""


class RankItem(Record):
    """One prompt with the K answers to rank."""

    id: str
    """`ri_…`"""
    queue_id: str
    """The queue."""
    position: int
    """Place in the queue, from 0."""
    prompt: tuple[Message, ...]
    """What was asked."""
    completions: tuple[str, ...] = Field(min_length=1, max_length=9)
    """Ids of the answers to rank; identical texts are merged into the first."""
    merged: dict[str, tuple[str, ...]] = {}
    """For an answer that stands for several: ids of the others with the same text."""
    row_id: str | None = None
    """The prompt's row, where it comes from a prompt set; splits are by prompt."""


class Ranking(Record):
    """One rater's ordering of an item's answers. Only ever appended; an undo is a mark of its own."""

    id: str
    """`rk_…`"""
    item_id: str
    """The item."""
    rater: str
    """Who ranked."""
    shown: tuple[str, ...]
    """Completion ids in the order displayed."""
    tiers: tuple[tuple[str, ...], ...] = ()
    """Completion ids from best to worst; those in one tier are tied. Empty when skipped or all bad."""
    unusable: tuple[str, ...] = ()
    """Completion ids that are no answer at all; below every tier, and not compared with each other."""
    all_bad: bool = False
    """Whether every answer is bad."""
    skipped: str | None = None
    """Why the item was passed over; None for a vote."""
    confidence: int | None = Field(default=None, ge=1, le=5)
    """How sure the rater is."""
    comment: str = ""
    """A rater's words."""
    edited: str | None = None
    """The rater's better version of the best answer."""
    seconds: float = Field(default=0.0, ge=0)
    """From display to submission."""
    repeat: bool = False
    """Whether this was a hidden repeat."""
    source: str = "rank"
    """rank, playground, demo, import or scorer."""
    nonce: str
    """Given by the browser; the same submission twice is one ranking."""
    created_at: datetime
    """When it was submitted."""
    undone_at: datetime | None = None
    """When it was taken back."""


class Rating(Record):
    """A variant's strength fitted from rankings."""

    variant_id: str
    """The variant."""
    strength: float
    """Bradley–Terry strength in natural-log units, mean 0."""
    low: float
    """Lower bound, bootstrap over prompts."""
    high: float
    """Upper bound."""
    rank: int
    """1 + number of variants whose lower bound exceeds this one's upper bound."""
    comparisons: int
    """Pairs it took part in."""
    wins: float
    """Pairs won, ties half."""
