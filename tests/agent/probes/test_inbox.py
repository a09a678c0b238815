import os
import threading

import msgspec
import pytest

from agent.emitter import Emitter
from agent.probes.inbox import Inbox
from agent.rundir.events import RequestDone, RequestSeen, decode_lines
from agent.rundir.layout import RunDir
from agent.rundir.requests import (
    LIFETIME_NS,
    RefusedRequestError,
    Stage,
    list_requests,
    read_accepted,
    read_outcome,
    write_request,
)


class Office:
    """An inbox of attempt 1 and the telemetry beside it."""

    def __init__(self, folder, attempt=1):
        self.run = RunDir(folder)
        self.telemetry = self.run.telemetry_file(attempt, "rank-00000")
        self.emitter = Emitter(self.telemetry, node="rank-0", rank=0)
        self.inbox = Inbox(self.emitter, self.run, attempt)
        self.inbox.prepare()

    def events(self, event_type):
        found = decode_lines(self.telemetry.read_bytes())
        return [event for event in found if isinstance(event, event_type)]

    def stages(self):
        return {view.id: view.stage for view in list_requests(self.run)}


@pytest.fixture
def office(tmp_path):
    office = Office(tmp_path)
    office.inbox.accept(("checkpoint-now", "stop"))
    return office


def test_a_request_waits_is_taken_and_its_outcome_is_told(office):
    asked = write_request(office.run, "checkpoint-now", attempt=1)

    office.inbox.look()
    request = office.inbox.head()
    assert (request.id, request.kind) == (asked, "checkpoint-now")
    assert office.stages() == {asked: Stage.PENDING}

    assert office.inbox.claim(asked)
    assert office.stages() == {asked: Stage.CLAIMED}
    assert office.inbox.head() is None

    office.inbox.finish(request, Stage.DONE)
    outcome = read_outcome(office.run, asked)
    assert (outcome.stage, outcome.error, outcome.attempt) == ("done", None, 1)
    assert outcome.created_ns == request.created_ns > 0
    assert [e.request for e in office.events(RequestSeen)] == [asked]
    assert [e.request for e in office.events(RequestDone)] == [asked]
    assert {path.name for path in office.run.requests.iterdir()} == {"accepts", "done"}


def test_requests_are_taken_in_the_order_they_were_made(office):
    asked = [write_request(office.run, "stop") for _ in range(5)]
    office.inbox.look()

    taken = []
    while (request := office.inbox.head()) is not None:
        office.inbox.claim(request.id)
        taken.append(request.id)

    assert taken == asked


def test_what_the_trainer_does_not_take_is_refused_at_once(office):
    asked = write_request(office.run, "profile", {"steps": 3})

    office.inbox.look()

    outcome = read_outcome(office.run, asked)
    assert office.inbox.head() is None
    assert outcome.stage == "refused"
    assert "takes no `profile`" in outcome.error
    assert "it takes: checkpoint-now, stacks, stop" in outcome.error


def test_a_request_waits_until_the_trainer_has_said_what_it_takes(tmp_path):
    office = Office(tmp_path)
    asked = [write_request(office.run, kind) for kind in ("stop", "pause")]

    office.inbox.look()
    office.inbox.look()
    assert office.inbox.head() is None
    assert office.events(RequestSeen) == []
    office.inbox.accept(("stop",))
    office.inbox.look()

    assert office.inbox.head().id == asked[0]
    assert office.stages() == {asked[0]: Stage.PENDING, asked[1]: Stage.REFUSED}
    assert {e.request for e in office.events(RequestSeen)} == set(asked)


def test_a_trainer_that_goes_on_without_a_word_takes_nothing(tmp_path):
    office = Office(tmp_path)
    asked = write_request(office.run, "stop")

    for step in (None, 40, 40):  # 40: what it resumes from
        office.emitter.step = step
        office.inbox.look()
        assert office.stages() == {asked: Stage.PENDING}
    office.emitter.step = 41
    office.inbox.look()

    assert "takes no `stop`" in read_outcome(office.run, asked).error


def test_a_run_that_ends_before_it_said_what_it_takes_refuses(tmp_path):
    office = Office(tmp_path)
    asked = write_request(office.run, "stop")
    office.inbox.look()

    office.inbox.close()

    assert read_outcome(office.run, asked).stage == "refused"


def test_a_reader_learns_what_is_taken(office):
    accepted = read_accepted(office.run)

    assert accepted.attempt == 1
    assert accepted.kinds == ("checkpoint-now", "stacks", "stop")


def test_the_same_request_twice_acts_once(office):
    asked = write_request(office.run, "stop")
    path = office.run.requests / f"{asked}.json"
    data = path.read_bytes()
    office.inbox.look()
    request = office.inbox.head()
    office.inbox.claim(asked)

    path.write_bytes(data)
    path.chmod(0o600)
    office.inbox.look()
    assert office.inbox.head() is None

    office.inbox.finish(request, Stage.DONE)
    path.write_bytes(data)
    path.chmod(0o600)
    office.inbox.look()
    again = Office(office.run.path, attempt=2)
    again.inbox.accept(("stop",))
    again.inbox.look()

    assert office.inbox.head() is None
    assert again.inbox.head() is None
    assert len(office.events(RequestDone)) == 1
    assert read_outcome(office.run, asked).stage == "done"


def test_a_crash_between_claim_and_outcome_is_told_at_the_next_start(office):
    asked = write_request(office.run, "checkpoint-now")
    office.inbox.look()
    office.inbox.claim(asked)

    again = Office(office.run.path, attempt=2)

    (done,) = again.events(RequestDone)
    assert done.request == asked
    assert "ended after it had taken this request" in done.error
    assert read_outcome(again.run, asked).stage == "interrupted"
    assert Office(office.run.path, attempt=3).events(RequestDone) == []


def test_a_crash_after_the_outcome_is_no_crash(office):
    asked = write_request(office.run, "stop")
    office.inbox.look()
    request = office.inbox.head()
    office.inbox.claim(asked)
    claimed = office.run.requests / f"{asked}.claimed"
    data = claimed.read_bytes()
    office.inbox.finish(request, Stage.DONE)
    claimed.write_bytes(data)

    again = Office(office.run.path, attempt=2)

    assert again.events(RequestDone) == []
    assert not claimed.exists()
    assert read_outcome(again.run, asked).stage == "done"


@pytest.mark.parametrize("meant_for", [1, None])
def test_a_later_attempt_never_executes_what_an_earlier_one_did_not(office, meant_for):
    asked = write_request(office.run, "stop", attempt=meant_for)

    again = Office(office.run.path, attempt=2)
    again.inbox.accept(("stop",))
    again.inbox.look()

    outcome = read_outcome(again.run, asked)
    assert again.inbox.head() is None
    assert outcome.stage == "refused"
    assert "attempt" in outcome.error


def test_a_request_that_no_safe_point_came_for_expires(office, monkeypatch):
    asked = write_request(office.run, "stop")
    office.inbox.look()
    now_ns = office.inbox.head().created_ns + LIFETIME_NS + 1

    monkeypatch.setattr("time.time_ns", lambda: now_ns)
    assert office.inbox.head() is None
    office.inbox.look()

    assert read_outcome(office.run, asked).stage == "expired"
    assert not office.inbox.claim(asked)


def test_a_withdrawn_request_is_forgotten(office):
    asked = write_request(office.run, "stop")
    office.inbox.look()
    (office.run.requests / f"{asked}.json").unlink()

    assert not office.inbox.claim(asked)
    office.inbox.look()

    assert office.inbox.head() is None
    assert office.events(RequestDone) == []


def test_what_waits_when_the_run_ends_is_told_so(office):
    asked = [write_request(office.run, "stop") for _ in range(2)]
    office.inbox.look()
    request = office.inbox.head()
    office.inbox.claim(request.id)
    office.inbox.begin(request.id)

    office.inbox.close()
    office.inbox.finish(request, Stage.DONE)

    outcomes = [read_outcome(office.run, one) for one in asked]
    assert [o.stage for o in outcomes] == ["done", "refused"]
    assert "the run ended before" in outcomes[1].error
    assert read_accepted(office.run) is None


@pytest.mark.parametrize("why", [None, "RuntimeError: a cosmic ray"])
def test_what_was_taken_and_never_begun_has_failed_when_the_run_ends(office, why):
    asked = write_request(office.run, "stop")
    office.inbox.look()
    office.inbox.claim(asked)

    office.inbox.close(why)
    office.inbox.close(why)

    outcome = read_outcome(office.run, asked)
    said = "the trainer took it, and ended before it told what came of it"
    assert (outcome.stage, outcome.kind) == ("failed", "stop")
    assert outcome.error == (said if why is None else f"{said}: {why}")
    assert {path.name for path in office.run.requests.iterdir()} == {"done"}
    [told] = office.events(RequestDone)
    assert (told.request, told.request_kind) == (asked, "stop")
    assert Office(office.run.path, attempt=2).events(RequestDone) == []


def test_an_outcome_that_no_disk_took_is_written_when_one_does(office):
    asked = write_request(office.run, "stop")
    office.inbox.look()
    request = office.inbox.head()
    office.inbox.claim(asked)
    (office.run.requests / "done").rmdir()
    (office.run.requests / "done").touch()
    office.inbox.finish(request, Stage.DONE)

    with pytest.raises(FileExistsError):
        office.inbox.look()
    (office.run.requests / "done").unlink()
    office.inbox.look()
    office.inbox.look()

    assert read_outcome(office.run, asked).stage == "done"
    assert len(office.events(RequestDone)) == 1


def test_an_outcome_can_be_read_however_much_there_is_to_say(office):
    office.inbox.accept(("restore",))
    names = {f"tensor.{number}": "x" for number in range(3_500)}
    args = {"node": "client-1", "round_num": 1, "mapping": names}
    asked = write_request(office.run, "restore", args)
    office.inbox.look()
    request = office.inbox.head()
    office.inbox.claim(asked)

    office.inbox.finish(request, Stage.FAILED, "\x1b" * 1_000_000)

    outcome = read_outcome(office.run, asked)
    assert (outcome.stage, outcome.kind) == ("failed", "restore")
    assert len(outcome.error) == 2_000


def hostile_names(office):
    requests = office.run.requests
    secret = office.run.path / "secret.json"
    secret.write_text("{}")
    (requests / "link.json").symlink_to(secret)
    (requests / "text.json").write_text("rm -rf /")
    (requests / "text.json").chmod(0o600)
    (requests / "big.json").touch(0o600)
    os.truncate(requests / "big.json", 1 << 30)
    os.mkfifo(requests / "pipe.json", 0o600)
    (requests / "folder.json").mkdir()
    (requests / "[red]\x1b[31m.json").touch(0o600)
    endless = write_request(office.run, "stop")
    path = requests / f"{endless}.json"
    path.write_text(path.read_text().replace('"stop"', f'"{"stop" * 9_999}"'))
    wordy = write_request(office.run, "stop")
    path = requests / f"{wordy}.json"
    path.write_text(path.read_text().replace("}", ',"args":{"' + "x" * 9_999 + '":1}}'))
    return {
        *("link", "text", "big", "pipe", "folder", "[red]\\x1b[31m"),
        *(endless, wordy),
    }


def test_hostile_files_are_refused_by_name_and_put_aside(office):
    names = hostile_names(office)

    office.inbox.look()
    office.inbox.look()

    seen = office.events(RequestSeen)
    assert {event.request.removesuffix(".json") for event in seen} == names
    assert len(seen) == len(names)
    assert office.telemetry.stat().st_size < 10_000  # whatever they hold
    assert all(event.refusal for event in seen)
    assert office.inbox.head() is None
    assert (office.run.path / "secret.json").read_text() == "{}"
    assert {path.name for path in office.run.requests.iterdir()} == {"accepts", "done"}
    assert (office.run.requests / "done/text.json.refused").read_text() == "rm -rf /"


def test_a_directory_that_others_can_write_is_not_obeyed(office):
    write_request(office.run, "stop")
    office.run.requests.chmod(0o777)

    with pytest.raises(RefusedRequestError, match="by others"):
        office.inbox.look()

    assert office.inbox.head() is None


def test_a_directory_that_vanished_comes_back(office):
    for path in (office.run.requests / "done", office.run.requests):
        for child in path.iterdir():
            child.unlink() if child.is_file() else None
        path.rmdir()

    office.inbox.look()
    assert "stop" in read_accepted(office.run).kinds
    (office.run.requests / "accepts").unlink()
    office.inbox.look()
    assert "stop" in read_accepted(office.run).kinds
    asked = write_request(office.run, "stop")
    office.inbox.look()
    request = office.inbox.head()
    office.inbox.claim(asked)
    office.inbox.finish(request, Stage.DONE)

    assert read_outcome(office.run, asked).stage == "done"


def test_after_the_end_nothing_says_that_requests_are_taken(office):
    office.inbox.close()
    office.inbox.look()  # by a thread that was slow to end

    assert read_accepted(office.run) is None


def test_of_two_that_claim_one_wins(office):
    asked = [write_request(office.run, "stop") for _ in range(30)]
    won = {request_id: [] for request_id in asked}
    start = threading.Barrier(2)

    def claim_all(who):
        start.wait()
        for request_id in asked:
            if office.inbox.claim(request_id):
                won[request_id].append(who)

    threads = [threading.Thread(target=claim_all, args=(who,)) for who in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(len(winners) == 1 for winners in won.values())


def test_an_outcome_that_cannot_be_written_is_a_problem_and_no_error(office):
    asked = write_request(office.run, "stop")
    office.inbox.look()
    request = office.inbox.head()
    office.inbox.claim(asked)
    (office.run.requests / "done").rmdir()
    (office.run.requests / "done").touch()

    office.inbox.finish(request, Stage.DONE)

    assert office.events(RequestDone)[0].request == asked
    assert office.stages() == {asked: Stage.CLAIMED}


def test_what_is_written_by_hand_is_obeyed(office):
    now_ns = office.inbox._started_ns + 1
    by_hand = {
        "schema": 1,
        "id": "mine",
        "kind": "stop",
        "created_ns": now_ns,
        "expires_ns": now_ns + LIFETIME_NS,
        "by": "me",
    }
    path = office.run.requests / "mine.json"
    path.write_bytes(msgspec.json.encode(by_hand))
    path.chmod(0o600)

    office.inbox.look()

    assert office.inbox.head().id == "mine"
