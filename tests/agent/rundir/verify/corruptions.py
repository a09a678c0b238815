"""Ways in which an archive on disk stops being what was saved, by name.

Each takes the bytes of a sound archive and a source of randomness and returns
other bytes. Those that rebuild the archive leave every checksum in it right.
"""

import random
import struct
import zlib
from collections.abc import Callable

from tests.agent.rundir.verify.archives import Place, build, contents, places

Corruption = Callable[[bytes, random.Random], bytes]

CORRUPTIONS: dict[str, Corruption] = {}


def corruption(function: Corruption) -> Corruption:
    CORRUPTIONS[function.__name__] = function
    return function


def flipped(data: bytes, offset: int, rng: random.Random) -> bytes:
    changed = bytearray(data)
    changed[offset] ^= 1 << rng.randrange(8)
    return bytes(changed)


def put(data: bytes, offset: int, piece: bytes) -> bytes:
    return data[:offset] + piece + data[offset + len(piece) :]


def filled(data: bytes) -> list[Place]:
    return [place for place in places(data) if place.size]


def tensors(data: bytes) -> list[Place]:
    return [place for place in filled(data) if place.name.startswith("data/")]


def named(data: bytes, name: str) -> Place:
    return next(place for place in places(data) if place.name == name)


def some_place(data: bytes, rng: random.Random) -> Place:
    return rng.choice(filled(data))


@corruption
def a_bit_of_a_tensor_flipped(data, rng):
    place = rng.choice(tensors(data))
    return flipped(data, place.content + rng.randrange(place.size), rng)


@corruption
def a_bit_of_the_pickle_flipped(data, rng):
    place = named(data, "data.pkl")
    return flipped(data, place.content + rng.randrange(place.size), rng)


@corruption
def a_bit_of_a_local_header_flipped(data, rng):
    return flipped(data, some_place(data, rng).header + rng.randrange(30), rng)


@corruption
def a_bit_of_a_local_name_flipped(data, rng):
    place = some_place(data, rng)
    return flipped(data, place.header + 30 + rng.randrange(len(place.name)), rng)


@corruption
def a_bit_of_padding_flipped(data, rng):
    place = rng.choice([p for p in filled(data) if data[p.content - 1 :][:1] == b"Z"])
    return flipped(data, place.content - 1, rng)


@corruption
def a_bit_of_a_descriptor_flipped(data, rng):
    return flipped(data, some_place(data, rng).descriptor + rng.randrange(16), rng)


@corruption
def a_bit_of_the_directory_flipped(data, rng):
    return flipped(data, some_place(data, rng).entry + rng.randrange(46), rng)


@corruption
def a_bit_of_the_end_flipped(data, rng):
    return flipped(data, len(data) - 1 - rng.randrange(98), rng)


@corruption
def a_bit_of_the_serialization_id_flipped(data, rng):
    place = named(data, ".data/serialization_id")
    return flipped(data, place.content + rng.randrange(place.size), rng)


@corruption
def many_bits_rotten(data, rng):
    for _ in range(8):
        data = flipped(data, rng.randrange(len(data)), rng)
    return data


@corruption
def a_block_zeroed(data, rng):
    place = max(tensors(data), key=lambda p: p.size)
    return put(data, place.content, bytes(place.size // 2))


@corruption
def a_block_across_records_zeroed(data, rng):
    start = rng.choice(places(data)[1:]).header - 8
    return put(data, start, bytes(64))


@corruption
def the_last_bytes_zeroed(data, rng):
    num = rng.randrange(1, len(data) // 2)
    num = max(num, 30)  # the end record closes with zeros of its own
    return data[:-num] + bytes(num)


@corruption
def all_zeroed(data, rng):
    return bytes(len(data))


@corruption
def cut_anywhere(data, rng):
    return data[: rng.randrange(len(data))]


@corruption
def cut_between_records(data, rng):
    return data[: rng.choice(places(data)).header]


@corruption
def cut_before_the_directory(data, rng):
    return data[: places(data)[0].entry]


@corruption
def the_last_byte_missing(data, rng):
    return data[:-1]


@corruption
def bytes_appended(data, rng):
    return data + rng.randbytes(rng.randrange(1, 300))


@corruption
def zeros_appended(data, rng):
    return data + bytes(rng.randrange(1, 5000))


@corruption
def appended_to_itself(data, rng):
    return data + data


@corruption
def bytes_prepended(data, rng):
    return rng.randbytes(rng.randrange(1, 300)) + data


@corruption
def bytes_removed_inside(data, rng):
    place = max(tensors(data), key=lambda p: p.size)
    return data[: place.content] + data[place.content + rng.randrange(1, 64) :]


@corruption
def bytes_inserted_inside(data, rng):
    place = rng.choice(tensors(data))
    return (
        data[: place.content]
        + rng.randbytes(rng.randrange(1, 65))
        + data[place.content :]
    )


@corruption
def two_bytes_of_a_tensor_swapped(data, rng):
    place = max(tensors(data), key=lambda p: p.size)
    content = data[place.content : place.descriptor]
    at = next(i for i in range(len(content) - 1) if content[i] != content[i + 1])
    pair = bytes((content[at + 1], content[at]))
    return put(data, place.content + at, pair)


@corruption
def a_tensor_shifted_by_one_byte(data, rng):
    place = max(tensors(data), key=lambda p: p.size)
    content = data[place.content : place.descriptor]
    return put(data, place.content, content[1:] + content[:1])


@corruption
def contents_of_two_tensors_exchanged(data, rng):
    one, other = _two_of_one_size(data)
    first = data[one.content : one.descriptor]
    second = data[other.content : other.descriptor]
    return put(put(data, one.content, second), other.content, first)


@corruption
def two_tensors_swapped_with_their_checksums(data, rng):
    records = contents(data)
    one, other = (place.name for place in _two_of_one_size(data))
    exchanged = dict(records) | {one: dict(records)[other], other: dict(records)[one]}
    return build(list(exchanged.items()))


@corruption
def a_tensor_edited_with_its_checksum(data, rng):
    place = rng.choice(tensors(data))
    return _rebuilt(data, place.name, rng.randbytes(place.size))


@corruption
def the_pickle_edited_with_its_checksum(data, rng):
    return _rebuilt(data, "data.pkl", dict(contents(data))["data.pkl"] + b"0.")


@corruption
def a_small_record_edited_with_its_checksum(data, rng):
    return _rebuilt(data, "version", b"4\n")


@corruption
def the_serialization_id_edited_with_its_checksum(data, rng):
    written = dict(contents(data))[".data/serialization_id"]
    other = b"%020d" % (int(written[20:]) ^ 1)
    return _rebuilt(data, ".data/serialization_id", written[:20] + other)


@corruption
def a_record_removed(data, rng):
    gone = rng.choice(tensors(data)).name
    return build([record for record in contents(data) if record[0] != gone])


@corruption
def the_serialization_id_removed(data, rng):
    return build(contents(data)[:-1])


@corruption
def a_record_added(data, rng):
    records = contents(data)
    return build([*records[:-1], ("data/999", b"new"), records[-1]])


@corruption
def a_record_added_at_the_end(data, rng):
    return build([*contents(data), ("data/999", b"new")])


@corruption
def a_record_there_twice(data, rng):
    records = contents(data)
    name = rng.choice(tensors(data)).name
    return build([*records[:-1], (name, dict(records)[name]), records[-1]])


@corruption
def a_record_renamed_in_the_directory(data, rng):
    place = rng.choice(tensors(data))
    name_start = place.entry + 46 + data[place.entry + 46 :].index(b"data/")
    return put(data, name_start, b"atad/")


@corruption
def another_alignment(data, rng):
    return build(contents(data), alignment=16)


@corruption
def another_padding_letter(data, rng):
    place = rng.choice([p for p in filled(data) if data[p.content - 1 :][:1] == b"Z"])
    return put(data, place.content - 1, b"z")


@corruption
def a_time_of_day_in_a_header(data, rng):
    place = some_place(data, rng)
    stamp = struct.pack("<HH", 0x6000, 0x5A21)
    return put(put(data, place.header + 10, stamp), place.entry + 12, stamp)


@corruption
def a_comment_after_the_end(data, rng):
    return data[:-2] + struct.pack("<H", 5) + b"hello"


@corruption
def a_checksum_zeroed_everywhere(data, rng):
    place = rng.choice(tensors(data))
    data = put(data, place.descriptor + 4, bytes(4))
    return put(data, place.entry + 16, bytes(4))


@corruption
def a_tensor_edited_in_the_descriptor_and_directory(data, rng):
    """The work of a hex editor that knows zip files: only the id can tell."""
    place = rng.choice(tensors(data))
    content = rng.randbytes(place.size)
    crc = struct.pack("<L", zlib.crc32(content))
    data = put(data, place.content, content)
    data = put(data, place.descriptor + 4, crc)
    return put(data, place.entry + 16, crc)


@corruption
def a_size_lowered_in_the_descriptor_and_directory(data, rng):
    place = rng.choice(tensors(data))
    smaller = struct.pack("<L", place.size - 1)
    return put(put(data, place.descriptor + 12, smaller), place.entry + 24, smaller)


@corruption
def a_number_of_records_that_is_too_small(data, rng):
    count = len(places(data)) - 1
    data = put(data, len(data) - 98 + 24, struct.pack("<QQ", count, count))
    return put(data, len(data) - 22 + 8, struct.pack("<HH", count, count))


@corruption
def bytes_between_two_records(data, rng):
    name = rng.choice(tensors(data)).name
    return build(contents(data), gaps={name: rng.randbytes(64)})


@corruption
def bytes_before_the_directory(data, rng):
    return build(contents(data), gaps={"": rng.randbytes(rng.randrange(1, 99))})


@corruption
def the_directory_in_another_order(data, rng):
    first, second = places(data)[0].entry, places(data)[1].entry
    third = places(data)[2].entry
    return data[:first] + data[second:third] + data[first:second] + data[third:]


def _rebuilt(data: bytes, name: str, content: bytes) -> bytes:
    return build([(n, content if n == name else c) for n, c in contents(data)])


def _two_of_one_size(data: bytes) -> tuple[Place, Place]:
    by_size: dict[int, Place] = {}
    for place in tensors(data):
        if place.size in by_size:
            return by_size[place.size], place
        by_size[place.size] = place
    raise AssertionError("the archive needs two tensors of one size")
