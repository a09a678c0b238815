"""What a federated round costs beside training, and how exact its deadline is.

Server and clients are processes that talk over the loopback. For the overhead
three clients train a toy for a millisecond: what a round lasts beyond the
slowest client's training is transfer, averaging, measuring and a durable
commit. For the deadlines one client answers and others say nothing at all: a
round must end at its limit, however many are silent.

    python benchmarks/rounds.py [--rounds 50]
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agent.rundir.events import (
    ClientUpdate,
    PhaseChanged,
    RoundCommitted,
    RoundStarted,
    decode_lines,
)
from agent.rundir.layout import RunDir
from benchmarks.table import Row, at_most, print_table
from trainer.federated.messages import PROTOCOL, Hello, Ready, encode
from trainer.federated.security import ClientSecurity, parse_endpoint
from trainer.federated.transport import DisconnectedError, connect

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 0.5
NUM_SILENT = (1, 10, 50)
TOY = ["--data", "linear", "--local-steps", "2", "--lr", "0.001", "--momentum", "0"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    options = parser.parse_args()
    rows = [overhead(options.rounds)]
    rows += [asyncio.run(deadlines(num, options.rounds // 2)) for num in NUM_SILENT]
    return print_table(rows)


def overhead(rounds: int) -> Row:
    with tempfile.TemporaryDirectory() as directory:
        run_dir = Path(directory) / "run"
        command = ["launch", "fl", str(run_dir), *TOY, "--rounds", str(rounds)]
        subprocess.run(
            [sys.executable, "-m", "trainer", *command],
            cwd=ROOT,
            check=True,
            capture_output=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        told = events(run_dir)
    computed: dict[int | None, int] = {}
    for event in told:
        if isinstance(event, ClientUpdate):
            longest = max(computed.get(event.round_num, 0), event.compute_ns or 0)
            computed[event.round_num] = longest
    beyond_ms = [
        (event.round_ns - computed[event.round_num]) / 1e6
        for event in told
        if isinstance(event, RoundCommitted)
    ]
    return Row(
        f"a round beyond its training, 3 clients, {rounds} rounds",
        f"p50 {statistics.median(beyond_ms):.1f} ms, max {max(beyond_ms):.1f} ms",
        "",
    )


async def deadlines(num_silent: int, rounds: int) -> Row:
    """Run rounds that only a deadline can end; return how late they ended."""
    with tempfile.TemporaryDirectory() as directory:
        run_dir = Path(directory) / "run"
        server = await asyncio.create_subprocess_exec(
            *(sys.executable, "-u", "-m", "trainer", "fl-server", str(run_dir), *TOY),
            *("--listen", "127.0.0.1:0", "--rounds", str(rounds)),
            *("--clients", str(num_silent + 1), "--gather-s", "60"),
            *("--round-limit-s", str(LIMIT_S)),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert server.stdout is not None
        address = (await server.stdout.readline()).decode().split()[-1]
        silent = [
            asyncio.create_task(say_nothing(address, f"client-{n + 2}"))
            for n in range(num_silent)
        ]
        client = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "trainer", "fl-client", str(run_dir)),
            *("--key", "client-1", "--server", address),
            cwd=ROOT,
            stdout=asyncio.subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        await asyncio.gather(client.wait(), server.communicate(), *silent)
        late_ms = list(lateness_ms(events(run_dir)))
    assert len(late_ms) == rounds
    return Row(
        f"end of a round after its deadline, {num_silent} clients silent",
        f"p50 {statistics.median(late_ms):.1f} ms, max {max(late_ms):.1f} ms",
        "",
        **at_most(max(late_ms), 100, "ms"),
    )


async def say_nothing(address: str, key: str) -> None:
    """Be a client that joins and never answers."""
    try:
        async with connect(parse_endpoint(address), ClientSecurity(), key) as link:
            await link.write(encode(Hello(PROTOCOL, key)))
            await link.write(encode(Ready()))
            while await link.read() is not None:
                pass
    except DisconnectedError:
        return


def lateness_ms(told: list[object]) -> Iterator[float]:
    """Yield for each round how long after its limit it was closed."""
    started = None
    for event in told:
        if isinstance(event, RoundStarted):
            started = event
        if isinstance(event, PhaseChanged) and event.phase == "saving":
            assert started is not None
            lasted_ns = event.mono_ns - started.mono_ns
            yield (lasted_ns - LIMIT_S * 1e9) / 1e6


def events(run_dir: Path) -> list[object]:
    path = RunDir(run_dir).telemetry_file(1, "server")
    return list(decode_lines(path.read_bytes()))


if __name__ == "__main__":
    sys.exit(main())
