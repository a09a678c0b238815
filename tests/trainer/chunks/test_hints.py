from pathlib import Path

import pytest
import torch

from trainer.chunks.hints import WriteBehind, prefer_huge_pages


@pytest.mark.parametrize("num_items", [0, 1, 1 << 20, (5 << 20) + 3])
def test_advice_leaves_a_tensor_as_it_is(num_items):
    tensor = torch.full((num_items,), 7.0)

    prefer_huge_pages(tensor)

    assert torch.equal(tensor, torch.full((num_items,), 7.0))


def num_open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_file_is_written_out_and_let_go_of(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(bytes(100))
    num_open = num_open_files()

    with WriteBehind(path) as behind:
        for _ in range(3):
            behind.wrote(9 << 20)

    assert num_open_files() == num_open
    assert path.read_bytes() == bytes(100)


def test_a_file_that_is_gone_is_no_error(tmp_path):
    with WriteBehind(tmp_path / "gone") as behind:
        behind.wrote(1 << 30)
