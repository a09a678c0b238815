"""Names of everything in a run directory; nothing here touches the disk.

One place spells each path, so that writers and readers cannot drift apart.
`docs/run-dir.md` tells who writes each file and how long it lives.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

SCHEMA = 1
"""Version of the run directory; readers refuse a greater one."""

MANIFEST_NAME = "manifest.json"
STATE_NAME = "state.pt"

_CHECKPOINT = re.compile(r"(step)-(\d{8,})|(round)-(\d{6,})")
_SAFE_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_SEGMENT = re.compile(r"(?P<stem>.+?)(?:\.s(?P<segment>\d{4,}))?\.jsonl")
_ROLLUP_SUFFIX = ".rollup.jsonl"
_RESERVED_NODE = re.compile(r".*\.(rollup|s\d{4,})", re.IGNORECASE)


class CheckpointName(NamedTuple):
    """What the name of a checkpoint directory says."""

    kind: str
    """`step` or `round`."""
    number: int
    """Optimizer steps completed, or the federated round, from 1."""


class TelemetryName(NamedTuple):
    """What the name of a telemetry file says."""

    stem: str
    """`rank-00003`, `server`, or a client's key."""
    segment: int
    """1 for the first file of a process, then 2, 3 …"""


@dataclass(frozen=True)
class RunDir:
    """The paths of one run. Making one reads and writes nothing."""

    path: Path

    @property
    def identity(self) -> Path:
        """`run.json`: who this run is, written once."""
        return self.path / "run.json"

    @property
    def lock(self) -> Path:
        """`run.lock`: which trainer runs on this directory now."""
        return self.path / "run.lock"

    @property
    def attempts(self) -> Path:
        """One JSON file per start."""
        return self.path / "attempts"

    @property
    def telemetry(self) -> Path:
        """One folder per attempt, one file per process."""
        return self.path / "telemetry"

    @property
    def checkpoints(self) -> Path:
        """Published checkpoint directories."""
        return self.path / "checkpoints"

    @property
    def latest(self) -> Path:
        """One line: the name of the newest verified checkpoint."""
        return self.checkpoints / "latest"

    @property
    def verified(self) -> Path:
        """When each checkpoint was verified, how and by whom."""
        return self.checkpoints / "verified.jsonl"

    @property
    def chunks(self) -> Path:
        """One folder per node with its chunk store."""
        return self.path / "chunks"

    @property
    def requests(self) -> Path:
        """What an operator asks of the running trainer (mode 0700)."""
        return self.path / "requests"

    @property
    def stacks(self) -> Path:
        """Python stacks taken from hung processes."""
        return self.path / "stacks"

    @property
    def operations(self) -> Path:
        """What operators did, one file per dashboard."""
        return self.path / "operations"

    @property
    def logs(self) -> Path:
        """Output of what a dashboard started."""
        return self.path / "logs"

    def attempt_file(self, attempt: int) -> Path:
        """Return `attempts/0001.json` for attempt 1."""
        return self.attempts / f"{attempt:04d}.json"

    def telemetry_file(self, attempt: int, stem: str, segment: int = 1) -> Path:
        """Return the telemetry file of one process, e.g. `rank-00003.jsonl`."""
        return self.telemetry / f"{attempt:04d}" / telemetry_name(stem, segment)

    def rollup_file(self, attempt: int, stem: str) -> Path:
        """Return the roll-up beside a process's telemetry."""
        return self.telemetry / f"{attempt:04d}" / rollup_name(stem)

    def chunk_store(self, node: str) -> Path:
        """Return `chunks/<node>/<node>_chunks.db`."""
        return self.chunks / node / f"{node}_chunks.db"


def checkpoint_name(step: int) -> str:
    """Return the directory name of the checkpoint at `step`."""
    return f"step-{step:08d}"


def round_checkpoint_name(round_num: int) -> str:
    """Return the directory name of the checkpoint of a federated round."""
    return f"round-{round_num:06d}"


def parse_checkpoint_name(name: str) -> CheckpointName | None:
    """Read a published checkpoint's name; None for anything else."""
    match = _CHECKPOINT.fullmatch(name)
    if match is None:
        return None
    return CheckpointName(match[1] or match[3], int(match[2] or match[4]))


def rank_stem(rank: int) -> str:
    """Return the telemetry file stem of a rank."""
    return f"rank-{rank:05d}"


def telemetry_name(stem: str, segment: int = 1) -> str:
    """Return the name of a telemetry file, e.g. `rank-00003.s0002.jsonl`."""
    suffix = "" if segment == 1 else f".s{segment:04d}"
    return f"{stem}{suffix}.jsonl"


def rollup_name(stem: str) -> str:
    """Return the name of a roll-up, e.g. `rank-00003.rollup.jsonl`."""
    return f"{stem}{_ROLLUP_SUFFIX}"


def parse_telemetry_name(name: str) -> TelemetryName | None:
    """Read a telemetry file's name; None for anything else, a roll-up too."""
    match = _SEGMENT.fullmatch(name)
    if match is None or name.endswith(_ROLLUP_SUFFIX):
        return None
    return TelemetryName(match["stem"], int(match["segment"] or 1))


def is_safe_node(node: str) -> bool:
    """Whether a client key may be used in file names."""
    return bool(_SAFE_NODE.fullmatch(node)) and not _RESERVED_NODE.fullmatch(node)
