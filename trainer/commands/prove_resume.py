"""Prove that a run resumes exactly: run it, kill it, resume it, compare.

Two runs with the same settings: one is left alone, one is killed in the middle
of an epoch and resumed. Losses and final state have to be equal bit for bit.
If they are not, the pieces that differ are named.
"""

import argparse
import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from agent.rundir.attempts import read_newest_attempt
from agent.rundir.checkpoints import newest_resumable
from agent.rundir.errors import EXIT_INTERNAL, RunDirError
from agent.rundir.events import StepDone, decode_lines
from agent.rundir.layout import STATE_NAME, RunDir, rank_stem
from trainer.catalogue import as_flags, settings
from trainer.checkpoint.checking import differences
from trainer.config import TrainConfig
from trainer.console import say
from trainer.settings import UsageParser, add_settings, read_config

EXIT_NOT_PROVEN = 1


class Comparison(NamedTuple):
    """Two runs of the same length, side by side."""

    num_steps: int
    unequal_steps: list[int]
    """Whose losses differ or are missing."""
    pieces: list[str]
    """Of the final state, that are not bitwise equal."""

    @property
    def is_exact(self) -> bool:
        """Whether nothing differs."""
        return not self.unequal_steps and not self.pieces


class ProofFailedError(RunDirError):
    """One of the runs did not end as it had to."""

    exit_code = EXIT_INTERNAL


def main(arguments: list[str]) -> int:
    """Run `python -m trainer prove-resume RUN_DIR …` and return the exit code."""
    parser = UsageParser(prog="python -m trainer prove-resume", description=__doc__)
    parser.add_argument(
        "run_dir", type=Path, metavar="RUN_DIR", help="whose settings are proved"
    )
    parser.add_argument(
        "--nproc", type=int, default=None, help="ranks (default: as the run has, or 2)"
    )
    parser.add_argument(
        "--prove-steps",
        type=int,
        default=12,
        help="steps before and after the checkpoint (default: 12)",
    )
    add_settings(parser)
    known = parser.parse(arguments)
    folder = Path(tempfile.mkdtemp(prefix="prove-resume-"))
    num_ranks, config = _what_to_prove(known)
    result = prove(folder, num_ranks, config, known.prove_steps)
    say(report(result))
    if not result.is_exact:
        say(f"both runs are in {folder}")
        return EXIT_NOT_PROVEN
    shutil.rmtree(folder)
    return 0


def prove(
    folder: Path, num_ranks: int, config: TrainConfig, num_steps: int
) -> Comparison:
    """Make both runs and compare them.

    Args:
        folder: Gets `whole` and `parted`.
        num_ranks: Of both runs.
        config: Its steps, checkpoints and output are replaced.
        num_steps: Before and after the checkpoint that is resumed from.

    Raises:
        ProofFailedError: a run failed; its output is the message.
    """
    config = dataclasses.replace(
        config,
        steps=2 * num_steps,
        save_every=num_steps,
        resume="auto",
        check_resume=True,
    )
    whole, parted = folder / "whole", folder / "parted"
    _run(whole, num_ranks, config, is_killed=False)
    # Half way to the end: steps are lost, and have to be done again.
    killed = dataclasses.replace(config, die_at=num_steps + max(1, num_steps // 2))
    _run(parted, num_ranks, killed, is_killed=True)
    _run(parted, num_ranks, config, is_killed=False)
    return compare(RunDir(whole), RunDir(parted))


def compare(one: RunDir, other: RunDir) -> Comparison:
    """Compare the joined losses and the newest states of two runs.

    Raises:
        NoCheckpointError: a run has no verified checkpoint.
    """
    losses, others = joined_losses(one), joined_losses(other)
    steps = sorted(losses.keys() | others.keys())
    unequal = [s for s in steps if losses.get(s, "-") != others.get(s, "-")]
    states = [
        torch.load(newest_resumable(run).path / STATE_NAME, weights_only=True)
        for run in (one, other)
    ]
    return Comparison(len(steps), unequal, differences(*states))


def joined_losses(run: RunDir) -> dict[int, float | None]:
    """Return each step's loss as the highest attempt saw it, from rank 0."""
    losses: dict[int, float | None] = {}
    for attempt in sorted(int(p.name) for p in run.telemetry.iterdir()):
        data = run.telemetry_file(attempt, rank_stem(0)).read_bytes()
        for event in decode_lines(data):
            if isinstance(event, StepDone) and event.step is not None:
                losses[event.step] = event.loss
    return losses


def report(result: Comparison) -> str:
    """Say what was compared and what differs."""
    equal = result.num_steps - len(result.unequal_steps)
    lines = [f"losses: {equal} of {result.num_steps} bitwise equal"]
    if result.unequal_steps:
        lines.append(
            f"  the first that differs is that of step {result.unequal_steps[0]}"
        )
    if not result.pieces:
        lines.append("state: every piece bitwise equal")
    for piece in sorted({name.partition(".")[0] for name in result.pieces}):
        names = [n for n in result.pieces if n.partition(".")[0] == piece]
        lines.append(
            f"state: `{piece}` differs in {len(names)} places, e.g. `{names[0]}`"
        )
    return "\n".join(lines)


def _what_to_prove(known: argparse.Namespace) -> tuple[int, TrainConfig]:
    """Take the settings of an existing run, or those of the command line."""
    config = read_config(vars(known), os.environ, known.config)
    attempt = read_newest_attempt(RunDir(known.run_dir))
    if attempt is None:
        return known.nproc or 2, config
    names = {setting.name for setting in settings()}
    recorded = {k: v for k, v in attempt.config.items() if k in names}
    num_ranks = known.nproc or attempt.world_size or 1
    return num_ranks, dataclasses.replace(config, **recorded)


def _run(
    run_dir: Path, num_ranks: int, config: TrainConfig, *, is_killed: bool
) -> None:
    command: Sequence[str] = [
        *(sys.executable, "-m", "trainer", "launch", "ddp", str(run_dir)),
        *("--nproc", str(num_ranks)),
        *as_flags(config),
    ]
    done = subprocess.run(  # noqa: S603 - our own command
        command, capture_output=True, text=True, check=False
    )
    if (done.returncode != 0) != is_killed:
        raise ProofFailedError(
            f"`{run_dir.name}` ended with {done.returncode}:\n"
            + (done.stdout + done.stderr).strip()
        )
