"""Write the roll-up beside a process's telemetry, a window behind the log.

The agent's thread calls `advance` every second; it reads back what `emit`
wrote, so that emitting costs nothing more. A roll-up is never synced and may be
lost: readers then read the log. When it has too many blocks neighbours are
merged, so that it stays as small for a run of a year as for one of an hour.
"""

import os
from pathlib import Path

from agent.rundir.atomic import write_all
from agent.rundir.layout import rollup_name, telemetry_name
from agent.rundir.rollup import Block, encode_block, merge, read_blocks, roll_up
from agent.rundir.windows import WINDOW_BYTES, open_plain, read_window

MAX_BLOCKS = 1024
_BUDGET_BYTES = 8 << 20
"""Of log per call: a window holds the interpreter for almost a millisecond."""


class RollupWriter:
    """The one writer of one roll-up."""

    def __init__(self, folder: Path, stem: str) -> None:
        """Name the files; nothing is touched before `advance`."""
        self._folder = folder
        self._stem = stem
        self._path = folder / rollup_name(stem)
        self._is_resumed = False
        self._segment = 1
        self._offset = 0
        self._num_blocks = 0

    def advance(self, newest_segment: int) -> None:
        """Roll up the windows that are complete, a bounded number of them.

        Args:
            newest_segment: The one that is being written; those before are
                rolled up to their end.

        Raises:
            OSError: the log cannot be read, or the roll-up not be written.
        """
        if not self._is_resumed:
            self._resume()
        budget = _BUDGET_BYTES
        while budget > 0:
            data = self._next_window(newest_segment)
            if not data:
                return
            self._append(roll_up(data, segment=self._segment, begin=self._offset))
            self._offset += len(data)
            budget -= len(data)

    def _next_window(self, newest: int) -> bytes:
        while True:
            is_final = self._segment < newest
            path = self._folder / telemetry_name(self._stem, self._segment)
            try:
                data = read_window(
                    path, self._offset, limit=WINDOW_BYTES, is_final=is_final
                )
            except FileNotFoundError:
                data = b""
            if data or not is_final:
                return data
            self._segment, self._offset = self._segment + 1, 0

    def _append(self, block: Block) -> None:
        data = encode_block(block)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self._path, flags, 0o666)
        try:
            size = os.fstat(fd).st_size
            if os.write(fd, data) < len(data):
                os.ftruncate(fd, size)
                raise OSError(f"`{self._path}` could not be written whole")
        finally:
            os.close(fd)
        self._num_blocks += 1
        if self._num_blocks > MAX_BLOCKS:
            self._merge()

    def _resume(self) -> None:
        """Go on after the last whole block that a process of this name left."""
        end = 0
        try:
            fd = open_plain(self._path)
        except FileNotFoundError:
            self._is_resumed = True
            return
        with os.fdopen(fd, "rb") as file:
            for block in read_blocks(file):
                self._segment, self._offset = block.head.segment, block.head.end
                self._num_blocks += 1
                end = file.tell()
        os.truncate(self._path, end)
        self._is_resumed = True

    def _merge(self) -> None:
        """Replace the roll-up by one with half the blocks."""
        with os.fdopen(open_plain(self._path), "rb") as file:
            merged = _merge_pairs(list(read_blocks(file)))
        partial = self._path.with_name(f".{self._path.name}.partial")
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            write_all(fd, b"".join(encode_block(block) for block in merged))
        finally:
            os.close(fd)
        partial.replace(self._path)
        self._num_blocks = len(merged)


def _merge_pairs(blocks: list[Block]) -> list[Block]:
    merged: list[Block] = []
    is_pair = True
    for block in blocks:
        last = merged[-1].head if merged else None
        follows = (
            last is not None
            and last.segment == block.head.segment
            and last.end == block.head.begin
        )
        if follows and not is_pair:
            merged[-1] = merge(merged[-1], block)
            is_pair = True
        else:
            merged.append(block)
            is_pair = False
    return merged
