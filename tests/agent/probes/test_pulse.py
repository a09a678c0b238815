import threading

from agent.emitter import Emitter
from agent.probes.pulse import TICKS_PER_BEAT, Duty, Pulse


def test_duties_are_called_at_their_own_rhythm():
    seen, enough = [], threading.Event()
    pulse = Pulse(Emitter(None, node="x", rank=None), period_s=0.004)
    ticks = []

    def tick():
        ticks.append(len(ticks))
        if len(ticks) > 3 * TICKS_PER_BEAT:
            enough.set()

    pulse.add(Duty("tick", tick, every=1))
    pulse.add(Duty("beat", lambda: seen.append(ticks[-1])))
    pulse.add(Duty("late", lambda: seen.append(-ticks[-1]), first=5, every=10**9))
    pulse.start()
    enough.wait()
    pulse.stop()

    beats = [tick for tick in seen if tick >= 0]
    assert beats[:4] == [0, 4, 8, 12]
    assert [tick for tick in seen if tick < 0] == [-5]


def test_a_duty_that_fails_is_told_once_and_called_again(tmp_path):
    emitter = Emitter(tmp_path / "x.jsonl", node="x", rank=None)
    done = threading.Event()
    calls = []

    def fails():
        calls.append(1)
        raise OSError("the disk is gone")

    pulse = Pulse(emitter, period_s=0.004)
    pulse.add(Duty("fails", fails, every=1))
    pulse.add(Duty("counts", lambda: len(calls) < 3 or done.set(), every=1))
    pulse.start()
    done.wait()
    pulse.stop()

    assert emitter.problem == "fails: OSError: the disk is gone"
    assert emitter.num_dropped == 1


def test_some_duties_have_something_to_do_at_the_end():
    calls, begun = [], threading.Event()
    pulse = Pulse(Emitter(None, node="x", rank=None), period_s=1_000)
    pulse.add(Duty("once", lambda: calls.append("once")))
    pulse.add(
        Duty(
            "twice",
            lambda: calls.append("first"),
            at_end=lambda: calls.append("last"),
        )
    )
    pulse.add(Duty("begun", begun.set))
    pulse.start()
    begun.wait()
    pulse.stop()

    assert calls == ["once", "first", "last"]


def test_a_thread_that_hangs_is_left_behind():
    begun, enough = threading.Event(), threading.Event()

    def hang():
        begun.set()
        enough.wait()

    pulse = Pulse(Emitter(None, node="x", rank=0), 0.01)
    pulse.add(Duty("hangs", hang))
    pulse.start()
    begun.wait()

    assert not pulse.stop(timeout_s=0.01)
    enough.set()


def test_stopping_what_never_started_is_nothing():
    Pulse(Emitter(None, node="x", rank=None), period_s=1).stop()


def test_a_system_without_a_thread_to_give_costs_the_beats_alone(tmp_path, monkeypatch):
    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    emitter = Emitter(tmp_path / "x.jsonl", node="x", rank=None)
    pulse = Pulse(emitter, period_s=1)
    monkeypatch.setattr(threading.Thread, "start", refuse)

    pulse.start()

    assert emitter.problem == "no beats: can't start new thread"
    assert pulse.stop()
