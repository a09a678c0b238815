import _thread
import threading
import time

from agent.writing.backlog import Backlog


class Disk:
    """Takes lines when it is let, and says how that went."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.gate = threading.Semaphore(0)
        self.is_fast = True

    def write(self, line: bytes) -> bool:
        self.gate.acquire()
        self.lines.append(line)
        return self.is_fast

    def let(self, num_lines: int) -> None:
        self.gate.release(num_lines)


def wait_until(condition) -> None:
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up, "it did not come true in a minute"
        time.sleep(0.001)


def test_lines_are_written_in_order_by_a_thread_that_then_ends():
    disk = Disk()
    backlog = Backlog(disk.write)
    backlog.open()

    assert all(backlog.put(b"%d\n" % n) for n in range(100))
    assert (backlog.num_lines, backlog.num_bytes) == (100, 290)
    disk.let(100)
    wait_until(lambda: not backlog.is_open)

    assert disk.lines == [b"%d\n" % n for n in range(100)]
    assert (backlog.num_lines, backlog.num_bytes) == (0, 0)


def test_it_stays_open_while_writes_are_slow():
    disk = Disk()
    disk.is_fast = False
    backlog = Backlog(disk.write)
    backlog.open()
    backlog.put(b"slow\n")
    disk.let(1)
    wait_until(lambda: backlog.num_lines == 0)
    assert backlog.is_open

    disk.is_fast = True
    backlog.put(b"fast\n")
    disk.let(1)
    wait_until(lambda: not backlog.is_open)

    assert disk.lines == [b"slow\n", b"fast\n"]


def test_it_is_bounded_in_lines_and_in_bytes():
    disk = Disk()
    backlog = Backlog(disk.write, max_lines=3, max_bytes=10)
    backlog.open()

    taken = [backlog.put(b"x") for _ in range(5)]
    disk.let(3)
    wait_until(lambda: not backlog.is_open)
    backlog.open()

    assert taken == [True, True, True, False, False]
    assert backlog.put(b"x" * 10)
    assert not backlog.put(b"x")
    assert backlog.is_half_full
    disk.let(1)
    wait_until(lambda: not backlog.is_open)


def test_a_line_that_comes_when_the_thread_has_gone_is_written_at_once():
    disk = Disk()
    disk.let(1)
    backlog = Backlog(disk.write)

    assert backlog.put(b"late\n")

    assert disk.lines == [b"late\n"]
    assert backlog.num_lines == 0


def test_where_no_thread_is_to_be_had_lines_are_written_by_whoever_has_them(
    monkeypatch,
):
    def refuse(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", refuse)
    disk = Disk()
    disk.let(1)
    backlog = Backlog(disk.write)

    backlog.open()
    backlog.put(b"x\n")

    assert not backlog.is_open
    assert disk.lines == [b"x\n"]


def test_opening_it_twice_starts_one_thread(monkeypatch):
    started = []
    monkeypatch.setattr(_thread, "start_new_thread", lambda *a: started.append(a))
    backlog = Backlog(Disk().write)

    backlog.open()
    backlog.open()

    assert len(started) == 1


def test_stopping_ends_the_thread_after_what_is_there():
    disk = Disk()
    disk.is_fast = False
    backlog = Backlog(disk.write)
    backlog.open()
    backlog.put(b"x\n")

    backlog.stop()
    disk.let(1)

    wait_until(lambda: not backlog.is_open)
    assert disk.lines == [b"x\n"]
