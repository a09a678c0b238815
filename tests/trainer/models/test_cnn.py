"""The digit net maps images to classes and keeps statistics of what it saw."""

import torch

from trainer.models.cnn import DigitNet


def test_an_image_becomes_one_logit_per_class():
    net = DigitNet(channels=3, side=12, num_classes=7, width=4)

    assert net(torch.zeros(5, 3, 12, 12)).shape == (5, 7)


def test_statistics_change_in_training_only():
    net = DigitNet()
    images = torch.rand(16, 1, 8, 8)

    net.eval()(images)
    untouched = net.features[1].num_batches_tracked.item()
    net.train()(images)

    assert untouched == 0
    assert net.features[1].num_batches_tracked.item() == 1
    assert net.features[1].running_mean.abs().sum() > 0


def test_it_can_learn_a_batch_by_heart():
    torch.manual_seed(0)
    net = DigitNet(num_classes=4)
    images, labels = torch.rand(32, 1, 8, 8), torch.arange(32) % 4
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)

    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()

    assert (net(images).argmax(1) == labels).float().mean() > 0.9
