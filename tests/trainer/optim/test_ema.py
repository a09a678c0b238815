"""The average of the weights."""

import copy

import pytest
import torch
from torch import nn

from trainer.optim.ema import WeightAverage, without_prefix


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))


def test_the_average_follows_its_formula_and_copies_buffers():
    trained = model()
    average = WeightAverage(trained, 0.5)
    average.num_updates = 1000
    before = average.model[0].weight.clone()

    with torch.no_grad():
        trained[0].weight.add_(1.0)
        trained[1].running_mean.fill_(7.0)
        trained[1].num_batches_tracked.fill_(3)
    average.update(trained)

    assert torch.allclose(average.model[0].weight, before + 0.5)
    assert average.model[1].running_mean.tolist() == [7.0, 7.0]
    assert average.model[1].num_batches_tracked.item() == 3


def test_early_on_the_average_stays_close_to_the_weights():
    trained = model()
    average = WeightAverage(trained, 0.9999)
    before = average.model[0].weight.clone()

    with torch.no_grad():
        trained[0].weight.add_(1.0)
    average.update(trained)

    assert torch.allclose(average.model[0].weight, before + 9 / 11)


def test_keys_have_no_prefix_and_the_original_is_not_changed():
    trained = model()
    before = copy.deepcopy(trained.state_dict())
    average = WeightAverage(trained, 0.9)

    average.update(trained)

    assert set(average.state_dict()["model"]) == set(before)
    assert all(torch.equal(before[k], v) for k, v in trained.state_dict().items())
    assert not any(p.requires_grad for p in average.model.parameters())
    assert trained[0].weight.requires_grad


def test_a_state_that_was_saved_from_a_wrapper_is_taken():
    saved = WeightAverage(model(), 0.9).state_dict()
    saved["model"] = {f"module.{name}": v + 1 for name, v in saved["model"].items()}
    average = WeightAverage(model(), 0.5)

    average.load_state_dict(saved)

    assert average.decay == 0.9
    assert torch.equal(average.model[0].weight, model()[0].weight + 1)


def test_another_model_s_average_is_refused():
    saved = WeightAverage(nn.Linear(2, 2), 0.9).state_dict()

    with pytest.raises(RuntimeError, match="Missing key"):
        WeightAverage(model(), 0.9).load_state_dict(saved)


def test_a_restart_changes_the_decay_only():
    average = WeightAverage(model(), 0.9)
    average.update(model())
    before = copy.deepcopy(average.state_dict()["model"])

    average.restart(0.5)

    assert (average.decay, average.num_updates) == (0.5, 1)
    after = average.state_dict()["model"]
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_prefix_in_the_middle_of_a_name_stays():
    saved = {"module.a.module.b": torch.ones(1)}

    assert set(without_prefix(saved, nn.Linear(1, 1))) == {"a.module.b"}
