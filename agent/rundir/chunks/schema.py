"""What a chunk store is on disk: names, tables, versions and settings.

`chunk_metadata` and `chunk_data` keep the columns and indexes under which the
idea is known, so that SQL written for them still works; everything else is
additional. Columns are added with a default, never renamed or reused. A row
of `rounds` is the last thing that a round's transaction writes.
"""

from typing import Final

SCHEMA: Final = 1
"""`PRAGMA user_version`; readers refuse a greater one."""

APPLICATION_ID: Final = 0x4F50_5343
"""`PRAGMA application_id` (`OPSC`): tells our stores from foreign ones."""

PAGE_BYTES: Final = 65_536
"""64 KiB pages write blobs at 600 MB/s, 4 KiB pages at 210-300 (two cores)."""

MAX_BLOB_BYTES: Final = 10**9
"""SQLite's limit for one value."""

RAW_CODEC: Final = "raw"
"""The only codec so far: the tensor's bytes as they are."""

MIXED_DTYPE: Final = "mixed"
"""Stands for the dtype of a chunk whose parts have several."""

BALLAST_NAME: Final = ".ballast"
"""File beside the database that is deleted first when the disk is full."""

BALLAST_BYTES: Final = 4 << 20
"""Room for the pages that one step of an emergency prune writes."""

STORE_SUFFIX: Final = "_chunks.db"

DDL: Final = (
    """CREATE TABLE store_info (
        key TEXT PRIMARY KEY,
        value TEXT NOT NULL
    ) WITHOUT ROWID""",
    """CREATE TABLE rounds (
        round_num INTEGER PRIMARY KEY,
        created_ns INTEGER NOT NULL,
        digest TEXT NOT NULL,
        split TEXT NOT NULL,
        num_chunks INTEGER NOT NULL,
        num_bytes INTEGER NOT NULL,
        new_bytes INTEGER NOT NULL,
        num_tensors INTEGER NOT NULL,
        nonfinite TEXT NOT NULL DEFAULT '[]',
        members TEXT,
        optimizer TEXT
    )""",
    """CREATE TABLE tensors (
        round_num INTEGER NOT NULL,
        position INTEGER NOT NULL,
        name TEXT NOT NULL,
        kind TEXT NOT NULL,
        dtype TEXT NOT NULL,
        shape TEXT NOT NULL,
        item_bytes INTEGER NOT NULL,
        num_bytes INTEGER NOT NULL,
        alias_of TEXT,
        quantizer TEXT,
        PRIMARY KEY (round_num, position)
    ) WITHOUT ROWID""",
    """CREATE TABLE chunk_metadata (
        round_num INTEGER NOT NULL,
        chunk_id INTEGER NOT NULL,
        chunk_hash TEXT NOT NULL,
        parts_info TEXT NOT NULL,
        flat_size INTEGER NOT NULL,
        size_bytes INTEGER NOT NULL,
        PRIMARY KEY (round_num, chunk_id)
    ) WITHOUT ROWID""",
    "CREATE INDEX idx_chunk_metadata_round ON chunk_metadata (round_num)",
    "CREATE INDEX idx_chunk_metadata_hash ON chunk_metadata (chunk_hash)",
    """CREATE TABLE chunk_data (
        chunk_hash TEXT PRIMARY KEY,
        dtype TEXT NOT NULL,
        codec TEXT NOT NULL DEFAULT 'raw',
        base TEXT,
        data BLOB NOT NULL
    )""",
    """CREATE TABLE staged_chunks (
        chunk_hash TEXT PRIMARY KEY,
        round_num INTEGER NOT NULL
    ) WITHOUT ROWID""",
    """CREATE TABLE node_state (
        key TEXT PRIMARY KEY,
        value BLOB NOT NULL
    ) WITHOUT ROWID""",
)
"""Tables without a rowid are one tree instead of two: 64 KiB less each.

`chunk_metadata.parts_info` is JSON, `{name: [[flat_start, flat_end, shape,
dtype], …]}`; `flat_size` counts elements, `size_bytes` bytes. `codec` and
`base` tell how `data` encodes the plain bytes that the digest is of.
"""
