"""Every byte that torch writes around the tensors, made again from a few facts.

`torch.save` leaves nothing to chance: no times, no attributes, no comments,
padding of a fixed letter. So names, sizes, checksums and one alignment decide
every byte that is not payload, and a reader that makes them again notices any
difference. Unchanged from torch 1.6 to 2.13, apart from which records exist.

Source: `PyTorchStreamWriter` and its `getPadding` in PyTorch's
`caffe2/serialize/inline_container.cc`; `mz_zip_writer_add_mem_ex_v2` and
`mz_zip_writer_finalize_archive` in its `third_party/miniz`.
"""

import struct
from collections.abc import Iterable
from typing import NamedTuple

LOCAL_SIGNATURE = b"PK\x03\x04"
CENTRAL_SIGNATURE = b"PK\x01\x02"
DESCRIPTOR_SIGNATURE = b"PK\x07\x08"
LOCAL_FIXED_BYTES = 30
CENTRAL_FIXED_BYTES = 46
TAIL_BYTES = 98
"""The zip64 end record (56), its locator (20) and the end record (22)."""

DEFAULT_ALIGNMENT = 64
ALIGNMENT_RECORD = ".storage_alignment"
SERIALIZATION_ID_RECORD = ".data/serialization_id"
SERIALIZATION_ID_BYTES = 40
"""Two decimal numbers of 20 digits: of the names, which depends on how the C++
library orders a set, and of the CRCs."""
STORED = 0
DEFLATED = 8

_TAIL_SIGNATURES = (b"PK\x06\x06", b"PK\x06\x07", b"PK\x05\x06")
_TAIL_PLACES = (0, 56, 76)
_MAX16 = 0xFFFF
_MAX64 = 0xFFFFFFFFFFFFFFFF
MAX32 = 0xFFFFFFFF
_HAS_DESCRIPTOR = 0x0008
_NAME_IS_UTF8 = 0x0800
_ZIP64_TAG = 1
_VERSION_OF_DEFLATE = 20

_LOCAL = struct.Struct("<4s5H3L2H")
CENTRAL = struct.Struct("<4s6H3L5H2L")
_EXTRA = struct.Struct("<HH")
_DESCRIPTOR = struct.Struct("<4sLLL")
_DESCRIPTOR64 = struct.Struct("<4sLQQ")
_END64 = struct.Struct("<4sQHHLLQQQQ")
_LOCATOR = struct.Struct("<4sLQL")
_END = struct.Struct("<4s4H2LH")


class Record(NamedTuple):
    """One record of the archive, as its directory tells it."""

    full_name: bytes
    """With the root folder: `archive/data/17`."""
    header_offset: int
    """Where its local header starts, from the start of the archive."""
    size: int
    """Bytes of content."""
    stored_size: int
    """Bytes in the file; less than `size` if deflated (TorchScript's code)."""
    crc: int
    """CRC-32 of the content as stored; 0 where torch was told not to compute."""
    method: int = STORED

    @property
    def is_zip64(self) -> bool:
        """Whether a number does not fit into 32 bits, so longer fields follow."""
        return self.size >= MAX32 or self.header_offset >= MAX32


def local_header(record: Record, alignment: int) -> bytes:
    """Return what precedes a record's content, padding included.

    Args:
        record: with `stored_size` and `crc` unused: torch does not know them
            yet when it writes this.
        alignment: of the content's first byte, in bytes.
    """
    zip64 = b""
    if record.is_zip64:
        zip64 = _zip64_extra(record, stored_size=0)
    start = (
        record.header_offset
        + LOCAL_FIXED_BYTES
        + len(record.full_name)
        + len(zip64)
        + _EXTRA.size
    )
    num_pad = -start % alignment
    padding = b"FB" + struct.pack("<H", num_pad & _MAX16) + b"Z" * num_pad
    fixed = _LOCAL.pack(
        LOCAL_SIGNATURE,
        _version(record.method),
        _flags(record.size),
        record.method,
        *(0, 0, 0, 0, 0),  # time, date, CRC, sizes: the descriptor has them
        len(record.full_name),
        (len(zip64) + len(padding)) & _MAX16,
    )
    return fixed + record.full_name + zip64 + padding


def descriptor(record: Record) -> bytes:
    """Return what follows a record's content; nothing after an empty one."""
    if not record.size:
        return b""
    form = _DESCRIPTOR64 if record.is_zip64 else _DESCRIPTOR
    return form.pack(DESCRIPTOR_SIGNATURE, record.crc, record.stored_size, record.size)


def central_entry(record: Record) -> bytes:
    """Return a record's entry in the directory at the end of the archive."""
    extra = b""
    if record.is_zip64:
        extra = _zip64_extra(record, stored_size=record.stored_size)
    fixed = CENTRAL.pack(
        CENTRAL_SIGNATURE,
        0,
        _version(record.method),
        _flags(record.size),
        record.method,
        *(0, 0),  # time, date
        record.crc,
        min(record.stored_size, MAX32),
        min(record.size, MAX32),
        len(record.full_name),
        len(extra),
        *(0, 0, 0, 0),  # comment, disk, attributes
        min(record.header_offset, MAX32),
    )
    return fixed + record.full_name + extra


def tail(num_records: int, directory_offset: int, directory_size: int) -> bytes:
    """Return the last 98 bytes of an archive, after its directory."""
    end64_offset = directory_offset + directory_size
    short_count = min(num_records, _MAX16)
    return (
        _END64.pack(
            _TAIL_SIGNATURES[0],
            _END64.size - 12,
            0x031E,
            45,
            *(0, 0),
            *(num_records, num_records),
            directory_size,
            directory_offset,
        )
        + _LOCATOR.pack(_TAIL_SIGNATURES[1], 0, end64_offset, 1)
        + _END.pack(
            _TAIL_SIGNATURES[2],
            *(0, 0),
            *(short_count, short_count),
            min(directory_size, MAX32),
            min(directory_offset, MAX32),
            0,
        )
    )


def read_tail(data: bytes) -> tuple[int, int, int] | None:
    """Return what 98 bytes claim: number of records, directory offset and size.

    The numbers are there twice, in the zip64 end record and, if they fit, in the
    end record. Those are returned with which `tail` makes more of the 98 bytes.

    Returns:
        None if two of the three signatures are missing: no archive ends here.
    """
    places = zip(_TAIL_SIGNATURES, _TAIL_PLACES, strict=True)
    if sum(data.startswith(sign, place) for sign, place in places) < 2:
        return None
    long, short = _END64.unpack_from(data), _END.unpack_from(data, _TAIL_PLACES[2])
    claims = ((long[7], long[9], long[8]), (short[4], short[6], short[5]))
    return min(claims, key=lambda claim: _num_different(claim, data))


def _num_different(claim: tuple[int, int, int], data: bytes) -> int:
    num_records, offset, size = claim
    if offset + size > _MAX64:
        return len(data)
    made = tail(num_records, offset, size)
    return sum(one != other for one, other in zip(made, data, strict=True))


def read_central_entry(data: bytes, offset: int) -> tuple[Record, int]:
    """Return the record of a directory entry and the offset after the entry.

    Only what `central_entry` needs is read; whether the rest agrees is for a
    comparison with it to say.

    Raises:
        ValueError: no entry starts here, or it is not whole.
    """
    if len(data) - offset < CENTRAL_FIXED_BYTES:
        raise ValueError("a directory entry is not whole")
    fields = CENTRAL.unpack_from(data, offset)
    if fields[0] != CENTRAL_SIGNATURE:
        raise ValueError("no directory entry starts here")
    method, crc, stored_size, size = fields[4], *fields[7:10]
    name_size, extra_size, header_offset = fields[10], fields[11], fields[16]
    name_start = offset + CENTRAL_FIXED_BYTES
    extra_start = name_start + name_size
    end = extra_start + extra_size
    if end > len(data):
        raise ValueError("a directory entry is not whole")
    size, stored_size, header_offset = _widen(
        (size, stored_size, header_offset), data[extra_start + _EXTRA.size : end]
    )
    name = data[name_start:extra_start]
    return Record(name, header_offset, size, stored_size, crc, method), end


def serialization_hash(records: Iterable[tuple[int, int, bytes]]) -> int:
    """Return the second half of `.data/serialization_id`, of all other records.

    It depends on every CRC-32 and on their order. torch takes each block that
    it writes and that starts like a data descriptor for one, so content that
    begins with those four bytes counts as well.

    Args:
        records: size, CRC-32 and the first 8 bytes of content, in file order.
    """
    seed = 0
    for size, crc, start in records:
        if not size:
            continue
        if len(start) == 8 and start[:4] == DESCRIPTOR_SIGNATURE:
            seed = _hash_combine(seed, int.from_bytes(start[4:], "little"))
        seed = _hash_combine(seed, crc)
    return seed


def _hash_combine(seed: int, value: int) -> int:
    # Source: `hash_combine` in PyTorch's `c10/util/hash.h`, on 64 bits.
    mixed = value + 0x9E3779B9 + (seed << 6) + (seed >> 2)
    return (seed ^ mixed) & _MAX64


def _zip64_extra(record: Record, *, stored_size: int) -> bytes:
    numbers = []
    if record.size >= MAX32:
        numbers += [record.size, stored_size]
    if record.header_offset >= MAX32:
        numbers.append(record.header_offset)
    return _EXTRA.pack(_ZIP64_TAG, 8 * len(numbers)) + struct.pack(
        f"<{len(numbers)}Q", *numbers
    )


def _widen(numbers: tuple[int, int, int], wide: bytes) -> tuple[int, int, int]:
    """Replace size, stored size and offset that did not fit into 32 bits."""
    size, stored_size, header_offset = numbers
    if MAX32 not in numbers:
        return numbers
    values = list(struct.unpack_from(f"<{len(wide) // 8}Q", wide))
    if size == MAX32 and len(values) >= 2:
        size, stored_size = values[:2]
        values = values[2:]
    if header_offset == MAX32 and values:
        header_offset = values[0]
    return size, stored_size, header_offset


def _version(method: int) -> int:
    return _VERSION_OF_DEFLATE if method else 0


def _flags(size: int) -> int:
    return _NAME_IS_UTF8 | (_HAS_DESCRIPTOR if size else 0)
