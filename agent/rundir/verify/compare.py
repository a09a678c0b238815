"""Report where bytes on disk first differ from those that should be there."""

from agent.rundir.verify.outcome import Outcome
from agent.rundir.verify.text import hexadecimal
from agent.rundir.verify.verdict import State

_SHOWN_BYTES = 8


def first_difference(expected: bytes, found: bytes) -> int:
    """Return the index of the first byte that differs or is missing."""
    for index, (one, other) in enumerate(zip(expected, found, strict=False)):
        if one != other:
            return index
    return min(len(expected), len(found))


def compare(
    outcome: Outcome,
    file: str,
    expected: bytes,
    found: bytes,
    offset: int,
    what: str,
    *,
    record: bytes | None = None,
) -> None:
    """Add a `damaged` finding if `found`, read at `offset`, is not `expected`.

    Args:
        outcome: takes the finding.
        file: as findings call it.
        expected: what `torch.save` writes there.
        found: as long as `expected`, or shorter where the file ends.
        offset: of both in the file.
        what: the part of the archive, for the message.
        record: short name of the record it belongs to.
    """
    if found == expected:
        return
    index = first_difference(expected, found)
    outcome.add(
        State.DAMAGED,
        file,
        f"{what} is not as it was written",
        record=record,
        offset=offset + index,
        differs=(
            hexadecimal(expected[index : index + _SHOWN_BYTES]),
            hexadecimal(found[index : index + _SHOWN_BYTES]),
        ),
    )
