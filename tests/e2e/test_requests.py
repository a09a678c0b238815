"""Operate a live run from another process: every request, hostile files, a kill."""

import os
import signal
import time

import pytest

from agent.rundir.checkpoints import Stage as CheckpointStage
from agent.rundir.checkpoints import list_checkpoints
from agent.rundir.events import (
    CheckpointLoaded,
    CheckpointVerified,
    OptimizerReset,
    PhaseChanged,
    RequestAcked,
    RequestDone,
    RequestSeen,
    RunEnded,
    StacksWritten,
    StepDone,
)
from agent.rundir.layout import RunDir
from agent.rundir.requests import (
    Stage,
    list_requests,
    read_accepted,
    read_outcome,
    write_request,
)
from tests.processes import events
from trainer.checkpoint.lock import publishing

pytestmark = [pytest.mark.dist, pytest.mark.slow]

ENDLESS = ("--steps", "1000000", "--save-every", "0", "--corpus-bytes", "7600")
DEADLINE_S = 120


class Operator:
    """Asks one run for things, and waits for what comes of it."""

    def __init__(self, trainer, run_dir):
        self.trainer = trainer
        self.run = RunDir(run_dir)
        self.asked = []
        self.wait(lambda: "stop" in kinds_taken(self.run))

    def ask(self, kind, **args):
        self.asked.append(write_request(self.run, kind, args, attempt=1))
        return self.asked[-1]

    def outcome(self, request_id):
        self.wait(lambda: read_outcome(self.run, request_id) is not None)
        return read_outcome(self.run, request_id)

    def obeyed(self, kind, **args):
        """Ask, and return why it was not done; None: it was."""
        outcome = self.outcome(self.ask(kind, **args))
        assert (outcome.stage == "done") == (outcome.error is None)
        return outcome.error

    def wait(self, condition):
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert self.trainer.process.poll() is None, self.trainer.text()
            assert time.monotonic() < deadline, self.trainer.text()
            time.sleep(0.02)

    def told(self, event_type, rank=0):
        found = [e for _, e in events(self.run.path, rank)]
        return [e for e in found if isinstance(e, event_type)]

    def newest_step(self):
        return self.told(StepDone)[-1].step

    def wait_for_another_step(self):
        """Wait for two: the first may have been on its way."""
        num = len(self.told(StepDone))
        self.wait(lambda: len(self.told(StepDone)) >= num + 2)


def kinds_taken(run):
    accepted = read_accepted(run)
    return accepted.kinds if accepted else ()


@pytest.fixture
def operate(launch, tmp_path):
    def begin(*flags):
        run_dir = tmp_path / "run"
        trainer = launch(run_dir, 2, *ENDLESS, *flags)
        trainer.wait_for_step(3)
        return Operator(trainer, run_dir)

    return begin


@pytest.fixture
def operator(operate):
    return operate()


def test_every_request_is_carried_out_by_all_ranks(operator):
    run = operator.run

    # Two at once.
    first, second = operator.ask("checkpoint-now"), operator.ask("profile", steps=2)
    assert operator.outcome(first).stage == operator.outcome(second).stage == "done"
    [saved] = list_checkpoints(run)
    assert saved.stage is CheckpointStage.VERIFIED
    assert saved.manifest.reason == "checkpoint-now"
    for suffix in ("txt", "json"):
        operator.wait(lambda s=suffix: list((run.path / "profiles").glob(f"*.{s}")))

    assert operator.obeyed("verify", checkpoint=saved.name) is None
    verified = operator.told(CheckpointVerified)
    assert [(e.checkpoint, e.state) for e in verified] == [(saved.name, "sound")] * 2
    assert "@" in verified[1].by
    missing = operator.obeyed("pin", checkpoint="step-00999999")
    assert "has no checkpoint `step-00999999`" in missing
    assert_pins_hold(operator, saved.name)

    assert operator.obeyed("pause") is None
    operator.wait(lambda: operator.told(PhaseChanged)[-1].phase == "paused")
    paused_at = operator.newest_step()
    assert operator.obeyed("stacks") is None
    newer_name = save(operator)
    assert operator.newest_step() == paused_at
    assert operator.obeyed("continue") is None
    operator.wait_for_another_step()
    for rank in range(2):
        assert operator.told(StacksWritten, rank)

    assert operator.obeyed("resume", checkpoint=saved.name) is None
    for rank in range(2):
        [loaded] = operator.told(CheckpointLoaded, rank)
        assert loaded.resumed_step == saved.number
        [reset] = operator.told(OptimizerReset, rank)
        assert reset.reason == f"loaded `{saved.name}`"
    operator.wait_for_another_step()
    assert_steps_are_repeated_exactly(operator, saved.number)
    stages = {e.path.name: e.stage for e in list_checkpoints(run)}
    assert stages[f".superseded-0001-{newer_name}"] is CheckpointStage.SUPERSEDED

    assert "takes no `restore`" in operator.obeyed(
        "restore", node="client-1", round_num=1
    )

    assert operator.obeyed("stop") is None
    assert operator.trainer.wait() == 143, operator.trainer.text()
    assert operator.told(RunEnded)[-1].reason == "stopped"
    acked = [[e.request for e in operator.told(RequestAcked, r)] for r in range(2)]
    by_all = [one for one in operator.asked if one in acked[0]]
    assert acked[0] == acked[1] == by_all
    assert len(by_all) == len(operator.asked) - 2  # stacks needs no agreement
    done = [e.request for e in operator.told(RequestDone)]
    assert sorted(done) == sorted(operator.asked)
    assert len(list_checkpoints(run)) >= 2


def assert_pins_hold(operator, name):
    for kind in ("pin", "unpin"):
        assert operator.obeyed(kind, checkpoint=name) is None
        assert list_checkpoints(operator.run)[0].is_pinned == (kind == "pin")


def assert_steps_are_repeated_exactly(operator, after):
    losses = {}
    for event in operator.told(StepDone):
        losses.setdefault(event.step, []).append(event.loss)
    twice = {step: found for step, found in losses.items() if len(found) == 2}
    assert min(twice) == after + 1
    assert all(one == other for one, other in twice.values())


def save(operator):
    """Save once more; return the checkpoint's name."""
    before = {e.name for e in list_checkpoints(operator.run)}
    assert operator.obeyed("checkpoint-now") is None
    [name] = {e.name for e in list_checkpoints(operator.run)} - before
    return name


def test_going_back_twice_sets_the_same_steps_aside_twice(operate):
    operator = operate("--save-every", "4", "--keep", "1000")
    operator.wait(lambda: operator.newest_step() > 20)
    for _ in range(2):
        assert operator.obeyed("resume", checkpoint="step-00000008") is None
        operator.wait(lambda: "step-00000016" in checkpoints(operator))

    # Not to a damaged one; and a signal reaches a run that is paused.
    flip_a_byte(operator.run.checkpoints / "step-00000012" / "state.pt")
    assert "damaged" in operator.obeyed("verify", checkpoint="step-00000012")
    assert "damaged" in operator.obeyed("resume", checkpoint="step-00000012")
    assert len(operator.told(CheckpointLoaded)) == 2
    operator.wait_for_another_step()
    assert operator.obeyed("pause") is None
    operator.wait(lambda: operator.told(PhaseChanged)[-1].phase == "paused")
    os.kill(operator.trainer.process.pid, signal.SIGTERM)
    assert operator.trainer.wait() == 143, operator.trainer.text()


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_what_cannot_be_saved_is_told_and_training_goes_on(launch, small_disk):
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 3_600_000)
    trainer = launch(small_disk / "run", 2, *ENDLESS)
    operator = Operator(trainer, small_disk / "run")

    for kind in ("checkpoint-now", "stop"):
        assert "could not be saved: no room" in operator.obeyed(kind)
        operator.wait_for_another_step()
    ballast.unlink()

    assert operator.obeyed("checkpoint-now") is None
    assert len(list_checkpoints(operator.run)) == 1
    assert operator.obeyed("stop") is None
    assert trainer.wait() == 143, trainer.text()


def test_asked_for_in_the_background_or_not_a_save_is_done_when_it_is_verified(operate):
    operator = operate("--async-save")

    assert operator.obeyed("checkpoint-now") is None

    [saved] = list_checkpoints(operator.run)
    assert saved.stage is CheckpointStage.VERIFIED
    assert saved.manifest.reason == "checkpoint-now"


def test_one_profile_is_taken_at_a_time(operator):
    profiles = operator.run.path / "profiles"

    first = operator.ask("profile", steps=1000)
    second = operator.ask("profile", steps=1)

    assert operator.outcome(first).stage == "done"
    assert "are being profiled already" in operator.outcome(second).error
    assert operator.obeyed("stop") is None
    assert operator.trainer.wait() == 143, operator.trainer.text()
    assert len(list(profiles.glob("*.json"))) == 1


def checkpoints(operator):
    """Return the names of those that are in their place."""
    return {e.path.name for e in list_checkpoints(operator.run)}


def test_hostile_files_are_refused_and_training_goes_on(operator, tmp_path):
    requests = operator.run.requests
    foreign = write_request(operator.run, "stop", attempt=7)
    (requests / "link.json").symlink_to(tmp_path / "secret.json")
    (requests / "text.json").write_text("stop")
    with (requests / "big.json").open("wb") as file:
        file.truncate(1 << 30)
    os.mkfifo(requests / "pipe.json")
    outside = requests / "outside.json"
    outside.write_text(
        '{"schema": 1, "id": "outside", "kind": "verify", "by": "x", '
        '"args": {"path": "../../../etc"}, "attempt": 1, '
        f'"created_ns": {time.time_ns()}, "expires_ns": {time.time_ns() * 2}}}'
    )
    shared = requests / "shared.json"
    shared.touch()
    shared.chmod(0o666)
    names = {"link.json", "text.json", "big.json", "pipe.json", "shared.json"}
    if os.geteuid() == 0:
        (requests / "foreign.json").touch()
        os.chown(requests / "foreign.json", 12345, 12345)
        names |= {"foreign.json"}
    names |= {"outside", foreign}

    operator.wait(lambda: {e.request for e in refusals(operator)} >= names)

    operator.wait_for_another_step()
    assert not list(requests.glob("*.json"))
    assert operator.told(RequestAcked) == []

    # Paused twice, one `continue` is enough; and `stop` reaches a paused run.
    assert operator.obeyed("pause") is None
    assert operator.obeyed("pause") is None
    assert operator.obeyed("continue") is None
    operator.wait_for_another_step()
    assert operator.obeyed("pause") is None
    assert operator.obeyed("stop") is None
    assert operator.trainer.wait() == 143, operator.trainer.text()


def refusals(operator):
    return [e for e in operator.told(RequestSeen) if e.refusal]


def test_killed_between_claim_and_outcome_the_next_start_tells_and_does_nothing(
    operator, start
):
    run = operator.run
    name = save(operator)
    with publishing(run):  # a pin has to wait for this lock
        pin = operator.ask("pin", checkpoint=name)
        waiting = operator.ask("stop")
        claimed = run.requests / f"{pin}.claimed"
        operator.wait(claimed.exists)
        operator.trainer.kill(signal.SIGKILL)

    again = start(run.path, "resume", str(run.path))
    again.wait_for_step(1, attempt=2)

    assert read_outcome(run, pin).stage == Stage.INTERRUPTED
    assert read_outcome(run, waiting).stage == Stage.REFUSED
    assert not claimed.exists()
    assert not next(e for e in list_checkpoints(run) if e.name == name).is_pinned
    told = [e for attempt, e in events(run.path) if attempt == 2]
    done = {e.request: e.error for e in told if isinstance(e, RequestDone)}
    assert "ended after it had taken this request" in done[pin]
    assert "meant for attempt 1" in done[waiting]
    assert {view.stage for view in list_requests(run)} == {
        Stage.DONE,
        Stage.INTERRUPTED,
        Stage.REFUSED,
    }
