"""Report an archive whose end cannot be read: cut, overwritten or followed."""

from agent.rundir.verify.outcome import Outcome
from agent.rundir.verify.source import Source
from agent.rundir.verify.text import hexadecimal, plural, visible
from agent.rundir.verify.verdict import State
from agent.rundir.verify.walk import DiffersError, EndsHere, GivesUp, Walk
from agent.rundir.verify.watch import Watch

_SHOWN_BYTES = 8


def explain_missing_end(source: Source, watch: Watch, outcome: Outcome) -> None:
    """Add one finding that says where and how the archive goes wrong.

    Raises:
        EndsEarlyError: the file became shorter meanwhile.
        VerifyCancelled: the caller asked to stop.
    """
    walk = Walk(source, watch)
    try:
        end = walk.run()
    except EndsHere:
        _report_end(walk, outcome)
    except GivesUp:
        outcome.add(
            State.DAMAGED,
            source.name,
            "the archive has no readable end, and a record of unknown size",
            record=_short_name(walk),
            offset=walk.position,
        )
    except DiffersError as difference:
        _report_difference(walk, difference, outcome)
    else:
        outcome.add(
            State.DAMAGED,
            source.name,
            f"{plural(source.size - end, 'byte')} follow the end of the archive",
            offset=end,
            differs=(f"{end:,} bytes", f"{source.size:,} bytes"),
        )


def _report_end(walk: Walk, outcome: Outcome) -> None:
    size = walk.source.size
    at_least = max(size + 1, walk.smallest_size())
    outcome.add(
        State.TRUNCATED,
        walk.source.name,
        f"`{visible(walk.source.name)}` has {size:,} of at least "
        f"{plural(at_least, 'byte')}",
        record=_short_name(walk),
        offset=size,
        differs=(f"at least {at_least:,} bytes", f"{size:,} bytes"),
    )


def _report_difference(walk: Walk, difference: DiffersError, outcome: Outcome) -> None:
    message = "the archive does not go on as torch writes it, and has no readable end"
    if not any(difference.found):
        message = "there are zeros where the archive goes on, and it has no end"
    outcome.add(
        State.DAMAGED,
        walk.source.name,
        message,
        record=_short_name(walk),
        offset=difference.offset,
        differs=(
            hexadecimal(difference.expected[:_SHOWN_BYTES]),
            hexadecimal(difference.found[:_SHOWN_BYTES]),
        ),
    )


def _short_name(walk: Walk) -> bytes | None:
    return None if walk.current is None else walk.current.partition(b"/")[2]
