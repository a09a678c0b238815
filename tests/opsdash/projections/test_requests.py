"""What was asked of a trainer, as its processes tell it."""

from agent.rundir import events as ev
from opsdash.projections import requests as module
from tests.run_states import STATES
from tests.runs import RunWriter, Watcher
from tests.watched import still_clocks


def test_a_request_is_seen_acknowledged_and_done(tmp_path):
    writer = RunWriter(tmp_path / "run")
    writer.begin()
    about = {"request": "r1", "request_kind": "pause"}
    writer.emit(0, ev.RequestSeen, **about)
    for rank in (0, 1, 1):
        writer.emit(rank, ev.RequestAcked, **about)
    run = Watcher(writer.run)
    open_row = run.run.requests.get("r1")

    writer.emit(0, ev.RequestDone, **about)
    run.read()

    assert (open_row.acked, open_row.is_over) == (("rank-00000", "rank-00001"), False)
    row = run.run.requests.get("r1")
    assert (row.kind, row.is_done, row.error) == ("pause", True, None)


def test_a_refusal_is_the_end_of_it(tmp_path):
    writer = RunWriter(tmp_path / "run")
    writer.begin()
    writer.emit(0, ev.RequestSeen, request="r", request_kind="x", refusal="expired")

    row = Watcher(writer.run).run.requests.get("r")

    assert row.is_over
    assert row.refusal == "expired"


def test_what_is_kept_is_bounded_and_newest_first(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MAX_REQUESTS", 3)
    writer = RunWriter(tmp_path / "run")
    writer.begin()
    for number in range(9):
        writer.emit(0, ev.RequestSeen, request=f"r{number}", request_kind="stop")

    requests = Watcher(writer.run).run.requests

    assert [row.id for row in requests.rows()] == ["r8", "r7", "r6"]
    assert requests.get("r0") is None


def test_the_newest_word_about_a_process_s_stacks_is_kept(tmp_path):
    writer = RunWriter(tmp_path / "run")
    writer.begin()
    file = "stacks/0001/rank-00001.txt"
    writer.emit(0, ev.StacksWritten, file=file, reason="none of rank 1: stopped")

    note = Watcher(writer.run).run.stacks.of("rank-00001")

    assert (note.attempt, note.reason) == (1, "none of rank 1: stopped")


def test_a_run_that_was_paused_says_so_until_it_goes_on_or_ends(tmp_path):
    writer = STATES["federated"](tmp_path / "run")
    watcher = Watcher(writer.run, still_clocks(writer))
    told = []

    def tell(kind, event=ev.RequestDone, **fields):
        writer.emit("server", event, **fields)
        watcher.read()
        told.append((kind, watcher.verdict().headline))

    for number, kind in enumerate(("pause", "continue", "pause")):
        about = {"request": f"r{number}", "request_kind": kind}
        writer.emit("server", ev.RequestSeen, **about)
        tell(kind, **about)
    tell("refused", request="r9", request_kind="continue", error="no such thing")
    tell("end", ev.RunEnded, reason="stopped")

    assert told == [
        ("pause", "paused at round 8"),
        ("continue", "training at round 8"),
        ("pause", "paused at round 8"),
        ("refused", "paused at round 8"),
        ("end", "stopped as asked at round 8"),
    ]
