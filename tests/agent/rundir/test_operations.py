"""What operators did, read back by anybody."""

import os

from hypothesis import given
from hypothesis import strategies as st

from agent.rundir.layout import RunDir
from agent.rundir.operations import Operation, encode_operation, read_operations


def operation(**fields):
    return Operation(
        **{
            "schema": 1,
            "id": "a-1-0",
            "kind": "verify",
            "stage": "done",
            "time_ns": 5,
            "by": "ada@a",
            **fields,
        }
    )


def write(run, name, *operations, garbage=b""):
    run.operations.mkdir(exist_ok=True)
    data = b"".join(map(encode_operation, operations)) + garbage
    (run.operations / name).write_bytes(data)


def test_files_of_all_dashboards_are_joined_by_time(tmp_path):
    run = RunDir(tmp_path)
    write(run, "a-1.jsonl", operation(time_ns=3), operation(time_ns=9))
    write(run, "b-2.jsonl", operation(time_ns=5, by="bob@b"))

    assert [o.time_ns for o in read_operations(run)] == [3, 5, 9]


def test_lines_that_are_no_operation_are_passed_over(tmp_path):
    run = RunDir(tmp_path)
    write(run, "a-1.jsonl", operation(), operation(schema=99), garbage=b'rubbish\n{"x"')

    assert len(read_operations(run)) == 1


def test_only_plain_files_are_opened(tmp_path):
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    secret = tmp_path / "secret"
    secret.write_bytes(encode_operation(operation()))
    run.operations.mkdir()
    (run.operations / "link.jsonl").symlink_to(secret)
    os.mkfifo(run.operations / "fifo.jsonl")

    assert read_operations(run) == []


def test_without_a_directory_there_are_none(tmp_path):
    assert read_operations(RunDir(tmp_path)) == []


def test_of_a_long_file_the_end_is_read(tmp_path):
    run = RunDir(tmp_path)
    write(
        run, "a-1.jsonl", *(operation(time_ns=n, text="x" * 500) for n in range(9_000))
    )

    found = read_operations(run)

    assert found[-1].time_ns == 8_999
    assert len(found) < 9_000


@given(st.text(), st.integers(0, 2**63 - 1), st.lists(st.text(), max_size=4))
def test_what_is_written_is_read(tmp_path_factory, text, time_ns, command):
    run = RunDir(tmp_path_factory.mktemp("run"))
    written = operation(
        text=text.encode("utf-8", "replace").decode(),
        time_ns=time_ns,
        command=tuple(part.encode("utf-8", "replace").decode() for part in command),
    )

    write(run, "a-1.jsonl", written)

    assert read_operations(run) == [written]
