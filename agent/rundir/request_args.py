"""What each kind of request takes, and what is never taken.

One struct per kind; unknown arguments are refused, because a request that was
half understood would do something else than its operator meant. Every name and
path is checked to stay inside the run directory.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from agent.rundir.layout import RunDir, is_safe_node, parse_checkpoint_name

MAX_PROFILE_STEPS = 1_000


class _Args(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every kind has in common: nothing."""


class NoArgs(_Args, frozen=True):
    """`checkpoint-now`, `stop`, `pause`, `continue`."""


class ResumeArgs(_Args, frozen=True):
    """Roll back to a checkpoint."""

    checkpoint: str | None = None
    """None: the newest verified one."""


class PinArgs(_Args, frozen=True):
    """`pin` and `unpin`."""

    checkpoint: str


class VerifyArgs(_Args, frozen=True):
    """Read bytes back and compare them; without arguments: the newest checkpoint."""

    checkpoint: str | None = None
    path: str | None = None
    """Relative to the run directory."""
    level: Literal["structure", "content", "deep"] = "content"


class RestoreArgs(_Args, frozen=True):
    """Put a node's model of a round back into the running trainer."""

    node: str
    round_num: Annotated[int, msgspec.Meta(ge=1)]
    tensors: str | None = None
    """Glob of tensor names; None: all."""
    mapping: dict[str, str] = {}
    """Names in the store that have another name in the model."""


class RepairArgs(_Args, frozen=True):
    """Replace damaged chunks of a node from elsewhere."""

    node: str


class StacksArgs(_Args, frozen=True):
    """Write the Python stacks of ranks to `stacks/`."""

    ranks: tuple[Annotated[int, msgspec.Meta(ge=0)], ...] | None = None
    """None: all."""


class ProfileArgs(_Args, frozen=True):
    """Profile the next steps."""

    steps: Annotated[int, msgspec.Meta(ge=1, le=MAX_PROFILE_STEPS)] = 5


KINDS: dict[str, type[_Args]] = {
    "checkpoint-now": NoArgs,
    "stop": NoArgs,
    "pause": NoArgs,
    "continue": NoArgs,
    "resume": ResumeArgs,
    "restore": RestoreArgs,
    "verify": VerifyArgs,
    "pin": PinArgs,
    "unpin": PinArgs,
    "repair": RepairArgs,
    "stacks": StacksArgs,
    "profile": ProfileArgs,
}


def check_args(run: RunDir, kind: str, args: dict[str, Any]) -> str | None:
    """Return why a kind of request cannot take these arguments; None: it can."""
    if kind not in KINDS:
        return f"`{kind!a}` is no kind of request: {', '.join(KINDS)}"
    try:
        msgspec.convert(args, KINDS[kind], strict=True)
    except msgspec.ValidationError as error:
        return f"`{kind}`: {error}"
    return _why_outside(run, args)


def _why_outside(run: RunDir, args: dict[str, Any]) -> str | None:
    checkpoint, node, path = (args.get(k) for k in ("checkpoint", "node", "path"))
    if checkpoint is not None and parse_checkpoint_name(checkpoint) is None:
        return f"`{checkpoint!a}` is not a checkpoint's name"
    if node is not None and not is_safe_node(node):
        return f"`{node!a}` is not a node's name"
    if path is not None and not _is_inside(run.path, path):
        return f"`{path!a}` is not inside the run directory"
    return None


def _is_inside(root: Path, path: str) -> bool:
    """Whether a relative path, all symlinks followed, stays below `root`."""
    if "\0" in path or Path(path).is_absolute():
        return False
    try:
        return (root / path).resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):
        return False
