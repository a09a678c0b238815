"""Damage that does not keep a run from going on is said all the same."""

import pytest

from agent.rundir.operations import Operation, encode_operation
from opsdash.projections.run_state import State
from tests.runs import RunWriter, Watcher


@pytest.fixture
def writer(tmp_path):
    writer = RunWriter(tmp_path / "run")
    writer.begin()
    writer.steps(1, 20)
    for step in (10, 20):
        writer.checkpoint(step)
    writer.beat()
    return writer


def operated(writer, kind, state=None, *, stage="done", node="client-1"):
    """What an operator did to a chunk store, as the dashboard wrote it down."""
    writer.wait(1)
    one = Operation(
        schema=1,
        id=f"{writer.time_ns}",
        kind=kind,
        stage=stage,
        time_ns=writer.time_ns,
        by="ann@desk",
        subject=f"chunks/{node}",
        state=state,
        text="chunk 25 of round 5 is damaged",
    )
    writer.run.operations.mkdir(exist_ok=True)
    with (writer.run.operations / "desk-1.jsonl").open("ab") as file:
        file.write(encode_operation(one))


def notes(writer):
    return [r for r in Watcher(writer.run).verdict().reasons if "amaged" in r.text]


def test_an_older_checkpoint_that_is_damaged_is_a_note_and_no_alarm(writer):
    path = writer.run.checkpoints / "step-00000010"
    (path / "state.pt").write_bytes(b"short")

    (note,) = notes(writer)

    assert note.text.startswith("step-00000010 is damaged, and passed over: `state.pt`")
    assert note.fix.text == f"opsdash checkpoints {writer.path}"
    assert Watcher(writer.run).verdict().state is State.HEALTHY


def test_the_newest_checkpoint_is_told_once(writer):
    path = writer.run.checkpoints / "step-00000020"
    (path / "state.pt").write_bytes(b"short")

    (reason,) = notes(writer)

    assert reason.text.startswith("the newest checkpoint step-00000020 is damaged")


def test_a_store_that_an_operator_found_damaged_is_named_with_who_found_it(writer):
    operated(writer, "verify", "damaged")
    operated(writer, "verify", "sound", node="client-2")

    (note,) = notes(writer)

    assert note.text == (
        "the chunk store of client-1 was found damaged: "
        "chunk 25 of round 5 is damaged (by ann@desk)"
    )
    assert note.fix.text == f"opsdash chunks {writer.path} --node client-1 --repair"


@pytest.mark.parametrize(("kind", "state"), [("repair", None), ("verify", "sound")])
def test_a_store_that_was_mended_since_is_named_no_more(writer, kind, state):
    operated(writer, "verify", "damaged")
    operated(writer, kind, state, stage="failed")
    before = notes(writer)
    operated(writer, kind, state)

    assert len(before) == 1
    assert notes(writer) == []
