"""Norms, and what broke their flow."""

import pytest

from agent.rundir import events as ev
from tests.runs import RunWriter, Watcher


@pytest.fixture
def writer(tmp_path):
    writer = RunWriter(tmp_path / "run")
    writer.begin()
    return writer


def norms(writer, who, step, **fields):
    writer.emit(
        who,
        ev.OptimizerNorms,
        **{"optimizer": "AdamW", "grad": 1.0, "param": 2.0, "step": step, **fields},
    )


def load(writer, who, step):
    writer.emit(
        who,
        ev.CheckpointLoaded,
        checkpoint=f"step-{step:08d}",
        digest="d",
        load_ns=1,
        resumed_step=step,
    )


def test_one_rank_speaks_and_its_state_has_curves(writer):
    norms(writer, 0, 50, state={"exp_avg": 0.1, "exp_avg_sq": 0.2})
    norms(writer, 1, 50, state={"exp_avg": 9.0})

    optimizer = Watcher(writer.run).run.optimizer

    assert optimizer.curve("state.exp_avg").points() == [(50, 0.1)]
    assert [now.node for now in optimizer.now()] == ["rank-00000"]


def test_groups_have_curves_where_there_are_several(writer):
    second = ev.GroupNorms(lr=0.2, grad=3.0, update_ratio=0.01)
    groups = (ev.GroupNorms(lr=0.1, grad=1.0), second)
    norms(writer, 0, 50, groups=groups)
    norms(writer, 0, 100, groups=groups[:1])

    optimizer = Watcher(writer.run).run.optimizer

    assert optimizer.curve("group1.lr").points() == [(50, 0.2)]
    assert optimizer.curve("group0.lr").points() == [(50, 0.1)]
    assert optimizer.curve("group1.update_ratio").points() == [(50, 0.01)]


def test_the_first_load_of_an_attempt_is_a_resume_and_later_ones_reload(writer):
    norms(writer, 0, 50)
    norms(writer, 0, 100)
    writer.begin()
    load(writer, 0, 50)
    load(writer, 1, 50)
    load(writer, 0, 30)

    optimizer = Watcher(writer.run).run.optimizer

    assert [(m.attempt, m.kind, m.step) for m in optimizer.marks] == [
        (1, "start", 0),
        (2, "resume", 50),
        (2, "reload", 30),
    ]
    assert optimizer.curve("grad").points() == []
    [given_up] = optimizer.curve("grad").superseded
    assert [step for step, _ in given_up.points()] == [50, 100]


def test_the_head_of_a_later_segment_is_no_start(writer):
    writer.emit(0, ev.RunStarted, **writer.started_fields(), segment=2, step=40)

    marks = Watcher(writer.run).run.optimizer.marks

    assert [mark.kind for mark in marks] == ["start"]


def test_clients_have_curves_of_their_own(tmp_path):
    writer = RunWriter(tmp_path / "fl", kind="federated")
    writer.begin()
    norms(writer, "client-1", 5)
    norms(writer, "client-2", 5, grad=7.0)

    optimizer = Watcher(writer.run).run.optimizer

    assert optimizer.curve("client-2/grad").points() == [(5, 7.0)]
    assert len(optimizer.now()) == 2


def test_a_reset_tells_norms_before_and_after(writer):
    writer.emit(
        0,
        ev.OptimizerReset,
        optimizer="SGD",
        reason="2 rounds missed",
        before={"momentum_buffer": 3.5},
        after={"momentum_buffer": 0.0},
        rounds_missed=2,
        step=70,
    )

    optimizer = Watcher(writer.run).run.optimizer

    assert optimizer.resets[0].before == {"momentum_buffer": 3.5}
    assert optimizer.marks[-1].kind == "reset"


def test_what_is_not_finite_is_named(writer):
    norms(writer, 0, 50, grad=None, nonfinite=("head.weight",))

    optimizer = Watcher(writer.run).run.optimizer

    assert list(optimizer.nonfinite) == [(1, 50, "head.weight")]
    assert optimizer.now()[0].grad is None
