"""The stacks that processes leave, cut into dumps."""

import faulthandler
import threading

from agent.rundir.layout import RunDir
from agent.rundir.stacks import stacks_file
from opsdash.feed.stacks import read_dumps


def write(tmp_path, data: bytes):
    path = stacks_file(RunDir(tmp_path), 1, "rank-00000")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(data)
    return path


def dumps(tmp_path):
    return read_dumps(RunDir(tmp_path), 1, "rank-00000")


def test_what_faulthandler_wrote_is_read_back_main_thread_last(tmp_path):
    path = write(tmp_path, b'# {"node":"rank-0"}\n\n2026-11-20T05:00:00Z a hang\n')
    going_on = threading.Event()
    other = threading.Thread(target=going_on.wait)
    other.start()
    with path.open("ab", buffering=0) as file:
        faulthandler.dump_traceback(file, all_threads=True)
    going_on.set()
    other.join()

    (dump,) = dumps(tmp_path)

    assert dump.stamp == "2026-11-20T05:00:00Z a hang"
    assert dump.frames()[0].endswith(
        "test_what_faulthandler_wrote_is_read_back_main_thread_last"
    )
    assert len([line for line in dump.lines if "hread 0x" in line]) >= 2


def test_the_main_thread_comes_before_those_of_the_agent(tmp_path):
    write(
        tmp_path,
        b"\n2026-11-20T05:00:00Z asked\n"
        b'Current thread 0x2 (most recent):\n  File "agent.py", line 3 in w\n'
        b'Thread 0x1 (most recent):\n  File "train.py", line 7 in step\n',
    )

    (dump,) = dumps(tmp_path)

    assert [thread[1] for thread in dump.threads()] == [
        '  File "train.py", line 7 in step',
        '  File "agent.py", line 3 in w',
    ]
    assert dump.frames() == ["train.py:7 step"]


def test_the_newest_dump_comes_first(tmp_path):
    for number in (1, 2):
        write(tmp_path, b"\n2026-11-20T05:00:0%dZ asked\nThread 0x1:\n" % number)

    assert [dump.stamp[-9:] for dump in dumps(tmp_path)] == ["02Z asked", "01Z asked"]


def test_a_dump_that_a_signal_made_has_no_stamp(tmp_path):
    write(
        tmp_path, b'# {}\nThread 0x1 (most recent call first):\n  File "a.py", line 3'
    )

    assert [dump.stamp for dump in dumps(tmp_path)] == [""]


def test_no_file_a_link_and_noise_are_no_stacks(tmp_path):
    assert dumps(tmp_path) == []

    path = write(tmp_path, b"# {}\n\n\n")
    assert dumps(tmp_path) == []
    path.unlink()
    (tmp_path / "secret").write_text("Thread 0x1:\n")
    path.symlink_to(tmp_path / "secret")
    assert dumps(tmp_path) == []


def test_of_a_huge_file_only_the_end_is_read(tmp_path):
    write(tmp_path, b"x" * (4 << 20))
    write(tmp_path, b"\n2026-11-20T05:00:00Z end\nThread 0x1:\n")

    found = dumps(tmp_path)

    assert found[0].stamp == "2026-11-20T05:00:00Z end"
    assert sum(len(line) for dump in found for line in dump.lines) < 1 << 20
