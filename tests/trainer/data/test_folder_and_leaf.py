"""Other people's examples are read as they are meant, or refused by name."""

import contextlib
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from agent.rundir.errors import RunDirError
from trainer.data.folder import load_folder
from trainer.data.leaf import (
    is_leaf,
    load_leaf_client,
    load_leaf_everything,
    load_leaf_test,
)


def leaf(path, users):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {
        "users": list(users),
        "num_samples": [len(y) for _, y in users.values()],
        "user_data": {name: {"x": x, "y": y} for name, (x, y) in users.items()},
    }
    path.write_text(json.dumps(data))


def test_images_in_npz_keep_their_shape_and_pixels_are_scaled(tmp_path):
    pixels = np.array([[[0, 255], [51, 102]]], dtype=np.uint8)
    np.savez(tmp_path / "client-1.npz", x=pixels, y=np.array([3]))

    examples = load_folder(tmp_path, "client-1")

    assert examples.inputs.shape == (1, 1, 2, 2)
    expected = torch.tensor([[0.0, 1.0], [0.2, 0.4]])
    assert torch.allclose(examples.inputs[0, 0], expected)
    assert examples.labels.tolist() == [3]


@pytest.mark.parametrize("header", ["", "a,b,label\n"])
def test_rows_in_csv_have_the_class_last(tmp_path, header):
    (tmp_path / "c.csv").write_text(header + "0.5,-1,2\n1.5,0,0\n")

    examples = load_folder(tmp_path, "c")

    assert examples.inputs.tolist() == [[0.5, -1.0], [1.5, 0.0]]
    assert examples.labels.tolist() == [2, 0]


def test_a_csv_that_numpy_wrote_keeps_its_first_line(tmp_path):
    np.savetxt(tmp_path / "c.csv", [[1e-5, -1, 2], [1.5, 0, 0]], delimiter=",")

    examples = load_folder(tmp_path, "c")

    assert examples.inputs[:, 1].tolist() == [-1.0, 0.0]
    assert examples.labels.tolist() == [2, 0]


def test_a_csv_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "c.csv").write_text("0.5,2\n1.5,0\n", encoding="utf-8-sig")

    examples = load_folder(tmp_path, "c")

    assert examples.inputs.tolist() == [[0.5], [1.5]]


@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_npz_is_read_or_refused(tmp_path, seed):
    path, numbers = tmp_path / "c.npz", random.Random(seed)
    np.savez(path, x=np.ones((4, 3)), y=np.zeros(4, int))
    sound = path.read_bytes()

    for _ in range(100):
        damaged = bytearray(sound[: numbers.randrange(len(sound) // 2, len(sound))])
        if numbers.random() < 0.5:
            damaged = bytearray(sound)
            damaged[numbers.randrange(len(sound))] ^= numbers.randrange(1, 256)
        path.write_bytes(damaged)
        with contextlib.suppress(RunDirError):
            load_folder(tmp_path, "c")


def test_a_client_without_a_file_has_none(tmp_path):
    assert load_folder(tmp_path, "client-1") is None


@pytest.mark.parametrize(
    "make",
    [
        lambda p: np.savez(p / "c.npz", x=np.zeros((2, 3)), y=np.zeros(3)),
        lambda p: np.savez(p / "c.npz", x=np.zeros((0, 3)), y=np.zeros(0)),
        lambda p: np.savez(p / "c.npz", a=np.zeros(1)),
        lambda p: np.savez(p / "c.npz", x=np.full((1, 3), np.nan), y=np.zeros(1)),
        lambda p: np.savez(p / "c.npz", x=np.zeros((1, 3)), y=np.array([-1])),
        lambda p: np.savez(p / "c.npz", x=np.array([{}], object), y=np.zeros(1)),
        lambda p: np.savez(p / "c.npz", x=np.zeros((2, 0)), y=np.zeros(2)),
        lambda p: np.savez(p / "c.npz", x=np.zeros(2), y=np.zeros(2)),
        lambda p: np.savez(p / "c.npz", x=np.float32(1), y=np.zeros(2)),
        lambda p: np.savez(p / "c.npz", x=np.zeros((2, 1, 1, 1, 1)), y=np.zeros(2)),
        lambda p: np.savez(p / "c.npz", x=np.zeros((1, 3), complex), y=np.zeros(1)),
        lambda p: np.savez(p / "c.npz", x=np.zeros((1, 3)), y=np.array(["a"])),
        lambda p: np.savez(p / "c.npz", x=np.zeros((1, 3)), y=np.array([0.5])),
        lambda p: np.savez(p / "c.npz", x=np.zeros((1, 3)), y=np.array([1e30])),
        lambda p: (p / "c.npz").write_bytes(b"no zip file"),
        lambda p: (p / "c.npz").write_bytes(b""),
        lambda p: (p / "c.npz").write_bytes(b"PK\3\4" + b"\0" * 60),
        lambda p: (p / "c.csv").write_text("1,2,0.5\n3,4,1\n"),
        lambda p: (p / "c.csv").write_text("1,2,nan\n3,4,1\n"),
        lambda p: (p / "c.csv").write_text("nan,2,0\n3,4,1\n"),
        lambda p: (p / "c.csv").write_text("0\n1\n"),
        lambda p: (p / "c.csv").write_text("1,2,x\n3,4,y\n"),
        lambda p: (p / "c.csv").write_text("1,2\n1,2,3\n"),
    ],
)
def test_a_file_that_holds_no_examples_is_refused(tmp_path, make):
    make(tmp_path)

    with pytest.raises(RunDirError, match="holds no examples"):
        load_folder(tmp_path, "c")


def test_a_hostile_npz_runs_nothing(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    np.savez(tmp_path / "c.npz", x=np.array([Hostile()], object), y=np.zeros(1))

    with pytest.raises(RunDirError):
        load_folder(tmp_path, "c")

    assert not (tmp_path / "ran").exists()


def test_users_are_dealt_to_clients_by_name(tmp_path):
    users = {f"u{n}": ([[float(n)] * 4], [n]) for n in (3, 1, 2, 0)}
    leaf(tmp_path / "train" / "all.json", users)

    dealt = [load_leaf_client(tmp_path, i, 3)[0] for i in range(3)]

    assert is_leaf(tmp_path)
    assert [examples.labels.tolist() for examples in dealt] == [[0, 3], [1], [2]]
    assert dealt[0].inputs.shape == (2, 1, 2, 2)


def test_several_files_are_read_as_one_and_test_users_are_held_out(tmp_path):
    leaf(tmp_path / "train" / "a.json", {"a": ([[0.1, 0.2, 0.3]], [1])})
    leaf(tmp_path / "train" / "b.json", {"b": ([[0.4, 0.5, 0.6]], [0])})
    leaf(tmp_path / "test" / "a.json", {"a": ([[0.7, 0.8, 0.9]], [1])})

    everything, _ = load_leaf_client(tmp_path, 0, 1)
    held_out = load_leaf_test(tmp_path)

    assert everything.inputs.shape == (2, 3)
    assert held_out.labels.tolist() == [1]


def test_a_client_is_measured_on_what_is_held_out_of_its_own_users(tmp_path):
    users = {f"u{n}": ([[float(n)] * 3], [n]) for n in range(4)}
    leaf(tmp_path / "train" / "all.json", users)
    leaf(tmp_path / "test" / "all.json", {u: users[u] for u in ("u0", "u2", "u1")})

    held_out = [load_leaf_client(tmp_path, i, 2)[1] for i in range(2)]

    assert [examples.labels.tolist() for examples in held_out] == [[0, 2], [1]]
    assert load_leaf_client(tmp_path, 3, 4)[1] is None
    assert load_leaf_everything(tmp_path, 4).labels.tolist() == [0, 1, 2, 3]


def test_a_client_reads_every_file_once(tmp_path, monkeypatch):
    users = {"u0": ([[0.0] * 3], [0])}
    leaf(tmp_path / "train" / "all.json", users)
    leaf(tmp_path / "test" / "all.json", users)
    read, read_bytes = [], Path.read_bytes
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: read.append(path) or read_bytes(path)
    )

    load_leaf_client(tmp_path, 0, 1)

    assert [path.parent.name for path in read] == ["train", "test"]


def test_a_single_file_has_no_test(tmp_path):
    leaf(tmp_path / "femnist.json", {"a": ([[0.0] * 784], [61])})

    examples, held_out = load_leaf_client(tmp_path / "femnist.json", 0, 1)

    assert examples.inputs.shape == (1, 1, 28, 28)
    assert (held_out, load_leaf_test(tmp_path / "femnist.json")) == (None, None)


def test_more_clients_than_users_are_refused(tmp_path):
    leaf(tmp_path / "one.json", {"a": ([[0.0] * 4], [1])})

    with pytest.raises(RunDirError, match="1 users, too few for 2 clients") as caught:
        load_leaf_client(tmp_path / "one.json", 1, 2)

    with pytest.raises(RunDirError, match="1 users, too few for 2 clients"):
        load_leaf_everything(tmp_path / "one.json", 2)

    assert caught.value.hint == "--clients 1"


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"users": ["a"], "user_data": {}}', '{"users": [], "user_data": []}'],
)
def test_json_that_is_not_leafs_is_refused(tmp_path, text):
    (tmp_path / "x.json").write_text(text)

    with pytest.raises(RunDirError, match="is not LEAF's JSON"):
        load_leaf_client(tmp_path / "x.json", 0, 1)


def test_labels_do_not_go_to_the_examples_of_another_user(tmp_path):
    users = {"a": ([[0.0], [0.0]], [1]), "b": ([[1.0]], [2, 2])}
    leaf(tmp_path / "x.json", users)

    with pytest.raises(RunDirError, match="has 2 examples and 1 labels of `a`"):
        load_leaf_everything(tmp_path / "x.json", 1)


def test_a_user_in_two_files_is_refused(tmp_path):
    for name in ("0", "1"):
        leaf(tmp_path / "train" / f"{name}.json", {"a": ([[0.0]], [1])})

    with pytest.raises(RunDirError, match="holds user `a`, as a file before"):
        load_leaf_everything(tmp_path, 1)


@pytest.mark.parametrize("label", [2**31, 2**70, -1])
def test_a_label_that_can_be_no_class_is_refused(tmp_path, label):
    leaf(tmp_path / "x.json", {"a": ([[0.0] * 4], [label])})

    with pytest.raises(RunDirError, match="is not LEAF's JSON"):
        load_leaf_everything(tmp_path / "x.json", 1)


def test_rows_without_a_number_are_refused(tmp_path):
    leaf(tmp_path / "x.json", {"a": ([[]], [1])})

    with pytest.raises(RunDirError, match="holds no examples"):
        load_leaf_everything(tmp_path / "x.json", 1)


def test_rows_of_different_lengths_are_refused(tmp_path):
    leaf(tmp_path / "x.json", {"a": ([[0.0] * 4, [0.0] * 5], [1, 2])})

    with pytest.raises(RunDirError, match="holds no examples"):
        load_leaf_client(tmp_path / "x.json", 0, 1)
