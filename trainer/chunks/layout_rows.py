"""A round's layout as rows of `tensors` and `chunk_metadata`."""

import sqlite3
from collections.abc import Iterator

from agent.rundir.chunks.layout import RoundLayout
from agent.rundir.chunks.records import encode_json, encode_parts


def insert_rows(conn: sqlite3.Connection, round_num: int, layout: RoundLayout) -> None:
    """Write a layout's tensors and chunks inside an open transaction.

    Raises:
        sqlite3.Error: from SQLite.
    """
    conn.executemany(
        "INSERT INTO tensors VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        _tensor_rows(round_num, layout),
    )
    conn.executemany(
        "INSERT INTO chunk_metadata VALUES (?, ?, ?, ?, ?, ?)",
        _chunk_rows(round_num, layout),
    )


def _tensor_rows(round_num: int, layout: RoundLayout) -> Iterator[tuple[object, ...]]:
    for position, row in enumerate(layout.tensors):
        yield (
            round_num,
            position,
            row.name,
            row.kind,
            row.dtype,
            encode_json(row.shape),
            row.item_bytes,
            row.num_bytes,
            row.alias_of,
            row.quantizer,
        )


def _chunk_rows(round_num: int, layout: RoundLayout) -> Iterator[tuple[object, ...]]:
    for chunk in layout.chunks:
        yield (
            round_num,
            chunk.chunk_id,
            chunk.digest,
            encode_parts(chunk.parts),
            sum(part.flat_end - part.flat_start for part in chunk.parts),
            chunk.size_bytes,
        )
