"""A checkpoint appears whole and verified, or not at all."""

import errno
import os
import subprocess
import sys

import msgspec
import pytest
import torch

from agent.rundir.checkpoints import (
    Stage,
    list_checkpoints,
    newest_resumable,
    read_latest,
)
from agent.rundir.errors import LockedError
from agent.rundir.manifest import read_manifest
from agent.rundir.process import start_ticks, this_process
from agent.rundir.verify.path import verify_path
from agent.rundir.verify.verdict import Level, State
from tests.trainer.checkpoint.states import (
    Told,
    facts,
    make_run,
    make_state,
    payload,
    publish,
)
from trainer.checkpoint import hashing as hashing_module
from trainer.checkpoint import lock as lock_module
from trainer.checkpoint import publish as publish_module
from trainer.checkpoint.checking import differences
from trainer.checkpoint.hashing import HashingFile
from trainer.checkpoint.lock import OWNER_NAME, publishing
from trainer.checkpoint.publish import Publisher


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


def names(run):
    return sorted(p.name for p in run.checkpoints.iterdir() if p.is_dir())


def test_what_is_published_is_verified_and_is_the_latest(run):
    told = Told()

    outcome = publish(run, 3, emit=told)

    entry = newest_resumable(run)
    assert (entry.name, entry.stage) == ("step-00000003", Stage.VERIFIED)
    assert (outcome.name, outcome.digest, outcome.refusal) == (
        entry.name,
        entry.digest,
        None,
    )
    assert read_latest(run) == "step-00000003"
    assert told.kinds == [
        "CheckpointSaving",
        "CheckpointPublished",
        "CheckpointVerified",
    ]
    assert told.of("CheckpointPublished")[0]["size_bytes"] == entry.manifest.size_bytes
    assert sorted(path.name for path in entry.path.iterdir()) == [
        "manifest.json",
        "state.pt",
    ]


class Clock:
    """Stands still, but for what is said to take time."""

    def __init__(self, monkeypatch):
        self.now_ns = 0
        self._monkeypatch = monkeypatch
        for module in (hashing_module, publish_module):
            monkeypatch.setattr(module, "time", self)

    def monotonic_ns(self):
        return self.now_ns

    def monotonic(self):
        return self.now_ns / 1e9

    def make_slow(self, owner, name, takes_ns):
        real = getattr(owner, name)

        def slow(*args):
            self.now_ns += takes_ns
            return real(*args)

        self._monkeypatch.setattr(owner, name, slow)


def test_every_phase_of_a_save_is_told_for_itself(run, monkeypatch):
    told, clock = Told(), Clock(monkeypatch)
    clock.make_slow(torch, "save", 5)
    clock.make_slow(HashingFile, "_start_writeback", 1_000)  # once per piece
    clock.make_slow(HashingFile, "_hash", 1_000_000)
    clock.make_slow(os, "fsync", 10**12)
    clock.make_slow(publish_module, "encode_manifest", 70)

    publish(run, 3, emit=told)

    [event] = told.of("CheckpointPublished")
    num_pieces = event["write_ns"] // 1_000
    assert num_pieces > 1
    assert event["serialize_ns"] == 5
    assert event["write_ns"] == num_pieces * 1_000
    assert event["digest_ns"] == num_pieces * 1_000_000
    assert event["fsync_ns"] == 10**12
    assert event["publish_ns"] % 10**12 == 70  # the manifest and its own syncs


def test_every_level_of_verification_finds_it_sound(run):
    publish(run, 3)

    for level in Level:
        verdict = verify_path(run.checkpoints / "step-00000003", level)
        assert (verdict.state, verdict.findings) == (State.SOUND, ())


def test_what_was_saved_is_what_is_loaded(run):
    saved = payload(make_state())
    state = make_state()

    Publisher(run, Told()).publish("step-00000003", saved, facts(state, saved))

    path = run.checkpoints / "step-00000003" / "state.pt"
    assert differences(saved, torch.load(path, weights_only=True)) == []


def test_the_manifest_names_the_record_that_holds_each_tensor(run):
    state = make_state()
    saved = payload(state)
    saved["tied"] = [state.model[0].weight, state.model[0].weight.view(-1)]

    Publisher(run, Told()).publish("step-00000003", saved, facts(state, saved))

    directory = run.checkpoints / "step-00000003"
    manifest, _ = read_manifest(directory)
    reader = torch._C.PyTorchFileReader(str(directory / "state.pt"))
    told = {entry.name: entry for entry in manifest.tensors}
    bytes_of = reader.get_record(told["model.0.weight"].record)
    assert bytes_of == state.model[0].weight.detach().numpy().tobytes()
    assert told["tied.0"].record == told["tied.1"].record
    assert told["tied.0"].record == told["model.0.weight"].record
    records = {entry.record for entry in manifest.tensors}
    assert records == {n for n in reader.get_all_records() if n.startswith("data/")}


class Full:
    """A disk that is full after some calls of `os.fsync` or bytes written."""

    def __init__(self, number):
        self.number = number

    def __call__(self, *_):
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_what_was_there_and_tells(run, monkeypatch, number):
    publish(run, 3)
    told = Told()
    monkeypatch.setattr(publish_module.os, "fsync", Full(number))

    outcome = publish(run, 4, emit=told)

    monkeypatch.undo()
    assert outcome.digest is None
    assert outcome.refusal.startswith("no room: ")
    assert names(run) == ["step-00000003"]
    assert read_latest(run) == "step-00000003"
    assert told.kinds == ["CheckpointSaving", "CheckpointRefused", "DiskLow"]


def test_another_fault_of_the_disk_is_an_error_and_leaves_nothing(run, monkeypatch):
    monkeypatch.setattr(publish_module.os, "fsync", Full(errno.EIO))

    with pytest.raises(OSError, match="Input/output error"):
        publish(run, 3)

    assert names(run) == []


def test_too_little_room_is_seen_before_anything_is_written(run, monkeypatch):
    publish(run, 3)
    told = Told()
    real = os.statvfs(run.path)
    little = os.statvfs_result((*real[:3], real[3], 1, *real[5:]))
    monkeypatch.setattr(publish_module.os, "statvfs", lambda _: little)

    outcome = publish(run, 4, emit=told)

    assert "bytes are free" in outcome.refusal
    assert "CheckpointPublished" not in told.kinds
    assert names(run) == ["step-00000003"]


def write_until_killed(run, step):
    """Publish in a process that is killed right before the rename."""
    script = (
        "import os, signal, pathlib\n"
        "from tests.trainer.checkpoint.states import publish\n"
        "from agent.rundir.layout import RunDir\n"
        "pathlib.Path.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"publish(RunDir(pathlib.Path({str(run.path)!r})), {step})\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True)
    assert result.returncode == -9, result.stderr


@pytest.mark.slow
def test_a_partial_of_a_dead_process_is_no_checkpoint_and_is_cleaned(run):
    publish(run, 3)
    write_until_killed(run, 4)
    assert names(run) == [".partial-step-00000004", "step-00000003"]
    assert newest_resumable(run).name == "step-00000003"

    outcome = publish(run, 5)

    assert outcome.refusal is None
    assert names(run) == ["step-00000003", "step-00000005"]


def test_a_partial_of_a_process_that_lives_is_left_alone(run):
    run.checkpoints.mkdir()
    partial = run.checkpoints / ".partial-step-00000009"
    partial.mkdir()
    with subprocess.Popen(["sleep", "60"]) as living:
        owner = msgspec.structs.replace(
            this_process(), pid=living.pid, pid_start=start_ticks(living.pid)
        )
        (partial / OWNER_NAME).write_bytes(msgspec.json.encode(owner))

        publish(run, 3)
        kept = names(run)
        with pytest.raises(
            LockedError, match=f"is being written by process {living.pid}"
        ):
            publish(run, 9)
        living.kill()

    assert kept == [".partial-step-00000009", "step-00000003"]
    publish(run, 9)
    assert names(run) == ["step-00000003", "step-00000009"]


def test_a_partial_of_another_host_is_left_alone_and_stops_nobody(run):
    run.checkpoints.mkdir()
    partial = run.checkpoints / ".partial-step-00000003"
    partial.mkdir()
    elsewhere = msgspec.structs.replace(this_process(), host="elsewhere")
    (partial / OWNER_NAME).write_bytes(msgspec.json.encode(elsewhere))

    outcome = publish(run, 3)

    assert outcome.refusal is None
    assert names(run) == [".partial-step-00000003", "step-00000003"]


def test_a_damaged_one_of_the_same_name_makes_way(run):
    publish(run, 3)
    path = run.checkpoints / "step-00000003" / "state.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))

    outcome = publish(run, 3)

    assert outcome.refusal is None
    assert names(run) == [".quarantine-step-00000003", "step-00000003"]
    assert newest_resumable(run).name == "step-00000003"


def test_a_disk_that_is_full_once_all_is_verified_is_told_and_is_no_error(
    run, monkeypatch
):
    monkeypatch.setattr(publish_module, "write_atomic", Full(errno.ENOSPC))

    outcome = publish(run, 3)

    monkeypatch.undo()
    assert outcome.refusal.startswith("no room: ")
    assert newest_resumable(run).name == "step-00000003"
    assert publish(run, 3).refusal is None
    assert read_latest(run) == "step-00000003"


def test_who_holds_the_lock_need_not_be_written_down(run, monkeypatch):
    run.checkpoints.mkdir()
    monkeypatch.setattr(lock_module.Path, "write_bytes", Full(errno.ENOSPC))

    with (
        publishing(run),
        pytest.raises(LockedError, match="written by another process"),
        publishing(run, wait_s=0.05),
    ):
        pass


def test_two_writers_do_not_publish_at_once_and_the_holder_is_named(run):
    run.checkpoints.mkdir()

    with (
        publishing(run),
        pytest.raises(LockedError) as caught,
        publishing(run, wait_s=0.05),
    ):
        pass

    assert f"is being written by process {os.getpid()} on" in str(caught.value)
    with publishing(run, wait_s=0.05):
        pass


def test_the_same_bytes_under_the_same_name_are_kept(run):
    publish(run, 3)
    before = (run.checkpoints / "step-00000003" / "manifest.json").read_bytes()

    outcome = publish(run, 3)

    assert outcome.refusal is None
    assert names(run) == ["step-00000003"]
    after = (run.checkpoints / "step-00000003" / "manifest.json").read_bytes()
    assert after == before


def test_other_bytes_under_the_same_name_go_to_quarantine(run):
    publish(run, 3)

    publish(run, 3, state=make_state(seed=1))
    publish(run, 3, state=make_state(seed=2))

    assert names(run) == [
        ".quarantine-step-00000003",
        ".quarantine-step-00000003.2",
        "step-00000003",
    ]
    assert newest_resumable(run).name == "step-00000003"


def test_what_reads_back_otherwise_never_becomes_latest(run, monkeypatch):
    publish(run, 3)
    told = Told()
    evict = publish_module.verify_published.__globals__["evict"]

    def spoil(directory):
        path = directory / "state.pt"
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))
        evict(directory)

    monkeypatch.setitem(publish_module.verify_published.__globals__, "evict", spoil)

    outcome = publish(run, 4, state=make_state(seed=1), emit=told)

    assert outcome.refusal.startswith("read back as damaged")
    assert read_latest(run) == "step-00000003"
    assert newest_resumable(run).name == "step-00000003"
    assert told.kinds[-2:] == ["CheckpointVerified", "CheckpointRefused"]
    stages = {e.name: e.stage for e in list_checkpoints(run)}
    assert stages["step-00000004"] is Stage.DAMAGED
