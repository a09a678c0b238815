"""When a held-out loss has not improved for long enough."""

import math

from trainer.optim.early_stopping import BestLoss


def test_it_is_enough_after_as_many_worse_losses_as_patience():
    best = BestLoss(patience=2)

    seen = [
        (best.observe(loss, step), best.is_enough)
        for step, loss in enumerate([3.0, 2.0, 2.0, 2.5])
    ]

    assert seen == [(True, False), (True, False), (False, False), (False, True)]
    assert (best.loss, best.step) == (2.0, 1)


def test_without_patience_it_is_never_enough():
    best = BestLoss()

    for step in range(100):
        best.observe(1.0, step)

    assert not best.is_enough


def test_a_loss_that_is_not_a_number_is_never_the_best():
    best = BestLoss(patience=1)

    assert not best.observe(math.nan, 1)
    assert best.is_enough
    assert best.loss == math.inf


def test_a_saved_one_goes_on_and_an_infinite_loss_is_plain():
    best = BestLoss(patience=3)
    assert best.state_dict()["loss"] is None
    best.observe(2.0, 5)
    best.observe(4.0, 6)
    resumed = BestLoss(patience=3)

    resumed.load_state_dict(best.state_dict())

    assert resumed == best


def test_forgetting_the_best_lets_any_loss_be_it():
    best = BestLoss(patience=2)
    best.observe(1.0, 1)
    best.observe(5.0, 2)

    best.reset()

    assert best.observe(5.0, 3)
