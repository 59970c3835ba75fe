"""Find or start the local engine of a base model, and give out the one client for any variant."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from workbench.errors import GenerationProblem, ModelProblem, RunProblem
from workbench.records import Model, Record, Run, RunState, Variant
from workbench.runs import liveness
from workbench.runs.launch import launch_run
from workbench.settings import Settings
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.store.database import Store

if TYPE_CHECKING:
    from workbench.generation.client import ChatClient

START_TIMEOUT_S = 180.0
POLL_S = 0.1


class Endpoint(Record):
    """Where a local engine listens."""

    base_url: str
    """Ends before `/chat/completions`."""
    token: str
    """Bearer token; from a 0600 file, never from the store."""
    run_id: str
    """The engine's run."""


def read_endpoint(settings: Settings, run_id: str) -> Endpoint | None:
    """The endpoint that an engine's run has written, None when it is not ready."""
    try:
        told = json.loads((settings.run_dir(run_id) / "endpoint.json").read_text("utf-8"))
        return Endpoint(base_url=told["base_url"], token=told["token"], run_id=run_id)
    except (OSError, ValueError, KeyError):
        return None


def running_engine(store: Store, model_id: str) -> Run | None:
    """The engine run of a base that is starting or at work, None when there is none."""
    states = [RunState.QUEUED, RunState.STARTING, RunState.RUNNING]
    for run in run_store.list_runs(store, kinds=["serve"], states=states, archived=True):
        if run.spec.get("model") == model_id and run.stop_requested_at is None:
            return run
    return None


def ensure_engine(store: Store, model_id: str, *, timeout_s: float = START_TIMEOUT_S) -> Endpoint:
    """Find the engine of a base, or start it and wait until it answers.

    Args:
        store: the store.
        model_id: the base model.
        timeout_s: longest wait, in seconds.

    Raises:
        ModelProblem: the model is not ready.
        GenerationProblem: there is not enough memory, or the engine did not come up.
    """
    model = model_store.get_model(store, model_id)
    if model.path is None:
        raise ModelProblem(
            "the model is not ready yet",
            value=model.name,
            remedy="Wait for the run that adds it, or start it on Models.",
        )
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        run = _find_or_launch(store, model)
        endpoint = _wait_until_ready(store, run, deadline)
        if endpoint is not None:
            return endpoint
    raise GenerationProblem(
        f"the engine was not ready within {timeout_s:.0f} seconds",
        place=model.name,
        remedy="Its run's log says why; the machine may be busy.",
    )


def _find_or_launch(store: Store, model: Model) -> Run:
    with _turn(store.settings.home / f"engine-{model.id}.lock"):
        liveness.reap(store)
        run = running_engine(store, model.id)
        if run is None:
            _check_memory(model)
            run = launch_run(store, "serve", {"model": model.id}, name=f"Engine of {model.name}")
        return run


def _wait_until_ready(store: Store, run: Run, deadline: float) -> Endpoint | None:
    looks = 0
    while time.monotonic() < deadline:
        endpoint = read_endpoint(store.settings, run.id)
        looks += 1
        # A whole look at all runs is dear; the state of this one is not. Every second is enough for the former.
        if looks % 10 == 0:
            liveness.reap(store)
        run = run_store.get_run(store, run.id)
        if endpoint is not None and run.state is RunState.RUNNING and _answers(endpoint):
            return endpoint
        if run.state is RunState.FAILED and run.failure is not None:
            raise GenerationProblem(
                f"the engine could not start: {run.failure.message}", place=run.name, remedy=run.failure.remedy
            )
        if not run.state.active:
            return None  # ended while we looked: idle, stopped or killed; the caller starts another
        time.sleep(POLL_S)
    return None


def _answers(endpoint: Endpoint) -> bool:
    import httpx

    try:
        url = endpoint.base_url.removesuffix("/v1") + "/health"
        headers = {"Authorization": f"Bearer {endpoint.token}"}
        return httpx.get(url, headers=headers, timeout=5.0, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _check_memory(model: Model) -> None:
    parameters = model.info.get("parameters")
    if not isinstance(parameters, int | float):
        return
    needed, free = parameters * 4 * 1.3, psutil.virtual_memory().available
    if needed > free:
        raise GenerationProblem(
            f"the engine needs about {needed / 2**30:.1f} GiB of memory and {free / 2**30:.1f} GiB are free",
            place=model.name,
            remedy="Stop another run or engine, or choose a smaller model.",
        )


@contextmanager
def _turn(path: Path) -> Iterator[None]:
    # Two pages asking at once must not start two engines.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def endpoint_for(store: Store, variant: Variant) -> tuple[str, str, str]:
    """Base URL, key and model name under which a variant answers.

    Raises:
        GenerationProblem: the engine cannot be had.
        RunProblem: the variant has neither a base nor a server.
    """
    if variant.server_id is not None:
        from workbench.generation.servers import server_key

        server = model_store.get_server(store, variant.server_id)
        return server.base_url, server_key(store.settings, server.id), variant.remote_model or ""
    if variant.model_id is None:
        raise RunProblem("the variant has neither a base model nor a server", value=variant.name)
    endpoint = ensure_engine(store, variant.model_id)
    return endpoint.base_url, endpoint.token, variant.id


def client_for(store: Store, variant: Variant) -> ChatClient:
    """The one client for a variant, local or remote."""
    from workbench.generation.client import ChatClient

    base_url, key, model = endpoint_for(store, variant)
    capabilities = {}
    if variant.server_id is not None:
        capabilities = model_store.get_server(store, variant.server_id).capabilities
    return ChatClient(
        base_url=base_url,
        key=key,
        model=model,
        variant=variant,
        verified=variant.server_id is None,
        capabilities=capabilities,
    )
