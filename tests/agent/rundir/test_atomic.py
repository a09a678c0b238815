"""Files that are whole or absent, whoever writes them at the same time."""

import threading

import pytest

from agent.rundir.atomic import write_atomic, write_new

_SIZE = 100_000


def in_threads(num, work):
    """Call `work(number)` in so many threads at once; return what it raised."""
    raised, start = [], threading.Barrier(num)

    def run(number):
        start.wait()
        try:
            work(number)
        except Exception as error:  # noqa: BLE001 - told to the test
            raised.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(num)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def test_threads_that_replace_one_file_leave_that_of_one_of_them(tmp_path):
    path = tmp_path / "accepts"

    def write(number):
        for _ in range(20):
            write_atomic(path, bytes([number]) * _SIZE)
            assert path.stat().st_size == _SIZE

    assert in_threads(4, write) == []
    assert len(set(path.read_bytes())) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_of_threads_that_make_one_file_one_has_made_it(tmp_path):
    path = tmp_path / "0001.json"

    raised = in_threads(4, lambda number: write_new(path, bytes([number]) * _SIZE))

    assert [type(error) for error in raised] == [FileExistsError] * 3
    assert len(set(path.read_bytes())) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_replaced_leaves_no_other_behind(tmp_path):
    path = tmp_path / "accepts"
    path.mkdir()

    with pytest.raises(IsADirectoryError):
        write_atomic(path, b"x")

    assert list(tmp_path.iterdir()) == [path]
