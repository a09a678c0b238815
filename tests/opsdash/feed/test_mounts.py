"""Which file system a path lies on."""

from pathlib import Path

import pytest

from opsdash.feed import mounts


def test_the_innermost_mount_counts(tmp_path, monkeypatch):
    table = tmp_path / "mountinfo"
    table.write_text(
        "20 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        f"21 20 0:50 / {tmp_path} rw shared:1 - nfs4 server:/data rw\n"
        f"22 21 0:51 / {tmp_path}/a\\040b rw - fuse.sshfs host: rw\n"
    )
    monkeypatch.setattr(mounts, "_MOUNTS", table)

    found = [
        mounts.file_system_type(path)
        for path in (Path("/"), tmp_path / "x", tmp_path / "a b" / "c")
    ]

    assert found == ["ext4", "nfs4", "fuse.sshfs"]
    assert [mounts.tells_of_changes(p) for p in (Path("/"), tmp_path)] == [True, False]


def test_without_a_table_nothing_is_known_and_changes_are_watched(monkeypatch):
    monkeypatch.setattr(mounts, "_MOUNTS", Path("/nowhere"))

    assert mounts.file_system_type(Path("/")) == ""
    assert mounts.tells_of_changes(Path("/"))


SHARED = "nfs4 lustre fuse.sshfs cifs 9p ceph wekafs gfs2 ocfs2 virtiofs vboxsf"


@pytest.mark.parametrize("name", SHARED.split())
def test_what_others_change_unseen_is_looked_at_by_itself(tmp_path, monkeypatch, name):
    table = tmp_path / "mountinfo"
    table.write_text(f"20 1 0:50 / / rw - {name} somewhere rw\n")
    monkeypatch.setattr(mounts, "_MOUNTS", table)

    assert not mounts.tells_of_changes(tmp_path)
