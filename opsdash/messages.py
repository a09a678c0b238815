"""What panes ask of the app: they show and point, the app acts.

A pane never verifies, resumes or switches to another pane by itself. Whatever
is done to the run is a `Wish`; the rest moves the operator about.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from textual.message import Message

from opsdash.operations.export import ExportedEvent
from opsdash.projections.events_log import EventRow


class ThemeNotRemembered(Message):
    """A theme was chosen, and could not be written down."""

    def __init__(self, why: str) -> None:
        super().__init__()
        self.why = why


class Wish(Message):
    """Something that the operator wants done."""


class VerifyRequested(Wish):
    """Read checkpoints again."""

    def __init__(self, names: Sequence[str], *, is_deep: bool = False) -> None:
        super().__init__()
        self.names = tuple(names)
        """Directory names below `checkpoints/`."""
        self.is_deep = is_deep
        """Values too, in a process with torch."""


class StoreVerifyRequested(Wish):
    """Read chunk stores again."""

    def __init__(self, nodes: Sequence[str]) -> None:
        super().__init__()
        self.nodes = tuple(nodes)


class ResumeRequested(Wish):
    """Show what a resume would do."""

    def __init__(self, name: str | None) -> None:
        super().__init__()
        self.name = name
        """Directory name of the checkpoint; None: the newest verified one."""


class PinRequested(Wish):
    """Keep a checkpoint for ever, or no longer."""

    def __init__(self, name: str, *, is_pinned: bool) -> None:
        super().__init__()
        self.name = name
        self.is_pinned = is_pinned


class CompareRequested(Wish):
    """Tell what differs between two checkpoints."""

    def __init__(self, old: str, new: str) -> None:
        super().__init__()
        self.old = old
        self.new = new


class RepairRequested(Wish):
    """Mend a node's chunk store."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self.node = node


class RestoreRequested(Wish):
    """Put a round back."""

    def __init__(
        self,
        node: str,
        round_num: int,
        *,
        to: Path | None,
        tensors: str | None = None,
        mapping: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.node = node
        self.round_num = round_num
        self.to = to
        """The file to write; None: into the running federation."""
        self.tensors = tensors
        """Glob of tensor names; None: all."""
        self.mapping = dict(mapping or {})
        """New names of tensors by their old ones."""


class RunRequested(Wish):
    """Ask the running trainer for something."""

    def __init__(self, kind: str, args: Mapping[str, Any]) -> None:
        super().__init__()
        self.kind = kind
        """One of `agent.rundir.request_args.KINDS`."""
        self.args = dict(args)


class ExportRequested(Wish):
    """Write events to a file."""

    def __init__(
        self,
        path: Path,
        numbers: Sequence[int],
        row_of: Callable[[int], EventRow | None],
        told: Callable[[EventRow], ExportedEvent],
    ) -> None:
        super().__init__()
        self.path = path
        self.numbers = numbers
        """Of the events that are shown."""
        self.row_of = row_of
        """Returns what the log has of an event; None: it was dropped meanwhile."""
        self.told = told
        """Reads the rest of it, in any thread."""


class ProcessOpened(Message):
    """The operator wants the events of one process."""

    def __init__(self, stem: str) -> None:
        super().__init__()
        self.stem = stem
        """`rank-00003`, `server`, or a client's key."""


class RoundOpened(Message):
    """The operator wants the events of a federated round."""

    def __init__(self, round_num: int, client: str | None) -> None:
        super().__init__()
        self.round_num = round_num
        self.client = client


class StacksOpened(Message):
    """The operator wants to read a process's Python stacks."""

    def __init__(self, stem: str) -> None:
        super().__init__()
        self.stem = stem
        """`rank-00003`, `server`, or a client's key."""


class StepOpened(Message):
    """The operator wants the events of some steps of one rank."""

    def __init__(self, step: int, rank: int | None) -> None:
        super().__init__()
        self.step = step
        self.rank = rank


class RunChosen(Message):
    """The operator wants to watch another run."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
