"""Verify the format that `torch.save` wrote before 1.6: pickles, then raw bytes.

It has no checksum, so the best that can be said is that every piece has its
size: the pickles name the storages, and each storage is a count and that many
elements, up to the last byte of the file. The pickles are sketched, not run.
"""

from agent.rundir.verify.compare import compare
from agent.rundir.verify.outcome import Outcome
from agent.rundir.verify.pickle_scan import (
    Node,
    NotAPickleError,
    Sketch,
    Storage,
    sketch_pickle,
)
from agent.rundir.verify.source import Source
from agent.rundir.verify.text import plural, visible
from agent.rundir.verify.verdict import State
from agent.rundir.verify.watch import Watch

_MAGIC_NUMBER = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
_FRAME = b"\x95\x0d\0\0\0\0\0\0\0"
_MAGICS = (
    b"\x80\x02" + _MAGIC_NUMBER,
    b"\x80\x03" + _MAGIC_NUMBER,
    b"\x80\x04" + _FRAME + _MAGIC_NUMBER,
    b"\x80\x05" + _FRAME + _MAGIC_NUMBER,
)
"""The first pickle, the number 0x1950a86a20f9469cfc6c, in protocols 2 to 5."""
_MAX_WRONG_BYTES = 2
_NUM_PICKLES = 5
"""Magic number, protocol version, machine, the object, the storages' keys."""
_MAX_PICKLE_BYTES = 64 << 20
_COUNT_BYTES = 8


def looks_like_legacy(start: bytes) -> bool:
    """Whether a file that starts so is a legacy one, perhaps a damaged one."""
    allowed = min(_MAX_WRONG_BYTES, len(start) // 4)
    return len(start) >= 4 and _num_wrong(_nearest_magic(start), start) <= allowed


def _nearest_magic(start: bytes) -> bytes:
    return min(_MAGICS, key=lambda magic: _num_wrong(magic, start))


def _num_wrong(magic: bytes, start: bytes) -> int:
    return sum(one != other for one, other in zip(magic, start, strict=False))


def verify_legacy(source: Source, watch: Watch, outcome: Outcome) -> None:
    """Add what can be said about a file in the legacy format.

    Raises:
        EndsEarlyError: the file became shorter meanwhile.
        VerifyCancelled: the caller asked to stop.
    """
    start = source.read_up_to(0, len(_MAGICS[-1]))
    magic = _nearest_magic(start)[: len(start)]
    compare(outcome, source.name, magic, start[: len(magic)], 0, "the magic number")
    sketches = _sketch(source, outcome)
    if sketches is not None:
        position = sum(sketch.size for sketch in sketches)
        storages = _order(source, sketches[-2], sketches[-1], outcome)
        for storage in storages:
            watch.check()
            position = _check_storage(source, storage, position, outcome)
        _check_end(source, position, storages, outcome)
    outcome.add(
        State.NO_CHECKSUM,
        source.name,
        "the legacy format has no checksum: only sizes were verified",
    )


def _sketch(source: Source, outcome: Outcome) -> list[Sketch] | None:
    """Return the five pickles; None, with a finding, if they are not all there."""
    data = source.read_up_to(0, _MAX_PICKLE_BYTES)
    sketches: list[Sketch] = []
    position = 0
    for number in range(1, _NUM_PICKLES + 1):
        try:
            sketch = sketch_pickle(data[position:])
        except NotAPickleError as error:
            if error.ends_early and source.size > len(data):
                state = State.NO_CHECKSUM  # larger than is looked at
            else:
                state = State.TRUNCATED if error.ends_early else State.DAMAGED
            outcome.add(
                state,
                source.name,
                f"pickle {number} of {_NUM_PICKLES} cannot be followed: "
                f"{visible(str(error))}",
                offset=position,
            )
            return None
        sketches.append(sketch)
        position += sketch.size
    return sketches


def _order(
    source: Source, saved: Sketch, keys: Sketch, outcome: Outcome
) -> list[Storage]:
    """Return the storages in the order of the file."""
    names = keys.root.parts if isinstance(keys.root, Node) else []
    ordered = [saved.storages[k] for k in names if k in saved.storages]
    if len(ordered) != len(names) or len(names) != len(saved.storages):
        outcome.add(
            State.DAMAGED,
            source.name,
            "the list of storages does not fit the saved object",
            differs=(f"{len(saved.storages):,}", f"{len(names):,}"),
        )
    return ordered


def _check_storage(
    source: Source, storage: Storage, position: int, outcome: Outcome
) -> int:
    """Compare a storage's count with its pickle's; return where it ends."""
    data = source.read_up_to(position, _COUNT_BYTES)
    count = int.from_bytes(data, "little")
    if len(data) == _COUNT_BYTES and count != storage.num_elements:
        outcome.add(
            State.DAMAGED,
            source.name,
            "the number of elements of a storage is not the one in the pickle",
            record=storage.key,
            offset=position,
            differs=(f"{storage.num_elements:,}", f"{count:,}"),
        )
    return position + _COUNT_BYTES + (storage.num_bytes or 0)


def _check_end(
    source: Source, end: int, storages: list[Storage], outcome: Outcome
) -> None:
    if any(storage.num_bytes is None for storage in storages):
        return  # of a type that is not known here
    if source.size < end:
        outcome.add(
            State.TRUNCATED,
            source.name,
            f"`{visible(source.name)}` has {source.size:,} of {plural(end, 'byte')}",
            offset=source.size,
            differs=(f"{end:,} bytes", f"{source.size:,} bytes"),
        )
    elif source.size > end:
        outcome.add(
            State.DAMAGED,
            source.name,
            f"{plural(source.size - end, 'byte')} follow the last storage",
            offset=end,
            differs=(f"{end:,} bytes", f"{source.size:,} bytes"),
        )
