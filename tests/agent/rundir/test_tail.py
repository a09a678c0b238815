import itertools
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.rundir.tail import READ_LIMIT_BYTES, Tail


def read_all(tail: Tail) -> bytes:
    found = b""
    while data := tail.read():
        found += data
    return found


def test_a_missing_file_has_no_lines_yet(tmp_path):
    assert Tail(tmp_path / "none").read() == b""


def test_a_torn_line_is_read_once_whole(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"one\ntw")
    tail = Tail(path)

    first = read_all(tail)
    with path.open("ab") as file:
        file.write(b"o\nthree\n")
    second = read_all(tail)

    assert first == b"one\n"
    assert second == b"two\nthree\n"


def test_a_truncated_file_starts_over(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"one\ntwo\n")
    tail = Tail(path)
    read_all(tail)

    path.write_bytes(b"new\n")

    assert tail.is_replaced
    assert read_all(tail) == b"new\n"


def test_a_replaced_file_starts_over_even_if_it_is_longer(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"one\n")
    tail = Tail(path)
    read_all(tail)

    other = tmp_path / "y"
    other.write_bytes(b"a longer line\n")
    other.replace(path)

    assert read_all(tail) == b"a longer line\n"


def test_an_overlong_line_is_skipped_and_counted(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"one\n" + b"x" * (3 * READ_LIMIT_BYTES) + b"\ntwo\n")
    tail = Tail(path)

    found = read_all(tail)

    assert found == b"one\ntwo\n"
    assert tail.num_overlong == 1


def test_an_overlong_line_that_is_still_being_written_is_passed_over_later(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"x" * (2 * READ_LIMIT_BYTES))
    tail = Tail(path)
    assert read_all(tail) == b""

    with path.open("ab") as file:
        file.write(b"xxx\nafter\n")

    assert read_all(tail) == b"after\n"


def test_a_cursor_may_begin_in_the_middle(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"one\ntwo\n")

    assert read_all(Tail(path, offset=4)) == b"two\n"


def test_a_fifo_is_an_error_and_not_a_wait(tmp_path):
    os.mkfifo(tmp_path / "x")

    with pytest.raises(OSError, match="seek"):
        Tail(tmp_path / "x").read()


@given(
    lines=st.lists(
        st.binary(max_size=40).map(lambda b: b.replace(b"\n", b"")), max_size=30
    ),
    cuts=st.lists(st.integers(0, 1200), max_size=8),
)
def test_however_the_writes_are_cut_every_line_is_read_once(
    tmp_path_factory, lines, cuts
):
    path = tmp_path_factory.mktemp("tail") / "x"
    data = b"".join(line + b"\n" for line in lines)
    edges = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    tail = Tail(path)

    found = b""
    for begin, end in itertools.pairwise(edges):
        with path.open("ab") as file:
            file.write(data[begin:end])
        found += read_all(tail)

    assert found == data
