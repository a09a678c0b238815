"""Events lost when a process ends, in every way that processes end.

A process emits as fast as it can and says after each event that it is emitted,
through a pipe that outlives it. Afterwards the log must hold every event that
was said to be. SIGKILL comes at a random moment, at full speed, 20 times. The
peer is a writer with a queue and a thread, as most loggers have.

    python benchmarks/lost_events.py [--trials 20]
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agent.rundir.events import StepDone, decode_lines
from benchmarks.table import Row, print_table

ROOT = Path(__file__).resolve().parents[1]

OURS = """
    emitter = Emitter(Path(sys.argv[1]), node="rank-0", rank=0)
    def emit(step):
        assert emitter.emit(StepDone, step=step)
"""
PEER = """
    import json, queue, threading
    lines = queue.Queue()
    def write():
        with open(sys.argv[1], "a") as file:
            while True:
                file.write(lines.get())
    threading.Thread(target=write, daemon=True).start()
    def emit(step):
        lines.put(json.dumps({"kind": "step_done", "time_ns": 1, "mono_ns": 1,
                              "node": "rank-0", "step": step}) + "\\n")
"""
COMMON = """
    import ctypes, os, resource, signal, sys
    from pathlib import Path
    from agent.emitter import Emitter
    from agent.rundir.events import StepDone
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
"""
ENDLESS = """
    for step in range(10**9):
        emit(step)
        os.write(1, b"%d\\n" % step)
"""
THEN = """
    for step in range(5000):
        emit(step)
        os.write(1, b"%d\\n" % step)
"""
FORK = """
    import torch
    class Data(torch.utils.data.Dataset):
        def __len__(self):
            return 64
        def __getitem__(self, index):
            assert not emitter.emit(StepDone, step=10**6)
            return index
    step = 0
    for _ in torch.utils.data.DataLoader(Data(), num_workers=2):
        for step in range(step, step + 50):
            emit(step)
            os.write(1, b"%d\\n" % step)
        step += 1
        if (child := os.fork()) == 0:
            emitter.emit(StepDone, step=10**6)
            os._exit(0)
        os.waitpid(child, 0)
"""
ENDINGS = {
    "os._exit": THEN + "    os._exit(3)",
    "abort": THEN + "    os.abort()",
    "segmentation fault": THEN + "    ctypes.string_at(0)",
    "SIGTERM": THEN + "    os.kill(os.getpid(), signal.SIGTERM)",
    "exception": THEN + "    raise RuntimeError",
    "exec": THEN + "    os.execv('/bin/true', ['true'])",
    "fork and DataLoader workers": FORK,
}


class Count(NamedTuple):
    """Of one ending, over all trials."""

    num_said: int
    num_lost: int
    rate_per_s: float
    """Events said per second, from the first to the last."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20)
    options = parser.parse_args()
    rows = []
    ours = count(OURS + ENDLESS, options.trials, is_killed=True)
    peer = count(PEER + ENDLESS, options.trials, is_killed=True)
    rows.append(row(f"SIGKILL, {options.trials} times", ours, peer))
    for name, script in ENDINGS.items():
        peer = None if "fork" in name else count(PEER + script, 1)
        rows.append(row(name, count(OURS + script, 1), peer))
    return print_table(rows)


def count(script: str, num_trials: int, *, is_killed: bool = False) -> Count:
    """Run a process to its end, so many times; compare what it said with its log."""
    said = lost = 0
    took_s = 0.0
    for trial in range(num_trials):
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "rank-00000.jsonl"
            rng = random.Random(trial) if is_killed else None
            steps, lasted_s = run(script, log, rng)
            took_s += lasted_s
            data = log.read_bytes() if log.exists() else b""
            whole = data[: data.rfind(b"\n") + 1]
            written = {e.step for e in decode_lines(whole) if isinstance(e, StepDone)}
            said += len(steps)
            lost += len(steps - written)
    return Count(said, lost, said / took_s)


def run(script: str, log: Path, kill: random.Random | None) -> tuple[set[int], float]:
    """Return the steps that a process said to have emitted, and in what time, s."""
    program = textwrap.dedent(COMMON) + textwrap.dedent(script)
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(log)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    said = [process.stdout.readline()]
    began = time.monotonic()
    if kill is not None:
        num_before = kill.randrange(2000, 20_000)
        said += [process.stdout.readline() for _ in range(num_before)]
        process.send_signal(signal.SIGKILL)
    said += process.stdout.read().splitlines()
    lasted_s = time.monotonic() - began
    process.stdout.close()
    process.wait()
    return {int(line) for line in said if line}, lasted_s


def row(claim: str, ours: Count, peer: Count | None) -> Row:
    return Row(
        f"events lost: {claim}",
        f"{ours.num_lost} of {ours.num_said:,} at {ours.rate_per_s:,.0f}/s",
        ""
        if peer is None
        else f"queue and thread: {peer.num_lost} of {peer.num_said:,}",
        target="0",
        is_met=ours.num_lost == 0 and ours.num_said > 0,
    )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
