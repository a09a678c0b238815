import json
import os
import time

import pytest

from agent.rundir.layout import RunDir
from agent.rundir.request_args import KINDS
from agent.rundir.requests import (
    LIFETIME_NS,
    MAX_REQUEST_BYTES,
    RefusedRequestError,
    Request,
    Stage,
    is_safe_id,
    list_requests,
    open_inbox,
    read_outcome,
    read_request,
    refusal,
    write_request,
)

VALID_ARGS = {
    "resume": {"checkpoint": "step-00000010"},
    "pin": {"checkpoint": "step-00000010"},
    "unpin": {"checkpoint": "step-00000010"},
    "verify": {"path": "checkpoints/step-00000010", "level": "deep"},
    "restore": {"node": "client-1", "round_num": 3, "tensors": "fc.*"},
    "repair": {"node": "client-1"},
    "stacks": {"ranks": [0, 2]},
    "profile": {"steps": 3},
}


@pytest.fixture
def run(tmp_path):
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    return run


@pytest.fixture
def inbox(run):
    run.requests.mkdir(mode=0o700)
    fd = open_inbox(run)
    yield fd
    os.close(fd)


def put(run, name="a.json", mode=0o600, **changes):
    """Write a request file by hand, valid but for `changes`."""
    now_ns = time.time_ns()
    fields = {
        "schema": 1,
        "id": name.removesuffix(".json"),
        "kind": "stop",
        "args": {},
        "created_ns": now_ns,
        "expires_ns": now_ns + LIFETIME_NS,
        "by": "me@here",
    }
    path = run.requests / name
    path.write_text(json.dumps(fields | changes))
    path.chmod(mode)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read_again(run, kind):
    args = VALID_ARGS.get(kind, {})

    written = write_request(run, kind, args, attempt=2)

    fd = open_inbox(run)
    request = read_request(fd, f"{written}.json")
    os.close(fd)
    now_ns = time.time_ns()
    assert (request.kind, request.args, request.attempt) == (kind, args, 2)
    assert refusal(run, request, attempt=2, started_ns=0, now_ns=now_ns) is None
    assert [(v.id, v.stage) for v in list_requests(run)] == [(written, Stage.PENDING)]


def test_who_has_no_name_can_ask_too(run, monkeypatch):
    def nameless():
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("getpass.getuser", nameless)

    write_request(run, "stop")

    [view] = list_requests(run)
    assert view.request.by.startswith(f"{os.getuid()}@")


def test_only_its_owner_can_enter_the_directory_that_is_made(run):
    written = write_request(run, "stop")

    assert run.requests.stat().st_mode & 0o777 == 0o700
    assert (run.requests / f"{written}.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("kind", "args"),
    [
        ("format-disk", {}),
        ("stop", {"now": True}),
        ("pin", {}),
        ("pin", {"checkpoint": "../../etc"}),
        ("resume", {"checkpoint": ".quarantine-step-00000010"}),
        ("resume", {"checkpoint": 7}),
        ("verify", {"path": "/etc/passwd"}),
        ("verify", {"path": "checkpoints/../../other"}),
        ("verify", {"path": "a\0b"}),
        ("verify", {"level": "psychic"}),
        ("restore", {"node": "../x", "round_num": 1}),
        ("restore", {"node": "client-1", "round_num": 0}),
        ("profile", {"steps": 10**9}),
        ("stacks", {"ranks": [-1]}),
    ],
)
def test_what_no_trainer_would_do_is_not_even_written(run, kind, args):
    with pytest.raises(RefusedRequestError):
        write_request(run, kind, args)

    assert not run.requests.exists()


def test_a_symlink_that_leads_outside_is_outside(run, tmp_path):
    (run.path / "link").symlink_to(tmp_path)

    with pytest.raises(RefusedRequestError, match="not inside"):
        write_request(run, "verify", {"path": "link/secret"})


def test_a_valid_file_is_read(run, inbox):
    put(run)

    assert read_request(inbox, "a.json").kind == "stop"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda run: put(run, mode=0o620), "written by others"),
        (lambda run: put(run, mode=0o602), "written by others"),
        (lambda run: os.chown(put(run), 12345, 12345), "belongs to user 12345"),
        (lambda run: put(run).write_text("x" * (MAX_REQUEST_BYTES + 1)), "bytes, more"),
        (lambda run: os.truncate(put(run), 1 << 30), "1073741824 bytes, more"),
        (lambda run: put(run).write_text("not json"), "not what its name says"),
        (lambda run: put(run).write_bytes(b"\xff\xfe"), "not what its name says"),
        (lambda run: put(run).write_text("[" * 60_000), "not what its name says"),
        (lambda run: put(run).write_text("{}"), "not what its name says"),
        (lambda run: put(run, schema=99), "schema 99"),
        (lambda run: put(run, id="b"), "not its file's name"),
        (lambda run: put(run, created_ns="now"), "not what its name says"),
        (
            lambda run: (run.requests / "a.json").symlink_to(put(run, "b.json")),
            "cannot be opened",
        ),
        (lambda run: os.mkfifo(run.requests / "a.json"), "not a regular file"),
        (lambda run: (run.requests / "a.json").mkdir(), "not a regular file"),
    ],
)
def test_a_file_that_anybody_may_have_made_is_refused(run, inbox, make, reason):
    if "12345" in reason and os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    make(run)

    with pytest.raises(RefusedRequestError, match=reason):
        read_request(inbox, "a.json")


def test_a_directory_that_others_can_write_is_no_inbox(run):
    run.requests.mkdir()
    run.requests.chmod(0o770)

    with pytest.raises(RefusedRequestError, match="by others"):
        open_inbox(run)
    with pytest.raises(RefusedRequestError, match="by others"):
        write_request(run, "stop")


def test_a_symlink_is_no_inbox(run, tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    run.requests.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(OSError, match="requests"):
        open_inbox(run)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_users_run_is_not_acted_on(run):
    run.requests.mkdir(mode=0o700)
    os.chown(run.requests, 12345, 12345)

    with pytest.raises(RefusedRequestError, match="belongs to user 12345"):
        write_request(run, "stop")


NOW_NS = 10**18


@pytest.mark.parametrize(
    ("changes", "now_ns", "reason"),
    [
        ({"attempt": 1}, NOW_NS, "meant for attempt 1, this is attempt 2"),
        ({"created_ns": NOW_NS - 10**9}, NOW_NS, "before attempt 2 began"),
        ({}, NOW_NS + LIFETIME_NS + 1, "expired"),
        ({"attempt": 2}, NOW_NS + LIFETIME_NS + 1, "expired"),
        ({"expires_ns": NOW_NS + 1}, NOW_NS + 2, "expired"),
        ({"created_ns": 2 * NOW_NS}, NOW_NS, "in the future"),
        ({"kind": "dance"}, NOW_NS, "no kind"),
        ({"kind": "pin", "args": {"checkpoint": "../x"}}, NOW_NS, "not a checkpoint"),
    ],
)
def test_a_request_for_another_time_is_void(run, changes, now_ns, reason):
    fields = {
        "schema": 1,
        "id": "a",
        "kind": "stop",
        "created_ns": NOW_NS,
        "expires_ns": 10 * NOW_NS,
        "by": "me",
    }
    request = Request(**fields | changes)

    found = refusal(run, request, attempt=2, started_ns=NOW_NS, now_ns=now_ns)

    assert reason in found


@pytest.mark.parametrize("bad", ["", "..", "a/b", "-", "é", "x" * 65, "a.b", "a\n"])
def test_an_id_that_is_no_file_name_is_not_safe(run, bad):
    assert not is_safe_id(bad)
    assert read_outcome(run, bad) is None


def test_without_a_directory_there_are_no_requests(run):
    assert list_requests(run) == []
    assert read_outcome(run, "a") is None
