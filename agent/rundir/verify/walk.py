"""Walk an archive from its start, to say where one without a readable end fails.

torch writes an archive in one pass, so what is there decides what has to come:
either everything fits up to the point where the file stops (truncated), or the
walk meets bytes that cannot follow (damaged), or the archive is whole and more
follows it (damaged).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from agent.rundir.verify import torch_layout as layout
from agent.rundir.verify.compare import first_difference
from agent.rundir.verify.pickle_scan import NotAPickleError, sketch_pickle
from agent.rundir.verify.source import Source
from agent.rundir.verify.torch_layout import Record
from agent.rundir.verify.watch import Watch

_MAX_SEARCH_BYTES = 1 << 30
"""How far a descriptor is searched behind content of unknown size."""
_SEARCH_BLOCK_BYTES = 1 << 20
_MAX_PICKLE_BYTES = 64 << 20
_MAX_BEFORE_ALIGNMENT = 3
_ZIP64_WITH_SIZE = (b"\x01\0\x10\0", b"\x01\0\x18\0")
"""How the zip64 field starts that has both sizes, without and with an offset."""
_FIXED_SIZES = {
    b"version": 2,
    layout.SERIALIZATION_ID_RECORD.encode(): layout.SERIALIZATION_ID_BYTES,
}


class EndsHere(Exception):  # noqa: N818 - where the walk stops, not a failure
    """All that is there fits; the file stops before the archive does."""


class GivesUp(Exception):  # noqa: N818 - where the walk stops, not a failure
    """A record of unknown size goes on for longer than is searched."""


class DiffersError(Exception):
    """What is there cannot follow what came before.

    Attributes:
        offset: of the first byte that differs.
        expected: the bytes from there on as torch writes them.
        found: the bytes that are there.
    """

    def __init__(self, offset: int, expected: bytes, found: bytes) -> None:
        super().__init__(offset)
        self.offset = offset
        self.expected = expected
        self.found = found


@dataclass
class Walk:
    """How far the walk has come."""

    source: Source
    watch: Watch
    records: list[Record] = field(default_factory=list)
    """Those that are whole."""
    position: int = 0
    """Behind the last whole record."""
    current: bytes | None = None
    """Full name of the record that was entered and not left."""
    storages: dict[bytes, int | None] = field(default_factory=dict)
    """Sizes in bytes by full record name, as far as the pickle tells."""
    _alignment: int = layout.DEFAULT_ALIGNMENT
    _is_alignment_known: bool = False

    def run(self) -> int:
        """Return where the archive ends.

        Raises:
            EndsHere: the file is too short.
            GivesUp: where a record ends cannot be found.
            DiffersError: the file is something else from some byte on.
            EndsEarlyError: the file became shorter meanwhile.
            VerifyCancelled: the caller asked to stop.
        """
        while self._is_record_next():
            self._take_record()
        expected = _directory(self.records, self.position)
        self._require(self.position, expected)
        return self.position + len(expected)

    def smallest_size(self) -> int:
        """Return how many bytes the whole archive has at least.

        Meant for after `EndsHere`: the storages that the pickle names and that
        have not come yet are laid out as torch would, and the directory.
        """
        records, position = list(self.records), self.position
        present = {record.full_name for record in records}
        root = records[0].full_name.partition(b"/")[0] if records else b""
        to_come = {**self.storages, root + b"/version": _FIXED_SIZES[b"version"]}
        missing = {
            name: size
            for name, size in to_come.items()
            if size is not None and name not in present
        }
        for name, size in missing.items():
            record = Record(name, position, size, size, 0)
            records.append(record)
            position = self._end_of(record)
        return position + len(_directory(records, position))

    def _is_record_next(self) -> bool:
        self.watch.check()
        signature = self.source.read_up_to(self.position, 4)
        if self.records and layout.CENTRAL_SIGNATURE.startswith(signature):
            return False
        if layout.LOCAL_SIGNATURE.startswith(signature):
            return True
        raise DiffersError(self.position, layout.LOCAL_SIGNATURE, signature)

    def _take_record(self) -> None:
        fixed = self._read(self.position, layout.LOCAL_FIXED_BYTES)
        name_start = self.position + len(fixed)
        name = self._read(name_start, int.from_bytes(fixed[26:28], "little"))
        self.current = name
        method = int.from_bytes(fixed[8:10], "little")
        size = self._known_size(fixed, name)
        # Of the size a header tells no more than whether it is zero or huge.
        guess = Record(name, self.position, 1 if size is None else size, 0, 0, method)
        header = layout.local_header(guess, self._alignment_at(fixed, name))
        self._require(self.position, header)
        content = self.position + len(header)
        record = self._measure(guess, size, content)
        self._require(content + record.stored_size, layout.descriptor(record))
        self.records.append(record)
        end = content + record.stored_size
        self.position = end + len(layout.descriptor(record))
        self.current = None
        self._learn(record, content)

    def _alignment_at(self, fixed: bytes, name: bytes) -> int:
        """Return the alignment of the record that starts here.

        The archive tells it in its third record. Before that the padding is as
        long as its header says: aligned to wherever the content starts.
        """
        if self._is_alignment_known or len(self.records) >= _MAX_BEFORE_ALIGNMENT:
            return self._alignment
        extra_size = int.from_bytes(fixed[28:30], "little")
        return self.position + len(fixed) + len(name) + extra_size

    def _known_size(self, fixed: bytes, name: bytes) -> int | None:
        """Return the size of a record before its end is found, if anything tells."""
        if not fixed[6] & 8:  # no data descriptor: torch gives none to nothing
            return 0
        extra_start = self.position + len(fixed) + len(name)
        extra = self._read(extra_start, int.from_bytes(fixed[28:30], "little"))
        if extra[:4] in _ZIP64_WITH_SIZE:
            return int.from_bytes(extra[4:12], "little")
        fixed_size = _FIXED_SIZES.get(name.partition(b"/")[2])
        return self.storages.get(name, fixed_size)

    def _measure(self, guess: Record, size: int | None, content: int) -> Record:
        """Return the record with its size and CRC-32, from its descriptor."""
        if size is None:
            return self._search(guess, content)
        if not size:
            return guess
        crc = int.from_bytes(self._read(content + size, 8)[4:], "little")
        return guess._replace(stored_size=size, crc=crc)

    def _search(self, guess: Record, content: int) -> Record:
        """Find the descriptor that tells just the distance it is found at."""
        for found in self._iter_signatures(content):
            field_bytes = 8 if guess.is_zip64 else 4
            data = self._read(found, 8 + 2 * field_bytes)
            record = guess._replace(
                crc=int.from_bytes(data[4:8], "little"),
                stored_size=found - content,
                size=int.from_bytes(data[8 + field_bytes :], "little"),
            )
            if data == layout.descriptor(record):
                return record
        if content + _MAX_SEARCH_BYTES < self.source.size:
            raise GivesUp
        raise EndsHere

    def _iter_signatures(self, start: int) -> Iterator[int]:
        signature = layout.DESCRIPTOR_SIGNATURE
        stop = min(self.source.size, start + _MAX_SEARCH_BYTES)
        while start < stop:
            self.watch.check()
            block = self.source.read_up_to(start, _SEARCH_BLOCK_BYTES)
            at = block.find(signature)
            while at >= 0:
                yield start + at
                at = block.find(signature, at + 1)
            # Three bytes again: a signature may lie across two blocks.
            start += max(1, len(block) - len(signature) + 1)

    def _learn(self, record: Record, content: int) -> None:
        """Take from a record what decides the layout of later ones."""
        root, _, name = record.full_name.partition(b"/")
        if name == layout.ALIGNMENT_RECORD.encode():
            digits = self._read(content, min(record.size, 5))
            if digits.isdigit() and int(digits):
                self._alignment, self._is_alignment_known = int(digits), True
        if name == b"data.pkl" and record.stored_size <= _MAX_PICKLE_BYTES:
            try:
                sketch = sketch_pickle(self._read(content, record.stored_size))
            except NotAPickleError:
                return
            for key, storage in sketch.storages.items():
                full_name = root + b"/data/" + key.encode("utf-8", "replace")
                self.storages[full_name] = storage.num_bytes

    def _end_of(self, record: Record) -> int:
        header = layout.local_header(record, self._alignment)
        after = layout.descriptor(record)
        return record.header_offset + len(header) + record.stored_size + len(after)

    def _read(self, offset: int, num_bytes: int) -> bytes:
        found = self.source.read_up_to(offset, num_bytes)
        if len(found) < num_bytes:
            raise EndsHere
        return found

    def _require(self, offset: int, expected: bytes) -> None:
        found = self.source.read_up_to(offset, len(expected))
        if found == expected:
            return
        if expected.startswith(found):
            raise EndsHere
        index = first_difference(expected, found)
        raise DiffersError(offset + index, expected[index:], found[index:])


def _directory(records: list[Record], position: int) -> bytes:
    entries = b"".join(layout.central_entry(record) for record in records)
    return entries + layout.tail(len(records), position, len(entries))
