"""Verdicts: either all ranks go on, or all raise the same error.

Each rank does its part and catches whatever it raises. That it is done, and
how, is written to the store; the others poll for it, so that slow work never
holds a collective open. Only when all have spoken, or their time is up, is the
verdict agreed on by one `all_reduce(MAX)` with a short time-out.

A rank that comes late to a verdict that was given up finds that out and raises
the same error. Nothing that a peer sent is unpickled.
"""

import contextlib
import time
from collections.abc import Callable, Iterator

import msgspec
import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from agent.rundir import errors
from agent.rundir.errors import EXIT_INTERNAL, RunDirError
from trainer.distributed.world import World, is_known_dead

_POLL_FIRST_S = 0.001
_POLL_MOST_S = 0.05
_LIVENESS_EVERY_S = 0.5
_ALL_THERE = "all"


class RankFailedError(RunDirError):
    """A rank met an error that is not about the run directory."""

    exit_code = EXIT_INTERNAL


class RankMissingError(RunDirError):
    """A rank did not come to a verdict in time, or never will."""

    exit_code = EXIT_INTERNAL


class _Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """How an error travels through the store."""

    kind: str
    message: str
    hint: str | None = None
    exit_code: int = EXIT_INTERNAL


@contextlib.contextmanager
def verdict(world: World, name: str, *, limit_s: float) -> Iterator[None]:
    """Do this rank's part of something; all succeed, or all raise the same.

    Args:
        world: The ranks that take part: all of them.
        name: Of the barrier, as a dashboard shows it.
        limit_s: How long the slowest rank's part may take, in seconds, counted
            by each rank from its own arrival.

    Raises:
        RunDirError: the error of the lowest rank that failed.
        RankMissingError: a rank did not arrive within the limit.
    """
    error: BaseException | None = None
    try:
        yield
    except BaseException as caught:  # noqa: BLE001 - told to all, raised below
        error = caught
    with world.watch.barrier(name, limit_s=limit_s):
        exchange(world, name, error, limit_s=limit_s)


def from_main(
    world: World, name: str, work: Callable[[], str], *, limit_s: float
) -> str:
    """Let rank 0 do something slow, and return its result on every rank.

    Raises:
        RunDirError: what `work` raised on rank 0, on every rank.
        RankMissingError: a rank did not arrive within the limit.
    """
    result = ""
    key = f"result/{world.num_verdicts}"
    with verdict(world, name, limit_s=limit_s):
        if world.is_main:
            result = work()
            if world.store is not None:
                world.store.set(key, result)
    if not world.is_main and world.store is not None:
        result = world.store.get(key).decode()
    return result


def exchange(
    world: World, name: str, error: BaseException | None, *, limit_s: float
) -> None:
    """Tell the others how this rank's part ended, and raise if any failed.

    Every rank has to call this the same number of times in the same order.

    Raises:
        RunDirError: as `verdict`; this rank's own error is its cause.
    """
    if world.store is None:
        if error is not None:
            raise error
        return
    key = f"verdict/{world.num_verdicts}"
    world.num_verdicts += 1
    _report(world, key, error)
    _wait_for_all(world, world.store, key, name, limit_s)
    failed_rank = _agree_on_failed_rank(world, name, has_failed=error is not None)
    _forget(world, world.store, world.num_verdicts - 2)
    if failed_rank is None:
        return
    agreed = _decode(world.store.get(f"{key}/{failed_rank}"), name, failed_rank)
    if failed_rank == world.rank:
        raise agreed from error
    raise agreed


def publish_failure(world: World, error: BaseException) -> None:
    """Leave the reason behind before leaving a group that is still in use.

    The peers find it when their collective breaks, and report it instead of
    the broken connection.
    """
    if world.store is not None:
        with contextlib.suppress(RuntimeError):
            world.store.compare_set("failure", "", _encode(error, world.rank))


def published_failure(world: World) -> RunDirError | None:
    """Return the first reason that any rank left behind; None: there is none."""
    if world.store is None:
        return None
    try:
        if not world.store.check(["failure"]):
            return None
        report = msgspec.json.decode(world.store.get("failure"), type=_Report)
    except (RuntimeError, msgspec.DecodeError):
        return None
    return _error_of(report)


def _report(world: World, key: str, error: BaseException | None) -> None:
    assert world.store is not None
    told = "" if error is None else _encode(error, world.rank)
    world.store.set(f"{key}/{world.rank}", told)
    if world.store.add(f"{key}/count", 1) == world.world_size:
        world.store.compare_set(f"{key}/outcome", "", _ALL_THERE)


def _wait_for_all(
    world: World, store: Store, key: str, name: str, limit_s: float
) -> None:
    """Poll until all have reported; decide together that somebody is missing."""
    began = looked = time.monotonic()
    pause_s = _POLL_FIRST_S
    while not store.check([f"{key}/outcome"]):
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, _POLL_MOST_S)
        now = time.monotonic()
        reason = None
        if now - looked > _LIVENESS_EVERY_S:
            looked = now
            reason = _why_hopeless(world, store, key)
        if now - began > limit_s:
            missing = ", ".join(str(r) for r in _missing(world, store, key))
            reason = reason or f"rank {missing} did not arrive within {limit_s:g} s"
        if reason is not None:
            told = _encode(RankMissingError(f"`{name}`: {reason}"), world.rank)
            store.compare_set(f"{key}/outcome", "", told)
    outcome = store.get(f"{key}/outcome")
    if outcome.decode() != _ALL_THERE:
        raise _decode(outcome, name, world.rank)


def _why_hopeless(world: World, store: Store, key: str) -> str | None:
    for rank in _missing(world, store, key):
        process = is_known_dead(world, rank)
        # It may have reported between the two looks, and left in good order.
        if process is not None and not store.check([f"{key}/{rank}"]):
            return f"rank {rank} (process {process.pid} on `{process.host}`) is gone"
    return None


def _missing(world: World, store: Store, key: str) -> list[int]:
    ranks = range(world.world_size)
    return [rank for rank in ranks if not store.check([f"{key}/{rank}"])]


def _agree_on_failed_rank(world: World, name: str, *, has_failed: bool) -> int | None:
    """Return the lowest rank that failed; None where none did."""
    assert world.control is not None
    worst = torch.tensor([world.world_size - world.rank if has_failed else 0])
    try:
        dist.all_reduce(worst, op=dist.ReduceOp.MAX, group=world.control)
    except RuntimeError as error:
        raise published_failure(world) or RankMissingError(
            f"`{name}`: a rank left while all agreed: {_first_line(error)}"
        ) from error
    found = int(worst.item())
    return world.world_size - found if found else None


def _forget(world: World, store: Store, number: int) -> None:
    """Remove what a verdict left in the store: all ranks have passed a later one."""
    keys = [f"verdict/{number}/{world.rank}"]
    if world.is_main:
        keys += [f"verdict/{number}/{name}" for name in ("count", "outcome")]
        keys.append(f"result/{number}")
    for key in keys if number >= 0 else ():
        with contextlib.suppress(RuntimeError):
            store.delete_key(key)


def _encode(error: BaseException, rank: int) -> str:
    if isinstance(error, RunDirError):
        kind = type(error).__name__
        report = _Report(kind, str(error), error.hint, error.exit_code)
    else:
        what = f"rank {rank} failed: {type(error).__name__}: {_first_line(error)}"
        report = _Report(RankFailedError.__name__, what)
    return msgspec.json.encode(report).decode()


def _decode(data: bytes, name: str, rank: int) -> RunDirError:
    try:
        return _error_of(msgspec.json.decode(data, type=_Report))
    except msgspec.DecodeError:
        return RankFailedError(f"`{name}`: rank {rank} failed")


def _error_of(report: _Report) -> RunDirError:
    kind = _KINDS.get(report.kind, RankFailedError)
    error = kind(report.message, hint=report.hint)
    error.exit_code = report.exit_code  # also of a kind that only the sender knows
    return error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]


_KINDS: dict[str, type[RunDirError]] = {
    kind.__name__: kind
    for kind in (RankFailedError, RankMissingError, *vars(errors).values())
    if isinstance(kind, type) and issubclass(kind, RunDirError)
}
