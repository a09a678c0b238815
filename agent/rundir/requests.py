"""What an operator asks of a running trainer: one file in `requests/`.

A request is written by rename into a directory that only its owner can enter.
It is obeyed only if it is a small regular file of the run's own user, writable
by nobody else, meant for the running attempt and not expired, and if every
path in it stays inside the run. `<id>.json` is pending, `<id>.claimed` is
being carried out, `done/<id>.json` says what came of it. Reading follows no
symlink and never blocks.
"""

import contextlib
import os
import secrets
import time
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from agent.rundir.atomic import write_atomic
from agent.rundir.errors import RunDirError
from agent.rundir.layout import RunDir
from agent.rundir.own_files import (
    ForeignFileError,
    open_own_directory,
    opened_directory,
    read_own_file,
)
from agent.rundir.process import user_at_host
from agent.rundir.request_args import check_args

REQUEST_SCHEMA = 1
LIFETIME_NS = 600 * 10**9
"""A request that was not begun ten minutes after it was made is void."""
MAX_REQUEST_BYTES = 64 << 10
PENDING_SUFFIX = ".json"
CLAIMED_SUFFIX = ".claimed"
ACCEPTS_NAME = "accepts"
"""File in `requests/` that says what the running trainer takes."""

_SKEW_NS = 60 * 10**9
"""Clocks of two hosts may differ; beyond this a time stamp is a mistake."""
_MAX_LISTED = 1_000
_MAX_KIND_CHARS = 64
_Document = TypeVar("_Document")


class RefusedRequestError(RunDirError):
    """The request must not be carried out; the message says why."""


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request, as it stands on disk."""

    schema: int
    id: str
    kind: str
    args: dict[str, Any] = {}
    created_ns: int
    """Wall clock of the operator's host, Unix ns."""
    expires_ns: int
    by: str
    """`user@host`."""
    attempt: int | None = None
    """The attempt that it is meant for; None: the one that ran at `created_ns`."""


class Stage(StrEnum):
    """How far a request has come."""

    PENDING = "pending"
    CLAIMED = "claimed"
    """The trainer has taken it and not told an outcome yet."""
    DONE = "done"
    FAILED = "failed"
    REFUSED = "refused"
    EXPIRED = "expired"
    INTERRUPTED = "interrupted"
    """The trainer ended between taking it and telling an outcome."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`done/<id>.json`: a request and what came of it. Written once."""

    schema: int
    id: str
    kind: str
    args: dict[str, Any] = {}
    created_ns: int = 0
    by: str = ""
    attempt: int | None = None
    """The attempt that decided on it."""
    stage: str
    finished_ns: int
    error: str | None = None


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """`requests/accepts`: what the trainer of an attempt takes."""

    schema: int
    attempt: int
    kinds: tuple[str, ...]


class RequestView(NamedTuple):
    """What a reader sees of one request."""

    id: str
    stage: Stage
    request: Request | None
    """None: it is done, or cannot be read."""
    outcome: Outcome | None


def write_request(
    run: RunDir,
    kind: str,
    args: dict[str, Any] | None = None,
    *,
    attempt: int | None = None,
) -> str:
    """Ask the running trainer for something; return the request's id.

    Args:
        run: Its directory has to be the caller's own.
        kind: One of `request_args.KINDS`.
        args: What that kind takes.
        attempt: The attempt that shall obey; a later one never will.

    Raises:
        RefusedRequestError: no trainer would take it; nothing was written.
        OSError: it cannot be written.
    """
    reason = check_args(run, kind, args or {})
    if reason is not None:
        raise RefusedRequestError(reason)
    run.requests.mkdir(mode=0o700, exist_ok=True)
    os.close(open_inbox(run))
    now_ns = time.time_ns()
    request = Request(
        schema=REQUEST_SCHEMA,
        id=time.strftime("%Y%m%dT%H%M%S-", time.gmtime()) + secrets.token_hex(4),
        kind=kind,
        args=args or {},
        created_ns=now_ns,
        expires_ns=now_ns + LIFETIME_NS,
        by=user_at_host(),
        attempt=attempt,
    )
    path = run.requests / (request.id + PENDING_SUFFIX)
    write_atomic(path, msgspec.json.encode(request) + b"\n", mode=0o600)
    return request.id


def open_inbox(run: RunDir) -> int:
    """Return a descriptor of `requests/`; the caller closes it.

    Raises:
        RefusedRequestError: it is not this user's own, or others may write in it.
        FileNotFoundError: there is none.
        OSError: it is no directory, or cannot be opened.
    """
    try:
        return open_own_directory(run.requests)
    except ForeignFileError as error:
        raise RefusedRequestError(
            f"`{run.requests}`: {error}", hint=f"ls -ld {run.requests}"
        ) from error


def read_request(inbox: int, name: str) -> Request:
    """Read one file of `requests/` as a request of this user.

    Args:
        inbox: Descriptor of the directory.
        name: Of the file, with its suffix.

    Raises:
        RefusedRequestError: it is anything else; what it says is not to be obeyed.
        FileNotFoundError: it is gone.
    """
    request = _read_document(inbox, name, Request)
    if request.schema > REQUEST_SCHEMA:
        raise RefusedRequestError(
            f"it has schema {request.schema}, this version reads up to {REQUEST_SCHEMA}"
        )
    if request.id != name.rpartition(".")[0] or not is_safe_id(request.id):
        raise RefusedRequestError("its id is not its file's name")
    if len(request.kind) > _MAX_KIND_CHARS:
        raise RefusedRequestError(f"its kind has {len(request.kind)} characters")
    return request


def refusal(
    run: RunDir, request: Request, *, attempt: int, started_ns: int, now_ns: int
) -> str | None:
    """Return why a request is void for an attempt; None: it may be carried out.

    Args:
        run: Every path in the request must stay inside it.
        request: As `read_request` returned it.
        attempt: The one that runs now.
        started_ns: When that attempt began, Unix ns.
        now_ns: Unix ns.
    """
    if request.attempt not in (None, attempt):
        return f"it is meant for attempt {request.attempt}, this is attempt {attempt}"
    if request.attempt is None and request.created_ns < started_ns:
        return f"it was made before attempt {attempt} began"
    if request.created_ns > now_ns + _SKEW_NS:
        return "it was made in the future: the clocks of the two hosts differ"
    if is_expired(request, now_ns):
        return "it expired before anybody could carry it out"
    return check_args(run, request.kind, request.args)


def is_expired(request: Request, now_ns: int) -> bool:
    """Whether it is too late to begin with a request."""
    return now_ns > min(request.expires_ns, request.created_ns + LIFETIME_NS)


def is_safe_id(request_id: str) -> bool:
    """Whether an id may be used as a file name."""
    plain = request_id.replace("-", "").replace("_", "")
    return plain.isascii() and plain.isalnum() and len(request_id) <= 64


def list_requests(run: RunDir) -> list[RequestView]:
    """Return the newest requests that a reader may see, newest first.

    Nobody but the run's user can enter the directory: then the list is empty,
    and events tell what was asked for.
    """
    found = {view.id: view for view in _open_requests(run)}
    for name in sorted(_names(run.requests / "done"), reverse=True)[:_MAX_LISTED]:
        outcome = read_outcome(run, name.removesuffix(PENDING_SUFFIX))
        if outcome is not None:
            stage = _stage(outcome.stage)
            found[outcome.id] = RequestView(outcome.id, stage, None, outcome)
    return sorted(found.values(), key=_created_ns, reverse=True)


def read_outcome(run: RunDir, request_id: str) -> Outcome | None:
    """Return what came of a request; None: nothing yet."""
    if not is_safe_id(request_id):
        return None
    try:
        with opened_directory(run.requests / "done") as done:
            return _read_document(done, request_id + PENDING_SUFFIX, Outcome)
    except (OSError, RefusedRequestError):
        return None


def read_accepted(run: RunDir) -> Accepted | None:
    """Return what the newest trainer takes; None: it takes nothing."""
    try:
        with opened_directory(run.requests) as inbox:
            return _read_document(inbox, ACCEPTS_NAME, Accepted)
    except (OSError, RefusedRequestError):
        return None


def _open_requests(run: RunDir) -> list[RequestView]:
    views = []
    with contextlib.suppress(OSError), opened_directory(run.requests) as inbox:
        for name in _names(run.requests):
            stem, dot, suffix = name.rpartition(".")
            if not stem or dot + suffix not in (PENDING_SUFFIX, CLAIMED_SUFFIX):
                continue
            request = None
            with contextlib.suppress(OSError, RefusedRequestError):
                request = read_request(inbox, name)
            is_pending = dot + suffix == PENDING_SUFFIX
            stage = Stage.PENDING if is_pending else Stage.CLAIMED
            views.append(RequestView(stem, stage, request, None))
    return views


def _created_ns(view: RequestView) -> int:
    known = view.outcome or view.request
    return known.created_ns if known else 0


def _stage(text: str) -> Stage:
    return Stage(text) if text in set(Stage) else Stage.DONE


def _names(directory: Path) -> list[str]:
    try:
        names = [path.name for path in directory.iterdir()]
    except OSError:
        return []
    return [name for name in names if not name.startswith(".")]


def _read_document(directory: int, name: str, kind: type[_Document]) -> _Document:
    try:
        data = read_own_file(directory, name, MAX_REQUEST_BYTES)
        return msgspec.json.decode(data, type=kind)
    except ForeignFileError as error:
        raise RefusedRequestError(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RefusedRequestError(f"it is not what its name says: {error}") from error
