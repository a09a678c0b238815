"""Start the ranks of a run with torchrun's own launcher, and tell how it ended.

torchrun returns 1 whether it was signalled or a worker failed. Here a stop that
was asked for is 143 (or 128 plus the signal), a refusal keeps its own exit
code, and a rank that was killed is named.
"""

import argparse
import logging
import os
import signal
import uuid
from pathlib import Path

from agent.rundir.attempts import list_attempts
from agent.rundir.checkpoints import list_checkpoints
from agent.rundir.errors import EXIT_INTERNAL, RunDirError
from agent.rundir.events import CheckpointPublished, RunEnded
from agent.rundir.history import History
from agent.rundir.layout import RunDir, rank_stem
from trainer.catalogue import as_flags
from trainer.config import TrainConfig
from trainer.settings import UsageParser, add_settings, read_config

_LEAST_SHUTDOWN_S = 60.0
"""For a run that has not told yet how long a save takes."""
_SHUTDOWN_SAVES = 2
_SAVE_PHASES = ("serialize_ns", "write_ns", "digest_ns", "fsync_ns", "publish_ns")
_TAIL_BYTES = 1 << 20
_STOPPED = ("signal", "stop")
"""Reasons of the save that a stop ends with."""


class RankKilledError(RunDirError):
    """A rank did not end by itself."""

    exit_code = EXIT_INTERNAL


def main(arguments: list[str]) -> int:
    """Run `python -m trainer launch ddp RUN_DIR …` and return the exit code."""
    known = _parser().parse(arguments)
    config = read_config(vars(known), os.environ, known.config)
    run = RunDir(known.run_dir.absolute())
    cores = len(os.sched_getaffinity(0))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // known.nproc)))
    # Eight times cheaper to read than torch's 2000 entries, and enough for any hang.
    os.environ.setdefault("TORCH_FR_BUFFER_SIZE", "256")
    return _launch(_torchrun_arguments(known, run), run, config)


def _parser() -> UsageParser:
    parser = UsageParser(prog="python -m trainer launch ddp", description=__doc__)
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    group = parser.add_argument_group("launching")
    group.add_argument(
        "--nproc", type=_positive, default=1, help="ranks on this host (default: 1)"
    )
    group.add_argument("--nnodes", type=_positive, default=1, help="hosts (default: 1)")
    group.add_argument(
        "--node-rank", type=int, default=0, help="of this host, from 0 (default: 0)"
    )
    group.add_argument(
        "--master-addr", default="127.0.0.1", help="of the host with node rank 0"
    )
    group.add_argument(
        "--master-port", type=int, default=29500, help="free there (default: 29500)"
    )
    group.add_argument(
        "--max-restarts", type=int, default=0, help="of failed ranks (default: 0)"
    )
    add_settings(parser)
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"`{text}` is less than 1")
    return value


def _torchrun_arguments(known: argparse.Namespace, run: RunDir) -> list[str]:
    if known.nnodes > 1:
        place = ["--node-rank", str(known.node_rank)]
        place += ["--master-addr", known.master_addr]
        place += ["--master-port", str(known.master_port)]
    else:
        # A port of its own, so that two runs on one host do not meet.
        place = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
        place += ["--rdzv-id", uuid.uuid4().hex]
    return [
        *("--nnodes", str(known.nnodes), "--nproc-per-node", str(known.nproc)),
        *("--max-restarts", str(known.max_restarts)),
        *place,
        *_shutdown_timeout(run),
    ]


def _launch(torchrun: list[str], run: RunDir, config: TrainConfig) -> int:
    """Run the ranks to their end."""
    from torch.distributed import run as torchrun_module  # noqa: PLC0415 - half a second
    from torch.distributed.elastic.multiprocessing import SignalException  # noqa: PLC0415
    from torch.distributed.elastic.multiprocessing.errors import (  # noqa: PLC0415
        ChildFailedError,
    )
    from torch.distributed.launcher.api import elastic_launch  # noqa: PLC0415

    _quieten("torch.distributed.elastic")
    worker = ["-m", "trainer", "ddp", str(run.path), *as_flags(config)]
    parser = torchrun_module.get_args_parser()
    arguments = parser.parse_args([*torchrun, *worker])
    elastic, command, rest = torchrun_module.config_from_args(arguments)
    try:
        elastic_launch(elastic, command)(*rest)
    except SignalException as stop:
        return 128 + int(stop.sigval)
    except ChildFailedError as failure:
        return _exit_code_of(failure, run)
    return 128 + signal.SIGTERM if was_stopped(run) else 0


def _quieten(package: str) -> None:
    """Keep a package from telling every signal it sends: it is told here.

    Each of its loggers has a level of its own, so the parent's does not count.
    """
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(package):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def _exit_code_of(failure: Exception, run: RunDir) -> int:
    """Return the first failed rank's exit code; rank 0 has told the reason.

    Raises:
        RankKilledError: it was killed, so nobody has told anything.
    """
    rank, first = failure.get_first_failure()  # type: ignore[attr-defined]  # of ChildFailedError
    if first.exitcode >= 0:
        return int(first.exitcode) or EXIT_INTERNAL
    name = signal.Signals(-first.exitcode).name
    raise RankKilledError(
        f"rank {rank} (process {first.pid}) was ended by {name}",
        hint=f"python -m trainer resume {run.path}",
    )


def _shutdown_timeout(run: RunDir) -> list[str]:
    """Return how long a stop may take: at least twice the longest save so far."""
    from torch.distributed.run import get_args_parser  # noqa: PLC0415 - as in _launch

    if "--shutdown-timeout" not in get_args_parser()._option_string_actions:  # noqa: SLF001 - argparse has no question for it
        return []
    saves = [
        sum(getattr(event, phase) or 0 for phase in _SAVE_PHASES)
        for event in _newest_events(run)
        if isinstance(event, CheckpointPublished)
    ]
    longest_s = max(saves, default=0) / 1e9
    # Verifying reads everything once more: count it as another save.
    seconds = max(_LEAST_SHUTDOWN_S, 2 * _SHUTDOWN_SAVES * longest_s)
    return ["--shutdown-timeout", str(int(seconds))]


def was_stopped(run: RunDir) -> bool:
    """Whether the newest attempt ended because somebody asked it to."""
    attempt = max(list_attempts(run), default=0)
    ends = [e for e in _last_events(run, attempt) if isinstance(e, RunEnded)]
    if ends:
        return ends[-1].reason == "stopped"
    # Nobody told, as the agent is switched off: the last save knows why it was.
    saved = [entry.manifest for entry in list_checkpoints(run)]
    mine = [found for found in saved if found and found.attempt == attempt]
    last = max(mine, key=lambda manifest: manifest.created_ns, default=None)
    return last is not None and last.reason in _STOPPED


def _newest_events(run: RunDir) -> list[object]:
    """Return the last events of rank 0 in the newest attempt that left any."""
    try:
        attempts = [int(p.name) for p in run.telemetry.iterdir() if p.name.isdecimal()]
    except OSError:
        return []
    return _last_events(run, max(attempts, default=0))


def _last_events(run: RunDir, attempt: int) -> list[object]:
    """Return the last events of rank 0 in an attempt; none where it left none."""
    try:
        newest = History(run, attempt, rank_stem(0)).newest(_TAIL_BYTES)
    except (OSError, ValueError):
        return []
    return list(newest.events) if newest is not None else []
