"""What an action will do, told before it is done.

A plan is data: screens and commands show the same one, and nothing acts
without its plan having been shown.
"""

import shlex
from dataclasses import dataclass

from agent.rundir.errors import EXIT_RUN_DIR
from agent.rundir.layout import RunDir


@dataclass(frozen=True, slots=True)
class Plan:
    """One action, before it happens."""

    kind: str
    """`verify`, `resume`, or that of a request."""
    title: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    loses: tuple[str, ...]
    """What is gone afterwards; empty: nothing."""
    command: tuple[str, ...]
    """The equivalent command; empty: nobody knows one."""
    cwd: str | None = None
    """Where it has to be started; None: anywhere."""
    subject: str | None = None
    """Name of the checkpoint, or `chunks/<node>`; None: the run."""
    agrees: tuple[str, ...] = ()
    """Who must take part before it happens; empty: nobody else."""
    confirm_name: str = ""
    """If given, whoever wants it has to type this name."""
    notes: tuple[str, ...] = ()
    """What an operator should know besides."""
    why_not: str | None = None
    """Why it is only shown and not done; None: it can be done."""
    exit_code: int = EXIT_RUN_DIR
    """Of a command that must not do it."""

    @property
    def can_start(self) -> bool:
        """Whether this dashboard may carry it out."""
        return self.why_not is None

    @property
    def shell(self) -> str:
        """The command as a shell takes it, ready to paste."""
        if not self.command:
            return ""
        line = shlex.join(self.command)
        return line if self.cwd is None else f"cd {shlex.quote(self.cwd)} && {line}"


def name_of(run: RunDir) -> str:
    """Return what an operator types to confirm what cannot be undone."""
    return run.path.resolve().name
