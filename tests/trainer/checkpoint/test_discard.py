"""What was set aside goes when somebody says so, and nothing else does."""

import msgspec
import pytest

from agent.rundir.checkpoints import list_checkpoints
from agent.rundir.errors import NoCheckpointError, RunDirError
from agent.rundir.process import this_process
from tests.trainer.checkpoint.states import Told, make_run, make_state, publish
from trainer.checkpoint.load import decide
from trainer.checkpoint.lock import OWNER_NAME
from trainer.checkpoint.retention import set_pin
from trainer.checkpoint.rollback import supersede_above
from trainer.cli import main


@pytest.fixture
def run(tmp_path):
    """A run with a checkpoint in each stage."""
    run = make_run(tmp_path / "run")
    publish(run, 1)
    publish(run, 2)
    state = run.checkpoints / "step-00000001" / "state.pt"
    state.write_bytes(state.read_bytes()[:-1])
    publish(run, 2, state=make_state(seed=1))
    publish(run, 3)
    supersede_above(run, 2, 2, Told(), start="step-00000002")
    (run.checkpoints / "notes").mkdir()
    return run


ASIDE = {
    ".superseded-0002-step-00000003",
    ".quarantine-step-00000002",
    "step-00000001",
}


def names(run):
    return {e.path.name for e in list_checkpoints(run)}


def test_without_a_name_it_is_told_what_could_go_and_nothing_goes(run, capsys):
    before = names(run)

    assert main(["discard", str(run.path)]) == 0

    told = capsys.readouterr().out
    assert all(f"`{name}` (" in told for name in ASIDE)
    assert f"python -m trainer discard {run.path} --all" in told
    assert names(run) == before == ASIDE | {"step-00000002", "notes"}


def test_all_that_was_set_aside_goes_and_the_run_can_be_resumed(run, capsys):
    assert main(["discard", str(run.path), "--all"]) == 0

    assert names(run) == {"step-00000002", "notes"}
    assert sorted(run.checkpoints.glob(".doomed*")) == []
    assert decide(run, "auto", Told()).name == "step-00000002"
    assert main(["discard", str(run.path)]) == 0
    assert "nothing is set aside" in capsys.readouterr().out


def test_only_what_is_named_goes(run):
    assert main(["discard", str(run.path), ".quarantine-step-00000002"]) == 0

    assert names(run) == ASIDE - {".quarantine-step-00000002"} | {
        "step-00000002",
        "notes",
    }


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("step-00000002", "is verified: only what was set aside goes"),
        ("notes", "is foreign: only what was set aside goes"),
        ("step-00000009", "has no checkpoint `step-00000009`"),
        ("../run", "has no checkpoint"),
        (".partial-step-00000004", "is being written"),
        ("step-00000001", "is pinned"),
    ],
)
def test_what_is_in_use_stays(run, capsys, name, told):
    partial = run.checkpoints / ".partial-step-00000004"
    partial.mkdir()
    (partial / OWNER_NAME).write_bytes(msgspec.json.encode(this_process()))
    set_pin(run, "step-00000001", is_pinned=True, by="me")
    before = names(run)

    assert main(["discard", str(run.path), name]) == RunDirError.exit_code

    assert told in capsys.readouterr().err
    assert names(run) == before


def test_what_another_host_left_goes_when_it_is_named(run):
    partial = run.checkpoints / ".partial-step-00000004"
    partial.mkdir()
    elsewhere = msgspec.structs.replace(this_process(), host="elsewhere")
    (partial / OWNER_NAME).write_bytes(msgspec.json.encode(elsewhere))

    main(["discard", str(run.path), "--all"])
    assert partial.exists()
    assert main(["discard", str(run.path), partial.name]) == 0

    assert not partial.exists()
    assert NoCheckpointError.exit_code == RunDirError.exit_code
