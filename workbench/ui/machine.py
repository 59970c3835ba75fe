"""How loaded this machine is: memory, processors, disk of the home folder, GPUs where there are any.

GPUs are asked through `nvidia-smi`, because the page process must not load torch.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import psutil
import streamlit as st

from workbench.ui.text import bytes_text, count

_QUERY = "--query-gpu=name,utilization.gpu,memory.used,memory.total"


class Meter(NamedTuple):
    """One reading."""

    name: str
    share: float
    detail: str


def read_meters(home: Path) -> list[Meter]:
    """Memory, processors, disk, and two meters for each GPU."""
    memory = psutil.virtual_memory()
    disk = shutil.disk_usage(home)
    used = memory.total - memory.available
    # Since the last reading; the very first one is always 0 and is taken over a moment instead.
    load = (psutil.cpu_percent(interval=None) or psutil.cpu_percent(interval=0.1)) / 100
    return [
        Meter("Memory", used / memory.total, f"{bytes_text(used)} of {bytes_text(memory.total)} in use"),
        Meter("Processors", load, f"{load:.0%} busy, {count(psutil.cpu_count() or 1, 'core')}"),
        Meter("Disk", disk.used / disk.total, f"{bytes_text(disk.free)} free of {bytes_text(disk.total)}"),
        *read_gpus(),
    ]


@st.cache_data(ttl=3, show_spinner=False)
def read_gpus() -> list[Meter]:
    """Load and memory of each NVIDIA GPU; empty without one or when the driver does not answer."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    try:
        answer = subprocess.run(
            [tool, _QUERY, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=3, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_gpus(answer.stdout)


def parse_gpus(table: str) -> list[Meter]:
    """Meters from the lines of `nvidia-smi --format=csv,noheader,nounits`; lines without figures are left out."""
    meters = []
    for line in table.splitlines():
        name, *figures = (part.strip() for part in line.rsplit(",", 3))
        try:
            load, used, total = (float(text) for text in figures)
        except ValueError:
            continue
        memory = f"{bytes_text(used * 2**20)} of {bytes_text(total * 2**20)} in use"
        meters += [Meter(f"{name} load", load / 100, f"{load:.0f} %"), Meter(f"{name} memory", used / total, memory)]
    return meters


def show_meters(home: Path) -> None:
    """The meters, refreshed every three seconds."""
    st.fragment(run_every=3)(_draw)(home)


def _draw(home: Path) -> None:
    meters = read_meters(home)
    with st.grid(min(4, len(meters)), min_column_width=220):
        for meter in meters:
            st.progress(min(1.0, max(0.0, meter.share)), text=f"**{meter.name}** {meter.detail}")
