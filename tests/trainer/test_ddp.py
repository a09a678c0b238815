"""The Trainer on a user's own model: alone and on real process groups."""

import math
import os
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from agent.rundir.checkpoints import list_checkpoints
from agent.rundir.errors import ConfigMismatchError
from agent.rundir.events import (
    CheckpointLoaded,
    CheckpointRefused,
    CheckpointSuperseded,
    EvalDone,
    PhaseChanged,
    RunEnded,
    StepDone,
)
from agent.rundir.layout import RunDir
from tests.ranks import on_ranks
from tests.trainer.small import Line, data, events, make, train, weights
from trainer.checkpoint.checking import differences
from trainer.loop.steps import DivergedError
from trainer.settings import UsageError

pytestmark = pytest.mark.dist


def saved_state(run_dir, index=0):
    path = list_checkpoints(RunDir(run_dir))[index].path / "state.pt"
    return torch.load(path, weights_only=True)


def test_a_model_is_trained_saved_and_its_run_told(tmp_path):
    trainer = make(tmp_path / "run", max_epochs=8)
    before = weights(trainer)

    result = trainer.train()

    assert (result.reason, result.step) == ("completed", 8 * 6)
    assert result.loss < 0.1
    assert weights(trainer) != before
    assert result.checkpoint == "step-00000048"
    [entry] = list_checkpoints(RunDir(tmp_path / "run"))
    assert (entry.manifest.num_samples, entry.manifest.epoch) == (8 * 22, 8)
    assert entry.manifest.metrics == {"val_loss": result.loss}
    losses = [e.loss for e in events(tmp_path / "run", StepDone)]
    assert len(losses) == 48
    assert losses[-1] < losses[0]
    assert events(tmp_path / "run", EvalDone)[0].is_best
    assert [e.reason for e in events(tmp_path / "run", RunEnded)] == ["completed"]
    phases = [e.phase for e in events(tmp_path / "run", PhaseChanged)]
    assert {"training", "evaluating", "saving", "ending"} <= set(phases)


def test_a_run_that_is_called_again_goes_on_where_it_was(tmp_path):
    make(tmp_path / "run", max_epochs=2).train()
    [entry] = list_checkpoints(RunDir(tmp_path / "run"))

    again = make(tmp_path / "run", max_epochs=2).train()

    assert again.step == 12
    [loaded] = events(tmp_path / "run", CheckpointLoaded, attempt=2)
    assert loaded.resumed_step == 12
    assert not events(tmp_path / "run", StepDone, attempt=2)
    [same] = list_checkpoints(RunDir(tmp_path / "run"))
    assert same.digest == entry.digest


def test_a_damaged_checkpoint_is_passed_over_set_aside_and_told(tmp_path):
    make(tmp_path / "run", max_epochs=1, save_every=3).train()
    run = RunDir(tmp_path / "run")
    os.truncate(run.checkpoints / "step-00000006" / "state.pt", 100)

    make(tmp_path / "run", max_epochs=1, save_every=3).train()

    told = {
        kind: [e.checkpoint for e in events(run.path, kind, attempt=2)]
        for kind in (CheckpointRefused, CheckpointLoaded, CheckpointSuperseded)
    }
    assert told == {
        CheckpointRefused: ["step-00000006"],
        CheckpointLoaded: ["step-00000003"],
        CheckpointSuperseded: ["step-00000006"],
    }
    assert [e.path.name for e in list_checkpoints(run)] == [
        "step-00000006",
        ".superseded-0002-step-00000006",
        "step-00000003",
    ]


def test_another_learning_problem_is_refused(tmp_path):
    make(tmp_path / "run", seed=1).train()

    with pytest.raises(ConfigMismatchError, match="`seed` = `1`, this start has `2`"):
        make(tmp_path / "run", seed=2).train()


@pytest.mark.parametrize(("num_ranks", "accumulate"), [(2, 1), (1, 2), (2, 2), (3, 1)])
def test_the_same_samples_per_step_give_the_same_weights(
    tmp_path, num_ranks, accumulate
):
    """22 samples: the last step of an epoch is smaller, and uneven on the ranks."""
    per_rank = 12 // num_ranks // accumulate
    settings = {"batch_size": per_rank, "accumulate": accumulate, "max_epochs": 3}
    alone = make(tmp_path / "alone", batch_size=12, max_epochs=3)
    alone.train()

    ended = on_ranks(num_ranks, train, str(tmp_path / "run"), settings, joins=False)

    assert [end.error for end in ended] == [None] * num_ranks
    for end in ended:
        step, _, found, _ = end.value
        assert step == 6
        assert found == pytest.approx(weights(alone), abs=1e-6)
    together = events(tmp_path / "run", StepDone)
    single = events(tmp_path / "alone", StepDone)
    assert [e.loss for e in together] == pytest.approx([e.loss for e in single])
    assert [e.num_tokens for e in together] == [e.num_tokens for e in single]
    assert sum(e.num_tokens for e in single) == 3 * 22


def test_the_held_out_loss_is_that_of_all_samples_on_any_number_of_ranks(tmp_path):
    alone = make(tmp_path / "alone", batch_size=6, shuffle=False)

    ended = on_ranks(
        3,
        train,
        str(tmp_path / "run"),
        {"batch_size": 2, "shuffle": False},
        joins=False,
    )

    loss = alone.train().loss
    assert [end.value[1] for end in ended] == pytest.approx([loss] * 3)
    assert len({end.value[1] for end in ended}) == 1


def test_another_number_of_ranks_goes_on_with_the_samples_that_are_left(tmp_path):
    settings = {"max_epochs": 2, "save_every": 1, "keep": 99}
    on_ranks(2, train, str(tmp_path / "run"), settings | {"die_at": 2}, joins=False)

    ended = on_ranks(3, train, str(tmp_path / "run"), settings, joins=False)

    # 16 of 22 samples are done; 12 at a time are 1 step more, and 2 for an epoch.
    assert [end.value[0] for end in ended] == [5, 5, 5], ended
    counted = [e.num_tokens for e in events(tmp_path / "run", StepDone, attempt=2)]
    assert counted == [6, 12, 10]


def test_a_checkpoint_at_an_epoch_s_end_knows_its_held_out_loss(tmp_path):
    make(tmp_path / "run", max_epochs=2, save_every=6, keep=9).train()

    found = list_checkpoints(RunDir(tmp_path / "run"))[::-1]
    losses = [e.loss for e in events(tmp_path / "run", EvalDone)]
    assert [e.manifest.metrics for e in found] == [{"val_loss": x} for x in losses]
    assert [(e.manifest.step, e.manifest.epoch) for e in found] == [(6, 1), (12, 2)]


class Broken(TensorDataset):
    """Has some samples without a number."""

    def __getitem__(self, index):
        inputs, targets = super().__getitem__(index)
        return (inputs * math.nan if index in (3, 4) else inputs), targets


def test_a_gradient_that_is_not_finite_is_skipped_counted_and_moves_nothing(tmp_path):
    dataset = Broken(*data(12).tensors)
    trainer = make(
        tmp_path / "run",
        dataset=dataset,
        shuffle=False,
        batch_size=2,
        max_epochs=1,
        steps=4,
        schedule="linear",
        ema_decay=0.5,
    )

    result = trainer.train()

    told = events(tmp_path / "run", StepDone)
    assert [(e.step, e.is_skipped) for e in told] == [
        (1, False),
        (1, True),
        (1, True),
        (2, False),
        (3, False),
        (4, False),
    ]
    assert told[1].loss is None
    assert told[1].nonfinite == "loss"
    assert told[3].lr == told[1].lr == pytest.approx(0.1 * 3 / 4)
    assert all(math.isfinite(w) for w in weights(trainer))
    assert result.step == 4
    saved = saved_state(tmp_path / "run")
    assert saved["progress"]["num_skipped"] == 2
    assert saved["average"]["num_updates"] == 4


def test_a_run_that_only_skips_ends_with_an_error(tmp_path):
    inputs, targets = data(12).tensors
    dataset = TensorDataset(inputs * math.nan, targets)
    trainer = make(tmp_path / "run", dataset=dataset, steps=50, max_skipped=3)

    with pytest.raises(DivergedError, match="3 steps in a row were skipped: `loss`"):
        trainer.train()

    assert events(tmp_path / "run", RunEnded)[0].reason == "error"


class Spiky(Line):
    """Has a gradient that is not finite while its loss is."""

    def forward(self, inputs, targets):
        return (
            super().forward(inputs, targets)
            + 0 * self.line.bias.sub(self.line.bias.detach()).abs().sqrt().sum()
        )


def test_the_tensor_whose_gradient_is_not_finite_is_named(tmp_path):
    trainer = make(tmp_path / "run", model=Spiky(), max_skipped=1)

    with pytest.raises(DivergedError):
        trainer.train()

    [told] = events(tmp_path / "run", StepDone)
    assert (told.nonfinite, told.is_skipped) == ("line.bias", True)
    assert told.loss is not None


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_trains(tmp_path, amp):
    trainer = make(tmp_path / "run", amp=amp, max_epochs=8)

    result = trainer.train()

    assert result.loss < 0.05
    assert all(p.dtype is torch.float32 for p in trainer.model.parameters())
    scale = saved_state(tmp_path / "run")["scaler"]
    assert bool(scale) == (amp == "fp16")


def test_clipping_comes_after_unscaling(tmp_path):
    trainer = make(tmp_path / "run", amp="fp16", clip=1e-3, max_epochs=1, shuffle=False)
    before = weights(trainer)

    trainer.train()

    moved = math.dist(before, weights(trainer))
    assert 0 < moved <= 6 * 0.1 * 1e-3 * 1.01
    assert events(tmp_path / "run", StepDone)[-1].grad_norm > 0.1


def test_the_run_ends_early_when_the_loss_no_longer_falls(tmp_path):
    model = Line()
    still = torch.optim.SGD(model.parameters(), lr=1e-30)
    trainer = make(
        tmp_path / "run", model=model, optimizer=still, max_epochs=50, patience=2
    )

    result = trainer.train()

    assert (result.reason, result.step) == ("completed", 3 * 6)


def test_without_an_agent_it_trains_and_saves_just_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("OPSDASH_AGENT", "off")

    result = make(tmp_path / "run").train()

    assert result.step == 12
    assert len(list_checkpoints(RunDir(tmp_path / "run"))) == 1
    assert not (tmp_path / "run" / "telemetry").exists()


def test_held_out_data_without_a_sample_are_none(tmp_path):
    trainer = make(tmp_path / "run", max_epochs=1)
    empty = TensorDataset(torch.empty(0, 3), torch.empty(0, 1))
    trainer.val_loader = DataLoader(empty, batch_size=4)

    assert trainer.train().loss is None
    assert events(tmp_path / "run", EvalDone) == []


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"amp": "fp8"}, "`amp` is `fp8`: invalid enum value"),
        ({"keep": 0}, "`keep` is `0`: expected `int` >= 1"),
        ({"fix_iter": 3}, "needs `--static-graph`"),
    ],
)
def test_settings_made_in_code_are_checked_too(tmp_path, settings, told):
    with pytest.raises(UsageError) as caught:
        make(tmp_path / "run", **settings)

    assert told in str(caught.value)


class Fails(TensorDataset):
    """Cannot load one of its samples."""

    def __getitem__(self, index):
        if index == 9:
            raise OSError("the disk is gone")
        return super().__getitem__(index)


def train_on_failing_data(run_dir):
    return make(Path(run_dir), dataset=Fails(*data().tensors), shuffle=False).train()


def test_data_that_one_rank_cannot_load_ends_all_ranks_alike(tmp_path):
    ended = on_ranks(2, train_on_failing_data, str(tmp_path / "run"), joins=False)

    assert [(end.kind, end.error) for end in ended] == [
        ("RankFailedError", "rank 1 failed: OSError: the disk is gone")
    ] * 2
    for rank in range(2):
        [end] = events(tmp_path / "run", RunEnded, rank=rank)
        assert end.reason == "error"
        assert "the disk is gone" in end.error


class FailsBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, grad):
        if os.environ["RANK"] == "1" and FailsBackward.armed:
            raise ArithmeticError("a kernel of the user's")
        return grad

    armed = False


class Backwards(Line):
    def forward(self, inputs, targets):
        FailsBackward.armed = self.num_calls > 3
        self.num_calls += 1
        return FailsBackward.apply(super().forward(inputs, targets))

    num_calls = 0


def train_with_a_failing_backward(run_dir):
    return make(Path(run_dir), model=Backwards()).train()


def test_a_backward_pass_that_fails_on_one_rank_ends_all_ranks_alike(tmp_path):
    ended = on_ranks(
        2, train_with_a_failing_backward, str(tmp_path / "run"), joins=False
    )

    assert "rank 1 failed: ArithmeticError: a kernel of the user's" in ended[0].error
    assert "a kernel of the user's" in ended[1].error


class Normed(nn.Module):
    """Has buffers, which DDP broadcasts in the forward pass."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.line = Line(dropout=0.2)

    def forward(self, inputs, targets):
        return self.line(self.norm(inputs), targets)


def train_normed(run_dir, settings):
    return train(run_dir, {"model": Normed(), **settings})


def test_buffers_come_back_bitwise_too(tmp_path):
    settings = {"max_epochs": 4, "steps": 12, "save_every": 5, "keep": 9}
    on_ranks(2, train_normed, str(tmp_path / "whole"), settings, joins=False)
    on_ranks(2, train_normed, str(tmp_path / "parted"), settings, joins=False)
    back = settings | {"resume": "step-00000005"}

    ended = on_ranks(2, train_normed, str(tmp_path / "parted"), back, joins=False)

    assert [end.error for end in ended] == [None, None]
    whole, parted = saved_state(tmp_path / "whole"), saved_state(tmp_path / "parted")
    assert differences(whole, parted) == []
    assert whole["model"]["norm.num_batches_tracked"] == 12


def train_other_data(run_dir):
    rank = int(os.environ["RANK"])
    return make(Path(run_dir), dataset=data(22 + rank)).train()


def test_a_rank_with_other_data_is_named_before_training(tmp_path):
    ended = on_ranks(2, train_other_data, str(tmp_path / "run"), joins=False)

    assert [(end.kind, end.exit_code) for end in ended] == [
        ("ConfigMismatchError", 66)
    ] * 2
    assert ended[0].error == "rank 1: `num_samples` is `23` here and `22` on rank 0"
    assert not (tmp_path / "run" / "checkpoints").exists()
