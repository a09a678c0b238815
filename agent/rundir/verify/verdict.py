"""The answer to "is this checkpoint what was saved?", as plain data.

A verdict is made once and never changed; it travels as JSON to the screen, to
`verified.jsonl` and to other programs. Names and numbers in it come from disk:
texts are made printable before they get here.
"""

import enum
from collections.abc import Iterable

import msgspec

EXIT_SOUND = 0
EXIT_CANNOT_TELL = 1
EXIT_DAMAGED = 2


class State(enum.StrEnum):
    """What is known about the bytes, best first, worst last."""

    SOUND = "sound"
    """Every byte that the level covers is accounted for."""
    NO_CHECKSUM = "no_checksum"
    """The structure is whole; nothing on disk could show a changed value."""
    NON_CANONICAL = "non_canonical"
    """Consistent, but not laid out as `torch.save` does: repacked by a tool."""
    UNREADABLE = "unreadable"
    """Not a checkpoint, not allowed to read it, or it changed meanwhile."""
    CHANGED_SINCE_SAVE = "changed_since_save"
    """Consistent in itself, and not what was saved: edited or replaced."""
    TRUNCATED = "truncated"
    """What is there is right, and it ends too early; an empty file too."""
    DAMAGED = "damaged"
    """Bytes differ from what was saved, are missing, or are too many."""

    @property
    def severity(self) -> int:
        """0 for `sound`, greater is worse; unique per state."""
        return _SEVERITY[self]

    @property
    def exit_code(self) -> int:
        """0 sound, 1 cannot tell, 2 damaged."""
        if self is State.SOUND:
            return EXIT_SOUND
        if self.severity <= State.UNREADABLE.severity:
            return EXIT_CANNOT_TELL
        return EXIT_DAMAGED


_SEVERITY = {state: rank for rank, state in enumerate(State)}


class Level(enum.StrEnum):
    """How much is looked at; each level includes the ones before it."""

    STRUCTURE = "structure"
    """Manifest, sizes, every header of the archive; milliseconds."""
    CONTENT = "content"
    """Every byte: CRC-32 of every record and the digests of the manifest."""
    DEEP = "deep"
    """Values too, in a process with torch: finite, named and shaped as told."""


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that is not as it should be, or that is worth saying."""

    file: str
    """The path that was asked for, or a file name inside a checkpoint."""
    message: str
    record: str | None = None
    """Record of the archive without its root folder, e.g. `data/17`."""
    tensor: str | None = None
    """Name in the saved state of the tensor that lies there, where known."""
    offset: int | None = None
    """Byte offset in the file: where the difference, or its record, starts."""
    expected: str | None = None
    found: str | None = None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What one look at one path has shown."""

    path: str
    state: State
    level: Level
    """The level that was asked for."""
    format: str
    """`checkpoint`, `torch_zip`, `torch_legacy`, `safetensors`, `dcp`, `unknown`."""
    findings: tuple[Finding, ...]
    num_bytes: int
    """Bytes of all files that were looked at, the manifest not included."""
    elapsed_ns: int
    """Monotonic clock."""
    digest: str | None
    """Digest of the manifest, which identifies a checkpoint; None without one."""
    advice: str
    """What to do now, with a command to paste where one helps."""

    @property
    def exit_code(self) -> int:
        """0 sound, 1 cannot tell, 2 damaged."""
        return self.state.exit_code


def worst(states: Iterable[State]) -> State:
    """Return the worst of some states, `sound` for none."""
    return max(states, key=lambda state: state.severity, default=State.SOUND)


def worst_exit_code(verdicts: Iterable[Verdict]) -> int:
    """Return the exit code for several paths: the worst one's, 0 for none."""
    return max((verdict.exit_code for verdict in verdicts), default=EXIT_SOUND)
