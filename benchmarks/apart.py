"""Memory and time measured in a process of its own, on Linux; and a line that says on which machine."""

import ctypes
import gc
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import torch

MIB = 1 << 20
PROCESS = Path("/proc/self")
OUT = "can't allocate memory"  # how torch's CPU allocator says so


def apart(module, *options):
    """What `python -m module options` printed last, as JSON; None where memory ran out."""
    command = [sys.executable, "-m", module, *(str(option) for option in options)]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode == -signal.SIGKILL or (run.returncode and OUT in run.stderr):
        return None
    if run.returncode:
        raise SystemExit(f"{' '.join(command)}\n{run.stderr}")
    return json.loads(run.stdout.splitlines()[-1])


def yielding():
    """Be the first process that is ended where the machine's memory runs out."""
    (PROCESS / "oom_score_adj").write_text("1000")


def growth(run):
    """Bytes by which resident memory grows at its peak while `run()` runs, and what came of it.

    `ru_maxrss` would hold what the process took before, its warm-up among it, and what its parent took.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    (PROCESS / "clear_refs").write_text("5")  # the peak counts from here
    before = _resident("VmRSS")
    made = run()
    return _resident("VmHWM") - before, made


def _resident(field):
    return int(re.search(rf"{field}:\s+(\d+) kB", (PROCESS / "status").read_text())[1]) << 10


def machine(threads):
    """A line on torch, processor and threads."""
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return f"torch {torch.__version__}, {found[1] if found else 'unknown CPU'}, threads: {threads}"


def quotient(a, b, form=".2f"):
    """a / b as text; a dash where one of them is not known."""
    return "–" if a is None or b is None else f"{a / b:{form}}"
