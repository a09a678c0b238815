"""Loss, throughput and where the run stands."""

import pytest

from agent.rundir import events as ev
from tests.runs import RunWriter, Watcher


@pytest.fixture
def writer(tmp_path):
    writer = RunWriter(tmp_path / "run")
    writer.begin()
    return writer


def test_one_rank_speaks_for_the_run(writer):
    writer.emit(0, ev.StepDone, step=1, loss=1.0)
    writer.emit(1, ev.StepDone, step=1, loss=9.0)

    run = Watcher(writer.run).run

    assert run.steps.curve("loss").points() == [(1, 1.0)]


def test_where_rank_0_is_silent_the_next_one_speaks(writer):
    writer.emit(1, ev.StepDone, step=1, loss=9.0)

    run = Watcher(writer.run).run

    assert run.steps.now().loss == 9.0


def test_throughput_and_step_length_are_medians_of_the_last_steps(writer):
    writer.steps(1, 5, step_ns=10**9)
    writer.steps(6, 40, step_ns=2 * 10**9)

    now = Watcher(writer.run).run.steps.now()

    assert (now.step, now.step_ns, now.tokens_per_s) == (40, 2 * 10**9, 500.0)


def test_what_the_agent_costs_is_a_median_of_the_last_steps(writer):
    before = Watcher(writer.run).run.steps.now()
    writer.steps(1, 40, agent_ns=30_000)
    writer.steps(41, 41, agent_ns=9_000_000)

    now = Watcher(writer.run).run.steps.now()

    assert (before.agent_ns, now.agent_ns) == (None, 30_000)


def test_a_resume_goes_back_and_keeps_what_was_rolled_back(writer):
    writer.steps(1, 10)
    writer.begin()
    for rank in range(2):
        writer.emit(
            rank,
            ev.CheckpointLoaded,
            checkpoint="step-00000006",
            digest="d",
            load_ns=1,
            resumed_step=6,
        )
    before = Watcher(writer.run).run.steps.now()
    writer.steps(7, 8)

    curve = Watcher(writer.run).run.steps.curve("loss")

    assert (before.attempt, before.step) == (2, 6)
    assert [step for step, _ in curve.points()] == list(range(1, 9))
    assert [s.points()[0][0] for s in curve.superseded] == [7]


def test_a_rollback_on_the_live_run_goes_back_too(writer):
    writer.steps(1, 10)
    loaded = {"checkpoint": "step-00000006", "digest": "d", "load_ns": 1}
    for rank in range(2):
        writer.emit(rank, ev.CheckpointLoaded, **loaded, resumed_step=6)
    before = Watcher(writer.run).run.steps.now()
    writer.steps(7, 8, loss=0.25)

    steps = Watcher(writer.run).run.steps

    assert (before.attempt, before.step) == (1, 6)
    assert (steps.step, steps.curve("loss").points()[-2:]) == (
        8,
        [(7, 0.25), (8, 0.25)],
    )
    assert [s.points()[0][0] for s in steps.curve("loss").superseded] == [7]


def test_a_skipped_step_is_counted_and_named_for_a_while(writer):
    writer.steps(1, 3)
    writer.emit(0, ev.StepDone, step=4, is_skipped=True, nonfinite="blocks.0.weight")
    watcher = Watcher(writer.run)
    soon = watcher.run.steps.recent_nonfinite()
    writer.steps(5, 110)

    later = watcher.read().steps.recent_nonfinite()

    assert (soon.step, soon.what) == (4, "blocks.0.weight")
    assert later is None
    assert watcher.run.steps.now().num_skipped == 1


def test_a_norm_of_any_rank_that_is_not_finite_is_named(writer):
    writer.steps(1, 50)
    writer.emit(
        1, ev.OptimizerNorms, step=50, optimizer="AdamW", nonfinite=("exp_avg of w",)
    )

    found = Watcher(writer.run).run.steps.recent_nonfinite()

    assert (found.step, found.what) == (50, "exp_avg of w")


def test_held_out_loss_stands_at_the_step_of_its_event(writer):
    writer.steps(1, 5)
    writer.emit(0, ev.EvalDone, loss=2.5, step=5)

    now = Watcher(writer.run).run.steps.now()

    assert (now.eval_loss, now.eval_step) == (2.5, 5)


def test_implausible_numbers_are_left_out(writer):
    writer.emit(0, ev.StepDone, step=-5, loss=1.0)
    writer.emit(0, ev.StepDone, step=10**30, loss=1.0)
    writer.emit(0, ev.StepDone, step=3, loss=1.0, step_ns=-7, num_tokens=-1)

    now = Watcher(writer.run).run.steps.now()

    assert (now.step, now.step_ns, now.tokens_per_s) == (3, None, None)
