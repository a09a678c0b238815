"""Turn rows of the database into values, and say so when they make no sense.

Every function takes an open connection and runs one query; whoever calls
decides which of them share a transaction.
"""

import json
import sqlite3
from pathlib import Path
from typing import Any

from agent.rundir.chunks.errors import DamagedStoreError, NoSuchRoundError
from agent.rundir.chunks.layout import BadLayoutError, RoundLayout
from agent.rundir.chunks.records import (
    ChunkRow,
    ChunkSpec,
    RoundRow,
    TensorRow,
    as_shape,
    chunk_dtype,
    decode_names,
    decode_parts,
)

_ROUND_COLUMNS = """round_num, created_ns, digest, split, num_chunks, num_bytes,
    new_bytes, num_tensors, nonfinite, members, optimizer IS NOT NULL"""

# Rounds of one node that hold a chunk: idx_chunk_metadata_hash covers it.
_CHUNK_QUERY = """SELECT m.chunk_id, m.chunk_hash, m.size_bytes, m.parts_info,
        (SELECT count(DISTINCT o.round_num) FROM chunk_metadata o
         WHERE o.chunk_hash = m.chunk_hash AND o.round_num <> m.round_num),
        NOT EXISTS (SELECT 1 FROM chunk_data d WHERE d.chunk_hash = m.chunk_hash)
    FROM chunk_metadata m
    WHERE m.round_num = ? AND m.chunk_id >= ?
    ORDER BY m.chunk_id LIMIT ?"""


def select_rounds(conn: sqlite3.Connection, path: Path) -> list[RoundRow]:
    """Return all rounds, oldest first.

    Raises:
        DamagedStoreError: a row cannot be read.
        sqlite3.Error: from SQLite.
    """
    query = f"SELECT {_ROUND_COLUMNS} FROM rounds ORDER BY round_num"  # noqa: S608 - constants only
    return [_round_row(row, path) for row in conn.execute(query)]


def select_round(conn: sqlite3.Connection, path: Path, round_num: int) -> RoundRow:
    """Return one round.

    Raises:
        NoSuchRoundError: it is not there; the message names those that are.
        DamagedStoreError: its row cannot be read.
        sqlite3.Error: from SQLite.
    """
    query = f"SELECT {_ROUND_COLUMNS} FROM rounds WHERE round_num = ?"  # noqa: S608 - constants only
    row = conn.execute(query, (round_num,)).fetchone()
    if row is None:
        raise NoSuchRoundError(
            f"`{path}` does not hold round {round_num}: {_held(conn)}"
        )
    return _round_row(row, path)


def select_layout(conn: sqlite3.Connection, path: Path, round_num: int) -> RoundLayout:
    """Return a round's layout, checked against the digest in its row.

    Raises:
        NoSuchRoundError: it is not there.
        DamagedStoreError: its rows are not those that were written.
        sqlite3.Error: from SQLite.
    """
    row = select_round(conn, path, round_num)
    try:
        optimizer = conn.execute(
            "SELECT optimizer FROM rounds WHERE round_num = ?", (round_num,)
        ).fetchone()[0]
        layout = RoundLayout(
            split=row.split,
            tensors=_tensor_rows(conn, round_num),
            chunks=_chunk_specs(conn, round_num),
            optimizer=optimizer,
        )
        layout.check()
    except (TypeError, ValueError, BadLayoutError) as error:
        raise _damaged_round(path, round_num, str(error)) from error
    if layout.digest() != row.digest:
        raise _damaged_round(path, round_num, "they do not have the round's digest")
    return layout


def select_chunks(
    conn: sqlite3.Connection, path: Path, round_num: int, start: int, count: int
) -> list[ChunkRow]:
    """Return `count` chunks of a round from chunk id `start`.

    Raises:
        DamagedStoreError: a row cannot be read.
        sqlite3.Error: from SQLite.
    """
    found = conn.execute(_CHUNK_QUERY, (round_num, start, count))
    try:
        return [_chunk_row(round_num, row) for row in found]
    except (TypeError, ValueError) as error:
        raise _damaged_round(path, round_num, str(error)) from error


def _round_row(row: tuple[Any, ...], path: Path) -> RoundRow:
    members = row[9]
    try:
        return RoundRow(
            round_num=int(row[0]),
            created_ns=int(row[1]),
            digest=str(row[2]),
            split=str(row[3]),
            num_chunks=int(row[4]),
            num_bytes=int(row[5]),
            new_bytes=int(row[6]),
            num_tensors=int(row[7]),
            nonfinite=decode_names(row[8]),
            members=None if members is None else decode_names(members),
            has_optimizer=bool(row[10]),
        )
    except (TypeError, ValueError) as error:
        raise _damaged_round(path, row[0], str(error)) from error


def _tensor_rows(conn: sqlite3.Connection, round_num: int) -> tuple[TensorRow, ...]:
    rows = conn.execute(
        """SELECT name, kind, dtype, shape, item_bytes, num_bytes, alias_of, quantizer
           FROM tensors WHERE round_num = ? ORDER BY position""",
        (round_num,),
    )
    return tuple(_tensor_row(row) for row in rows)


def _tensor_row(row: tuple[Any, ...]) -> TensorRow:
    name, kind, dtype, shape, item_bytes, num_bytes, alias_of, quantizer = row
    return TensorRow(
        name=name,
        kind=kind,
        dtype=dtype,
        shape=as_shape(json.loads(shape)),
        item_bytes=int(item_bytes),
        num_bytes=int(num_bytes),
        alias_of=alias_of,
        quantizer=quantizer,
    )


def _chunk_specs(conn: sqlite3.Connection, round_num: int) -> tuple[ChunkSpec, ...]:
    rows = conn.execute(
        """SELECT chunk_id, chunk_hash, size_bytes, parts_info FROM chunk_metadata
           WHERE round_num = ? ORDER BY chunk_id""",
        (round_num,),
    )
    return tuple(_chunk_spec(row) for row in rows)


def _chunk_spec(row: tuple[Any, ...]) -> ChunkSpec:
    chunk_id, digest, size_bytes, parts_info = row
    parts = decode_parts(parts_info)
    return ChunkSpec(int(chunk_id), digest, chunk_dtype(parts), int(size_bytes), parts)


def _chunk_row(round_num: int, row: tuple[Any, ...]) -> ChunkRow:
    chunk_id, digest, size_bytes, parts_info, shared_with, is_missing = row
    return ChunkRow(
        round_num=round_num,
        chunk_id=int(chunk_id),
        digest=str(digest),
        size_bytes=int(size_bytes),
        shared_with=int(shared_with),
        parts=decode_parts(parts_info),
        is_missing=bool(is_missing),
    )


def _held(conn: sqlite3.Connection) -> str:
    query = "SELECT min(round_num), max(round_num) FROM rounds"
    first, last = conn.execute(query).fetchone()
    if first is None:
        return "it holds none yet"
    return f"it holds {first} to {last}"


def _damaged_round(path: Path, round_num: object, why: str) -> DamagedStoreError:
    return DamagedStoreError(f"the rows of round {round_num} in `{path}`: {why}")
