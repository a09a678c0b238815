"""Which checkpoints stay, and how the others go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.rundir.checkpoints import CheckpointEntry, Stage, list_checkpoints
from agent.rundir.errors import NoCheckpointError
from agent.rundir.manifest import Manifest
from tests.trainer.checkpoint.states import Told, make_run, publish
from trainer.checkpoint.retention import best_checkpoint, doomed, prune, set_pin


def entry(number, *, loss=None, stage=Stage.VERIFIED, is_pinned=False):
    manifest = Manifest(
        schema=1,
        run_id="a",
        attempt=1,
        created_ns=0,
        reason="interval",
        files=(),
        metrics={} if loss is None else {"val_loss": loss},
    )
    return CheckpointEntry(
        path=None,
        name=f"step-{number:08d}",
        stage=stage,
        number=number,
        manifest=manifest,
        digest=None,
        verification=None,
        is_pinned=is_pinned,
        why_not=None,
    )


ENTRIES = st.lists(
    st.builds(
        entry,
        number=st.integers(0, 50),
        loss=st.none() | st.floats(0, 9),
        stage=st.sampled_from(Stage),
        is_pinned=st.booleans(),
    ),
    max_size=12,
    unique_by=lambda e: e.number,
).map(lambda found: sorted(found, key=lambda e: -e.number))


@given(ENTRIES, st.integers(0, 4))
def test_the_last_verified_the_best_and_pinned_ones_always_stay(entries, keep):
    gone = {e.name for e in doomed(entries, keep)}

    verified = [e for e in entries if e.stage is Stage.VERIFIED]
    assert all(e.name not in gone for e in verified[: max(1, keep)])
    assert all(e.name not in gone for e in entries if e.is_pinned)
    assert all(e.name not in gone for e in entries if e.stage is not Stage.VERIFIED)
    best = best_checkpoint(entries)
    assert best is None or best.name not in gone


@given(ENTRIES, st.integers(1, 4))
def test_no_more_stay_than_have_a_reason_to(entries, keep):
    gone = {e.name for e in doomed(entries, keep)}

    left = [e for e in entries if e.stage is Stage.VERIFIED and e.name not in gone]
    unpinned = [e for e in left if not e.is_pinned]
    assert len(unpinned) <= keep + 1


def test_the_least_loss_is_the_best_and_of_equals_the_older():
    entries = [entry(3, loss=1.0), entry(2, loss=1.0), entry(1, loss=2.0)]

    assert best_checkpoint(entries).number == 2
    assert best_checkpoint([entry(1)]) is None


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


def names(run):
    return sorted(e.path.name for e in list_checkpoints(run))


def test_pruning_removes_the_oldest_and_tells_what_it_freed(run):
    for step, loss in ((1, 5.0), (2, 1.0), (3, 4.0), (4, 3.0)):
        publish(run, step, metrics={"val_loss": loss})
    told = Told()
    size = list_checkpoints(run)[-1].manifest.size_bytes

    gone = prune(run, 1, told)

    assert gone == ["step-00000001", "step-00000003"]
    assert names(run) == ["step-00000002", "step-00000004"]
    assert told.of("CheckpointPruned")[0]["freed_bytes"] == size


def test_numbers_decide_and_not_names(run):
    publish(run, 99_999_999)
    publish(run, 100_000_000)

    assert prune(run, 1, Told()) == ["step-99999999"]


def test_a_pinned_checkpoint_stays_until_it_is_unpinned(run):
    for step in (1, 2, 3):
        publish(run, step)
    set_pin(run, "step-00000001", is_pinned=True, by="me")

    first = prune(run, 1, Told())
    set_pin(run, "step-00000001", is_pinned=False, by="me")
    second = prune(run, 1, Told())

    assert first == ["step-00000002"]
    assert second == ["step-00000001"]
    assert names(run) == ["step-00000003"]


def test_pinning_says_nothing_about_whether_it_is_sound(run):
    publish(run, 1)

    set_pin(run, "step-00000001", is_pinned=True, by="me")

    [found] = list_checkpoints(run)
    assert (found.stage, found.is_pinned) == (Stage.VERIFIED, True)


def test_what_is_not_ours_is_not_touched(run):
    for step in (1, 2):
        publish(run, step)
    for name in (
        "notes",
        ".quarantine-step-00000001",
        ".superseded-0001-step-00000009",
    ):
        (run.checkpoints / name).mkdir()

    prune(run, 1, Told())

    assert names(run) == [
        ".quarantine-step-00000001",
        ".superseded-0001-step-00000009",
        "notes",
        "step-00000002",
    ]


def test_what_a_crash_left_between_rename_and_removal_goes_with_the_next_save(run):
    publish(run, 1)
    publish(run, 2)
    (run.checkpoints / "step-00000001").rename(
        run.checkpoints / ".doomed-step-00000001"
    )

    publish(run, 3)

    assert names(run) == ["step-00000002", "step-00000003"]


def test_pinning_what_is_not_there_is_refused(run):
    publish(run, 1)

    with pytest.raises(NoCheckpointError, match="no checkpoint `step-00000007`"):
        set_pin(run, "step-00000007", is_pinned=True, by="me")
