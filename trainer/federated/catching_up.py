"""Tell what an attempt finds when it begins: rounds that nobody was told of.

A round is durable before it is told, so a server that is killed between the
two leaves a round that no dashboard knows, or one of which only some updates
are known. What was told is looked up in the telemetry of the attempts before,
so that it is told once, however often the server is killed.
"""

import contextlib
from collections.abc import Sequence

from agent.rundir.attempts import list_attempts
from agent.rundir.events import AnyEvent, ClientUpdate, RoundCommitted, Undecodable
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
            known = clients_told(start.run, start.attempt, found.round_num)
            untold = [update for update in found.updates if update.client not in known]
            events.told_late(found.round_num, found.account, untold)
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


def clients_told(run: RunDir, attempt: int, round_num: int) -> set[str]:
    """Return whose updates to a round the attempts before this one told.

    They would be the last that an attempt told of anything.
    """
    told: set[str] = set()
    for earlier in list_attempts(run):
        if earlier >= attempt:
            continue
        with contextlib.suppress(OSError):
            newest = History(run, earlier, SERVER).newest(WINDOW_BYTES)
            told |= _updates_to(round_num, newest.events if newest else ())
    return told


def _newest_in(history: History) -> int | None:
    newest = history.newest(WINDOW_BYTES)
    told = _last_committed(newest.events) if newest else None
    if told is not None:
        return told
    for stretch in history.thinned():
        told = _last_committed(stretch.events) or told
    return told


def _updates_to(round_num: int, events: Sequence[AnyEvent | Undecodable]) -> set[str]:
    updates = (e for e in events if isinstance(e, ClientUpdate))
    return {e.client for e in updates if e.round_num == round_num}


def _last_committed(events: Sequence[AnyEvent | Undecodable]) -> int | None:
    numbers = [e.round_num for e in events if isinstance(e, RoundCommitted)]
    return numbers[-1] if numbers else None
