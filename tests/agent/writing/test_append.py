import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from agent.writing.append import AppendFile


@pytest.fixture
def file():
    return AppendFile()


def test_the_number_stays_when_the_file_changes(tmp_path, file):
    file.open(tmp_path / "one")
    number = file.fd
    os.write(number, b"1\n")

    file.open(tmp_path / "two")
    os.write(number, b"2\n")

    assert file.fd == number
    assert (tmp_path / "one").read_bytes() == b"1\n"
    assert (tmp_path / "two").read_bytes() == b"2\n"
    assert file.num_bytes == 4


def test_only_a_new_file_gets_a_first_line(tmp_path, file):
    (tmp_path / "old").write_bytes(b"old\n")

    file.open(tmp_path / "folder" / "new", first_line=b"head\n")
    file.open(tmp_path / "old", first_line=b"head\n")

    assert (tmp_path / "folder" / "new").read_bytes() == b"head\n"
    assert (tmp_path / "old").read_bytes() == b"old\n"


def test_a_torn_end_is_noticed(tmp_path, file):
    (tmp_path / "x").write_bytes(b"whole\nto")

    file.open(tmp_path / "x")

    assert file.is_torn


def test_a_file_that_cannot_be_opened_changes_nothing(tmp_path, file):
    file.open(tmp_path / "one")

    with pytest.raises(FileExistsError):
        file.open(tmp_path / "one" / "two")
    os.write(file.fd, b"1\n")

    assert file.path == tmp_path / "one"
    assert (tmp_path / "one").read_bytes() == b"1\n"


@pytest.mark.parametrize("do", ["unlink", "rename", "replace", "nothing"])
def test_a_file_that_is_not_at_its_path_any_more_is_noticed(tmp_path, file, do):
    path = tmp_path / "x"
    file.open(path)
    if do == "unlink":
        path.unlink()
    elif do == "rename":
        path.rename(tmp_path / "y")
    elif do == "replace":
        (tmp_path / "y").write_bytes(b"")
        (tmp_path / "y").replace(path)

    assert file.is_in_place() == (do == "nothing")


def test_on_another_disk_no_directory_is_made_again(tmp_path):
    with other_disk(tmp_path) as other:
        file = AppendFile()
        file.open(tmp_path / "run" / "one")

        with pytest.raises(OSError, match="its disk is not there"):
            file.open(other / "run" / "two")
        assert not list(other.iterdir())
        os.write(file.fd, b"here\n")
        assert (tmp_path / "run" / "one").read_bytes() == b"here\n"

        (other / "run").mkdir()  # moved there on purpose
        file.open(other / "run" / "two")
        os.write(file.fd, b"there\n")
        assert (other / "run" / "two").read_bytes() == b"there\n"


def test_a_file_that_is_a_link_to_another_disk_tells_nothing_of_its_directory(
    tmp_path, file
):
    with other_disk(tmp_path) as other:
        path = tmp_path / "run" / "x"
        path.parent.mkdir()
        path.symlink_to(other / "x")
        file.open(path)
        shutil.rmtree(path.parent)

        file.open(path)

        assert file.is_in_place()


@contextlib.contextmanager
def other_disk(folder):
    """Give an empty directory in memory."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == folder.stat().st_dev:
        pytest.skip("there is but one disk")
    with tempfile.TemporaryDirectory(dir=shared) as place:
        yield Path(place)


def test_a_forked_process_does_not_inherit_it_through_exec(tmp_path, file):
    file.open(tmp_path / "one")
    file.open(tmp_path / "two")

    assert not os.get_inheritable(file.fd)


def test_a_retired_number_leads_nowhere(tmp_path, file):
    file.open(tmp_path / "one")
    number = file.fd
    os.write(number, b"1\n")

    file.retire()
    os.write(number, b"2\n")

    assert (tmp_path / "one").read_bytes() == b"1\n"
    assert file.num_bytes == 2


def test_the_number_is_freed_with_the_object(tmp_path):
    file = AppendFile()
    file.open(tmp_path / "one")
    number = file.fd
    file.retire()

    del file

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
