"""Verify a `.safetensors` file: its header, and that the tensors fill the rest.

Source: https://github.com/huggingface/safetensors, section "Format": a length
(8 bytes, little endian), a JSON header, then bytes without holes. There is no
checksum; without a manifest changed values cannot be told.
"""

import json
from typing import NamedTuple

from agent.rundir.verify.outcome import Outcome
from agent.rundir.verify.source import Source
from agent.rundir.verify.text import plural, visible
from agent.rundir.verify.verdict import State

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000
"""The limit that the reference implementation has."""
_MAX_DIMENSIONS = 64
_BITS = {
    **dict.fromkeys(("F4", "F4_E2M1"), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}


class _Tensor(NamedTuple):
    start: int
    stop: int
    name: str


class _HeaderError(Exception):
    """The header does not say what a header says."""


def looks_like_safetensors(start: bytes, size: int) -> bool:
    """Whether a file that starts so may be one: a length that fits, then `{`."""
    length = int.from_bytes(start[:_LENGTH_BYTES], "little")
    return start[_LENGTH_BYTES:][:1] == b"{" and 2 <= length <= min(
        size, _MAX_HEADER_BYTES
    )


def verify_safetensors(source: Source, outcome: Outcome) -> None:
    """Add what can be said about a `.safetensors` file.

    Raises:
        EndsEarlyError: the file became shorter meanwhile.
    """
    length = int.from_bytes(source.read_up_to(0, _LENGTH_BYTES), "little")
    if length > _MAX_HEADER_BYTES:
        outcome.add(
            State.DAMAGED,
            source.name,
            f"the header claims {plural(length, 'byte')}",
            offset=0,
        )
        return
    data_start = _LENGTH_BYTES + length
    if source.size < data_start:
        _report_size(source, data_start, outcome, is_least=True)
        return
    try:
        tensors = _read_header(source.read(_LENGTH_BYTES, length))
    except _HeaderError as error:
        outcome.add(
            State.DAMAGED, source.name, f"the header is broken: {error}", offset=8
        )
        return
    end = _check_extents(source, tensors, data_start, outcome)
    if end != source.size:
        _report_size(source, end, outcome)
    outcome.add(
        State.NO_CHECKSUM,
        source.name,
        "safetensors has no checksum: header and extents were verified",
    )


def _read_header(data: bytes) -> list[_Tensor]:
    try:
        header = json.loads(data, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _HeaderError(visible(str(error))) from error
    if not isinstance(header, dict):
        raise _HeaderError("it is no object")
    header.pop("__metadata__", None)
    tensors = [_read_tensor(name, entry) for name, entry in header.items()]
    return sorted(tensors)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name is there twice")
    return fields


def _read_tensor(name: str, entry: object) -> _Tensor:
    shown = visible(name)
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _HeaderError(f"`{shown}` is no tensor")
    offsets, shape = _counts(entry["data_offsets"]), _counts(entry["shape"])
    if offsets is None or shape is None or len(offsets) != 2:
        raise _HeaderError(f"`{shown}` has no shape or no extent")
    num_bits = _BITS.get(str(entry["dtype"]))
    if num_bits is not None:
        for dimension in shape:
            num_bits *= dimension
        if num_bits != 8 * (offsets[1] - offsets[0]):
            raise _HeaderError(
                f"`{shown}` needs {num_bits // 8:,} bytes and has "
                f"{offsets[1] - offsets[0]:,}"
            )
    return _Tensor(offsets[0], offsets[1], name)


def _counts(value: object) -> list[int] | None:
    if not isinstance(value, list) or len(value) > _MAX_DIMENSIONS:
        return None
    if not all(type(number) is int and 0 <= number < 1 << 63 for number in value):
        return None
    return value


def _check_extents(
    source: Source, tensors: list[_Tensor], data_start: int, outcome: Outcome
) -> int:
    """Find holes and overlaps; return where the last tensor ends in the file."""
    position = 0
    for start, stop, name in tensors:
        if start != position or stop < start:
            problem = "overlaps another" if start < position else "leaves a hole"
            outcome.add(
                State.DAMAGED,
                source.name,
                f"the tensor `{visible(name)}` {problem}",
                tensor=name,
                offset=data_start + start,
                differs=(f"{position:,}", f"{start:,}"),
            )
        position = max(position, stop)
    return data_start + position


def _report_size(
    source: Source, end: int, outcome: Outcome, *, is_least: bool = False
) -> None:
    least = "at least " if is_least else ""
    is_cut = source.size < end
    outcome.add(
        State.TRUNCATED if is_cut else State.DAMAGED,
        source.name,
        f"`{visible(source.name)}` has {source.size:,} of {least}{plural(end, 'byte')}"
        if is_cut
        else f"{plural(source.size - end, 'byte')} follow the last tensor",
        offset=min(source.size, end),
        differs=(f"{least}{end:,} bytes", f"{source.size:,} bytes"),
    )
