"""Local training is the same again for the same round, and stops when asked."""

import math

import pytest
import torch

from agent.rundir.errors import RunDirError
from tests.trainer.federated.bench import toy
from trainer.data.examples import Examples
from trainer.federated.learner import Learner, round_seed
from trainer.federated.problem import ClientData, client_data, server_data


def learner(config, key="client-1", data=None):
    shape = server_data(config).shape
    return Learner(config, shape, key, data or client_data(config, key, None))


def train(one, round_num=1, is_cancelled=lambda: False):
    results = []
    report = one.train(round_num, is_cancelled=is_cancelled, on_step=results.append)
    return report, results


def weights(one):
    return torch.cat([p.detach().flatten() for p in one.model.parameters()])


def test_the_same_round_gives_the_same_bits():
    config = toy(data="digits", local_steps=0, local_epochs=1)
    a, b = learner(config), learner(config)

    train(a)
    torch.rand(7)
    train(b)

    assert torch.equal(weights(a), weights(b))


def test_rounds_and_clients_read_in_an_order_of_their_own():
    seeds = {round_seed(s, k, r) for s in (1, 2) for k in "ab" for r in (1, 2)}

    assert len(seeds) == 8


def test_epochs_read_every_example_but_a_lonely_last_one():
    config = toy(local_steps=0, local_epochs=3, batch_size=7)
    data = client_data(config, "client-1", None)
    odd = ClientData(data.training.take(range(43)), None)

    report, results = train(learner(config, data=odd))

    assert report.num_examples == 43
    assert [r.num_examples for r in results] == [7] * 18
    assert report.num_steps == 18


def test_steps_go_around_the_examples_as_often_as_needed():
    config = toy(local_steps=11, batch_size=25)

    report, results = train(learner(config))

    assert report.num_steps == 11
    assert sum(r.num_examples for r in results) == 275


def test_the_reported_loss_is_the_mean_over_what_was_read():
    config = toy(local_steps=4, batch_size=16)

    report, results = train(learner(config))

    assert [r.num_examples for r in results] == [16, 16, 16, 2]
    total = sum(r.loss * r.num_examples for r in results)
    assert report.loss == pytest.approx(total / 50)


def test_a_loss_that_is_not_finite_is_none():
    config = toy(local_steps=2)
    inputs = torch.full((8, 10), math.inf)
    data = ClientData(Examples(inputs, torch.zeros(8, 1)), None)

    report, _ = train(learner(config, data=data))

    assert report.loss is None


def test_it_stops_between_two_steps():
    config = toy(local_steps=100)
    results = []

    report = learner(config).train(
        1, is_cancelled=lambda: len(results) == 3, on_step=results.append
    )

    assert report is None
    assert len(results) == 3


def test_the_proximal_term_keeps_a_client_near_the_global_model():
    def distance(proximal):
        one = learner(toy(local_steps=20, proximal=proximal, momentum=0.0))
        before = weights(one)
        train(one)
        return float((weights(one) - before).norm())

    assert distance(5.0) < 0.7 * distance(0.0)


def test_digits_tell_how_well_they_are_read():
    report, _ = train(learner(toy(data="digits", local_steps=30, lr=0.05)))

    assert report.accuracy_frac > 0.2
    assert report.compute_ns > 0


def examples(side=8, greatest=9):
    labels = torch.arange(4) % 3
    labels[0] = greatest
    return Examples(torch.zeros(4, 1, side, side), labels)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (ClientData(examples(side=6), None), r"of shape \[1, 6, 6\], the model takes"),
        (ClientData(examples(greatest=12), None), "class 12, the model knows 0 to 9"),
        (ClientData(examples(), examples(greatest=10)), "class 10, the model knows"),
    ],
)
def test_a_client_whose_examples_do_not_fit_the_model_is_told_which(data, told):
    with pytest.raises(RunDirError, match=f"examples of `client-1` .*{told}"):
        learner(toy(data="digits"), data=data)
