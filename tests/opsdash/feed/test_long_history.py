"""Attaching to a run with a long past, as the agent's emitter leaves it."""

import math
import shutil
import subprocess

import pytest

from agent.emitter import Emitter
from agent.rundir import events as ev
from agent.rundir.layout import MANIFEST_NAME, RunDir, checkpoint_name, rank_stem
from agent.rundir.manifest import manifest_digest
from opsdash.feed.cursor import read_line
from opsdash.feed.reader import RunReader
from opsdash.projections.events_log import EventFilter
from opsdash.projections.run import Run
from opsdash.reports.events import make_events, render_events
from tests.runs import HandClocks, RunWriter

NUM_STEPS = 20_000
SEGMENT_BYTES = 2 << 20
STEP_NS = 100_000_000
PEAK, DIP = (12_345, 99.0), (3_333, -5.0)
LOST_EARLY, LOST_LATE = 5, 3
"""Events of rank 1 that never reach its log, at steps 5,000 and 19,500."""
EVERYTHING = 1 << 60


class Trainer:
    """One rank's emitter and what it says at each step."""

    def __init__(self, writer: RunWriter, rank: int) -> None:
        path = writer.file(rank_stem(rank))
        path.parent.mkdir(parents=True, exist_ok=True)
        self.writer, self.rank = writer, rank
        self.emitter = Emitter(
            path, node=f"rank-{rank}", rank=rank, segment_bytes=SEGMENT_BYTES, slow_s=60
        )
        self.emitter.begin(**writer.started_fields())

    def step(self, step: int) -> None:
        self.emitter.step = step
        late_ns = 40_000_000 if self.rank == 1 and step > 19_000 else 0
        mono_ns = 10**15 + step * STEP_NS
        arrived_ns = mono_ns - 50_000_000 + late_ns
        wait = ev.Wait("step.agree", step, arrived_ns, mono_ns - arrived_ns)
        loss = {PEAK[0]: PEAK[1], DIP[0]: DIP[1]}.get(step, math.cos(step))
        step_done = {"loss": loss, "lr": 1e-3, "grad_norm": 0.5, "num_tokens": 1_000}
        self.emitter.emit(ev.StepDone, step_ns=STEP_NS, waits=(wait,), **step_done)
        self._say_rare_things(step)
        if step % 500 == 0:
            self.emitter.tend()

    def _say_rare_things(self, step: int) -> None:
        emit = self.emitter.emit
        if step % 50 == 0:
            emit(ev.Heartbeat, phase="training", phase_age_ns=0, progress=step)
        if step % 4_000 == 0 and self.rank == 0:
            name = checkpoint_name(step)
            emit(ev.CheckpointSaving, checkpoint=name, reason="interval")
            manifest = self.writer.checkpoint(step) / MANIFEST_NAME
            digest = manifest_digest(manifest.read_bytes())
            published = {"checkpoint": name, "digest": digest, "size_bytes": 9}
            emit(ev.CheckpointPublished, write_ns=5, fsync_ns=1, **published)
        if step == 7_000:
            reset = {"optimizer": "AdamW", "reason": "asked to"}
            emit(ev.OptimizerReset, before={}, after={}, **reset)
        num_lost = {5_000: LOST_EARLY, 19_500: LOST_LATE}.get(step, 0)
        for _ in range(num_lost if self.rank == 1 else 0):
            self.emitter.stamped(ev.StepDone)()


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    """Twelve megabytes in segments, rolled up but for their newest windows."""
    writer = RunWriter(tmp_path_factory.mktemp("long") / "run")
    writer.begin(started=False)
    train(writer, 1, NUM_STEPS)
    return writer.run


def train(writer: RunWriter, first: int, last: int) -> list[Trainer]:
    trainers = [Trainer(writer, rank) for rank in range(writer.world_size)]
    for step in range(first, last + 1):
        for trainer in trainers:
            trainer.step(step)
    return trainers


class Attached:
    """A reader, the folds over it, and every batch that came."""

    def __init__(
        self, run: RunDir, clocks: HandClocks | None = None, **options
    ) -> None:
        self.clocks = clocks or HandClocks()
        self.reader = RunReader(run, clocks=self.clocks, **options)
        self.run = Run()
        self.batches = []
        self.read()

    def read(self) -> None:
        while True:
            self.reader.look_for_files()
            self.batches.append(self.reader.read())
            self.run.fold(self.batches[-1])
            if self.run.is_caught_up:
                return

    def verdict(self):
        return self.run.verdict(self.clocks.mono_ns, self.clocks.time_ns)

    @property
    def num_read(self) -> int:
        return sum(batch.num_events for batch in self.batches)


@pytest.fixture(scope="module")
def full(long_run):
    return Attached(long_run, full_bytes=EVERYTHING)


@pytest.fixture(scope="module")
def thinned(long_run, full):
    return Attached(long_run, full.clocks)


def copy_of(run: RunDir, path) -> RunDir:
    shutil.copytree(run.path, path)
    return RunDir(path)


def extremes(run: Run) -> tuple[tuple[int, float], ...]:
    points = run.steps.curve("loss").points()
    return min(points, key=lambda p: p[1]), max(points, key=lambda p: p[1]), points[-1]


def test_a_long_past_is_thinned_and_a_small_part_is_read(full, thinned):
    assert full.num_read > 2 * NUM_STEPS
    assert not any(part.is_thinned for b in full.batches for part in b.lines)
    assert thinned.num_read < 0.3 * full.num_read


def test_the_verdict_is_the_same_as_over_everything(full, thinned):
    expected, found = full.verdict(), thinned.verdict()

    assert [r.text for r in found.reasons] == [r.text for r in expected.reasons]
    assert found == expected
    assert any("rank 1" in reason.text for reason in found.reasons)


def test_the_curve_has_every_extreme_and_the_newest_point(full, thinned):
    assert extremes(thinned.run) == extremes(full.run)
    assert extremes(full.run)[:2] == (DIP, PEAK)
    assert thinned.run.steps.now() == full.run.steps.now()


def test_checkpoints_and_marks_are_all_there(full, thinned):
    assert thinned.run.checkpoints.rows() == full.run.checkpoints.rows()
    assert sum(row.save_ns is not None for row in full.run.checkpoints.rows()) == 5
    assert list(thinned.run.optimizer.marks) == list(full.run.optimizer.marks)
    kinds = [mark.kind for mark in full.run.optimizer.marks]
    assert kinds == ["start", "reset", "reset"]


def test_only_what_never_reached_the_log_counts_as_dropped(full, thinned):
    for attached in (full, thinned):
        rows = attached.run.rank_rows(attached.clocks.mono_ns)
        assert [row.num_dropped for row in rows] == [0, LOST_EARLY + LOST_LATE]


def test_the_newest_steps_are_complete(full, thinned):
    newest = full.run.lateness.heat.window(500)

    assert thinned.run.lateness.heat.window(500) == newest
    assert all(late is not None for cells in newest.cells for late in cells)
    straggler = thinned.run.lateness.straggler()
    assert straggler == full.run.lateness.straggler()
    assert straggler.rank == 1
    assert straggler.is_persistent


def test_nobody_is_late_at_a_step_that_was_thinned(thinned):
    complete = [
        event
        for batch in thinned.batches
        for part in batch.lines
        for event in part.events
        if not (batch.is_preview or part.is_thinned) and isinstance(event, ev.StepDone)
    ]

    [barrier] = thinned.run.lateness.barriers()

    assert barrier.num_waits == len(complete)


def test_what_was_left_out_is_counted(full, thinned):
    num_once = sum(
        batch.num_events for batch in thinned.batches if not batch.is_preview
    )

    # A window that the complete part begins in is not counted: it may have 1,000.
    left_out = full.num_read - num_once
    assert left_out - 2_500 < thinned.run.num_left_out <= left_out
    assert full.run.num_left_out == 0


def test_every_row_is_where_its_file_has_it(thinned, long_run):
    log = thinned.run.events

    for number in range(log.first, log.stop, 97):
        row = log.row(number)
        event = ev.decode(read_line(long_run, row.file, row.offset))
        assert (ev.kind(event), event.step) == (row.kind, row.step)


def test_no_event_is_a_row_twice(thinned):
    log = thinned.run.events

    places = [
        (row.file, row.offset) for row in map(log.row, range(log.first, log.stop))
    ]

    assert len(set(places)) == len(places)


def test_the_first_batch_says_where_the_run_stands(long_run, full):
    clocks = HandClocks()
    run = Run()

    run.fold(RunReader(long_run, clocks=clocks).read())

    verdict = run.verdict(clocks.mono_ns, clocks.time_ns)
    assert run.steps.step == NUM_STEPS
    assert verdict.is_provisional
    assert verdict.state == full.verdict().state
    assert run.lateness.straggler().rank == 1
    assert run.lateness.straggler().is_persistent
    assert [row.num_dropped for row in run.rank_rows(clocks.mono_ns)] == [0, 0]
    assert not run.is_caught_up


def test_the_preview_goes_on_while_the_past_is_read(long_run, tmp_path):
    run = copy_of(long_run, tmp_path / "run")
    clocks, known = HandClocks(), Run()
    reader = RunReader(run, clocks=clocks)
    for _ in range(2):
        known.fold(reader.read())
    step = ev.StepDone(time_ns=1, mono_ns=1, node="rank-0", seq=0, step=NUM_STEPS + 1)
    newest = max(run.telemetry.rglob("rank-00000.s*.jsonl"))
    with newest.open("ab") as file:
        file.write(ev.encode(step))

    clocks.wait(0.3)
    known.fold(reader.read())

    assert known.steps.step == NUM_STEPS + 1
    assert not known.is_caught_up


@pytest.mark.parametrize("keep", [0, 1_000, 50_000])
def test_a_torn_or_missing_rollup_changes_nothing(long_run, thinned, tmp_path, keep):
    run = copy_of(long_run, tmp_path / "run")
    for path in run.telemetry.rglob("*.rollup.jsonl"):
        path.write_bytes(path.read_bytes()[:keep])

    found = Attached(run)

    assert extremes(found.run) == extremes(thinned.run)
    assert found.run.checkpoints.rows() == thinned.run.checkpoints.rows()
    assert found.num_read == thinned.num_read
    assert found.run.num_left_out == thinned.run.num_left_out


def test_progress_only_grows_and_ends_at_everything(long_run):
    attached = Attached(long_run)
    size = sum(
        path.stat().st_size
        for path in long_run.telemetry.rglob("*.jsonl")
        if ".rollup" not in path.name
    )

    backlogs = [batch.backlog_bytes for batch in attached.batches]
    read = [batch.read_bytes for batch in attached.batches]

    assert len(backlogs) > 5
    assert (read[0], backlogs[0]) == (0, size)
    assert backlogs == sorted(backlogs, reverse=True)
    assert read == sorted(read)
    assert {one + two for one, two in zip(backlogs, read, strict=True)} == {size}


def test_what_is_written_over_a_new_segment_while_attached_comes_once(
    long_run, tmp_path
):
    run = copy_of(long_run, tmp_path / "run")
    attached = Attached(run)
    num_before = len(attached.batches)
    num_segments = len(list(run.telemetry.rglob("rank-00000*.jsonl")))
    writer = RunWriter(run.path)
    writer.attempt = 1

    first, last = NUM_STEPS + 1, NUM_STEPS + 9_000
    for begin in range(first, last, 3_000):
        for trainer in train(writer, begin, begin + 2_999):
            trainer.emitter.tend()
            trainer.emitter.close()
        attached.read()

    news = [
        event.step
        for batch in attached.batches[num_before:]
        for part in batch.lines
        for event in part.events
        if isinstance(event, ev.StepDone) and part.origin.rank == 0
    ]
    assert len(list(run.telemetry.rglob("rank-00000*.jsonl"))) > num_segments
    assert news == list(range(first, last + 1))
    assert attached.run.steps.step == last


def test_of_an_earlier_attempt_only_the_thinned_past_is_read(long_run, tmp_path):
    run = copy_of(long_run, tmp_path / "run")
    writer = RunWriter(run.path)
    writer.attempt = 1
    writer.begin()
    writer.steps(15_001, 15_100)

    attached = Attached(run)

    curve = attached.run.steps.curve("loss")
    points = curve.points()
    assert points[-1][0] == 15_100
    assert curve.superseded[-1].points()[-1][0] == NUM_STEPS
    assert {DIP, PEAK} <= set(points)
    assert attached.num_read < 0.05 * 2 * NUM_STEPS
    heat = attached.run.lateness.heat
    assert heat.last_step == 15_100
    parts = [part for batch in attached.batches for part in batch.lines]
    assert all(part.is_thinned == (part.origin.attempt == 1) for part in parts[4:])


def test_a_removed_segment_is_told_from_its_rollup(long_run, thinned, tmp_path):
    run = copy_of(long_run, tmp_path / "run")
    for rank in range(2):
        run.telemetry_file(1, rank_stem(rank)).unlink()

    attached = Attached(run, full_bytes=1 << 20)

    assert extremes(attached.run) == extremes(thinned.run)
    assert attached.run.is_caught_up


def test_short_logs_are_read_in_full_beside_long_ones(long_run, tmp_path):
    run = copy_of(long_run, tmp_path / "run")
    writer = RunWriter(run.path)
    writer.attempt = 1
    for step in range(300):
        writer.emit("client-1", ev.StepDone, step=step)

    attached = Attached(run)

    steps = [
        event.step
        for batch in attached.batches
        if not batch.is_preview
        for part in batch.lines
        if part.origin.stem == "client-1"
        for event in part.events
    ]
    assert steps == list(range(300))


def test_the_list_of_events_says_how_to_see_those_that_were_left_out(
    full, thinned, long_run
):
    def say(attached):
        report = make_events(attached.run, 0, EventFilter(), lambda _: "a step", last=3)
        return render_events(report)

    *_, told, command = say(thinned)

    assert "older events of frequent kinds" in told
    lines = subprocess.check_output(command, shell=True).splitlines()
    assert len(lines) == full.num_read
    assert len(say(full)) == 3
