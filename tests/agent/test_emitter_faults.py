import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from agent import emitter as emitter_module
from agent.emitter import Emitter
from agent.rundir.events import EventsDropped, Heartbeat, StepDone, decode_lines
from agent.rundir.history import History
from agent.rundir.layout import RunDir
from agent.rundir.stretches import Span
from agent.writing.backlog import MAX_LINES

ROOT = Path(__file__).parent.parent.parent
BEAT = {"phase": "training", "phase_age_ns": 1, "progress": 1}


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def run_python(script: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, **options
    )


def wait_until(condition) -> None:
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up, "it did not come true in a minute"
        time.sleep(0.001)


class Stalled:
    """A FIFO in place of a telemetry file: writing blocks until someone reads."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"#" * 4095 + b"\n")
        os.close(writer)

    def read(self) -> list:
        """Let the writers go on; return the events that arrived meanwhile."""
        data = b""
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(self._reader, 1 << 16):
                data += piece
        return decode_lines(b"\n".join(t for t in data.split(b"\n") if t[:1] == b"{"))

    def close(self) -> None:
        os.close(self._reader)


@pytest.fixture
def stalled(tmp_path):
    fifo = Stalled(tmp_path / "x.jsonl")
    yield fifo
    fifo.close()


@pytest.fixture
def emitter(tmp_path, stalled):
    found = Emitter(tmp_path / "x.jsonl", node="rank-0", rank=0, slow_s=0.05)
    os.set_blocking(found._outlet.file.fd, True)
    yield found
    found.close()


def blocked_in_write(thread: threading.Thread) -> bool:
    where = Path(f"/proc/self/task/{thread.native_id}/wchan")
    return "pipe" in where.read_text()


def emit_and_hang(emitter: Emitter, emit) -> threading.Thread:
    """Emit in a thread, and come back once it hangs in the file system."""
    thread = threading.Thread(target=emit, args=(Heartbeat,), kwargs=BEAT, daemon=True)
    thread.start()
    wait_until(lambda: blocked_in_write(thread))
    return thread


def recover(emitter: Emitter, stalled: Stalled) -> list:
    """Read until writes are direct again; return the events that arrived.

    Whether writes are fast again is seen from writing: beats go on meanwhile,
    as those of the agent's thread do. From then on no write is slow, however
    busy the machine is.
    """
    arrived = []
    give_up = time.monotonic() + 60
    while emitter._outlet.is_waiting:
        assert time.monotonic() < give_up, "it did not recover in a minute"
        arrived += stalled.read()
        if emitter.num_waiting == 0:
            emitter.emit(Heartbeat, **BEAT)
        time.sleep(0.001)
    emitter._outlet.slow_ns = 10**15
    return arrived + stalled.read()


def steps(events: list) -> list[int]:
    return [event.step for event in events if isinstance(event, StepDone)]


def test_after_a_slow_write_events_wait_in_memory_until_writes_are_fast(
    emitter, stalled
):
    hung = emit_and_hang(emitter, emitter.emit)
    time.sleep(2 * 0.05)
    arrived = stalled.read()
    hung.join()
    assert emitter._outlet.is_waiting

    # No more than the pipe holds: the thread may have written all of them by then.
    assert all(emitter.emit(StepDone, step=step) for step in range(300))
    arrived += recover(emitter, stalled)
    assert emitter.emit(StepDone, step=300)
    arrived += stalled.read()

    assert steps(arrived) == list(range(301))
    assert [e.seq for e in arrived] == list(range(len(arrived)))
    assert emitter._outlet.fd >= 0


def test_while_the_agents_thread_hangs_others_do_not(emitter, stalled):
    hung = emit_and_hang(emitter, emitter.emit_first)
    wait_until(lambda: emitter._outlet.is_waiting)

    assert all(emitter.emit(StepDone, step=step) for step in range(100))

    assert emitter.num_waiting == 100
    arrived = recover(emitter, stalled)
    hung.join()
    assert steps(arrived) == list(range(100))


def test_what_may_not_wait_any_more_is_dropped_counted_and_told(emitter, stalled):
    hung = emit_and_hang(emitter, emitter.emit_first)
    wait_until(lambda: emitter._outlet.is_waiting)

    taken = [emitter.emit(StepDone, step=step) for step in range(MAX_LINES + 50)]

    assert taken == [True] * MAX_LINES + [False] * 50
    assert emitter.num_dropped == 50
    arrived = recover(emitter, stalled)
    hung.join()
    emitter.emit(StepDone, step=-1)
    arrived += stalled.read()
    assert steps(arrived) == [*range(MAX_LINES), -1]
    [told] = [event for event in arrived if isinstance(event, EventsDropped)]
    assert told.num_dropped == 50
    assert "blocks" in told.reason
    assert emitter.num_dropped == 0


def test_memory_is_bounded_by_bytes_too(emitter, stalled):
    hung = emit_and_hang(emitter, emitter.emit_first)
    wait_until(lambda: emitter._outlet.is_waiting)

    for _ in range(100):
        emitter.emit(Heartbeat, phase="x" * 100_000, phase_age_ns=1, progress=1)

    assert emitter._outlet._backlog.num_bytes <= 4 << 20
    assert emitter.num_waiting + emitter.num_dropped == 100
    assert emitter.num_dropped > 50
    recover(emitter, stalled)
    hung.join()


def test_a_signal_handler_may_emit_while_a_write_hangs(emitter, stalled):
    arrived, fired = [], []

    def handler(*_):
        fired.append(emitter.emit(StepDone, loss=2.0))

    def read_once_it_hangs(main_id: int) -> None:
        where = Path(f"/proc/self/task/{main_id}/wchan")
        wait_until(lambda: "pipe" in where.read_text())
        os.kill(os.getpid(), signal.SIGALRM)
        while len(arrived) < 2:
            arrived.extend(stalled.read())
            time.sleep(0.001)

    reader = threading.Thread(
        target=read_once_it_hangs, args=(threading.get_native_id(),)
    )
    before = signal.signal(signal.SIGALRM, handler)
    reader.start()
    try:
        emitter.emit(StepDone, loss=1.0)
        wait_until(lambda: fired)
        reader.join()
    finally:
        signal.signal(signal.SIGALRM, before)

    assert sorted(e.loss for e in arrived) == [1.0, 2.0]


def test_closing_does_not_wait_for_a_dead_disk(emitter, stalled, monkeypatch):
    monkeypatch.setattr(emitter_module, "_CLOSE_PATIENCE_S", 0.01)
    hung = emit_and_hang(emitter, emitter.emit_first)
    wait_until(lambda: emitter._outlet.is_waiting)
    emitter.emit(StepDone, step=1)

    emitter.close()

    assert hung.is_alive()
    wait_until(lambda: not (stalled.read() or hung.is_alive()))


def test_a_full_disk_drops_and_when_there_is_room_again_tells(tmp_path):
    path = tmp_path / "x.jsonl"
    run_python(
        f"""
        import resource
        from pathlib import Path
        from agent.emitter import Emitter
        from agent.rundir.events import StepDone
        emitter = Emitter(Path({str(path)!r}), node="rank-0", rank=0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
        taken = [emitter.emit(StepDone, step=step) for step in range(1000)]
        assert 10 < sum(taken) < 200
        assert emitter.num_dropped == 1000 - sum(taken)
        assert "File too large" in emitter.problem, emitter.problem
        resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
        assert emitter.emit(StepDone, step=1000)
        assert emitter.num_dropped == 0 and emitter.problem is None
        """,
        check=True,
    )

    *whole, torn, last, dropped = path.read_bytes().splitlines()
    assert [json.loads(line)["step"] for line in whole] == list(range(len(whole)))
    with pytest.raises(json.JSONDecodeError):
        json.loads(torn)
    assert json.loads(dropped)["num_dropped"] == 1000 - len(whole)
    assert json.loads(last)["step"] == 1000


def test_a_disk_that_was_full_at_the_start_is_told_whose_the_file_is(tmp_path):
    path = tmp_path / "x.jsonl"
    run_python(
        f"""
        import resource
        from pathlib import Path
        from agent.emitter import Emitter
        emitter = Emitter(Path({str(path)!r}), node="rank-0", rank=0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
        assert not emitter.begin(schema=1, run_id="cafe", attempt=1, run_kind="ddp",
                                 host="here", boot_id="b", pid=1, pid_start=2)
        emitter.tend()
        resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
        emitter.tend()
        emitter.tend()
        """,
        check=True,
    )

    _torn, *told = path.read_bytes().splitlines()
    assert [json.loads(line)["kind"] for line in told] == [
        "run_started",
        "events_dropped",
    ]


def test_a_small_file_system_that_is_full_leaves_training_alone(tmp_path):
    script = """
        from pathlib import Path
        from agent.emitter import Emitter
        from agent.rundir.events import StepDone
        filler = Path("filler")
        filler.write_bytes(b"x" * 40_000)
        emitter = Emitter(Path("t/x.jsonl"), node="rank-0", rank=0)
        taken = [emitter.emit(StepDone, step=step) for step in range(1000)]
        assert 0 < sum(taken) < 1000, sum(taken)
        assert "No space left" in emitter.problem
        emitter.tend()
        filler.unlink()
        taken += [emitter.emit(StepDone, step=1000 + step) for step in range(5)]
        emitter.close()
        text = Path("t/x.jsonl").read_text()
        assert text.count("step_done") >= sum(taken)
        assert f'"num_dropped":{1005 - sum(taken)}' in text, text[-600:]
    """
    mount = f"mount -t tmpfs -o size=64k none {tmp_path} && cd {tmp_path} && exec "
    python = (sys.executable, "-c", textwrap.dedent(script))
    found = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount + '"$@"', "sh", *python],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )

    if "unshare" in found.stderr or "mount:" in found.stderr:
        pytest.skip(f"no file system of its own to be had: {found.stderr.strip()}")
    assert found.returncode == 0, found.stderr


def test_data_loader_workers_write_nothing_and_lose_nothing(tmp_path):
    path = tmp_path / "x.jsonl"
    run_python(
        f"""
        from pathlib import Path
        import torch
        from agent.emitter import Emitter
        from agent.rundir.events import StepDone
        emitter = Emitter(Path({str(path)!r}), node="rank-0", rank=0)

        class Data(torch.utils.data.Dataset):
            def __len__(self):
                return 8
            def __getitem__(self, index):
                return int(emitter.emit(StepDone, step=666))

        loader = torch.utils.data.DataLoader(Data(), num_workers=2)
        for step, taken in enumerate(loader):
            assert taken == 0
            assert emitter.emit(StepDone, step=step)
        """,
        check=True,
    )

    assert [e["step"] for e in lines(path)] == list(range(8))


def test_the_number_of_a_closed_file_is_not_given_to_another(tmp_path):
    emitter = Emitter(tmp_path / "x.jsonl", node="rank-0", rank=0)
    emitter.emit(StepDone, step=1)
    late = emitter._outlet.fd

    emitter.close()
    with (tmp_path / "state.pt").open("wb") as checkpoint:
        os.write(late, b"a write that was on its way")

        assert checkpoint.fileno() != late
    assert (tmp_path / "state.pt").read_bytes() == b""
    assert len(lines(tmp_path / "x.jsonl")) == 1


def test_threads_that_emit_while_segments_change_lose_nothing(tmp_path):
    # A thread that a busy machine holds up in a write has met no slow disk.
    patient = {"segment_bytes": 4000, "slow_s": 600}
    emitter = Emitter(tmp_path / "x.jsonl", node="rank-0", rank=0, **patient)
    is_done = threading.Event()

    def work():
        while not is_done.is_set():
            assert emitter.emit(StepDone, loss=1.0)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    while emitter._outlet.file.segment < 6:
        emitter.tend()
    is_done.set()
    for thread in threads:
        thread.join()

    files = [tmp_path / "x.jsonl", *tmp_path.glob("x.s*.jsonl")]
    found = sorted(e["seq"] for path in files for e in lines(path))
    assert found == list(range(len(found)))
    assert len(files) == 6


@pytest.mark.parametrize(
    "trial", [0, 1, *(pytest.param(n, marks=pytest.mark.soak) for n in range(2, 40))]
)
def test_whenever_a_writer_is_killed_its_past_is_whole(tmp_path, trial):
    run = RunDir(tmp_path)
    path = run.telemetry_file(1, "rank-00000")
    script = f"""
        import itertools
        from pathlib import Path
        from agent.emitter import Emitter
        from agent.rundir.events import StepDone
        emitter = Emitter(
            Path({str(path)!r}), node="rank-0", rank=0, segment_bytes=700_000
        )
        for step in itertools.count(1):
            emitter.emit(StepDone, step=step, loss=1 / step)
            if step % 300 == 0:
                emitter.tend()
                print(step, flush=True)
    """
    writer = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    rng = random.Random(trial)
    for _ in range(rng.randrange(20, 60)):
        said = writer.stdout.readline()
    time.sleep(rng.uniform(0, 0.002))
    writer.kill()
    writer.wait()
    writer.stdout.close()

    history = History(run, 1, "rank-00000")
    num_past = sum(sum(s.counts.values()) for s in history.thinned())
    segment, offset = history.position
    rest = run.telemetry_file(1, "rank-00000", segment).read_bytes()[offset:]
    events = [e for s in history.window(steps=Span(first=0)) for e in s.events]

    assert num_past + rest.count(b"\n") == len(events)
    assert [e.step for e in events] == list(range(1, len(events) + 1))
    assert len(events) >= int(said)
