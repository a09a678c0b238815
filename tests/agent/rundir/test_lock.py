import json
import subprocess
import sys
import textwrap
from pathlib import Path

import msgspec
import pytest

from agent.rundir.errors import LockedError
from agent.rundir.lock import read_lock, release_lock, take_lock
from agent.rundir.process import Liveness, liveness, this_process

ROOT = Path(__file__).parent.parent.parent.parent


def run_python(script: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_the_holder_is_named_to_who_comes_second(tmp_path):
    path = tmp_path / "run.lock"
    holder = take_lock(path, 3)

    with pytest.raises(LockedError) as caught:
        take_lock(path, 4)

    assert f"process {holder.process.pid}" in str(caught.value)
    assert "attempt 3" in str(caught.value)
    assert caught.value.exit_code == 73
    assert read_lock(path).holder == holder


def test_a_released_lock_is_gone_and_can_be_taken(tmp_path):
    path = tmp_path / "run.lock"
    release_lock(path, take_lock(path, 1))

    assert read_lock(path) is None
    assert take_lock(path, 2).attempt == 2


def test_a_lock_that_is_gone_is_released_without_a_trace(tmp_path):
    path = tmp_path / "run.lock"
    holder = take_lock(path, 1)
    path.unlink()

    release_lock(path, holder)

    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_passed_on_is_not_released_by_its_former_holder(tmp_path):
    path = tmp_path / "run.lock"
    former = take_lock(path, 1)
    path.unlink()
    present = take_lock(path, 2)

    release_lock(path, former)

    assert read_lock(path).holder == present


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path):
    path = tmp_path / "run.lock"
    script = """
        import sys
        from pathlib import Path
        from agent.rundir.lock import take_lock
        take_lock(Path(sys.argv[1]), 1)
    """
    assert run_python(script, str(path)).returncode == 0
    assert read_lock(path).liveness is Liveness.DEAD

    assert take_lock(path, 2).attempt == 2


def test_a_reused_pid_is_not_taken_for_the_holder():
    me = this_process()

    assert liveness(me) is Liveness.ALIVE
    assert liveness(msgspec.structs.replace(me, pid_start=1)) is Liveness.DEAD


def test_a_holder_before_the_last_boot_is_dead():
    before = msgspec.structs.replace(this_process(), boot_id="another-boot")

    assert liveness(before) is Liveness.DEAD


@pytest.mark.parametrize(
    "change", [{"host": "elsewhere"}, {"pid_namespace": "pid:[1]"}]
)
def test_a_holder_that_cannot_be_seen_from_here_is_never_presumed_dead(
    tmp_path, change
):
    path = tmp_path / "run.lock"
    holder = take_lock(path, 1)
    other = msgspec.structs.replace(holder.process, pid=2**22, **change)
    path.write_bytes(
        msgspec.json.encode(msgspec.structs.replace(holder, process=other))
    )

    with pytest.raises(LockedError) as caught:
        take_lock(path, 2)

    assert "cannot be seen from here" in str(caught.value)
    assert "rm" in caught.value.hint
    assert take_lock(path, 2, force=True).attempt == 2


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"attempt": 1}'])
def test_a_file_that_names_nobody_is_taken(tmp_path, content):
    path = tmp_path / "run.lock"
    path.write_bytes(content)

    assert take_lock(path, 1).attempt == 1
    assert json.loads(path.read_bytes())["attempt"] == 1


def test_of_many_starts_at_once_exactly_one_wins(tmp_path):
    path = tmp_path / "run.lock"
    script = """
        import sys
        from pathlib import Path
        from agent.rundir.errors import LockedError
        from agent.rundir.lock import take_lock
        sys.stdout.write("ready\\n"); sys.stdout.flush()
        sys.stdin.readline()
        try:
            take_lock(Path(sys.argv[1]), 1)
            sys.stdout.write("won\\n")
        except LockedError:
            sys.stdout.write("refused\\n")
        sys.stdout.flush()
        sys.stdin.readline()
    """
    starts = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script), str(path)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    for start in starts:
        start.stdout.readline()
    for start in starts:
        start.stdin.write("go\n")
        start.stdin.flush()

    outcomes = [start.stdout.readline().strip() for start in starts]
    for start in starts:
        start.communicate("end\n")

    assert sorted(outcomes) == ["refused"] * 5 + ["won"]


def test_a_process_that_became_another_program_takes_its_own_lock_over(tmp_path):
    script = """
        import os, sys
        from pathlib import Path
        from agent.rundir.errors import LockedError
        from agent.rundir.lock import take_lock
        path, attempt = Path(sys.argv[1]), int(sys.argv[2])
        take_lock(path, attempt)
        try:
            take_lock(path, attempt + 1)
        except LockedError:
            print("refused", flush=True)
        if attempt == 1:
            os.execv(sys.executable, [*sys.orig_argv[:-1], "2"])
    """
    path = tmp_path / "run.lock"

    told = run_python(script, str(path), "1")

    assert told.stdout == "refused\nrefused\n"
    assert read_lock(path).holder.attempt == 2
