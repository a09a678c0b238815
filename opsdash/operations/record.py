"""Write down what was done from this dashboard: `operations/<host>-<pid>.jsonl`.

One file, one writer: this process. It is made at the first entry, so that who
only looks leaves nothing. A directory that cannot be written loses the entry
and nothing else; whoever asked is told.
"""

import itertools
import os
import socket
import time
from dataclasses import dataclass, field

from agent.rundir.layout import RunDir
from agent.rundir.operations import OPERATION_SCHEMA, Operation, encode_operation
from agent.rundir.process import user_at_host
from agent.rundir.readable import readable


@dataclass
class OperationLog:
    """This process's file in one run directory."""

    run: RunDir
    problem: str | None = None
    """Why the last entry could not be written; None: it was."""
    _count: "itertools.count[int]" = field(default_factory=itertools.count)

    def new_id(self) -> str:
        """Return an id that no other operation of this process has."""
        return f"{socket.gethostname()}-{os.getpid()}-{next(self._count)}"

    def write(self, operation: Operation) -> bool:
        """Append an entry; False: it could not be written, `problem` says why."""
        try:
            self.run.operations.mkdir(exist_ok=True)
            self._append(encode_operation(operation))
        except OSError as error:
            self.problem = error.strerror or str(error)
            return False
        self.problem = None
        return True

    def _append(self, line: bytes) -> None:
        name = f"{socket.gethostname()}-{os.getpid()}.jsonl"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self.run.operations / name, flags, 0o666)
        try:
            os.write(fd, line)
        finally:
            os.close(fd)


def entry(id: str, kind: str, stage: str, **fields: object) -> Operation:  # noqa: A002 - the field's name
    """Return an entry of this moment by this operator."""
    return Operation(
        schema=OPERATION_SCHEMA,
        id=id,
        kind=kind,
        stage=stage,
        time_ns=time.time_ns(),
        by=user_at_host(),
        **readable(fields),  # type: ignore[arg-type]  # checked by the tests: msgspec takes them by name
    )
