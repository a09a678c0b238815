"""What restoring, repairing and pinning will do, told before it is done."""

import pytest
import torch

from agent.rundir.errors import NotARunError, RunDirError
from opsdash.operations.store_plans import plan_pin, plan_repair, plan_restore
from opsdash.operations.trainer_command import TrainerCommand
from tests.runs import RunWriter, dead_process
from trainer.chunks.store import ChunkStore


def federated(tmp_path, process=None):
    run = RunWriter(tmp_path / "fl", kind="federated", world_size=1, process=process)
    run.begin()
    path = run.run.chunk_store("server")
    path.parent.mkdir(parents=True)
    with ChunkStore(path, node="server") as store:
        store.put_round(3, {"w": torch.ones(4), "b": torch.tensor([float("nan")])})
    return run


@pytest.fixture
def dead(tmp_path):
    return federated(tmp_path, dead_process())


def test_a_restore_tells_size_and_what_is_not_finite(dead, tmp_path):
    plan = plan_restore(dead.run, "server", 3, tmp_path / "out.pt", "w*")

    assert plan.can_start
    assert "the tensors `w*`" in plan.reads[0]
    assert plan.notes == ("not finite in this round: b",)
    assert plan.confirm_name == ""
    assert plan.command[1:4] == ("-m", "trainer", "restore")


def test_tensors_that_are_not_there_are_not_written(dead, tmp_path):
    with pytest.raises(RunDirError, match="there are `w`, `b`"):
        plan_restore(dead.run, "server", 3, tmp_path / "out.pt", "z*")


def test_a_file_that_is_there_has_to_be_named_to_be_replaced(dead, tmp_path):
    (tmp_path / "out.pt").write_bytes(b"precious")

    plan = plan_restore(dead.run, "server", 3, tmp_path / "out.pt")

    assert plan.confirm_name == "out.pt"
    assert plan.loses == (f"what `{tmp_path / 'out.pt'}` holds now",)


@pytest.mark.parametrize(
    ("node", "round_num", "name", "message"),
    [
        ("server", 9, "out.pt", "does not hold round 9"),
        ("nobody", 3, "out.pt", "no chunk store of"),
        ("../..", 3, "out.pt", "no chunk store of"),
        ("server", 3, "out.txt", "must end in"),
        ("server", 3, "x" * 300 + ".pt", "cannot be written: File name too long"),
    ],
)
def test_what_cannot_be_restored_is_said(
    dead, tmp_path, node, round_num, name, message
):
    with pytest.raises(RunDirError, match=message):
        plan_restore(dead.run, node, round_num, tmp_path / name)


def test_a_data_parallel_run_is_told_to_resume(tmp_path):
    run = RunWriter(tmp_path / "ddp")
    run.begin()

    with pytest.raises(NotARunError) as caught:
        plan_repair(run.run, "server")

    assert caught.value.hint == f"opsdash resume {run.path}"


def test_a_store_of_a_live_run_is_not_mended_from_here(tmp_path):
    run = federated(tmp_path)

    plan = plan_repair(run.run, "server")

    assert plan.why_not.startswith(
        "attempt 1 is running and owns the stores: a request"
    )


def test_the_planned_commands_do_what_they_say(dead, tmp_path):
    to = tmp_path / "out.pt"
    restore = TrainerCommand(plan_restore(dead.run, "server", 3, to))
    restore.wait()
    repair = TrainerCommand(plan_repair(dead.run, "server"))
    repair.wait()

    assert restore.error == ""
    assert torch.equal(torch.load(to)["w"], torch.ones(4))
    assert repair.results[-1]["left"] == []


def test_a_checkpoint_of_a_dead_run_is_pinned_by_the_trainers_command(tmp_path):
    run = RunWriter(tmp_path / "ddp", process=dead_process())
    run.begin()
    run.checkpoint(10)

    command = TrainerCommand(plan_pin(run.run, "step-00000010", is_pinned=True))
    command.wait()

    assert command.error == ""
    assert b'"pinned":true' in run.run.verified.read_bytes()


def test_letting_retention_have_one_again_asks_for_the_name(tmp_path):
    run = RunWriter(tmp_path / "ddp", process=dead_process())
    run.begin()
    run.checkpoint(10)

    pin = plan_pin(run.run, "step-00000010", is_pinned=True)
    unpin = plan_pin(run.run, "step-00000010", is_pinned=False)

    assert (pin.confirm_name, unpin.confirm_name) == ("", "ddp")
    assert (len(pin.loses), len(unpin.loses)) == (0, 1)


def test_a_tensor_is_restored_under_another_name(dead, tmp_path):
    to = tmp_path / "out.pt"

    plan = plan_restore(dead.run, "server", 3, to, "w", {"w": "layer.weight"})
    command = TrainerCommand(plan)
    command.wait()

    assert command.error == ""
    assert plan.notes[-1] == "under other names: w=layer.weight"
    assert torch.equal(torch.load(to)["layer.weight"], torch.ones(4))
