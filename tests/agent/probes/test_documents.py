"""What becomes of a run whose directory is removed under a living trainer."""

import json
import shutil

import pytest

from agent.emitter import Emitter
from agent.probes.documents import Documents
from agent.rundir.attempts import read_attempt, read_identity
from agent.rundir.errors import LockedError
from agent.rundir.lock import read_lock
from agent.start import begin_run


class Living:
    """A run that has begun, and its documents as the agent looks after them."""

    def __init__(self, folder):
        self.start = begin_run(folder / "run", kind="ddp", config={"lr": 1})
        self.run = self.start.run
        self.folder = self.run.telemetry_file(1, "rank-00000").parent
        self.emitter = Emitter(self.folder / "rank-00000.jsonl", node="rank-0", rank=0)
        self.documents = Documents(self.emitter, self.run, 1)

    def remove(self):
        shutil.rmtree(self.run.path)

    def come_back(self):
        """As the emitter does."""
        self.emitter.tend()
        assert self.folder.is_dir()


@pytest.fixture
def living(tmp_path):
    return Living(tmp_path)


def files(run):
    return {p.name for p in (run.identity, run.lock, run.attempt_file(1)) if p.exists()}


def test_what_was_removed_is_made_again_as_it_was(living):
    living.documents.look()
    attempt = living.start.record(world_size=2)
    living.documents.look()
    identity, holder = read_identity(living.run), read_lock(living.run.lock).holder

    living.remove()
    living.come_back()
    living.documents.look()

    assert read_identity(living.run) == identity
    assert read_attempt(living.run, 1) == attempt
    assert read_lock(living.run.lock).holder == holder
    with pytest.raises(LockedError):
        begin_run(living.run.path, kind="ddp")
    living.start.release()
    assert not living.run.lock.exists()


def test_the_next_start_goes_on_with_the_run_that_came_back(living):
    living.start.record(world_size=2)
    living.documents.look()
    living.remove()
    living.come_back()
    living.documents.look()
    living.start.release()

    again = begin_run(living.run.path, kind="ddp", config={"lr": 1})

    assert (again.attempt, again.identity) == (2, living.start.identity)
    again.release()


def test_in_the_place_of_a_disk_that_is_gone_nothing_is_made(living):
    living.documents.look()
    living.remove()
    living.run.path.mkdir()  # the mount point

    living.documents.look()

    assert list(living.run.path.iterdir()) == []


def test_a_lock_that_was_given_back_is_not_taken_again(living):
    living.start.record()
    living.documents.look()

    living.start.release()
    living.documents.look()

    assert files(living.run) == {"run.json", "0001.json"}


def test_a_trainer_that_has_begun_there_meanwhile_is_left_alone(living):
    living.documents.look()
    living.remove()
    other = begin_run(living.run.path, kind="ddp")
    document = json.loads(living.run.lock.read_bytes())
    document["launch_id"] = "another trainer"
    living.run.lock.write_text(json.dumps(document))
    living.run.identity.unlink()  # as just before it is written
    living.come_back()

    with pytest.raises(LockedError, match="meanwhile"):
        living.documents.look()

    assert files(living.run) == {"run.lock"}
    assert other.identity != living.start.identity


def test_after_the_end_nothing_is_made_again(living):
    living.documents.look()
    living.remove()
    living.come_back()
    living.emitter.close()

    living.documents.look()

    assert files(living.run) == set()
