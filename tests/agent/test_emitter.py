import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import get_args

import msgspec
import numpy as np
import pytest
import torch

from agent.emitter import Emitter
from agent.rundir.events import (
    AnyEvent,
    EventsDropped,
    Heartbeat,
    OptimizerNorms,
    RunEnded,
    StepDone,
    decode,
    decode_lines,
    encode,
)
from agent.writing.stamps import Stamps

ROOT = Path(__file__).parent.parent.parent
STARTED = {
    "schema": 1,
    "run_id": "cafe",
    "attempt": 1,
    "run_kind": "ddp",
    "host": "here",
    "boot_id": "b",
    "pid": 1,
    "pid_start": 2,
}
SAMPLES = {
    int: 1,
    float: 0.5,
    bool: True,
    str: "x",
    float | None: None,
    int | None: None,
    str | None: None,
    dict[str, float | None]: {},
    tuple[int, ...]: (1,),
    tuple[str, ...]: ("x",),
}
"""A value for each type that a required field has."""


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_one_event_is_one_line_with_the_common_fields(tmp_path):
    emitter = Emitter(tmp_path / "a" / "rank-00003.jsonl", node="rank-3", rank=3)
    emitter.step = 7

    assert emitter.emit(StepDone, loss=0.5)

    [event] = lines(tmp_path / "a" / "rank-00003.jsonl")
    assert event["kind"] == "step_done"
    assert (event["node"], event["rank"], event["step"]) == ("rank-3", 3, 7)
    assert event["loss"] == 0.5
    assert event["time_ns"] > 10**18
    assert event["mono_ns"] > 0


def test_a_number_that_is_not_finite_is_null(tmp_path):
    emitter = Emitter(tmp_path / "x.jsonl", node="rank-0", rank=0)

    emitter.emit(StepDone, loss=float("nan"), grad_norm=float("inf"))

    [event] = lines(tmp_path / "x.jsonl")
    assert event["loss"] is None
    assert event["grad_norm"] is None


def test_a_torn_last_line_is_ended_before_the_next_event(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"kind":"heart')

    Emitter(path, node="rank-0", rank=0).emit(StepDone, loss=1.0)

    torn, whole = path.read_bytes().splitlines()
    assert torn == b'{"kind":"heart'
    assert json.loads(whole)["loss"] == 1.0


def test_what_cannot_be_written_is_counted_and_told_afterwards(tmp_path):
    path = tmp_path / "x.jsonl"
    emitter = Emitter(path, node="rank-0", rank=0)
    emitter.emit(StepDone, loss=1.0)
    fd = emitter._outlet.file.fd
    good = os.dup(fd)
    read_only = os.open(path, os.O_RDONLY)
    os.dup2(read_only, fd)

    assert not emitter.emit(StepDone, loss=2.0)
    assert not emitter.emit(StepDone, loss=3.0)
    os.dup2(good, fd)
    assert emitter.emit(StepDone, loss=4.0)

    found = lines(path)
    assert [e["kind"] for e in found] == ["step_done", "step_done", "events_dropped"]
    assert found[2]["num_dropped"] == 2
    assert "Bad file descriptor" in found[2]["reason"]
    assert [e["seq"] for e in found] == [0, 3, 4]  # two are missing, and told
    assert emitter.num_dropped == 0
    for fd in (good, read_only):
        os.close(fd)


def test_an_event_with_wrong_fields_is_dropped_not_raised(tmp_path):
    emitter = Emitter(tmp_path / "x.jsonl", node="rank-0", rank=0)

    assert not emitter.emit(StepDone, no_such_field=1)

    assert emitter.num_dropped == 1


def test_a_tensor_stands_for_its_number_and_many_numbers_for_none(tmp_path):
    emitter = Emitter(tmp_path / "x.jsonl", node="rank-0", rank=0)

    assert emitter.emit(StepDone, step=np.int64(3), loss=torch.tensor(0.5))
    assert emitter.emit(StepDone, loss=torch.tensor(torch.nan), lr=np.float32(0.25))
    assert not emitter.emit(StepDone, loss=torch.ones(2))
    assert not emitter.emit(StepDone, loss=object())
    assert emitter.problem == "TypeError: `object` cannot stand in an event"
    assert emitter.emit(StepDone, step=4, loss=torch.tensor(1))  # after the drops

    first, second, last, *told = decode_lines((tmp_path / "x.jsonl").read_bytes())
    assert (first.step, first.loss) == (3, 0.5)
    assert (second.loss, second.lr) == (None, 0.25)
    assert sum(dropped.num_dropped for dropped in told) == 2
    assert (last.step, last.loss) == (4, 1.0)


def test_a_text_that_is_no_utf_8_is_told_with_escapes(tmp_path):
    emitter = Emitter(tmp_path / "x.jsonl", node="rank-0", rank=0)
    name = os.fsdecode(b"caf\xe9")
    norms = {name: torch.tensor(0.5), "b": torch.nan}

    assert emitter.emit(RunEnded, reason="error", error=name)
    assert emitter.emit(OptimizerNorms, optimizer=name, state=norms, nonfinite=(name,))
    assert emitter.emit(StepDone, loss=1.0)

    ended, told, _ = decode_lines((tmp_path / "x.jsonl").read_bytes())
    assert ended.error == r"caf\udce9"
    assert told.state == {r"caf\udce9": 0.5, "b": None}
    assert told.nonfinite == (r"caf\udce9",)
    assert emitter.num_dropped == 0


def test_why_events_were_lost_is_told_also_where_that_is_no_utf_8(tmp_path):
    emitter = Emitter(tmp_path / "x.jsonl", node="rank-0", rank=0)

    emitter.drop(os.fsdecode(b"no caf\xe9"))
    assert emitter.emit(StepDone, loss=1.0)

    _, told = decode_lines((tmp_path / "x.jsonl").read_bytes())
    assert (told.num_dropped, told.reason) == (1, r"no caf\udce9")


def test_what_cannot_be_told_even_with_escapes_is_counted(tmp_path):
    emitter = Emitter(tmp_path / "x.jsonl", node="rank-0", rank=0)

    assert not emitter.emit(RunEnded, reason="\ud800", error=object())

    assert emitter.num_dropped == 1


def test_a_path_that_cannot_be_opened_drops_and_never_raises(tmp_path):
    (tmp_path / "file").write_text("")

    emitter = Emitter(tmp_path / "file" / "x.jsonl", node="rank-0", rank=0)

    assert not emitter.emit(StepDone, loss=1.0)
    assert emitter.num_dropped == 1
    assert emitter.problem


def test_a_file_that_could_not_be_opened_is_tried_again(tmp_path):
    (tmp_path / "folder").write_text("")
    emitter = Emitter(tmp_path / "folder" / "x.jsonl", node="rank-0", rank=0)
    emitter.emit(StepDone, loss=1.0)
    (tmp_path / "folder").unlink()

    emitter.tend()
    emitter.emit(StepDone, loss=2.0)

    step, dropped = lines(tmp_path / "folder" / "x.jsonl")
    assert dropped["num_dropped"] == 1
    assert "not open" in dropped["reason"]
    assert step["loss"] == 2.0


def test_a_file_that_is_opened_late_says_whose_it_is(tmp_path):
    folder = tmp_path / "0001"
    folder.write_text("in the way")
    emitter = Emitter(folder / "rank-00000.jsonl", node="rank-0", rank=0)
    emitter.begin(**STARTED)
    folder.unlink()

    emitter.tend()
    emitter.emit(StepDone, step=1)
    emitter.close()

    found = lines(folder / "rank-00000.jsonl")
    kinds = [event["kind"] for event in found]
    assert kinds == ["run_started", "events_dropped", "step_done"]
    assert found[0]["run_id"] == STARTED["run_id"]


def test_a_fifo_without_a_reader_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "x.jsonl")

    emitter = Emitter(tmp_path / "x.jsonl", node="rank-0", rank=0)
    for _ in range(20_000):
        emitter.emit(StepDone, loss=1.0)

    assert emitter.num_dropped > 0
    emitter.close()


def test_a_stamped_event_is_written_like_an_emitted_one(tmp_path):
    emitter = Emitter(tmp_path / "x.jsonl", node="rank-3", rank=3)
    emitter.emit(StepDone, step=1, loss=0.5)

    assert emitter.put(emitter.stamped(StepDone)(step=1, loss=0.5))

    one, two = decode_lines((tmp_path / "x.jsonl").read_bytes())
    clocks = {"seq": 1, "time_ns": two.time_ns, "mono_ns": two.mono_ns}
    assert msgspec.structs.replace(one, **clocks) == two


def test_a_hot_loop_may_say_which_fields_it_gives(tmp_path):
    emitter = Emitter(tmp_path / "x.jsonl", node="rank-0", rank=0)
    emitter.emit(StepDone, step=1, loss=0.5, waits=())

    assert emitter.put(emitter.stamped(StepDone, "step", "loss")(step=1, loss=0.5))

    one, two = decode_lines((tmp_path / "x.jsonl").read_bytes())
    clocks = {"seq": 1, "time_ns": two.time_ns, "mono_ns": two.mono_ns}
    assert msgspec.structs.replace(one, **clocks) == two


@pytest.mark.parametrize("name", ["losss", "time_ns", "seq"])
def test_a_hot_loop_cannot_give_what_the_event_has_not_or_fills_in(tmp_path, name):
    emitter = Emitter(tmp_path / "x.jsonl", node="rank-0", rank=0)

    with pytest.raises(ValueError, match=f"`{name}` is no field"):
        emitter.stamped(StepDone, name)


def test_a_long_line_leaves_no_trace_in_a_short_one(tmp_path):
    emitter = Emitter(tmp_path / "x.jsonl", node="rank-0", rank=0)
    reasons = ["x" * 100_000, "", "y" * 300, "z"]

    for reason in reasons:
        emitter.emit(EventsDropped, num_dropped=1, reason=reason)

    assert [line["reason"] for line in lines(tmp_path / "x.jsonl")] == reasons


@pytest.mark.parametrize("event_type", get_args(AnyEvent))
def test_every_kind_can_be_stamped_and_is_read_back(event_type):
    fields = {
        field.name: SAMPLES[field.type]
        for field in msgspec.structs.fields(event_type)
        if field.required and field.name not in ("time_ns", "mono_ns", "node")
    }

    event = Stamps(node="server", rank=None)[event_type](**fields)

    found = decode(encode(event))
    assert type(found) is event_type
    assert isinstance(event, event_type)
    assert (found.node, found.rank, found.seq) == ("server", None, 0)


def test_a_federated_node_has_no_rank_and_its_round_is_filled_in(tmp_path):
    emitter = Emitter(tmp_path / "client-1.jsonl", node="client-1", rank=None)
    emitter.round_num = 4

    emitter.emit(StepDone, loss=0.5)
    emitter.emit(StepDone, loss=0.5, round_num=5)

    first, second = lines(tmp_path / "client-1.jsonl")
    assert first["node"] == "client-1"
    assert "rank" not in first
    assert (first["round_num"], second["round_num"]) == (4, 5)


def test_a_full_segment_is_followed_by_one_that_says_whose_it_is(tmp_path):
    path = tmp_path / "x.jsonl"
    emitter = Emitter(path, node="rank-0", rank=0, segment_bytes=1000)
    emitter.begin(**STARTED)
    for step in range(20):
        emitter.emit(StepDone, step=step)

    emitter.tend()
    emitter.emit(StepDone, step=20)
    emitter.tend()

    head, step = lines(tmp_path / "x.s0002.jsonl")
    assert head | STARTED == head
    assert (head["kind"], head["segment"]) == ("run_started", 2)
    assert (head["seq"], step["seq"], step["step"]) == (21, 22, 20)
    assert head["mono_ns"] > lines(path)[-1]["mono_ns"]
    both = (path, tmp_path / "x.s0002.jsonl")
    assert emitter.num_bytes == sum(p.stat().st_size for p in both)


def test_a_process_that_comes_back_goes_on_in_the_newest_segment(tmp_path):
    (tmp_path / "client-1.jsonl").write_bytes(b"")
    (tmp_path / "client-1.s0003.jsonl").write_bytes(b'{"torn":')
    (tmp_path / "client-10.s0009.jsonl").write_bytes(b"")

    emitter = Emitter(tmp_path / "client-1.jsonl", node="client-1", rank=None)
    emitter.begin(**STARTED)

    torn, whole = (tmp_path / "client-1.s0003.jsonl").read_bytes().splitlines()
    assert torn == b'{"torn":'
    assert json.loads(whole)["kind"] == "run_started"
    assert "segment" not in json.loads(whole)


def test_a_file_whose_name_is_not_telemetrys_is_a_mistake(tmp_path):
    with pytest.raises(ValueError, match="not the name of a telemetry file"):
        Emitter(tmp_path / "log.txt", node="rank-0", rank=0)


def test_an_emitter_that_is_off_swallows_everything(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    emitter = Emitter(None, node="off", rank=None)

    assert not emitter.emit(StepDone, loss=1.0)
    assert not emitter.put(emitter.stamped(StepDone)(loss=1.0))
    emitter.tend()
    emitter.close()

    assert list(tmp_path.iterdir()) == []


def test_what_emitting_cost_is_counted(tmp_path):
    emitter = Emitter(tmp_path / "x.jsonl", node="rank-0", rank=0)
    began = time.monotonic_ns()

    for _ in range(100):
        emitter.emit(StepDone, loss=1.0)

    assert 0 < emitter.busy_ns <= time.monotonic_ns() - began


def test_after_a_removed_file_the_next_segment_begins(tmp_path):
    path = tmp_path / "telemetry" / "x.jsonl"
    emitter = Emitter(path, node="rank-0", rank=0)
    emitter.begin(**STARTED)
    emitter.emit(StepDone, loss=1.0)
    path.unlink()
    path.parent.rmdir()

    emitter.tend()
    emitter.emit(StepDone, loss=2.0)

    head, step = lines(path.with_name("x.s0002.jsonl"))
    assert (head["kind"], head["segment"]) == ("run_started", 2)
    assert step["loss"] == 2.0
    assert not path.exists()


def test_after_a_file_was_moved_away_the_next_segment_begins(tmp_path):
    path = tmp_path / "x.jsonl"
    emitter = Emitter(path, node="rank-0", rank=0)
    path.rename(tmp_path / "elsewhere")

    emitter.tend()
    emitter.emit(StepDone, loss=2.0)

    assert [e["loss"] for e in lines(tmp_path / "x.s0002.jsonl")] == [2.0]


def test_events_from_many_threads_are_whole_lines_with_distinct_numbers(tmp_path):
    path = tmp_path / "x.jsonl"
    emitter = Emitter(path, node="rank-0", rank=0)

    def work():
        for _ in range(500):
            emitter.emit(Heartbeat, phase="x" * 300, phase_age_ns=1, progress=1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(e.get("seq", 0) for e in lines(path)) == list(range(2000))


def test_a_forked_child_writes_nothing_and_the_parent_goes_on(tmp_path):
    path = tmp_path / "x.jsonl"
    script = f"""
        import os
        from pathlib import Path
        from agent.emitter import Emitter
        from agent.rundir.events import StepDone
        emitter = Emitter(Path({str(path)!r}), node="rank-0", rank=0)
        emitter.emit(StepDone, loss=1.0)
        child = os.fork()
        if child == 0:
            emitter.emit(StepDone, loss=666.0)
            os._exit(0)
        os.waitpid(child, 0)
        emitter.emit(StepDone, loss=2.0)
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], check=True, cwd=ROOT
    )

    assert [e["loss"] for e in lines(path)] == [1.0, 2.0]


@pytest.mark.parametrize(
    "end",
    [
        "os.kill(os.getpid(), 9)",
        "os.kill(os.getpid(), 15)",
        "os._exit(3)",
        "os.abort()",
        "raise RuntimeError",
        "ctypes.string_at(0)",
        "os.execv('/bin/true', ['true'])",
    ],
)
def test_however_a_process_ends_no_event_that_was_emitted_is_lost(tmp_path, end):
    path = tmp_path / "x.jsonl"
    script = f"""
        import ctypes, os, resource
        from pathlib import Path
        from agent.emitter import Emitter
        from agent.rundir.events import StepDone
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        emitter = Emitter(Path({str(path)!r}), node="rank-0", rank=0)
        for step in range(1000):
            assert emitter.emit(StepDone, step=step)
        {end}
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )

    assert [e["step"] for e in lines(path)] == list(range(1000))


def test_sigkill_at_full_speed_loses_nothing_that_was_acknowledged(tmp_path):
    path = tmp_path / "x.jsonl"
    script = f"""
        import os
        from pathlib import Path
        from agent.emitter import Emitter
        from agent.rundir.events import StepDone
        emitter = Emitter(Path({str(path)!r}), node="rank-0", rank=0)
        step = 0
        while True:
            emitter.emit(StepDone, step=step)
            os.write(1, b"%d\\n" % step)
            step += 1
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    acknowledged = [process.stdout.readline() for _ in range(5000)]
    process.send_signal(signal.SIGKILL)
    acknowledged += process.stdout.read().splitlines()
    process.stdout.close()
    process.wait()

    steps = [e.step for e in decode_lines(path.read_bytes())]
    assert steps[: len(acknowledged)] == list(range(len(acknowledged)))


def test_a_signal_handler_may_emit_in_the_middle_of_an_emit(tmp_path):
    path = tmp_path / "x.jsonl"
    emitter = Emitter(path, node="rank-0", rank=0)
    fired = []

    def handler(*_):
        fired.append(
            emitter.emit(Heartbeat, phase="signal", phase_age_ns=0, progress=0)
        )

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        while len(fired) < 50:
            emitter.emit(StepDone, loss=1.0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    found = lines(path)
    assert sum(e["kind"] == "heartbeat" for e in found) == len(fired)
    assert all(fired)
