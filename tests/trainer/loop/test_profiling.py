"""A window of the profiler over a few steps."""

import json
from types import SimpleNamespace

import pytest

from agent.probes.inbox import PendingRequest
from agent.rundir.errors import RunDirError
from tests.trainer.small import make
from trainer.loop.orders import _profile
from trainer.loop.profiling import ProfileWindow


def test_a_window_leaves_a_table_and_a_trace(tmp_path):
    make(tmp_path / "run", profile_at=3, profile_steps=2).train()

    folder = tmp_path / "run" / "profiles"
    assert sorted(p.name for p in folder.iterdir()) == [
        "0001-rank-00000.json",
        "0001-rank-00000.txt",
    ]
    assert "SGD.step" in (folder / "0001-rank-00000.txt").read_text()
    assert json.loads((folder / "0001-rank-00000.json").read_text())["traceEvents"]


def test_a_run_that_ends_within_the_window_writes_what_there_is(tmp_path):
    make(tmp_path / "run", profile_at=11, profile_steps=50).train()

    folder = tmp_path / "run" / "profiles"
    assert "SGD.step" in (folder / "0001-rank-00000.txt").read_text()


def test_steps_are_counted_and_not_their_numbers(tmp_path):
    window = ProfileWindow(tmp_path, "x", at=5, num_steps=3)

    open_after = []
    for step in (4, 5, 5, 2, 3):  # one is skipped, then it goes back
        with window.around(step):
            pass
        open_after.append(window.is_open)

    assert open_after == [False, True, True, False, False]
    assert (tmp_path / "x.json").exists()


def loop_at(step, folder, **window):
    return SimpleNamespace(
        world=SimpleNamespace(is_main=True),
        state=SimpleNamespace(progress=SimpleNamespace(step=step)),
        saver=SimpleNamespace(run=SimpleNamespace(path=folder)),
        profile=ProfileWindow(folder, "0001-rank-00000", num_steps=3, **window),
    )


@pytest.mark.parametrize("num_steps", [2, 5])
def test_what_was_to_be_profiled_later_is_profiled_after_what_was_asked_for(
    tmp_path, num_steps
):
    loop = loop_at(5, tmp_path, at=10)
    _profile(loop, PendingRequest("one", "profile", {"steps": num_steps}))

    open_after = []
    for step in range(5, 15):
        with loop.profile.around(step):
            pass
        if loop.profile.is_open:
            open_after.append(step)

    assert open_after == [*range(5, 5 + num_steps - 1), 10, 11]
    assert sorted(p.name for p in tmp_path.glob("*.json")) == [
        "0001-rank-00000-step-5.json",
        "0001-rank-00000.json",
    ]


def test_what_would_run_into_a_later_profile_is_refused(tmp_path):
    loop = loop_at(5, tmp_path, at=10)

    with pytest.raises(RunDirError, match="from step 10 on: 6 steps") as caught:
        _profile(loop, PendingRequest("one", "profile", {"steps": 6}))

    assert caught.value.hint.endswith("profile --steps 5")
    assert loop.profile.at == 10


def test_a_profiler_that_cannot_start_leaves_the_later_one_alone(tmp_path, monkeypatch):
    def refuse(**_options):
        raise RuntimeError("it runs already")

    loop = loop_at(5, tmp_path, at=10)
    _profile(loop, PendingRequest("one", "profile", {"steps": 2}))
    with monkeypatch.context() as broken:
        broken.setattr("trainer.loop.profiling.profile", refuse)
        with loop.profile.around(5):
            pass

    for step in range(6, 14):
        with loop.profile.around(step):
            pass

    assert [p.name for p in tmp_path.glob("*.json")] == ["0001-rank-00000.json"]


def test_a_profile_that_has_still_to_begin_is_not_replaced_by_the_next(tmp_path):
    loop = loop_at(5, tmp_path, at=None)
    _profile(loop, PendingRequest("one", "profile", {"steps": 2}))

    with pytest.raises(RunDirError, match="already, 2 of them"):  # e.g. while paused
        _profile(loop, PendingRequest("two", "profile", {"steps": 9}))

    assert (loop.profile.at, loop.profile.num_steps) == (5, 2)


def test_without_a_window_nothing_is_written(tmp_path):
    make(tmp_path / "run").train()

    assert not (tmp_path / "run" / "profiles").exists()
