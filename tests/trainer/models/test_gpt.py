"""The small GPT: what it returns, and that it cannot see the future."""

import math

import torch

from trainer.models.gpt import GPT


def small(**changes):
    torch.manual_seed(0)
    sizes = {"layers": 2, "heads": 2, "width": 16, "block": 12, "dropout": 0.0}
    return GPT(**(sizes | changes))


def test_an_untrained_model_knows_nothing():
    inputs = torch.randint(256, (4, 12))

    loss = small()(inputs, torch.randint(256, (4, 12)))

    assert abs(loss.item() - math.log(256)) < 0.1
    assert loss.dim() == 0


def test_a_later_byte_changes_no_earlier_score():
    model = small().eval()
    text = torch.randint(256, (1, 12))
    changed = text.clone()
    changed[0, 7] = (changed[0, 7] + 1) % 256

    one, other = model.logits(text), model.logits(changed)

    assert torch.equal(one[:, :7], other[:, :7])
    assert not torch.equal(one[:, 7:], other[:, 7:])


def test_shorter_inputs_than_the_block_are_taken():
    assert small().logits(torch.randint(256, (3, 5))).shape == (3, 5, 256)


def test_the_embedding_is_shared_with_the_output():
    model = small()

    assert model.head.weight is model.token.weight


def test_dropout_draws_random_numbers_while_training_only():
    model, text = small(dropout=0.5), torch.randint(256, (1, 12))

    assert not torch.equal(model.logits(text), model.logits(text))
    model.eval()
    assert torch.equal(model.logits(text), model.logits(text))


def test_the_default_model_has_about_a_million_parameters():
    model = GPT(layers=5, heads=4, width=128, block=128, dropout=0.1)

    assert sum(p.numel() for p in model.parameters()) == 1_040_768
