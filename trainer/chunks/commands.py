"""`restore`, `repair`, `prune`, `diff` and `export-foreign` on the command line.

Each takes its arguments and returns an exit code; `RunDirError` is left to
the caller, who prints it with its hint. With `--progress`, one JSON object
per line goes to standard output, for whoever started the process.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from agent.rundir.chunks.errors import EXIT_DAMAGED, StoreFullError
from agent.rundir.chunks.foreign import ForeignStoreReader
from agent.rundir.chunks.reader import ChunkStoreReader
from agent.rundir.chunks.sources import stores_in
from agent.rundir.errors import NotARunError
from agent.rundir.layout import RunDir, is_safe_node
from trainer.chunks.database import drop_ballast
from trainer.chunks.diff import diff_rounds
from trainer.chunks.export import export_round
from trainer.chunks.foreign import export_foreign
from trainer.chunks.repair import repair_store
from trainer.chunks.restore import select_names
from trainer.chunks.store import ChunkStore
from trainer.console import say
from trainer.settings import UsageParser

_PROGRESS_INTERVAL_S = 0.2


def restore_main(argv: Sequence[str]) -> int:
    """Write a round of a node to a `.pt` or `.safetensors` file.

    Raises:
        RunDirError: nothing was written.
        UsageError: the arguments are wrong.
    """
    parser = UsageParser(prog="python -m trainer restore")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--node", required=True, help="`server` or a client's key")
    parser.add_argument("--round", type=int, required=True, dest="round_num")
    parser.add_argument("--tensors", metavar="GLOB", help="names; all by default")
    parser.add_argument("--to", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--map",
        action="append",
        type=_pair,
        default=[],
        metavar="OLD=NEW",
        help="write a tensor under another name; may be repeated",
    )
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse(list(argv))
    path = _store_of(options.run_dir, options.node)
    with ChunkStoreReader(path) as reader:
        if options.dry_run:
            names = select_names(reader.layout(options.round_num), options.tensors)
            _say({"would_write": str(options.to), "num_tensors": len(names)})
            return 0
        count = export_round(
            reader, options.round_num, options.to, options.tensors, dict(options.map)
        )
    _say({"wrote": str(options.to), "num_tensors": count})
    return 0


def repair_main(argv: Sequence[str]) -> int:
    """Mend a node's store, or all of a run, from the others.

    Returns:
        0 if everything is sound afterwards, 2 if something is left damaged.

    Raises:
        RunDirError: a store as a whole cannot be read or written.
        UsageError: the arguments are wrong.
    """
    parser = UsageParser(prog="python -m trainer repair")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--node", help="`server` or a client's key; all by default")
    parser.add_argument(
        "--from",
        action="append",
        type=Path,
        dest="sources",
        metavar="STORE",
        help="take chunks from this database instead of the run's other nodes",
    )
    parser.add_argument("--progress", action="store_true")
    options = parser.parse(list(argv))
    nodes = [options.node] if options.node else _nodes(options.run_dir)
    num_left = 0
    for node in nodes:
        path = _store_of(options.run_dir, node)
        progress = _Progress(node) if options.progress else None
        report = repair_store(path, options.sources, progress)
        num_left += len(report.left)
        _say(
            {
                "node": node,
                "repaired": [chunk.digest for chunk in report.repaired],
                "dropped": report.num_dropped,
                "left": [str(finding.place) for finding in report.left],
            }
        )
    return EXIT_DAMAGED if num_left else 0


def prune_main(argv: Sequence[str]) -> int:
    """Keep the newest rounds of a node's store, or of all of a run.

    Raises:
        RunDirError: a store cannot be opened, or is being written to.
        UsageError: the arguments are wrong.
    """
    parser = UsageParser(prog="python -m trainer prune")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--node", help="`server` or a client's key; all by default")
    parser.add_argument(
        "--keep-rounds", type=int, required=True, metavar="N", help="1 or more"
    )
    options = parser.parse(list(argv))
    if options.keep_rounds < 1:
        parser.error("--keep-rounds must be 1 or more")
    nodes = [options.node] if options.node else _nodes(options.run_dir)
    for node in nodes:
        with _opened_in_need(_store_of(options.run_dir, node)) as store:
            stats = store.prune(options.keep_rounds)
        _say({"node": node, "pruned": stats.rounds, "freed_bytes": stats.freed_bytes})
    return 0


def _opened_in_need(path: Path) -> ChunkStore:
    """Open a store, on a full disk too: SQLite makes its lock file first."""
    try:
        return ChunkStore(path)
    except StoreFullError:
        drop_ballast(path)
        return ChunkStore(path)


def diff_main(argv: Sequence[str]) -> int:
    """Say how two rounds differ, a line for each tensor.

    Raises:
        RunDirError: a round is not there or cannot be read.
        UsageError: the arguments are wrong.
    """
    parser = UsageParser(prog="python -m trainer diff")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--node", required=True, help="`server` or a client's key")
    parser.add_argument("--other-node", help="who has the newer round, if another")
    parser.add_argument(
        "--rounds", type=int, nargs=2, required=True, metavar=("OLD", "NEW")
    )
    options = parser.parse(list(argv))
    old, new = options.rounds
    path = _store_of(options.run_dir, options.node)
    other_path = _store_of(options.run_dir, options.other_node or options.node)
    with ChunkStoreReader(path) as reader, ChunkStoreReader(other_path) as other:
        for tensor in diff_rounds(reader, old, new, other):
            _say(asdict(tensor))
    return 0


def foreign_main(argv: Sequence[str]) -> int:
    """List a database of the original ChunkManager, or export a round of it.

    Raises:
        RunDirError: it cannot be read; nothing was written.
        UsageError: the arguments are wrong.
    """
    parser = UsageParser(prog="python -m trainer export-foreign")
    parser.add_argument("database", type=Path)
    parser.add_argument("--round", type=int, dest="round_num")
    parser.add_argument("--to", type=Path, metavar="FILE.pt")
    options = parser.parse(list(argv))
    if options.to is not None and options.round_num is None:
        parser.error("--to needs --round")
    if options.to is not None and options.to.suffix not in {".pt", ".pth"}:
        parser.error("--to must end in .pt")
    if options.to is not None:
        count = export_foreign(options.database, options.round_num, options.to)
        _say({"wrote": str(options.to), "num_tensors": count})
        return 0
    _list_foreign(options.database, options.round_num)
    return 0


def _list_foreign(path: Path, round_num: int | None) -> None:
    with ForeignStoreReader(path) as reader:
        if round_num is None:
            for row in reader.rounds():
                _say(
                    {
                        "round_num": row.round_num,
                        "num_chunks": row.num_chunks,
                        "num_bytes": row.num_bytes,
                        "num_missing": row.num_missing,
                    }
                )
            return
        for chunk in reader.chunks(round_num):
            _say(
                {
                    "chunk_id": chunk.chunk_id,
                    "digest": chunk.digest,
                    "size_bytes": chunk.size_bytes,
                    "is_missing": chunk.is_missing,
                    "tensors": [part.name for part in chunk.parts],
                }
            )


class _Progress:
    """Prints at most five lines a second."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._next_s = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now >= self._next_s or done == total:
            self._next_s = now + _PROGRESS_INTERVAL_S
            _say({"node": self._node, "done_bytes": done, "total_bytes": total})


def _store_of(run_dir: Path, node: str) -> Path:
    if not is_safe_node(node):
        raise NotARunError(f"`{node!a}` is no node's name")
    path = RunDir(run_dir).chunk_store(node)
    if not path.exists():
        known = ", ".join(f"`{name}`" for name, _ in stores_in(run_dir)) or "none"
        has_checkpoints = RunDir(run_dir).checkpoints.exists()
        raise NotARunError(
            f"`{run_dir}` has no chunk store of `{node}`; it has {known}",
            hint=f"opsdash resume {run_dir}" if has_checkpoints else None,
        )
    return path


def _pair(text: str) -> tuple[str, str]:
    old, separator, new = text.partition("=")
    if not (old and separator and new):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form OLD=NEW")
    return old, new


def _nodes(run_dir: Path) -> list[str]:
    nodes = [node for node, _ in stores_in(run_dir)]
    if not nodes:
        raise NotARunError(f"`{run_dir}` has no chunk stores")
    return nodes


def _say(facts: dict[str, object]) -> None:
    say(json.dumps(facts))
