"""Plans of requests, requests as files, and what becomes of them."""

import json

import pytest
import torch

from agent.rundir.attempts import read_newest_attempt
from agent.rundir.errors import NoCheckpointError, RunDirError
from agent.rundir.request_args import KINDS
from agent.rundir.requests import ACCEPTS_NAME, Stage, list_requests
from opsdash.operations.record import OperationLog
from opsdash.operations.request_plans import plan_request
from opsdash.operations.requests import Step, ask
from opsdash.operations.standing import Standing, note_of_silence, standing_of, why_deaf
from opsdash.projections.requests import RequestRow
from tests.run_states import STATES
from tests.runs import RunWriter, Watcher, dead_process, remote_process
from tests.watched import still_clocks
from trainer.chunks.store import ChunkStore

STANDING = Standing(step=120, step_ns=100_000_000, num_processes=4, save_ns=20_000_000)
SILENT = Standing(silence_ns=90_000_000_000)


@pytest.fixture
def run(tmp_path):
    """A live run whose trainer takes every kind of request."""
    run = RunWriter(tmp_path / "run-1", world_size=4)
    run.begin()
    accept(run)
    return run


def accept(run, kinds=tuple(KINDS), attempt=None):
    run.run.requests.mkdir(mode=0o700, exist_ok=True)
    told = {"schema": 1, "attempt": attempt or run.attempt, "kinds": kinds}
    path = run.run.requests / ACCEPTS_NAME
    path.write_text(json.dumps(told))
    path.chmod(0o600)


def put_rounds(run, node, *rounds, value=1.0):
    with ChunkStore(run.run.chunk_store(node)) as store:
        for round_num in rounds:
            store.put_round(round_num, {"w": torch.full((3,), value)})


def told(request, **fields):
    row = {
        "id": request,
        "kind": "pause",
        "attempt": 1,
        "time_ns": 0,
        "refusal": None,
        "acked": (),
        "is_done": False,
        "error": None,
    }
    return RequestRow(**{**row, **fields})


def answer(run, request, stage, error=None):
    """What the trainer leaves when it is done with a request."""
    (run.run.requests / f"{request}.json").unlink(missing_ok=True)
    done = run.run.requests / "done"
    done.mkdir(exist_ok=True)
    outcome = {"schema": 1, "id": request, "kind": "pause", "stage": stage}
    path = done / f"{request}.json"
    path.write_text(json.dumps({**outcome, "finished_ns": 1, "error": error}))
    path.chmod(0o600)


ARGS = {
    "resume": {"checkpoint": "step-00000100"},
    "restore": {"node": "server", "round_num": 3},
    "repair": {"node": "client-1"},
    "pin": {"checkpoint": "step-00000100"},
    "unpin": {"checkpoint": "step-00000100"},
    "stacks": {"ranks": [1, 2]},
    "profile": {"steps": 3},
    "verify": {"checkpoint": "step-00000100", "level": "deep"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_plan_with_an_equivalent_command(run, kind):
    run.checkpoint(100)
    for node in ("server", "client-1"):
        put_rounds(run, node, 3)

    plan = plan_request(run.run, kind, ARGS.get(kind, {}), STANDING)

    assert plan.can_start
    assert plan.kind == kind
    assert plan.agrees
    assert plan.writes[-1] == "requests/: the request"
    words = plan.shell.split()
    assert words[:4] == ["opsdash", "request", str(run.path), kind]
    for value in ARGS.get(kind, {}).values():
        shown = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        assert shown in words


def test_going_back_tells_what_it_loses_and_asks_for_the_name(run):
    run.checkpoint(100)
    run.checkpoint(110)

    plan = plan_request(run.run, "resume", {"checkpoint": "step-00000100"}, STANDING)

    assert plan.confirm_name == "run-1"
    assert plan.loses == (
        "20 steps after step-00000100, 2.0 s of work: they are done again",
        "step-00000110 is set aside as superseded",
    )


@pytest.mark.parametrize(
    ("node", "round_num", "why"),
    [
        ("server", 99_999, "does not hold round 99999: it holds 3 to 4"),
        ("client-1", 3, "does not hold round 3: it holds none yet"),
        ("nobody", 3, "no chunk store of `'nobody'`"),
    ],
)
def test_a_round_that_no_store_holds_is_refused_with_those_that_are_there(
    tmp_path, node, round_num, why
):
    run = RunWriter(tmp_path / "fl", kind="federated", world_size=1)
    run.begin()
    put_rounds(run, "server", 3, 4)
    put_rounds(run, "client-1")
    args = {"node": node, "round_num": round_num}

    with pytest.raises(RunDirError, match=why):
        plan_request(run.run, "restore", args, STANDING)


def test_tensors_that_no_round_has_are_refused_with_some_that_it_has(run):
    put_rounds(run, "server", 3)
    args = {"node": "server", "round_num": 3, "tensors": "head.*"}

    with pytest.raises(RunDirError, match=r"no tensor fits `head.\*`; there are `w`"):
        plan_request(run.run, "restore", args, STANDING)
    assert plan_request(run.run, "restore", args | {"tensors": "w*"}, STANDING)


def test_a_repair_is_refused_where_there_is_no_store(run):
    with pytest.raises(RunDirError, match="its state is in checkpoints"):
        plan_request(run.run, "repair", {"node": "client-1"}, STANDING)


def test_what_is_not_finite_is_said_before_it_goes_live(run):
    put_rounds(run, "server", 3, value=float("nan"))
    args = {"node": "server", "round_num": 3}

    plan = plan_request(run.run, "restore", args, STANDING)

    assert plan.notes[0] == "not finite in this round: w"


@pytest.mark.parametrize("kind", ["stop", "resume"])
def test_what_cannot_be_undone_asks_for_the_runs_name(run, kind):
    run.checkpoint(100)

    assert plan_request(run.run, kind, {}, STANDING).confirm_name == "run-1"


def test_what_retention_may_have_again_is_lost_and_asks_for_the_name(run):
    run.checkpoint(100)
    args = {"checkpoint": "step-00000100"}

    pin, unpin = (
        plan_request(run.run, kind, args, STANDING) for kind in ("pin", "unpin")
    )

    assert (pin.confirm_name, unpin.confirm_name) == ("", "run-1")
    assert pin.loses == ()
    assert "nothing brings it back" in unpin.loses[0]


@pytest.mark.parametrize("kind", ["checkpoint-now", "pause", "continue", "stacks"])
def test_the_rest_is_confirmed_by_a_key(run, kind):
    assert plan_request(run.run, kind, {}, STANDING).confirm_name == ""


def test_a_rollback_needs_a_checkpoint(run):
    with pytest.raises(NoCheckpointError):
        plan_request(run.run, "resume", {}, STANDING)


def test_arguments_that_no_trainer_takes_are_refused_before_anything_is_shown(run):
    with pytest.raises(RunDirError, match="checkpoint's name"):
        plan_request(run.run, "pin", {"checkpoint": "../../etc"}, STANDING)


def test_nobody_is_asked_where_nobody_runs(tmp_path):
    run = RunWriter(tmp_path / "run", process=dead_process())
    run.begin()
    accept(run)

    plan = plan_request(run.run, "pause", {}, STANDING)

    assert plan.why_not == "nothing runs here: there is nobody to ask"
    with pytest.raises(ValueError, match="nobody to ask"):
        ask(run.run, plan, {})


def test_a_kind_that_the_trainer_does_not_take_is_told_with_those_it_takes(run):
    accept(run, ("pause", "stop"))

    assert why_deaf(run.run, "profile") == (
        "this trainer takes no `profile`, it takes: pause, stop"
    )


def test_what_an_earlier_attempt_took_does_not_count(run):
    accept(run, attempt=7)

    assert why_deaf(run.run, "pause") == "attempt 1 takes no requests yet"


def test_an_inbox_that_others_may_write_in_is_not_used(run):
    run.run.requests.chmod(0o777)

    assert str(run.run.requests) in why_deaf(run.run, "pause")


def test_a_run_elsewhere_can_be_asked_and_the_silence_is_told(tmp_path):
    run = RunWriter(tmp_path / "run", process=remote_process())
    run.begin()
    accept(run)

    plan = plan_request(run.run, "pause", {}, SILENT)

    assert plan.can_start
    assert "node-b.example, not seen from here, last heard 1 min ago" in plan.notes[-1]
    assert note_of_silence(run.run, None).startswith("it runs on node-b.example")


def test_a_request_is_a_file_of_this_attempt(run):
    plan = plan_request(run.run, "profile", {"steps": 3}, STANDING)

    asked = ask(run.run, plan, {"steps": 3})

    (view,) = list_requests(run.run)
    assert (view.id, view.stage) == (asked.request, Stage.PENDING)
    assert (view.request.kind, view.request.args) == ("profile", {"steps": 3})
    assert view.request.attempt == read_newest_attempt(run.run).attempt
    path = run.run.requests / f"{asked.request}.json"
    assert path.stat().st_mode & 0o077 == 0


def test_it_waits_is_acknowledged_and_done(run):
    asked = ask(run.run, plan_request(run.run, "pause", {}, STANDING), {})

    waiting = asked.look(None)
    running = asked.look(told(asked.request, acked=("rank-00000", "rank-00001")))
    acked = asked.acked
    answer(run, asked.request, "done")
    done = asked.look(None)

    assert (waiting, running, done) == (Step.WAITING, Step.RUNNING, Step.DONE)
    assert acked == ("rank-00000", "rank-00001")


def test_a_claimed_request_is_running_before_any_rank_says_so(run):
    asked = ask(run.run, plan_request(run.run, "pause", {}, STANDING), {})
    pending = run.run.requests / f"{asked.request}.json"

    pending.rename(pending.with_suffix(".claimed"))

    assert asked.look(None) is Step.RUNNING


@pytest.mark.parametrize("stage", ["failed", "refused", "expired", "interrupted"])
def test_whatever_is_no_success_is_a_failure_with_its_reason(run, stage):
    asked = ask(run.run, plan_request(run.run, "pause", {}, STANDING), {})

    answer(run, asked.request, stage, "the disk is full")

    assert asked.look(None) is Step.FAILED
    assert asked.error == "the disk is full"


def test_events_tell_the_outcome_where_the_directory_does_not(run):
    asked = ask(run.run, plan_request(run.run, "pause", {}, STANDING), {})

    refused = asked.look(told(asked.request, refusal="it takes none"))

    assert (refused, asked.error) == (Step.FAILED, "it takes none")


def test_a_run_that_ends_first_fails_the_request(run):
    asked = ask(run.run, plan_request(run.run, "pause", {}, STANDING), {})

    run.unlock()

    assert asked.look(None) is Step.FAILED
    assert asked.error == "the run ended before it told an outcome"


def test_a_request_can_be_taken_back_until_it_is_taken(run):
    first = ask(run.run, plan_request(run.run, "pause", {}, STANDING), {})
    second = ask(run.run, plan_request(run.run, "pause", {}, STANDING), {})
    claimed = run.run.requests / f"{second.request}.json"
    claimed.rename(claimed.with_suffix(".claimed"))

    assert first.withdraw()
    assert not second.withdraw()
    assert first.look(None) is Step.WITHDRAWN
    assert not (run.run.requests / f"{first.request}.json").exists()


@pytest.mark.parametrize("stage", ["done", "failed", None])
def test_who_sees_that_it_is_over_finds_the_reason_and_the_entry(run, stage):
    log, asked = OperationLog(run.run), None
    seen = []

    class Watched(OperationLog):
        def write(self, operation):
            seen.append((operation.stage, asked.is_over if asked else False))
            return log.write(operation)

    plan = plan_request(run.run, "pause", {}, STANDING)
    asked = ask(run.run, plan, {}, Watched(run.run))
    if stage is None:
        asked.withdraw()
    else:
        answer(run, asked.request, stage, error="why" if stage == "failed" else None)
        asked.look(None)

    assert seen == [("started", False), (stage or "cancelled", False)]
    assert asked.is_over
    assert asked.error == ("why" if stage == "failed" else "")


def test_the_operations_file_has_its_begin_and_its_end(run):
    log = OperationLog(run.run)
    asked = ask(run.run, plan_request(run.run, "pause", {}, STANDING), {}, log)
    answer(run, asked.request, "done")
    asked.look(None)
    asked.look(None)

    (path,) = run.run.operations.iterdir()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["kind"], line["stage"]) for line in lines] == [
        ("pause", "started"),
        ("pause", "done"),
    ]
    assert lines[0]["command"] == ["opsdash", "request", str(run.path), "pause"]
    assert lines[0]["id"] == lines[1]["id"]


def test_a_hang_is_told_before_anybody_waits_for_it(tmp_path):
    hung = STATES["hung"](tmp_path / "run")
    accept(hung)
    watcher = Watcher(hung.run, still_clocks(hung))
    standing = standing_of(watcher.run, watcher.clocks.mono_ns, watcher.clocks.time_ns)

    stop, stacks = (
        plan_request(hung.run, kind, {}, standing) for kind in ("stop", "stacks")
    )

    assert stop.notes[-1].startswith("rank 2 is missing at checkpoint.save for 1")
    assert not any("missing" in note for note in stacks.notes)


def test_what_was_asked_of_a_store_is_written_down_with_its_name(run):
    log = OperationLog(run.run)
    put_rounds(run, "client-1", 3)
    plan = plan_request(run.run, "repair", {"node": "client-1"}, STANDING)

    ask(run.run, plan, {"node": "client-1"}, log)

    (path,) = run.run.operations.iterdir()
    assert json.loads(path.read_text())["subject"] == "chunks/client-1"
