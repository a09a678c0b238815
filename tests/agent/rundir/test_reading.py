import os

import pytest

from agent.rundir.attempts import read_identity
from agent.rundir.checkpoints import list_checkpoints, read_latest, read_verifications
from agent.rundir.errors import NotARunError
from agent.rundir.layout import RunDir, checkpoint_name
from agent.rundir.lock import read_lock
from agent.rundir.reading import read_regular


def test_a_file_is_read_up_to_a_bound(tmp_path):
    (tmp_path / "x").write_bytes(b"0123456789")

    assert read_regular(tmp_path / "x", 4) == b"0123"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_regular_file_is_an_error_and_not_a_wait(tmp_path, make):
    make(tmp_path / "x")

    with pytest.raises(OSError, match="not a regular file"):
        read_regular(tmp_path / "x", 4)


def test_fifos_in_place_of_every_small_file_hold_nobody(tmp_path):
    run = RunDir(tmp_path)
    folder = run.checkpoints / checkpoint_name(1)
    folder.mkdir(parents=True)
    for path in (run.verified, run.latest, run.lock, folder / "manifest.json"):
        os.mkfifo(path)

    [entry] = list_checkpoints(run)

    assert "not a regular file" in entry.why_not
    assert read_verifications(run) == []
    assert read_latest(run) is None
    assert read_lock(run.lock) is None


def test_an_identity_that_is_a_link_to_a_device_is_none(tmp_path):
    run = RunDir(tmp_path)
    run.identity.symlink_to("/dev/zero")

    with pytest.raises(NotARunError, match="no trainer has started there"):
        read_identity(run)
