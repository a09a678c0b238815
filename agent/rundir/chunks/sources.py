"""Find the stores of a run, and who else holds a chunk.

Content addressing makes every node a backup of what it shares with others, and
of nothing else: frozen parts, and a server's copies of updates. A client stores
what it has trained, not the model that it was sent.
"""

from collections.abc import Iterator
from pathlib import Path

from agent.rundir.chunks.connection import open_readonly
from agent.rundir.chunks.errors import Source, translated
from agent.rundir.chunks.schema import STORE_SUFFIX
from agent.rundir.errors import RunDirError
from agent.rundir.layout import RunDir

_ENOUGH_SOURCES = 3


def stores_in(run_dir: Path) -> list[tuple[str, Path]]:
    """Return the nodes of a run that have a store, by name."""
    return list(_stores_below(RunDir(run_dir).chunks))


def node_of(path: Path) -> str:
    """Return the node that a store's file name tells."""
    return path.name.removesuffix(STORE_SUFFIX)


def run_dir_of(path: Path) -> Path:
    """Return the run directory that a store at its usual place belongs to."""
    return path.parent.parent.parent


def sibling_stores(path: Path) -> Iterator[tuple[str, Path]]:
    """Yield the other nodes' stores; none for a store outside a run."""
    is_at_its_place = path.name == path.parent.name + STORE_SUFFIX
    if not is_at_its_place:
        return
    for node, other in _stores_below(path.parent.parent):
        if other.name != path.name:
            yield node, other


def find_elsewhere(path: Path, digest: str) -> list[Source]:
    """Return who else says to hold a chunk, three at most.

    Their bytes are not read: whoever takes a chunk from there checks it.
    """
    sources: list[Source] = []
    for node, other in sibling_stores(path):
        if len(sources) == _ENOUGH_SOURCES:
            break
        try:
            source = _source(node, other, digest)
        except RunDirError:
            # A store that cannot be read is no source.
            continue
        if source is not None:
            sources.append(source)
    return sources


def _stores_below(chunks: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(chunks.glob(f"*/*{STORE_SUFFIX}")):
        if path.name == path.parent.name + STORE_SUFFIX:
            yield path.parent.name, path


def _source(node: str, path: Path, digest: str) -> Source | None:
    conn = open_readonly(path)
    try:
        with translated(path):
            row = conn.execute(
                """SELECT (SELECT max(m.round_num) FROM chunk_metadata m
                           WHERE m.chunk_hash = d.chunk_hash)
                   FROM chunk_data d WHERE d.chunk_hash = ?""",
                (digest,),
            ).fetchone()
    finally:
        conn.close()
    return None if row is None else Source(node, path, row[0])
