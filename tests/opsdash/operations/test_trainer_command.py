"""Commands of the trainer's that run beside the dashboard."""

import json
import sys
import time

import pytest

from agent.rundir.errors import RunDirError
from agent.rundir.layout import RunDir
from opsdash.operations.plan import Plan
from opsdash.operations.record import OperationLog
from opsdash.operations.trainer_command import TrainerCommand

JOIN_S = 60


def plan(script: str, **fields) -> Plan:
    return Plan(
        **{
            "kind": "repair",
            "title": "repair",
            "reads": (),
            "writes": (),
            "loses": (),
            "command": (sys.executable, "-c", script),
            **fields,
        }
    )


def test_progress_and_results_are_told_apart():
    script = """
import json
print(json.dumps({"done_bytes": 3, "total_bytes": 10}))
print("no JSON at all")
print(json.dumps({"node": "server", "repaired": ["a"]}))
"""

    command = TrainerCommand(plan(script))
    command.wait(JOIN_S)

    assert (command.done_bytes, command.total_bytes) == (3, 10)
    assert command.results == ({"node": "server", "repaired": ["a"]},)
    assert (command.exit_code, command.error) == (0, "")


def test_what_it_says_is_wrong_is_its_error():
    script = "import sys; sys.stderr.write('noise\\nerror: no such round\\nhint: x\\n')"

    command = TrainerCommand(plan(script + "; sys.exit(66)"))
    command.wait(JOIN_S)

    assert (command.exit_code, command.error) == (66, "no such round")


def test_one_that_dies_without_a_word_is_an_error_too():
    command = TrainerCommand(plan("import os; os._exit(7)"))
    command.wait(JOIN_S)

    assert command.error == "it ended with exit code 7"


def test_cancelling_ends_the_process():
    command = TrainerCommand(plan("import time; print(1, flush=True); time.sleep(600)"))

    command.cancel()
    command.wait(JOIN_S)

    assert command.is_done
    assert command.exit_code != 0
    assert command.is_cancelled


def test_a_program_that_is_not_there_is_told():
    with pytest.raises(RunDirError, match="cannot be started"):
        TrainerCommand(plan("", command=("/no/such/program",)))


def test_a_plan_that_must_not_be_carried_out_is_not():
    with pytest.raises(ValueError, match="attempt 1 is running"):
        TrainerCommand(plan("", why_not="attempt 1 is running"))


def test_numbers_that_make_no_sense_are_no_progress():
    script = """
import json
print(json.dumps({"done_bytes": -5, "total_bytes": 10**40}))
"""

    command = TrainerCommand(plan(script))
    command.wait(JOIN_S)

    assert (command.done_bytes, command.total_bytes) == (0, 0)


def test_begin_and_end_are_written_down(tmp_path):
    log = OperationLog(RunDir(tmp_path))
    command = TrainerCommand(plan("", subject="chunks/server"), log)
    command.wait(JOIN_S)
    failed = TrainerCommand(plan("import sys; sys.exit('broken')"), log)
    failed.wait(JOIN_S)

    (path,) = (tmp_path / "operations").iterdir()
    lines = [json.loads(line) for line in path.read_text().splitlines()]

    assert [line["stage"] for line in lines] == ["started", "done", "started", "failed"]
    assert lines[0]["subject"] == "chunks/server"
    assert lines[3]["text"] == "broken"
    assert lines[0]["time_ns"] <= time.time_ns()
