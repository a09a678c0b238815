"""Which checkpoint is resumed from, and what is checked before it is unpickled."""

import pickle
import threading

import blake3
import pytest
import torch

from agent.rundir.checkpoints import Stage, list_checkpoints, read_latest
from agent.rundir.errors import (
    DamagedCheckpointError,
    NoCheckpointError,
    RunDirError,
    UnreadableFileError,
)
from agent.rundir.manifest import FileEntry
from tests.trainer.checkpoint.states import Told, make_run, make_state, payload, publish
from trainer.checkpoint.checking import differences
from trainer.checkpoint.load import Decision, decide, load_decided, load_state
from trainer.checkpoint.rollback import supersede_above


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def state_of(run, step):
    return run.checkpoints / f"step-{step:08d}" / "state.pt"


def test_a_new_run_begins_at_the_beginning(run):
    assert decide(run, "auto", Told()) == Decision()
    assert decide(run, "never", Told()) == Decision()


def test_the_newest_is_taken_and_read_once_more(run):
    publish(run, 3)
    publish(run, 4)
    told = Told()

    decision = decide(run, "auto", told)

    assert (decision.name, decision.step, decision.remarks) == ("step-00000004", 4, ())
    assert [e["by"] for e in told.of("CheckpointVerified")] == ["load"]


def test_a_damaged_one_is_passed_over_told_and_remembered(run):
    publish(run, 3)
    publish(run, 4)
    flip(state_of(run, 4))
    told = Told()

    decision = decide(run, "auto", told)

    assert decision.name == "step-00000003"
    assert len(decision.remarks) == 1
    assert "`step-00000004` is passed over: it is damaged" in decision.remarks[0]
    assert [e["checkpoint"] for e in told.of("CheckpointRefused")] == ["step-00000004"]
    stages = {e.name: e.stage for e in list_checkpoints(run)}
    assert stages == {
        "step-00000004": Stage.DAMAGED,
        "step-00000003": Stage.VERIFIED,
    }


def test_one_that_was_published_and_never_verified_is_verified_now(run):
    publish(run, 3)
    run.verified.unlink()

    assert decide(run, "auto", Told()).name == "step-00000003"
    assert [e.stage for e in list_checkpoints(run)] == [Stage.VERIFIED]


def test_when_all_are_damaged_nothing_is_begun_anew_by_itself(run):
    publish(run, 3)
    flip(state_of(run, 3))

    with pytest.raises(NoCheckpointError, match="no checkpoint to resume") as caught:
        decide(run, "auto", Told())

    assert "--resume never" in caught.value.hint
    assert decide(run, "never", Told()) == Decision()


def test_a_partial_or_a_superseded_one_is_never_taken(run):
    publish(run, 3)
    publish(run, 4)
    state_of(run, 4).parent.rename(run.checkpoints / ".superseded-0002-step-00000004")
    (run.checkpoints / ".partial-step-00000009").mkdir()

    assert decide(run, "auto", Told()).name == "step-00000003"
    with pytest.raises(NoCheckpointError, match="a later attempt gave up"):
        decide(run, ".superseded-0002-step-00000004", Told())


def test_a_named_one_is_taken_although_it_is_older(run):
    publish(run, 3)
    publish(run, 4)

    assert decide(run, "step-00000003", Told()).name == "step-00000003"


def test_a_named_one_that_is_damaged_is_refused(run):
    publish(run, 3)
    publish(run, 4)
    flip(state_of(run, 4))

    with pytest.raises(DamagedCheckpointError, match="`step-00000004` is damaged"):
        decide(run, "step-00000004", Told())


@pytest.mark.parametrize("has_checkpoints", [False, True])
def test_a_named_one_that_does_not_exist_is_refused(run, has_checkpoints):
    if has_checkpoints:
        publish(run, 3)

    with pytest.raises(NoCheckpointError, match="no checkpoint `step-00000007`"):
        decide(run, "step-00000007", Told())


def test_a_decided_checkpoint_is_loaded_as_it_was_saved(run):
    state = make_state()
    saved = payload(state)
    publish(run, 3, state=state)

    loaded = load_decided(run, decide(run, "auto", Told()), view_limit_s=0)

    assert (
        differences(
            {k: v for k, v in saved.items() if k != "rng"},
            {k: v for k, v in loaded.state.items() if k != "rng"},
        )
        == []
    )
    assert loaded.manifest.step == 3


def test_bytes_that_changed_since_the_decision_are_never_unpickled(run):
    publish(run, 3)
    decision = decide(run, "auto", Told())
    flip(state_of(run, 3))

    with pytest.raises(DamagedCheckpointError, match="has digest `blake3:"):
        load_decided(run, decision, view_limit_s=0)


def test_another_checkpoint_of_the_same_name_is_refused(run):
    publish(run, 3)
    decision = decide(run, "auto", Told())
    state_of(run, 3).parent.rename(run.path / "elsewhere")
    publish(run, 3, state=make_state(seed=1))

    with pytest.raises(DamagedCheckpointError, match="another manifest here"):
        load_decided(run, decision, view_limit_s=0)


def test_files_that_this_rank_sees_late_are_waited_for(run):
    publish(run, 3)
    decision = decide(run, "auto", Told())
    elsewhere = run.path / "state.pt"
    state_of(run, 3).rename(elsewhere)
    appear = threading.Timer(0.3, elsewhere.rename, [state_of(run, 3)])
    appear.start()

    loaded = load_decided(run, decision, view_limit_s=30)

    appear.join()
    assert loaded.manifest.step == 3


def test_a_file_that_stays_away_is_an_error(run):
    publish(run, 3)
    decision = decide(run, "auto", Told())
    state_of(run, 3).unlink()

    with pytest.raises(UnreadableFileError, match="cannot be read"):
        load_decided(run, decision, view_limit_s=0.2)


def test_a_checkpoint_that_this_rank_cannot_see_is_an_error(run):
    publish(run, 3)
    decision = decide(run, "auto", Told())
    state_of(run, 3).parent.rename(run.path / "elsewhere")

    with pytest.raises(RunDirError, match="cannot be read"):
        load_decided(run, decision, view_limit_s=0.2)


class Malice:
    def __reduce__(self):
        return (print, ("this ran",))


def test_code_in_a_file_is_not_run_even_with_the_right_digest(run, capsys):
    publish(run, 3)
    path = run.path / "malice.pt"
    torch.save({"x": Malice()}, path)
    digest = f"blake3:{blake3.blake3(path.read_bytes()).hexdigest()}"

    with pytest.raises(pickle.UnpicklingError):
        load_state(path, FileEntry(name="malice.pt", size_bytes=1, digest=digest))

    assert capsys.readouterr().out == ""


def test_a_digest_of_an_unknown_kind_is_refused(run):
    publish(run, 3)
    odd = FileEntry(name="state.pt", size_bytes=1, digest="md9:" + "0" * 64)

    with pytest.raises(UnreadableFileError, match="can be checked here"):
        load_state(state_of(run, 3), odd)


def test_what_lies_above_is_set_aside_and_latest_goes_back(run):
    for step in (3, 4, 5):
        publish(run, step)
    told = Told()

    aside = supersede_above(run, 3, 2, told, start="step-00000003")

    assert aside == ["step-00000005", "step-00000004"]
    assert read_latest(run) == "step-00000003"
    assert decide(run, "auto", Told()).name == "step-00000003"
    assert told.of("CheckpointSuperseded")[0]["renamed_to"] == (
        ".superseded-0002-step-00000005"
    )
    assert (run.checkpoints / ".superseded-0002-step-00000005" / "state.pt").exists()


def test_beginning_anew_sets_everything_aside_and_there_is_no_latest(run):
    publish(run, 3)

    supersede_above(run, 0, 2, Told(), start=None)

    assert read_latest(run) is None
    assert decide(run, "auto", Told()) == Decision()


def test_a_run_without_checkpoints_has_nothing_to_give_up(run):
    assert supersede_above(run, 0, 2, Told(), start=None) == []
