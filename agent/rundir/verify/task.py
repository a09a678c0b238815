"""What is asked of the verification of one file."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.rundir.verify.digest import Hasher
from agent.rundir.verify.watch import Watch


@dataclass(frozen=True)
class Task:
    """How one file is to be looked at."""

    watch: Watch
    with_content: bool = True
    """False: headers and sizes only."""
    num_threads: int = 2
    hasher: Hasher | None = None
    """To be fed with the whole file, where its digest is known."""
    tensor_names: Mapping[str, str] = field(default_factory=dict)
    """From a manifest, by record without its root folder."""
