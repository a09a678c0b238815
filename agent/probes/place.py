"""Which process of which start of which run this is, and how its telemetry begins.

Rank 0, or the server of a federation, acts for the whole run; a client is known
by its key. Telemetry that cannot be opened is no error: events are counted.
"""

from typing import NamedTuple

from agent.emitter import Emitter
from agent.rundir.attempts import read_identity
from agent.rundir.errors import RunDirError
from agent.rundir.layout import SCHEMA, RunDir, is_safe_node, rank_stem
from agent.rundir.process import this_process


class Place(NamedTuple):
    """One process of one attempt."""

    run: RunDir
    kind: str
    """`ddp` or `federated`."""
    attempt: int
    rank: int
    """Below 0: a client, which has none."""
    world_size: int
    node: str | None
    """A client's key, or `server`; None: a rank."""

    @property
    def is_main(self) -> bool:
        """Whether this process acts for the whole run."""
        return self.node == "server" or (self.node is None and self.rank == 0)

    def open_emitter(self) -> Emitter:
        """Return the one writer of this process's telemetry."""
        if self.node is not None:
            path = self.run.telemetry_file(self.attempt, self.node)
            return Emitter(path, node=self.node, rank=None)
        path = self.run.telemetry_file(self.attempt, rank_stem(self.rank))
        return Emitter(path, node=f"rank-{self.rank}", rank=self.rank)

    def begin(self, emitter: Emitter) -> None:
        """Write who this is, as the first event."""
        process = this_process()
        emitter.begin(
            schema=SCHEMA,
            run_id=self._run_id(),
            attempt=self.attempt,
            run_kind=self.kind,
            host=process.host,
            boot_id=process.boot_id,
            pid=process.pid,
            pid_start=process.pid_start,
            world_size=self.world_size if self.kind == "ddp" else None,
        )

    def _run_id(self) -> str:
        try:
            return read_identity(self.run).run_id
        except RunDirError:
            return ""


def refuse_unsafe(node: str | None) -> None:
    """Refuse a key that cannot be a file's name.

    Raises:
        RunDirError: it cannot.
    """
    if node is not None and not is_safe_node(node):
        raise RunDirError(
            f"`{node!a}` cannot name a client: use letters, digits, `.`, `_` and `-`",
            hint="--key client-1",
        )
