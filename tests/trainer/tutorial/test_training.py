"""The loop does each part of a step in the right order, and goes on bit for bit."""

import itertools
import math

import pytest
import torch

from trainer.tutorial.adamw import AdamWFromScratch
from trainer.tutorial.sgd import SGDFromScratch
from trainer.tutorial.training import (
    Recipe,
    TrainerFromScratch,
    clip_gradients,
    learning_rate,
)


def net(dropout=0.0):
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(5, 12),
        torch.nn.ReLU(),
        torch.nn.Dropout(dropout),
        torch.nn.Linear(12, 1),
    )


def batches_of(step):
    for index in itertools.count():
        generator = torch.Generator().manual_seed(1000 * step + index)
        inputs = torch.randn(8, 5, generator=generator)
        yield inputs, inputs.sum(1, keepdim=True)


def trainer(recipe, model=None, kind=AdamWFromScratch):
    model = model or net()
    loss = torch.nn.functional.mse_loss
    return TrainerFromScratch(model, kind(model.parameters()), loss, batches_of, recipe)


def weights(one):
    return torch.cat([p.detach().flatten() for p in one.model.parameters()])


def test_it_learns():
    one = trainer(Recipe(steps=200, lr=1e-2, warmup_steps=10))

    first = one.train(until=1)
    last = one.train()

    assert last < first / 10
    assert one.step == 200


@pytest.mark.parametrize("kind", [AdamWFromScratch, torch.optim.AdamW])
def test_a_resume_gives_the_same_bits_with_dropout_too(tmp_path, kind):
    recipe = Recipe(steps=30, lr=1e-2, warmup_steps=5, accumulate=2)
    whole = trainer(recipe, net(0.3), kind)
    torch.manual_seed(7)
    whole.train()
    half = trainer(recipe, net(0.3), kind)
    torch.manual_seed(7)
    half.train(until=13)
    half.save(tmp_path / "half.pt")

    torch.manual_seed(99)
    resumed = trainer(recipe, net(0.3), kind)
    resumed.load(tmp_path / "half.pt")
    resumed.train()

    assert torch.equal(weights(resumed), weights(whole))


def test_accumulating_batches_is_one_large_batch():
    def joined(step):
        parts = list(itertools.islice(batches_of(step), 4))
        yield torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])

    small = trainer(Recipe(steps=5, accumulate=4, clip=None), kind=SGDFromScratch)
    large = trainer(Recipe(steps=5, accumulate=1, clip=None), kind=SGDFromScratch)
    large._batches_of = joined

    small.train()
    large.train()

    torch.testing.assert_close(weights(small), weights(large))


def test_clipping_keeps_the_direction():
    a, b = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1))
    a.grad, b.grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])

    norm = clip_gradients([a, b], 1.0)

    assert norm == 5.0
    torch.testing.assert_close(a.grad, torch.tensor([0.6, 0.0]))
    torch.testing.assert_close(b.grad, torch.tensor([0.8]))


@pytest.mark.parametrize("largest", [None, 10.0])
def test_small_gradients_are_left_alone(largest):
    a = torch.nn.Parameter(torch.zeros(2))
    a.grad = torch.tensor([3.0, 4.0])

    clip_gradients([a], largest)

    assert a.grad.tolist() == [3.0, 4.0]


def test_a_gradient_that_is_not_finite_skips_the_step_and_the_schedule():
    def sometimes_broken(step):
        inputs, labels = next(batches_of(step))
        yield inputs, labels * (math.inf if step == 2 else 1)

    one = trainer(Recipe(steps=10, lr=1e-2, warmup_steps=5))
    one._batches_of = sometimes_broken
    one.train(until=2)
    before = weights(one)

    one.train(until=3)
    after, lr = weights(one), one.optimizer.param_groups[0]["lr"]
    one.train(until=4)

    assert torch.equal(before, after)
    assert (one.step, one.num_skipped) == (4, 1)
    assert one.optimizer.param_groups[0]["lr"] == lr
    assert torch.isfinite(weights(one)).all()


def test_low_precision_comes_close_to_full():
    full = trainer(Recipe(steps=100, lr=1e-2))
    low = trainer(Recipe(steps=100, lr=1e-2, precision=torch.bfloat16))

    losses = full.train(), low.train()

    assert not torch.equal(weights(full), weights(low))
    assert losses[1] < losses[0] + 0.05
    assert weights(low).dtype is torch.float32


def test_the_learning_rate_rises_then_falls_along_a_cosine():
    recipe = Recipe(steps=110, lr=1.0, warmup_steps=10, min_lr_frac=0.1)

    rates = [learning_rate(recipe, step) for step in range(111)]

    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert rates[60] == pytest.approx(0.55)
    assert rates[110] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path):
    one = trainer(Recipe(steps=5))
    one.train(until=1)
    path = tmp_path / "last.pt"
    one.save(path)
    before = path.read_bytes()

    with pytest.raises(OSError, match="No such file"):
        one.save(tmp_path / "missing" / "last.pt")

    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]
