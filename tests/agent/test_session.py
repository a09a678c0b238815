import errno
import gc
import json
import math
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from agent.emitter import Emitter
from agent.probes import background
from agent.probes.background import Background
from agent.probes.barrier import BarrierProbe
from agent.rundir.errors import LockedError, RunDirError
from agent.rundir.events import EvalDone, Undecodable, decode_lines, kind
from agent.rundir.layout import RunDir
from agent.rundir.requests import read_accepted, read_outcome, write_request
from agent.session import Agent

ROOT = Path(__file__).parent.parent.parent


def events(run_dir: Path, attempt: int = 1, stem: str = "rank-00000") -> list:
    data = RunDir(run_dir).telemetry_file(attempt, stem).read_bytes()
    # Of a line that is being written a reader may see a part.
    found = decode_lines(data.rpartition(b"\n")[0])
    assert not any(isinstance(event, Undecodable) for event in found)
    return found


def test_a_run_begins_and_ends_in_its_telemetry(tmp_path):
    with Agent.attach(tmp_path) as agent:
        agent.phase("training")
        agent.step_done(1, loss=0.5, lr=1e-3)

    found = events(tmp_path)
    kinds = [kind(event) for event in found]
    assert kinds[0] == "run_started"
    assert kinds[-1] == "run_ended"
    assert found[0].attempt == 1
    assert found[-1].reason == "completed"
    assert {"heartbeat", "phase_changed", "step_done"} <= set(kinds)
    assert not RunDir(tmp_path).lock.exists()


def test_an_exception_is_the_reason_of_the_end_and_goes_on_its_way(tmp_path):
    with pytest.raises(ZeroDivisionError), Agent.attach(tmp_path):
        1 / 0  # noqa: B018

    last = events(tmp_path)[-1]
    assert last.reason == "error"
    assert "ZeroDivisionError" in last.error


def test_a_wait_travels_in_the_line_of_its_step(tmp_path):
    with Agent.attach(tmp_path) as agent:
        for step in (1, 2):
            with agent.wait("step.agree"):
                pass
            agent.step_done(step)

    waits = [e.waits for e in events(tmp_path) if kind(e) == "step_done"]
    assert [[(w.name, w.index) for w in wait] for wait in waits] == [
        [("step.agree", 0)],
        [("step.agree", 1)],
    ]


def test_a_barrier_says_arrived_before_it_waits_and_released_after(tmp_path):
    with Agent.attach(tmp_path) as agent, agent.barrier("save", limit_s=2):
        inside = [kind(e) for e in events(tmp_path)]

    assert "barrier_arrived" in inside
    assert "barrier_released" not in inside
    released = next(e for e in events(tmp_path) if kind(e) == "barrier_released")
    assert released.name == "save"
    assert released.error is None


def test_of_barriers_with_ever_new_names_memory_is_bounded(tmp_path):
    probe = BarrierProbe(Emitter(None, node="rank-0", rank=0))

    for step in range(10_000):
        for name in ("every.step", f"step-{step}"):
            with probe.wait(name):
                pass

    assert len(probe._counts) == 4_096
    assert probe._counts["every.step"] == 10_000


def test_a_disk_that_hangs_does_not_keep_training_from_ending(tmp_path, monkeypatch):
    monkeypatch.setattr(background, "_LEAVE_PATIENCE_S", 0.01)
    enough = threading.Event()
    agent = Agent.attach(tmp_path)
    monkeypatch.setattr(agent._background._pulse, "stop", lambda: False)
    monkeypatch.setattr(agent._obedience, "close", lambda why: enough.wait())

    agent.ended("completed")
    assert kind(events(tmp_path)[-1]) != "run_ended"

    enough.set()
    while kind(events(tmp_path)[-1]) != "run_ended":
        time.sleep(0.01)
    monkeypatch.undo()
    agent._background._pulse.stop()


def test_a_barrier_that_fails_says_why(tmp_path):
    with (
        Agent.attach(tmp_path) as agent,
        pytest.raises(TimeoutError),
        agent.barrier("save"),
    ):
        raise TimeoutError("rank 1 did not come")

    released = next(e for e in events(tmp_path) if kind(e) == "barrier_released")
    assert released.error == "TimeoutError: rank 1 did not come"


def test_the_beat_shows_where_the_main_thread_waits(tmp_path):
    with Agent.attach(tmp_path, heartbeat_s=0.01) as agent, agent.wait("step.agree"):
        while True:
            beats = [e for e in events(tmp_path) if kind(e) == "heartbeat"]
            if beats and beats[-1].waiting_at:
                break

    assert beats[-1].waiting_at == "step.agree"
    assert beats[-1].waiting_age_ns > 0


def test_a_phase_ends_with_its_block(tmp_path):
    with Agent.attach(tmp_path) as agent:
        agent.phase("training")
        with agent.in_phase("saving", limit_s=60):
            pass

    phases = [e.phase for e in events(tmp_path) if kind(e) == "phase_changed"]
    assert phases == ["training", "saving", "training"]


def test_switched_off_it_touches_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("OPSDASH_AGENT", "off")

    with Agent.attach(tmp_path / "run") as agent:
        agent.phase("training")
        with agent.barrier("save"), agent.wait("step"):
            agent.step_done(1, loss=0.5)
            agent.emit(EvalDone, loss=1.0)

    assert not (tmp_path / "run").exists()


def test_an_agent_that_is_off_measures_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("OPSDASH_AGENT", "off")
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    with Agent.attach(tmp_path / "run") as agent:
        agent.watch_optimizer(optimizer, model.named_parameters())

    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_a_second_trainer_is_refused(tmp_path):
    with Agent.attach(tmp_path), pytest.raises(LockedError):
        Agent.attach(tmp_path)


@pytest.mark.parametrize("node", ["", "../x", "a/b", ".hidden", "x" * 100, "a\nb"])
def test_a_key_that_cannot_be_a_file_name_is_refused(tmp_path, node):
    with pytest.raises(RunDirError, match="cannot name a client"):
        Agent.attach(tmp_path, rank=-1, node=node, attempt=1)


def test_a_client_writes_under_its_key(tmp_path):
    with Agent.attach(tmp_path, kind="federated", rank=-1, node="client-1", attempt=1):
        pass

    assert events(tmp_path, stem="client-1")[0].node == "client-1"


def test_the_other_ranks_of_a_start_find_its_attempt_without_a_collective(tmp_path):
    script = """
        import sys
        from agent.session import Agent
        with Agent.attach(sys.argv[1]) as agent:
            agent.step_done(1)
            print("ready", flush=True)
            sys.stdin.readline()
    """
    environment = {
        **os.environ,
        "TORCHELASTIC_RUN_ID": "none",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",
        "WORLD_SIZE": "3",
        "LOCAL_WORLD_SIZE": "3",
    }

    for attempt in (1, 2):
        ranks = [
            subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)],
                cwd=ROOT,
                env={**environment, "RANK": str(rank)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in (2, 1, 0)
        ]
        for rank in ranks:
            assert rank.stdout.readline() == "ready\n"
        for rank in ranks:
            rank.communicate("end\n")

        found = [events(tmp_path, attempt, f"rank-0000{rank}")[0] for rank in range(3)]
        assert [e.rank for e in found] == [0, 1, 2]
        assert {e.attempt for e in found} == {attempt}


def test_telemetry_that_cannot_be_written_leaves_training_alone(tmp_path):
    with Agent.attach(tmp_path) as agent:
        agent._background._pulse.stop()  # it would make the file anew
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, agent.emitter._outlet.file.fd)
        os.close(full)
        for step in range(100):
            agent.step_done(step, loss=1.0)

        assert agent.emitter.num_dropped >= 100
        assert "No space left" in agent.emitter.problem


def test_every_line_is_json_that_other_tools_read(tmp_path):
    with Agent.attach(tmp_path) as agent:
        agent.step_done(1, loss=float("nan"))

    data = RunDir(tmp_path).telemetry_file(1, "rank-00000").read_text()
    parsed = [
        json.loads(line, parse_constant=pytest.fail) for line in data.splitlines()
    ]
    assert all(isinstance(event["kind"], str) for event in parsed)


def test_the_time_between_two_steps_is_told_where_the_trainer_gives_none(tmp_path):
    with Agent.attach(tmp_path) as agent:
        agent.step_done(1)
        agent.step_done(2)
        agent.step_done(3, step_ns=7)

    steps = [e.step_ns for e in events(tmp_path) if kind(e) == "step_done"]
    assert steps[0] is None
    assert steps[1] > 0
    assert steps[2] == 7


@pytest.mark.parametrize("make", [float, torch.tensor, np.float32])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_named_beside_its_null(tmp_path, make, bad):
    with Agent.attach(tmp_path) as agent:
        agent.step_done(1, loss=make(0.5), grad_norm=make(1.0))
        agent.step_done(2, loss=make(0.5), grad_norm=make(bad))
        agent.step_done(3, loss=make(bad), grad_norm=make(bad))
        agent.step_done(4, loss=None, nonfinite="layer.weight")

    found = events(tmp_path)
    steps = [e for e in found if kind(e) == "step_done"]
    assert [e.nonfinite for e in steps] == [None, "grad_norm", "loss", "layer.weight"]
    assert [e.loss for e in steps] == [0.5, 0.5, None, None]
    assert [
        (e.step, e.tensor, e.where) for e in found if kind(e) == "nonfinite_found"
    ] == [
        (2, "grad_norm", "gradient"),
        (3, "loss", "loss"),
        (4, "layer.weight", "gradient"),
    ]


def test_stacks_that_cannot_be_written_leave_requests_alone(tmp_path):
    (tmp_path / "run.json").write_text(
        json.dumps({"schema": 1, "run_id": "x", "kind": "ddp", "created_ns": 1})
    )
    (tmp_path / "stacks").write_text("in the way")

    with Agent.attach(tmp_path) as agent:
        agent.accept("stop")
        assert "stop" in read_accepted(RunDir(tmp_path)).kinds

    [lost] = [e for e in events(tmp_path) if kind(e) == "events_dropped"]
    assert "stacks" in lost.reason


def test_what_the_agent_fills_in_itself_cannot_be_given_and_raises_nothing(tmp_path):
    with Agent.attach(tmp_path) as agent:
        agent.step_done(1, loss=0.5, waits=(), agent_ns=7)

    [step] = [e for e in events(tmp_path) if kind(e) == "step_done"]
    assert step.loss == 0.5
    assert step.agent_ns != 7


def test_a_kind_of_request_that_does_not_exist_is_a_programmers_mistake(tmp_path):
    with Agent.attach(tmp_path) as agent, pytest.raises(ValueError, match="`dance`"):
        agent.accept("stop", "dance")


def test_switched_off_it_takes_no_requests(tmp_path, monkeypatch):
    monkeypatch.setenv("OPSDASH_AGENT", "off")

    with Agent.attach(tmp_path / "run") as agent:
        agent.accept("stop")

        assert agent.at_step(1) is None


def test_an_unsafe_key_is_refused_before_anything_is_taken(tmp_path):
    with pytest.raises(RunDirError, match="cannot name a client"):
        Agent.attach(tmp_path / "run", kind="federated", node="../server")

    assert not (tmp_path / "run").exists()


def test_only_rank_0_has_an_inbox(tmp_path):
    with (
        Agent.attach(tmp_path) as main,
        Agent.attach(tmp_path, rank=1, attempt=1) as other,
    ):
        main.accept("stop")
        other.accept("stop")
        asked = write_request(RunDir(tmp_path), "stop", attempt=1)
        while main.at_step(1) is None:
            time.sleep(0.01)

        assert main.at_step(1).id == asked
        assert other.at_step(1) is None
        assert not other.claim(main.at_step(1))


def test_a_file_that_cannot_be_closed_does_not_keep_training_from_ending(
    tmp_path, monkeypatch
):
    def stale():
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    with Agent.attach(tmp_path) as agent:
        monkeypatch.setattr(agent._background._stacks, "close", stale)

    assert kind(events(tmp_path)[-1]) == "run_ended"
    assert not RunDir(tmp_path).lock.exists()
    assert "Stale file handle" in agent.emitter.problem
    monkeypatch.undo()
    agent._background._stacks.close()


def test_an_optimizer_without_hooks_is_not_measured_and_that_is_counted(tmp_path):
    class Wrapped:
        """As some libraries wrap them."""

    with Agent.attach(tmp_path) as agent:
        agent.watch_optimizer(Wrapped(), [])

    [lost] = [e for e in events(tmp_path) if kind(e) == "events_dropped"]
    assert lost.reason.startswith("optimizer probe: ")
    assert "register_step_pre_hook" in lost.reason


def taken(agent, run_dir):
    """Ask for a stop, and return the request once the agent has claimed it."""
    agent.accept("stop")
    write_request(RunDir(run_dir), "stop", attempt=1)
    while (request := agent.at_step(1)) is None:
        time.sleep(0.01)
    assert agent.claim(request)
    return request


def test_a_request_that_was_taken_and_not_begun_is_told_at_the_end(tmp_path):
    with Agent.attach(tmp_path, heartbeat_s=0.02) as agent:
        request = taken(agent, tmp_path)

    outcome = read_outcome(RunDir(tmp_path), request.id)
    assert outcome.stage == "failed"
    assert "ended before it told" in outcome.error


def test_a_request_that_was_taken_before_an_error_tells_the_error(tmp_path):
    requests = []

    def train():
        with Agent.attach(tmp_path, heartbeat_s=0.02) as agent:
            requests.append(taken(agent, tmp_path))
            1 / 0  # noqa: B018

    with pytest.raises(ZeroDivisionError):
        train()

    outcome = read_outcome(RunDir(tmp_path), requests[0].id)
    assert outcome.stage == "failed"
    assert outcome.error.endswith(": ZeroDivisionError: division by zero")


def test_a_request_whose_work_ends_the_agent_is_done_all_the_same(tmp_path):
    with Agent.attach(tmp_path, heartbeat_s=0.02) as agent:
        request = taken(agent, tmp_path)
        with agent.obeying(request):
            agent.ended("stopped")

    assert read_outcome(RunDir(tmp_path), request.id).stage == "done"


def test_an_error_with_a_name_that_is_no_utf_8_is_told(tmp_path):
    name = os.fsdecode(b"caf\xe9.pt")
    with Agent.attach(tmp_path, heartbeat_s=0.02) as agent:
        request = taken(agent, tmp_path)
        with pytest.raises(FileNotFoundError), agent.obeying(request):
            raise FileNotFoundError(name)

    outcome = read_outcome(RunDir(tmp_path), request.id)
    said = r"FileNotFoundError: caf\udce9.pt"
    assert (outcome.stage, outcome.error) == ("failed", said)


class UnspeakableError(Exception):
    def __str__(self):
        raise RuntimeError("it cannot even be told")


def test_an_error_that_cannot_be_told_ends_the_run_as_any_other(tmp_path):
    requests = []

    def train():
        with Agent.attach(tmp_path, heartbeat_s=0.02) as agent:
            requests.append(taken(agent, tmp_path))
            with agent.obeying(requests[0]):
                raise UnspeakableError

    with pytest.raises(UnspeakableError):
        train()

    assert read_outcome(RunDir(tmp_path), requests[0].id).stage == "failed"
    assert events(tmp_path)[-1].error == "UnspeakableError: it cannot say what"
    assert not RunDir(tmp_path).lock.exists()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_that_leaves_does_not_end_the_run(tmp_path):
    run = RunDir(tmp_path)
    with Agent.attach(tmp_path) as agent:
        agent.accept("stop")
        child = os.fork()
        if child == 0:
            try:
                agent.__exit__(SystemExit, SystemExit(0), None)
            finally:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0

        assert run.lock.exists()
        assert read_accepted(run).kinds == ("stacks", "stop")
        agent.step_done(1)

    kinds = [kind(event) for event in events(tmp_path)]
    assert kinds.count("run_ended") == 1
    assert "step_done" in kinds


def test_an_optimizer_that_outlives_its_agents_keeps_nothing_of_them(tmp_path):
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    num_files = []

    for _ in range(3):
        with Agent.attach(tmp_path) as agent:
            agent.watch_optimizer(optimizer, model.named_parameters())
            assert len(optimizer._optimizer_step_pre_hooks) == 1
        del agent
        gc.collect()
        num_files.append(psutil.Process().num_fds())

    assert len(set(num_files)) == 1
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize(
    "limit_s", [math.inf, math.nan, 1e300, 10**400, -math.inf, -1, 0, "soon", [3]]
)
def test_no_limit_that_a_trainer_gives_ends_training(tmp_path, limit_s):
    with Agent.attach(tmp_path, world_size=2, rank=0, hang_limit_s=limit_s) as agent:
        with agent.barrier("save", limit_s=limit_s), agent.wait("x", limit_s=limit_s):
            pass
        with agent.in_phase("saving", limit_s=limit_s):
            agent.step_done(1)
        assert agent.emitter.num_dropped == 0

    arrived = next(e for e in events(tmp_path) if kind(e) == "barrier_arrived")
    assert arrived.limit_ns >= 0


@pytest.mark.parametrize("heartbeat_s", [math.inf, math.nan, 1e300, 1e-300, -1, 0])
def test_no_rhythm_that_a_trainer_gives_ends_training(tmp_path, heartbeat_s):
    with Agent.attach(tmp_path, world_size=2, rank=0, heartbeat_s=heartbeat_s) as agent:
        while not any(kind(event) == "heartbeat" for event in events(tmp_path)):
            time.sleep(0.01)
        agent.step_done(1)
        assert 0.001 <= agent._background._pulse.period_s <= 3_600

    assert not any(kind(event) == "events_dropped" for event in events(tmp_path))


def test_an_attach_that_fails_half_way_gives_the_run_back(tmp_path, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(Background, "begin", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            Agent.attach(tmp_path)

    with Agent.attach(tmp_path):
        assert RunDir(tmp_path).lock.exists()


@pytest.mark.filterwarnings("error")
def test_a_loss_that_still_has_its_graph_is_told_without_a_warning(tmp_path):
    weight = torch.ones((), requires_grad=True)

    with Agent.attach(tmp_path) as agent:
        agent.step_done(1, loss=weight * 0.5, grad_norm=weight / 0)

    found = [e for e in events(tmp_path) if kind(e) == "step_done"]
    assert (found[0].loss, found[0].nonfinite) == (0.5, "grad_norm")


def test_whatever_a_trainer_gives_as_step_phase_or_name_leaves_events_readable(
    tmp_path,
):
    telemetry = RunDir(tmp_path).telemetry_file(1, "rank-00000")
    steps = (torch.tensor(3), np.float32(4.0), 5.0, "six", float("inf"), 2.0**70, None)
    with Agent.attach(tmp_path, heartbeat_s=0.01) as agent:
        agent.phase(1)
        with agent.barrier(2), agent.wait(["x"]), agent.wait(os.fsdecode(b"caf\xe9")):
            while b'"waits":[[' not in telemetry.read_bytes():
                time.sleep(0.001)
        for step in steps:
            agent.step_done(step)

    found = events(tmp_path)
    [beat, *_] = [
        event for event in found if kind(event) == "heartbeat" and event.waits
    ]
    assert beat.phase == "1"
    assert [one.name for one in beat.waits] == ["2", "['x']", r"caf\udce9"]
    done = [event.step for event in found if kind(event) == "step_done"]
    assert done == [3, 4, 5, None, None, None, None]
    dropped = [event.reason for event in found if kind(event) == "events_dropped"]
    assert "`six` is no number of steps" in dropped
