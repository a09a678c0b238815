"""What restoring a round or repairing a store will do, told before it is done.

To a file, or on a run that nobody runs, the trainer's own command does it in a
process of its own; into a live federation it is a request. A data-parallel run
has no chunk stores: there, going back is a resume.
"""

import shlex
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from agent.rundir.attempts import read_identity
from agent.rundir.chunks.errors import NoSuchTensorError
from agent.rundir.chunks.layout import RoundLayout
from agent.rundir.chunks.reader import ChunkStoreReader
from agent.rundir.chunks.records import OPTIMIZER, RoundRow
from agent.rundir.errors import EXIT_LOCKED, NotARunError
from agent.rundir.layout import RunDir, is_safe_node
from opsdash import units
from opsdash.operations.plan import Plan, name_of
from opsdash.operations.standing import running
from opsdash.operations.trainer_command import PACKAGES, trainer_command

SUFFIXES = (".pt", ".safetensors")
_NAMES_SHOWN = 5


def plan_restore(
    run: RunDir,
    node: str,
    round_num: int,
    to: Path,
    tensors: str | None = None,
    mapping: Mapping[str, str] | None = None,
) -> Plan:
    """Return what writing a round of a node to a file will do.

    Args:
        run: It has the store.
        node: Whose store.
        round_num: It is kept there.
        to: Ends in `.pt` or `.safetensors`.
        tensors: A pattern of their names; None: all.
        mapping: New names of tensors by their old ones.

    Raises:
        RunDirError: there is no such store, round or tensor, or no name for the
            file.
    """
    row = find_round(run, node, round_num, tensors)
    if to.suffix not in SUFFIXES:
        raise NotARunError(f"`{to}` must end in {' or '.join(SUFFIXES)}")
    is_there = _is_there(to)
    words = ["restore", str(run.path.absolute()), "--node", node]
    words += ["--round", str(round_num), "--to", str(to.absolute())]
    words += [] if tensors is None else ["--tensors", tensors]
    renamed = [f"{old}={new}" for old, new in (mapping or {}).items()]
    words += [word for pair in renamed for word in ("--map", pair)]
    what = "all tensors" if tensors is None else f"the tensors `{tensors}`"
    notes = [*notes_of_round(row)]
    if renamed:
        notes.append(f"under other names: {', '.join(renamed)}")
    return Plan(
        kind="restore",
        title=f"write round {round_num} of {node} to {to}",
        reads=(
            f"{run.chunk_store(node)}: {what}, at most "
            f"{units.byte_size(row.num_bytes)}, each chunk checked",
        ),
        writes=(f"{to}: by a temporary name, whole or not at all",),
        loses=(f"what `{to}` holds now",) if is_there else (),
        command=trainer_command(*words),
        cwd=str(PACKAGES),
        subject=f"chunks/{node}",
        confirm_name=to.name if is_there else "",
        notes=tuple(notes),
    )


def plan_repair(run: RunDir, node: str) -> Plan:
    """Return what mending a node's store from the others will do.

    Raises:
        RunDirError: there is no such store.
    """
    store_path(run, node)
    holder = running(run)
    why_not = None
    if holder is not None:
        why_not = (
            f"attempt {holder.holder.attempt} is running and owns the stores: "
            "a request to it mends them between two rounds"
        )
    words = ("repair", str(run.path.absolute()), "--node", node, "--progress")
    return Plan(
        kind="repair",
        title=f"repair the chunk store of {node}",
        reads=(f"chunks/: every chunk of {node}, and sound ones of other nodes",),
        writes=(f"chunks/{node}: the chunks that are damaged or missing",),
        loses=(),
        command=trainer_command(*words),
        cwd=str(PACKAGES),
        subject=f"chunks/{node}",
        notes=("a chunk that no other node holds stays as it is, and is named",),
        why_not=why_not,
        exit_code=EXIT_LOCKED,
    )


def plan_pin(run: RunDir, name: str, *, is_pinned: bool) -> Plan:
    """Return what pinning a checkpoint will do while nobody runs."""
    word = "pin" if is_pinned else "unpin"
    never = "never removes it" if is_pinned else "may have it again"
    goes = "an old one goes with the first save after a resume: nothing brings it back"
    return Plan(
        kind=word,
        title=f"{word} {name}",
        reads=(),
        writes=(f"checkpoints/verified.jsonl: that retention {never}",),
        loses=() if is_pinned else (goes,),
        command=trainer_command(word, str(run.path.absolute()), name),
        cwd=str(PACKAGES),
        subject=name,
        confirm_name="" if is_pinned else name_of(run),
    )


def store_path(run: RunDir, node: str) -> Path:
    """Return where a node's store is.

    Raises:
        NotARunError: it has none.
    """
    path = run.chunk_store(node) if is_safe_node(node) else Path()
    if path.is_file():
        return path
    kind = read_identity(run).kind
    shown = shlex.quote(str(run.path))
    if kind != "federated":
        raise NotARunError(
            f"`{run.path}` is a data-parallel run: its state is in checkpoints",
            hint=f"opsdash resume {shown}",
        )
    raise NotARunError(
        f"`{run.path}` has no chunk store of `{node!a}`", hint=f"opsdash chunks {shown}"
    )


def find_round(
    run: RunDir, node: str, round_num: int, tensors: str | None = None
) -> RoundRow:
    """Return a round that a node's store holds, with the tensors that are wanted.

    Raises:
        RunDirError: there is no such store, round or tensor; the message says
            which there are.
    """
    with ChunkStoreReader(store_path(run, node)) as reader:
        row = reader.round(round_num)
        if tensors is not None:
            _refuse_if_none_fits(reader.layout(round_num), tensors)
    return row


def _refuse_if_none_fits(layout: RoundLayout, pattern: str) -> None:
    names = [tensor.name for tensor in layout.tensors if tensor.kind != OPTIMIZER]
    if any(fnmatchcase(name, pattern) for name in names):
        return
    few = ", ".join(f"`{name}`" for name in names[:_NAMES_SHOWN])
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    raise NoSuchTensorError(f"no tensor fits `{pattern}`; there are {few}{more}")


def notes_of_round(row: RoundRow) -> tuple[str, ...]:
    """Return what to know about a round before it is used; nothing: it is fine."""
    if not row.has_nonfinite:
        return ()
    return (f"not finite in this round: {', '.join(row.nonfinite[:3])}",)


def _is_there(path: Path) -> bool:
    """Return whether a file that was named exists; it may not even be looked at."""
    try:
        return path.exists()
    except OSError as error:
        raise NotARunError(f"`{path}` cannot be written: {error.strerror}") from error
