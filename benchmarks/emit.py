"""What one event costs the training thread, beside the loggers people use.

Each side logs a step and its loss in a process of its own; they take turns, in
blocks of consecutive calls. A block's time divided by its calls is what one
event costs with the work that is put off; the medians over blocks are compared.

    python benchmarks/emit.py [--blocks 40] [--calls 250] [--dir DIR]
"""

import argparse
import ctypes
import importlib.util
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agent.emitter import Emitter
from agent.rundir.events import StepDone
from agent.session import Agent
from benchmarks.table import Row, print_table, times

Log = Callable[[range], object]
"""Logs a block: one event per step, without another call around each."""
ADD_SCALAR = "TensorBoard, SummaryWriter.add_scalar"
SIX_SCALARS = "TensorBoard, 6 of add_scalar"
SLOW = "wandb offline, log"
"""Gets a tenth of the calls: it is a hundred times slower than we are."""
SPAN = "OpenTelemetry, one span"
JSON = "logging, JSON to a file"
GAUGE = "prometheus_client, Gauge.set (nothing is stored)"
SECTION = "NVRx, one section timed (nothing is stored)"
TARGETS = {ADD_SCALAR: 20, SLOW: 50, SPAN: 10, JSON: 5, GAUGE: None, SECTION: None}


@contextmanager
def stamped_event(folder: Path) -> Iterator[Log]:
    emitter = Emitter(folder / "rank-00000.jsonl", node="rank-0", rank=0)
    put, done = emitter.put, emitter.stamped(StepDone, "step", "loss")

    def log(steps: range) -> None:
        for step in steps:
            put(done(step=step, loss=0.5))

    yield log
    emitter.close()


@contextmanager
def emitted_event(folder: Path) -> Iterator[Log]:
    emitter = Emitter(folder / "rank-00000.jsonl", node="rank-0", rank=0)
    emit = emitter.emit

    def log(steps: range) -> None:
        for step in steps:
            emit(StepDone, step=step, loss=0.5)

    yield log
    emitter.close()


@contextmanager
def whole_step(folder: Path) -> Iterator[Log]:
    with Agent.attach(folder / "run", rank=0, world_size=1) as agent:
        done = agent.step_done
        numbers = {"loss": 0.5, "lr": 3e-4, "grad_norm": 1.25}
        counts = {"num_tokens": 4096, "step_ns": 43_000_000, "data_ns": 12_000}

        def log(steps: range) -> None:
            for step in steps:
                done(step, **numbers, **counts)

        yield log


@contextmanager
def tensorboard(folder: Path) -> Iterator[Log]:
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - a peer that may be missing

    with SummaryWriter(str(folder / "tensorboard")) as writer:
        add_scalar = writer.add_scalar

        def log(steps: range) -> None:
            for step in steps:
                add_scalar("loss", 0.5, step)

        yield log


@contextmanager
def tensorboard_step(folder: Path) -> Iterator[Log]:
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - a peer that may be missing

    names = ("loss", "lr", "grad_norm", "num_tokens", "step_ns", "data_ns")
    with SummaryWriter(str(folder / "six")) as writer:

        def log(steps: range) -> None:
            for step in steps:
                for name in names:
                    writer.add_scalar(name, 0.5, step)

        yield log


@contextmanager
def wandb_offline(folder: Path) -> Iterator[Log]:
    os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    import wandb  # noqa: PLC0415 - a peer that may be missing

    run = wandb.init(project="bench", dir=str(folder))

    def log(steps: range) -> None:
        for step in steps:
            run.log({"loss": 0.5, "at": step})

    yield log
    run.finish()


@contextmanager
def opentelemetry(folder: Path) -> Iterator[Log]:
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - a peer that may be missing
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter  # noqa: PLC0415 - a peer that may be missing

    file = (folder / "spans.json").open("w")
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter(out=file)))
    tracer = provider.get_tracer("bench")

    def log(steps: range) -> None:
        for step in steps:
            numbers = {"step": step, "loss": 0.5}
            with tracer.start_as_current_span("step", attributes=numbers):
                pass

    yield log
    provider.shutdown()
    file.close()


@contextmanager
def json_logging(folder: Path) -> Iterator[Log]:
    class AsJson(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return json.dumps({"time": record.created, **record.fields})

    logger = logging.getLogger("bench")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    handler = logging.FileHandler(folder / "log.jsonl")
    handler.setFormatter(AsJson())
    logger.addHandler(handler)

    def log(steps: range) -> None:
        for step in steps:
            logger.info("step_done", extra={"fields": {"step": step, "loss": 0.5}})

    yield log
    handler.close()


@contextmanager
def prometheus(_folder: Path) -> Iterator[Log]:
    from prometheus_client import Gauge  # noqa: PLC0415 - a peer that may be missing

    gauge = Gauge("loss", "of the last step")

    def log(steps: range) -> None:
        for _ in steps:
            gauge.set(0.5)

    yield log


@contextmanager
def nvrx_section(_folder: Path) -> Iterator[Log]:
    # It is linked against CUPTI, which lies where no loader looks.
    libraries = importlib.util.find_spec("nvidia.cuda_cupti")
    for place in libraries.submodule_search_locations:
        for path in Path(place).glob("lib/libcupti.so.*"):
            ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
    from nvidia_resiliency_ext.straggler import Detector  # noqa: PLC0415 - a peer that may be missing

    Detector.initialize(gather_on_rank0=False)

    def log(steps: range) -> None:
        for _ in steps:
            with Detector.detection_section("step", profile_cuda=False):
                pass

    yield log


OURS = {
    "put(stamped)": stamped_event,
    "emit": emitted_event,
    "Agent.step_done, 6 numbers": whole_step,
}
PEERS = {
    ADD_SCALAR: tensorboard,
    SIX_SCALARS: tensorboard_step,
    SLOW: wandb_offline,
    SPAN: opentelemetry,
    JSON: json_logging,
    GAUGE: prometheus,
    SECTION: nvrx_section,
}
MODULES = {
    ADD_SCALAR: "tensorboard",
    SIX_SCALARS: "tensorboard",
    SLOW: "wandb",
    SPAN: "opentelemetry.sdk",
    JSON: "logging",
    GAUGE: "prometheus_client",
    SECTION: "nvidia_resiliency_ext",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=60)
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--dir", type=Path)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve((OURS | PEERS)[options.serve], options.dir)
        return 0
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=options.dir))
        contenders = {}
        for name in (*OURS, *PEERS):
            if name in PEERS and not is_here(name):
                print(f"not measured, it is not installed: {name}")
                continue
            process = stack.enter_context(contender(name, Path(folder)))
            if process is not None:
                contenders[name] = process
            elif name in OURS:
                raise SystemExit(f"`{name}` does not start")
            else:
                print(f"not measured, it does not start here: {name}")
        found = measure(contenders, options.blocks, options.calls)
    return print_table(rows(found))


def is_here(peer: str) -> bool:
    try:
        return importlib.util.find_spec(MODULES[peer]) is not None
    except ModuleNotFoundError:
        return False


def serve(make: Callable[[Path], AbstractContextManager[Log]], folder: Path) -> None:
    """Log as many events as a line on stdin asks for; answer with the time, ns."""
    with make(folder) as log:
        print("ready", flush=True)
        for line in sys.stdin:
            steps = range(int(line))
            began = time.perf_counter_ns()
            log(steps)
            print(time.perf_counter_ns() - began, flush=True)


@contextmanager
def contender(name: str, folder: Path) -> Iterator[subprocess.Popen[str] | None]:
    """Start one side in a process of its own: its threads are its own business.

    None: it ended before it was ready.
    """
    mine = folder / str(len(list(folder.iterdir())))
    mine.mkdir()
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve", name, "--dir", str(mine)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    while (line := process.stdout.readline()) and line != "ready\n":
        pass
    yield process if line else None
    process.stdin.close()
    process.wait(timeout=60)
    process.stdout.close()


def measure(
    contenders: dict[str, subprocess.Popen[str]], num_blocks: int, num_calls: int
) -> dict[str, float]:
    """Return the median over blocks of what one call costs, µs."""
    costs: dict[str, list[float]] = {name: [] for name in contenders}
    for block in range(-2, num_blocks):
        for name, process in contenders.items():
            calls = num_calls // 10 if name == SLOW else num_calls
            print(calls, file=process.stdin, flush=True)
            cost_us = int(process.stdout.readline()) / calls / 1e3
            if block >= 0:
                costs[name].append(cost_us)
            # What it left for later is done before it is the next one's turn.
            time.sleep(0.02)
    return {name: statistics.median(cost) for name, cost in costs.items()}


def rows(found: dict[str, float]) -> Iterator[Row]:
    for ours, has_target in (("put(stamped)", True), ("emit", False)):
        for peer in (name for name in TARGETS if name in found):
            least = TARGETS[peer] if has_target else None
            yield row("one event", ours, peer, found, least)
    if SIX_SCALARS in found:
        yield row("one step", "Agent.step_done, 6 numbers", SIX_SCALARS, found, None)


def row(
    claim: str, ours: str, peer: str, found: dict[str, float], least: float | None
) -> Row:
    one, other = found[ours], found[peer]
    return Row(
        claim,
        f"{ours}: {one:.2f} µs",
        f"{peer}: {other:.2f} µs",
        **times(one, other, least=least),
    )


if __name__ == "__main__":
    sys.exit(main())
