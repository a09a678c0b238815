import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from agent.emitter import Emitter
from agent.probes.host_stacks import HostStacks
from agent.probes.stacks import (
    SIGNAL_VARIABLE,
    Stacks,
    ask_for_stacks,
    describe,
    free_signal,
)
from agent.rundir.events import StacksWritten, decode_lines
from agent.rundir.layout import RunDir
from agent.rundir.stacks import list_headers, read_header, stacks_file

ROOT = Path(__file__).parent.parent.parent.parent

OTHER = """
    import sys
    from agent.emitter import Emitter
    from agent.probes.stacks import Stacks
    from agent.rundir.layout import RunDir

    def waits_for_a_line():
        print("ready", flush=True)
        sys.stdin.readline()

    run = RunDir(__import__("pathlib").Path(sys.argv[1]))
    stacks = Stacks(Emitter(None, node="rank-1", rank=1), run, 1)
    stacks.register()
    waits_for_a_line()
    stacks.close()
    waits_for_a_line()
"""


@pytest.fixture
def run(tmp_path):
    return RunDir(tmp_path)


@pytest.fixture
def other(run):
    """Return a process of rank 1 that listens for the signal."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(OTHER), str(run.path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


@pytest.fixture
def telemetry(run):
    return run.path / "me.jsonl"


@pytest.fixture
def emitter(telemetry):
    return Emitter(telemetry, node="rank-0", rank=0)


def told(telemetry):
    found = decode_lines(telemetry.read_bytes())
    return [event for event in found if isinstance(event, StacksWritten)]


def test_a_process_writes_its_own_stacks_and_says_so(run, emitter, telemetry):
    stacks = Stacks(emitter, run, 1)
    stacks.register()

    stacks.write("asked for by me@here")
    stacks.close()

    text = stacks_file(run, 1, "rank-00000").read_text()
    (event,) = told(telemetry)
    assert "test_a_process_writes_its_own_stacks_and_says_so" in text
    assert "asked for by me@here" in text
    assert (event.file, event.reason) == (stacks.file, "asked for by me@here")
    assert event.has_stacks


def test_the_first_line_says_who_writes_and_what_signal_asks(run, emitter):
    stacks = Stacks(emitter, run, 1)
    stacks.register()

    (header,) = list_headers(run, 1)
    stacks.close()

    assert (header.rank, header.signum) == (0, signal.SIGUSR2)
    assert header.process.pid == os.getpid()


def test_another_process_is_made_to_write(run, other, emitter, telemetry):
    host = HostStacks(emitter, run, 1)
    path = stacks_file(run, 1, "rank-00001")
    size = path.stat().st_size

    host.ask([1], "a hang")
    while path.stat().st_size == size:
        time.sleep(0.01)
    host.look()

    assert "waits_for_a_line" in path.read_text()
    assert [e.reason for e in told(telemetry)] == ["a hang"]
    assert other.poll() is None


def test_of_a_process_whose_file_went_that_is_told_and_of_the_others_too(
    run, other, emitter, telemetry
):
    host = HostStacks(emitter, run, 1)
    path = stacks_file(run, 1, "rank-00001")
    size = path.stat().st_size
    host.ask([1, 1], "a hang")
    while path.stat().st_size == size:
        time.sleep(0.01)

    path.unlink()
    host.look()

    assert [e.has_stacks for e in told(telemetry)] == [False, False]


def test_a_process_without_a_file_says_that_it_wrote_none(run, emitter, telemetry):
    assert not Stacks(emitter, run, 1).write("a hang")

    (event,) = told(telemetry)
    assert not event.has_stacks
    assert event.reason == "a hang: none of this process: its file is not open"


def test_a_reason_that_is_no_utf_8_is_written_with_escapes(run, emitter, telemetry):
    stacks = Stacks(emitter, run, 1)
    stacks.register()

    stacks.write(os.fsdecode(b"caf\xe9"))
    stacks.close()

    assert r"caf\udce9" in stacks_file(run, 1, "rank-00000").read_text()
    assert [e.reason for e in told(telemetry)] == [r"caf\udce9"]


def test_a_stopped_process_is_described_instead(run, other, emitter, telemetry):
    other.send_signal(signal.SIGSTOP)
    while not describe(other.pid).startswith("state T"):
        time.sleep(0.01)

    HostStacks(emitter, run, 1).ask([1], "a hang")
    other.send_signal(signal.SIGCONT)

    (event,) = told(telemetry)
    assert "none of rank 1: the process is stopped: state T" in event.reason
    assert not event.has_stacks


def test_a_process_that_does_not_listen_any_more_is_not_killed(run, other):
    (header,) = list_headers(run, 1)
    other.stdin.write("close\n")
    other.stdin.flush()
    assert other.stdout.readline() == "ready\n"

    assert ask_for_stacks(header) == "it does not listen to its signal any more"
    assert other.poll() is None


def test_a_process_that_is_gone_is_not_signalled(run, other):
    other.kill()
    other.wait()

    (header,) = list_headers(run, 1)
    assert "cannot be seen from here" in ask_for_stacks(header)


def test_a_file_without_a_header_belongs_to_nobody(run):
    path = stacks_file(run, 1, "rank-00000")
    path.parent.mkdir(parents=True)
    path.write_text("File x.py\n")

    assert read_header(path) is None
    assert list_headers(run, 1) == []


@pytest.fixture
def handler():
    yield
    signal.signal(signal.SIGUSR2, signal.SIG_DFL)


def test_fifos_in_place_of_stacks_hold_nobody(run, emitter):
    for rank in range(2):
        path = stacks_file(run, 1, f"rank-{rank:05d}")
        path.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(path)

    with pytest.raises(OSError, match="No such device"):
        Stacks(emitter, run, 1).register()

    assert list_headers(run, 1) == []


def test_a_signal_that_is_taken_is_left_alone(run, emitter, handler):
    got = []
    signal.signal(signal.SIGUSR2, lambda *_: got.append(1))

    stacks = Stacks(emitter, run, 1)
    stacks.register()
    os.kill(os.getpid(), signal.SIGUSR2)
    stacks.close()

    assert stacks.signum is None
    assert got == [1]


@pytest.mark.parametrize(
    ("wanted", "signum"),
    [
        ("SIGUSR1", signal.SIGUSR1),
        (str(int(signal.SIGUSR1)), signal.SIGUSR1),
        ("off", None),
        ("SIGNOPE", None),
        ("SIGSEGV", None),
        ("SIGKILL", None),
        ("999", None),
    ],
)
def test_the_signal_can_be_chosen(monkeypatch, wanted, signum):
    monkeypatch.setenv(SIGNAL_VARIABLE, wanted)

    assert free_signal() == signum


@pytest.fixture
def own_handler():
    """Set a handler as a trainer does, and return what it was called with."""
    called = []
    before = signal.getsignal(signal.SIGUSR2)

    def take():
        signal.signal(signal.SIGUSR2, lambda signum, _frame: called.append(signum))
        return called

    yield take
    signal.signal(signal.SIGUSR2, before)


def test_a_handler_that_the_trainer_sets_later_is_left_to_it(run, emitter, own_handler):
    stacks = Stacks(emitter, run, 1)
    stacks.register()
    path = stacks_file(run, 1, "rank-00000")
    stacks.write("before")
    told = path.read_text().count("\n")
    called = own_handler()

    stacks.look()
    (header,) = list_headers(run, 1)
    refusal = ask_for_stacks(header)
    stacks.write("after")
    run.telemetry.mkdir()
    path.unlink()
    stacks.look()  # it makes the file again, and not the handler
    os.kill(os.getpid(), signal.SIGUSR2)
    stacks.close()
    os.kill(os.getpid(), signal.SIGUSR2)

    assert told > 2
    assert (header.rank, header.signum) == (0, 0)
    assert "no signal was free" in refusal
    assert called == [signal.SIGUSR2] * 2
    assert list_headers(run, 1)[0].signum is None


def test_a_handler_that_was_set_just_before_the_end_stays(run, emitter, own_handler):
    stacks = Stacks(emitter, run, 1)
    stacks.register()
    called = own_handler()

    stacks.close()
    os.kill(os.getpid(), signal.SIGUSR2)

    assert called == [signal.SIGUSR2]


def test_the_next_agent_has_the_signal_again_once_the_trainer_gave_it_back(
    run, emitter, own_handler
):
    first = Stacks(emitter, run, 1)
    first.register()
    own_handler()
    first.close()
    signal.signal(signal.SIGUSR2, signal.SIG_DFL)

    second = Stacks(emitter, run, 2)
    second.register()
    os.kill(os.getpid(), signal.SIGUSR2)
    second.close()

    text = stacks_file(run, 2, "rank-00000").read_text()
    assert "test_the_next_agent_has_the_signal_again" in text


def test_a_removed_file_is_made_again(run, emitter):
    stacks = Stacks(emitter, run, 1)
    stacks.register()
    path = stacks_file(run, 1, "rank-00000")
    run.telemetry.mkdir()
    path.unlink()

    stacks.register_again_if_removed()
    os.kill(os.getpid(), signal.SIGUSR2)
    stacks.close()

    assert "test_a_removed_file_is_made_again" in path.read_text()


def test_a_file_whose_disk_was_away_is_made_again_once_the_run_is_there(run, emitter):
    stacks = Stacks(emitter, run, 1)
    stacks.register()
    path = stacks_file(run, 1, "rank-00000")
    run.path.rename(f"{run.path}-elsewhere")  # still open, and linked

    stacks.register_again_if_removed()
    assert not run.path.exists()
    run.path.mkdir()  # e.g. an empty mount point
    stacks.register_again_if_removed()
    assert list(run.path.iterdir()) == []

    run.telemetry.mkdir()
    stacks.register_again_if_removed()
    inode = path.stat().st_ino
    stacks.register_again_if_removed()
    assert path.stat().st_ino == inode
    assert path.read_text().count("\n") == 1
    os.kill(os.getpid(), signal.SIGUSR2)
    stacks.close()

    assert "test_a_file_whose_disk_was_away" in path.read_text()
