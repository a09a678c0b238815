"""Every node makes the same model, and finds its own share of the data."""

import json

import numpy as np
import pytest
import torch

from agent.rundir.errors import RunDirError
from trainer.data.examples import Examples
from trainer.federated.config import FederatedConfig
from trainer.federated.problem import (
    Shape,
    client_data,
    loss_of,
    make_model,
    measure,
    server_data,
)

DIGITS = Shape(inputs=(1, 8, 8), num_classes=10)


def test_every_node_makes_the_same_model_and_leaves_chance_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()

    models = [make_model(DIGITS, seed=3) for _ in range(2)]

    assert torch.equal(torch.random.get_rng_state(), before)
    for a, b in zip(*(m.state_dict().values() for m in models), strict=True):
        assert torch.equal(a, b)


def test_another_seed_makes_another_model():
    a, b = (make_model(DIGITS, seed=s) for s in (1, 2))

    assert not torch.equal(a.head[0].weight, b.head[0].weight)


def test_images_of_another_size_get_a_model_that_fits():
    model = make_model(Shape(inputs=(1, 28, 28), num_classes=62), seed=1)

    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 62)


@pytest.mark.parametrize("inputs", [(1, 8, 9), (1, 3, 3)])
def test_images_that_no_model_fits_are_refused(inputs):
    with pytest.raises(RunDirError, match="are not square, 4 x 4 or more"):
        make_model(Shape(inputs=inputs, num_classes=2), seed=1)


def test_measuring_changes_neither_the_model_nor_its_mode():
    data = server_data(FederatedConfig())
    model = make_model(data.shape, seed=1).train()
    before = {name: t.clone() for name, t in model.state_dict().items()}

    loss, accuracy = measure(model, data.held_out)

    assert model.training
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert loss > 0
    assert 0 <= accuracy <= 1


def test_a_number_has_a_loss_and_no_accuracy():
    data = server_data(FederatedConfig(data="linear"))

    loss, accuracy = measure(make_model(data.shape, seed=1), data.held_out)

    assert loss > 0
    assert accuracy is None


def test_a_client_that_the_data_was_not_dealt_to_is_told_so():
    with pytest.raises(RunDirError, match="there is no share for `client-4`"):
        client_data(FederatedConfig(clients=3), "client-4", None)


def folder(tmp_path, *names):
    for index, name in enumerate(names):
        x = np.random.default_rng(index).random((6, 8, 8), dtype=np.float32)
        np.savez(tmp_path / f"{name}.npz", x=x, y=np.arange(6) % (3 + index))
    return FederatedConfig(data=str(tmp_path), clients=2)


def test_a_folder_shows_its_shape_by_any_file(tmp_path):
    config = folder(tmp_path, "client-1", "client-2", "test")

    data = server_data(config)

    assert data.shape == Shape(inputs=(1, 8, 8), num_classes=5)
    assert len(data.held_out) == 6
    assert data.calibration is None
    assert len(client_data(config, "client-2", None).training) == 6


def test_images_of_a_file_are_set_apart_for_normalisation_statistics(tmp_path):
    x = np.arange(120 * 64, dtype=np.float32).reshape(120, 8, 8)
    np.savez(tmp_path / "test.npz", x=x, y=np.arange(120) % 10)

    data = server_data(FederatedConfig(data=str(tmp_path)))

    first = [
        float(e.inputs.flatten(1)[:, 0].sum())
        for e in (data.calibration, data.held_out)
    ]
    assert (len(data.calibration), len(data.held_out)) == (40, 80)
    assert sum(first) == x[:, 0, 0].sum()
    assert data.shape.num_classes == 10


def test_rows_of_numbers_are_all_measured_on(tmp_path):
    np.savez(tmp_path / "test.npz", x=np.ones((120, 5)), y=np.arange(120) % 2)

    data = server_data(FederatedConfig(data=str(tmp_path)))

    assert data.calibration is None
    assert len(data.held_out) == 120


def test_many_examples_are_measured_piece_by_piece():
    model = make_model(Shape(inputs=(1, 8, 8), num_classes=3), 1)
    model.eval()
    examples = Examples(torch.rand(2100, 1, 8, 8), torch.arange(2100) % 3)
    sizes = []
    model.register_forward_hook(lambda _, given, __: sizes.append(len(given[0])))

    loss, accuracy = measure(model, examples)

    with torch.no_grad():
        outputs = model(examples.inputs)
    assert max(sizes[:-1]) <= 1024
    assert loss == pytest.approx(float(loss_of(outputs, examples.labels)))
    assert accuracy == pytest.approx(
        (outputs.argmax(1) == examples.labels).double().mean()
    )


def test_a_host_may_keep_its_examples_elsewhere(tmp_path):
    (tmp_path / "there").mkdir()
    config = folder(tmp_path, "test")
    folder(tmp_path / "there", "any-name")

    mine = client_data(config, "any-name", tmp_path / "there")

    assert len(mine.training) == 6
    with pytest.raises(RunDirError, match=r"neither `any-name.npz` nor"):
        client_data(config, "any-name", None)


def test_the_number_of_classes_can_be_said(tmp_path):
    config = folder(tmp_path, "test")

    shape = server_data(
        FederatedConfig(data=config.data, clients=2, num_classes=62)
    ).shape

    assert shape.num_classes == 62


def test_an_empty_folder_does_not_show_its_shape(tmp_path):
    with pytest.raises(RunDirError, match="shape is not known"):
        server_data(FederatedConfig(data=str(tmp_path)))


def test_leaf_users_are_the_clients(tmp_path):
    users = {f"u{n}": {"x": [[0.5] * 16] * 2, "y": [n, n]} for n in range(4)}
    path = tmp_path / "leaf.json"
    path.write_text(json.dumps({"users": list(users), "user_data": users}))
    config = FederatedConfig(data=str(path), clients=2)

    shape = server_data(config).shape
    labels = client_data(config, "client-2", None).training.labels

    assert shape == Shape(inputs=(1, 4, 4), num_classes=4)
    assert labels.tolist() == [1, 1, 3, 3]


def test_files_of_clients_that_differ_in_size_are_refused_by_the_server(tmp_path):
    for name, side in (("test", 8), ("client-1", 8), ("client-2", 6)):
        images = np.zeros((3, side, side), np.float32)
        np.savez(tmp_path / f"{name}.npz", x=images, y=np.arange(3))

    with pytest.raises(RunDirError, match=r"of shape \[1, 6, 6\], the model takes"):
        server_data(FederatedConfig(data=str(tmp_path), clients=2))
