"""What a thinned past may tell, and what only complete lines can."""

from agent.rundir import events as ev
from opsdash.projections.batch import Batch, Directory, Lines, Origin
from opsdash.projections.folds import Folds
from opsdash.projections.run import Run

STEP_NS = 10**8


def lines(events, *, rank=0, attempt=1, **fields) -> Lines:
    stem = f"rank-{rank:05d}"
    file = f"{attempt:04d}/{stem}.jsonl"
    origin = Origin(attempt, file, stem, rank, 0, events[-1].mono_ns, is_live=False)
    return Lines(origin, tuple(range(len(events))), tuple(events), **fields)


def started(rank: int, attempt: int) -> ev.RunStarted:
    return ev.RunStarted(
        time_ns=1,
        mono_ns=1,
        node=f"rank-{rank}",
        rank=rank,
        seq=0,
        schema=1,
        run_id="r",
        attempt=attempt,
        run_kind="ddp",
        host="h",
        boot_id="b",
        pid=1,
        pid_start=1,
        world_size=2,
    )


def steps(rank: int, first: int, stop: int) -> list[ev.StepDone]:
    """Rank 1 comes 5 ms late to each."""
    found = []
    for step in range(first, stop):
        released_ns = step * STEP_NS
        wait_ns = 1_000_000 if rank == 1 else 6_000_000
        wait = ev.Wait("agree", step, released_ns - wait_ns, wait_ns)
        common = {"time_ns": released_ns, "mono_ns": released_ns, "seq": step}
        done = {"loss": 1.0, "step_ns": STEP_NS, "waits": (wait,)}
        found.append(
            ev.StepDone(node=f"rank-{rank}", rank=rank, step=step, **done, **common)
        )
    return found


def batch(*groups: Lines, **fields) -> Batch:
    return Batch(1, 1, Directory(newest_attempt=1), groups, **fields)


def take(folds: Folds, *groups: Lines) -> None:
    folds.take_directory(batch(*groups))
    for group in groups:
        folds.take_lines(group, now_ns=1)


def begin(folds: Folds, attempt: int) -> None:
    for rank in range(2):
        take(folds, lines([started(rank, attempt)], rank=rank, attempt=attempt))


def test_a_thinned_first_step_supersedes_what_lies_above_it():
    folds = Folds()
    begin(folds, 1)
    take(folds, *(lines(steps(rank, 900, 1_000), rank=rank) for rank in range(2)))
    before = folds.lateness.heat.last_step
    begin(folds, 2)

    take(folds, lines(steps(0, 500, 501), attempt=2, is_thinned=True))

    assert (before, folds.lateness.heat.last_step) == (999, 499)


def test_gaps_in_thinned_lines_are_no_drops_but_what_they_tell_is():
    folds = Folds()
    begin(folds, 1)
    sparse = [steps(0, first, first + 1)[0] for first in (1, 500, 900)]

    take(folds, lines(sparse, is_thinned=True, num_missing=7))
    take(folds, lines(steps(0, 1_000, 1_100)))
    between = folds.ranks.rows(1)[0].num_dropped
    take(folds, lines(steps(0, 1_103, 1_200)))

    assert between == 7
    assert folds.ranks.rows(1)[0].num_dropped == 10


def test_a_preview_is_shown_until_everything_is_read_and_leaves_nothing():
    run = Run()
    newest = steps(0, 990, 1_000)
    run.fold(batch(lines(newest), is_preview=True, backlog_bytes=9))
    run.fold(batch(lines(steps(0, 1, 990)), backlog_bytes=1))
    shown, rows = run.steps.step, len(run.events)

    run.fold(batch(lines(newest)))

    assert (shown, run.steps.step) == (999, 999)
    assert rows < len(run.events) == 999
    assert len(run.steps.curve("loss").points()) == 999
    assert run.is_caught_up
