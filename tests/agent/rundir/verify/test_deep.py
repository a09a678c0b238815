"""The deep level from the outside: a process is started, answers, or does not."""

import os
import signal
import subprocess

import pytest
import torch

from agent.rundir.verify import deep
from agent.rundir.verify.path import VerifyCancelled, verify_path
from agent.rundir.verify.verdict import Level, State
from tests.agent.rundir.verify.archives import small_archive, write_small_checkpoint


@pytest.mark.slow
def test_a_checkpoint_is_looked_at_in_a_process_with_torch(tmp_path, monkeypatch):
    checkpoint = tmp_path / "step-00001200"
    write_small_checkpoint(checkpoint)
    monkeypatch.chdir(tmp_path)

    verdict = verify_path(checkpoint, Level.DEEP)

    assert verdict.state is State.SOUND, verdict.findings
    assert verdict.level is Level.DEEP


@pytest.mark.slow
def test_what_the_process_finds_is_in_the_verdict(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"w": torch.tensor([1.0, float("nan")])}, path)

    verdict = verify_path(path, Level.DEEP)

    assert verdict.state is State.DAMAGED
    assert verdict.findings[0].tensor == "w"


def test_what_is_damaged_is_not_loaded(tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    path.write_bytes(small_archive()[:-1])
    monkeypatch.setattr(deep.subprocess, "Popen", None)

    verdict = verify_path(path, Level.DEEP)

    assert verdict.state is State.TRUNCATED


def test_a_process_that_says_nothing_is_no_verdict(tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    path.write_bytes(small_archive())
    monkeypatch.setattr(deep.sys, "executable", "/bin/false")

    verdict = verify_path(path, Level.DEEP)

    assert verdict.state is State.UNREADABLE
    assert "opsdash[train]" in verdict.findings[0].message


def hanging_program(tmp_path):
    program = tmp_path / "hangs"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    return str(program)


def started_processes(monkeypatch):
    """Return the list that every process started by the deep level goes into."""
    processes = []
    popen = subprocess.Popen

    def start(*args, **kwargs):
        processes.append(popen(*args, **kwargs))
        return processes[-1]

    monkeypatch.setattr(deep.subprocess, "Popen", start)
    return processes


def test_a_process_that_is_killed_is_told(tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    path.write_bytes(small_archive())
    monkeypatch.setattr(deep.sys, "executable", hanging_program(tmp_path))
    processes = started_processes(monkeypatch)

    def kill_it():
        if processes:
            os.kill(processes[0].pid, signal.SIGBUS)
        return False

    verdict = verify_path(path, Level.DEEP, is_cancelled=kill_it)

    assert verdict.state is State.UNREADABLE
    assert "SIGBUS" in verdict.findings[0].message


def test_cancelling_ends_the_process(tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    path.write_bytes(small_archive())
    monkeypatch.setattr(deep.sys, "executable", hanging_program(tmp_path))
    processes = started_processes(monkeypatch)

    with pytest.raises(VerifyCancelled):
        verify_path(path, Level.DEEP, is_cancelled=lambda: bool(processes))

    assert processes[0].returncode == -signal.SIGKILL
