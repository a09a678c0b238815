"""The text that is trained on: the same every time, and split by file."""

import pytest
import torch

from trainer.data.corpus import ByteWindows, read_corpus


@pytest.fixture
def folder(tmp_path):
    for number in range(40):
        place = tmp_path / "package" if number % 2 else tmp_path
        place.mkdir(exist_ok=True)
        (place / f"module{number}.py").write_bytes(bytes([number]) * 100)
    return tmp_path


def test_the_same_folder_gives_the_same_bytes(folder):
    one, other = (read_corpus(10_000, 0.2, folder=folder) for _ in range(2))

    assert one.digest == other.digest
    assert torch.equal(one.train, other.train)
    assert torch.equal(one.val, other.val)


def test_no_file_is_in_both_parts(folder):
    corpus = read_corpus(10_000, 0.2, folder=folder)

    assert set(corpus.train.tolist()).isdisjoint(corpus.val.tolist())
    assert len(corpus.train) + len(corpus.val) == 4000
    assert corpus.num_files == 40


def test_tests_and_installed_packages_are_left_out(folder):
    before = read_corpus(10_000, 0.2, folder=folder)
    for name in ("test", "site-packages", "__pycache__"):
        (folder / name).mkdir()
        (folder / name / "more.py").write_bytes(b"more")

    assert read_corpus(10_000, 0.2, folder=folder).digest == before.digest


def test_one_changed_byte_changes_the_digest(folder):
    before = read_corpus(10_000, 0.2, folder=folder)
    (folder / "module0.py").write_bytes(b"x" * 100)

    assert read_corpus(10_000, 0.2, folder=folder).digest != before.digest


@pytest.mark.parametrize("max_bytes", [2, 150, 1050])
def test_a_cap_is_kept_and_leaves_something_on_both_sides(folder, max_bytes):
    corpus = read_corpus(max_bytes, 0.2, folder=folder)

    assert len(corpus.train) + len(corpus.val) == max_bytes
    assert len(corpus.train)
    assert len(corpus.val)


def test_the_standard_library_has_text_enough():
    corpus = read_corpus(100_000, 0.05)

    assert len(corpus.train) + len(corpus.val) == 100_000


def test_windows_lie_side_by_side_and_predict_the_next_byte():
    windows = ByteWindows(torch.arange(11, dtype=torch.uint8), 5)

    inputs, targets = windows[1]

    assert len(windows) == 2
    assert inputs.tolist() == [5, 6, 7, 8, 9]
    assert targets.tolist() == [6, 7, 8, 9, 10]
    assert inputs.dtype == targets.dtype == torch.int64
    with pytest.raises(IndexError):
        windows[2]
