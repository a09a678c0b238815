"""A static graph's checkpoint is saved one step early, under the later number."""

import pytest
import torch

from agent.rundir.checkpoints import list_checkpoints
from agent.rundir.events import BarrierArrived, StepDone
from agent.rundir.layout import RunDir
from tests.ranks import on_ranks
from tests.trainer.small import events, train
from trainer.checkpoint.checking import differences
from trainer.checkpoint.saving import SAVE_BARRIER

pytestmark = pytest.mark.dist

SETTINGS = {
    "static_graph": True,
    "fix_iter": 4,
    "steps": 7,
    "max_epochs": 9,
    "keep": 9,
    "save_every": 4,
    "schedule": "linear",
}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("static") / "run"
    ended = on_ranks(2, train, str(path), SETTINGS, joins=False)
    assert [end.error for end in ended] == [None, None]
    return path


def entries(path):
    return {e.name: e for e in list_checkpoints(RunDir(path))}


def test_label_and_completed_steps_are_told_apart(run_dir):
    found = entries(run_dir)

    assert sorted(found) == ["step-00000004", "step-00000007"]
    manifest = found["step-00000004"].manifest
    assert (manifest.step, manifest.label_step, manifest.reason) == (3, 4, "fix_iter")
    assert (found["step-00000007"].manifest.label_step) is None


def test_step_and_learning_rate_are_put_back(run_dir):
    rates = [e.lr for e in events(run_dir, StepDone)]

    assert [e.step for e in events(run_dir, StepDone)] == [1, 2, 3, 4, 5, 6, 7]
    assert rates == pytest.approx([0.1 * (1 - step / 7) for step in range(7)])
    state = entries(run_dir)["step-00000004"].path / "state.pt"
    saved = torch.load(state, weights_only=True)
    assert saved["label_step"] == 4
    assert saved["progress"]["step"] == 3
    assert saved["scheduler"]["step"] == 4


def test_all_ranks_wait_for_rank_0(run_dir):
    for rank in range(2):
        waits = [
            e
            for e in events(run_dir, BarrierArrived, rank=rank)
            if e.name == SAVE_BARRIER
        ]
        assert len(waits) == 2


def test_a_resume_from_it_repeats_the_step_that_was_not_done(run_dir, tmp_path):
    parted = tmp_path / "parted"
    on_ranks(2, train, str(parted), SETTINGS, joins=False)
    back = SETTINGS | {"resume": "step-00000004"}

    ended = on_ranks(2, train, str(parted), back, joins=False)

    assert [end.error for end in ended] == [None, None]
    assert [e.step for e in events(parted, StepDone, attempt=2)] == [4, 5, 6, 7]
    states = [
        torch.load(entries(path)["step-00000007"].path / "state.pt", weights_only=True)
        for path in (run_dir, parted)
    ]
    assert differences(*states) == []
