"""The command line in a process of its own, as an operator runs it."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PATIENCE_S = 60


def environment(**extra):
    """What a command finds around it: these packages, no terminal, no colours."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
    return {**kept, "PYTHONPATH": str(ROOT), "TERM": "dumb", **extra}


def command(*arguments):
    return [sys.executable, "-m", "opsdash", *map(str, arguments)]


def opsdash(*arguments, cwd=None, **extra):
    """Run a command to its end."""
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=cwd,
        env=environment(**extra),
        timeout=PATIENCE_S,
    )


def start_opsdash(*arguments, cwd=None, **extra):
    """Start a command whose lines are read while it goes on."""
    return subprocess.Popen(
        command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        cwd=cwd,
        env=environment(**extra),
    )


def tree(path):
    """Every name below a path with its kind, size, time and bytes."""
    found = {}
    for place in sorted(path.rglob("*")):
        stat = place.lstat()
        data = place.read_bytes() if place.is_file() else b""
        name = str(place.relative_to(path))
        found[name] = (stat.st_mode, stat.st_mtime_ns, data)
    return found
