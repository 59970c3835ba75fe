"""Who holds a run: the file lock, and processes told apart by host, boot, pid and start time.

A pid alone says nothing after a reboot or once the number has been given to another process.
"""

from __future__ import annotations

import fcntl
import os
import socket
from functools import lru_cache
from pathlib import Path

import psutil

from workbench.records import Attempt


@lru_cache(maxsize=1)
def host_name() -> str:
    """This machine's name."""
    return socket.gethostname()


@lru_cache(maxsize=1)
def boot_id() -> str:
    """An id that changes with every boot."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"boot-{psutil.boot_time():.0f}"


def start_time(pid: int) -> float | None:
    """When a process began, seconds since the epoch; None when it is gone or a zombie."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def process_lives(attempt: Attempt, pid: int | None, started: float | None) -> bool:
    """Whether exactly this process still runs. On another host that cannot be told and counts as yes."""
    if pid is None or started is None:
        return False
    if attempt.host != host_name():
        return True
    if attempt.boot_id != boot_id():
        return False
    now = start_time(pid)
    # create_time is derived from clock ticks since boot and may differ by a tick between readers.
    return now is not None and abs(now - started) < 1.0


def take_lock(folder: Path) -> int | None:
    """Take a run's lock for good.

    Returns:
        The file descriptor that holds it until every process that inherited it has ended; None when another holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def lock_held(folder: Path) -> bool:
    """Whether some process holds a run's lock. Probes with a shared lock, which is given back at once."""
    try:
        descriptor = os.open(folder / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(descriptor)
