"""Tell what an attempt finds when it begins: rounds that nobody was told of.

A round is durable before it is told, so a server that is killed between the
two leaves a round that no dashboard knows. What was told is looked up in the
telemetry of the attempts before, so that it is told once, however often the
server is killed.
"""

from collections.abc import Sequence

from agent.rundir.attempts import list_attempts
from agent.rundir.events import AnyEvent, RoundCommitted, Undecodable
from agent.rundir.history import History
from agent.rundir.layout import RunDir
from agent.rundir.windows import WINDOW_BYTES
from agent.start import RunStart
from trainer.federated.global_model import GlobalModel
from trainer.federated.server_events import ServerEvents
from trainer.federated.terms import SERVER


def catch_up(events: ServerEvents, model: GlobalModel, start: RunStart) -> None:
    """Tell the newest round that was found if nobody has, and what was recovered."""
    found = model.found
    if found is not None and found.account is not None:
        told = newest_told(start.run, start.attempt)
        if told is None or told < found.round_num:
            events.told_late(found.round_num, found.account)
    if model.recovery is not None:
        events.recovered(model.recovery)


def newest_told(run: RunDir, attempt: int) -> int | None:
    """Return the newest round that an attempt before this one told; None: none.

    Telemetry that cannot be read now has told nobody anything.
    """
    for earlier in reversed(list_attempts(run)):
        if earlier >= attempt:
            continue
        try:
            told = _newest_in(History(run, earlier, SERVER))
        except OSError:
            continue
        if told is not None:
            return told
    return None


def _newest_in(history: History) -> int | None:
    newest = history.newest(WINDOW_BYTES)
    told = _last_committed(newest.events) if newest else None
    if told is not None:
        return told
    for stretch in history.thinned():
        told = _last_committed(stretch.events) or told
    return told


def _last_committed(events: Sequence[AnyEvent | Undecodable]) -> int | None:
    numbers = [e.round_num for e in events if isinstance(e, RoundCommitted)]
    return numbers[-1] if numbers else None
