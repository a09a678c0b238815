"""How the launcher learns that a run was asked to stop."""

import msgspec
import pytest

from tests.trainer.checkpoint.states import Told, facts, make_run, make_state, payload
from trainer.checkpoint.publish import Publisher
from trainer.commands.launch import was_stopped


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


def save(run, attempt, reason, created_ns):
    state = make_state(seed=created_ns)
    saved = payload(state)
    manifest = facts(state, saved, attempt=attempt)
    Publisher(run, Told()).publish(
        f"step-{created_ns:08d}",
        saved,
        msgspec.structs.replace(manifest, reason=reason, created_ns=created_ns),
    )


def begin(run, *attempts):
    run.attempts.mkdir()
    for attempt in attempts:
        run.attempt_file(attempt).touch()


def tell_end(run, attempt, reason):
    path = run.telemetry_file(attempt, "rank-00000")
    path.parent.mkdir(parents=True)
    path.write_text(
        f'{{"kind":"run_ended","time_ns":1,"mono_ns":1,"node":"rank-0","rank":0,'
        f'"reason":"{reason}"}}\n'
    )


@pytest.mark.parametrize(("reason", "is_so"), [("stopped", True), ("completed", False)])
def test_the_run_s_last_word_counts(run, reason, is_so):
    begin(run, 1)
    tell_end(run, 1, reason)

    assert was_stopped(run) is is_so


@pytest.mark.parametrize(
    ("reason", "is_so"), [("signal", True), ("stop", True), ("final", False)]
)
def test_without_an_agent_the_last_save_knows_why_it_was(run, reason, is_so):
    begin(run, 1, 2)
    tell_end(run, 1, "stopped")
    save(run, 2, "interval", 1)
    save(run, 2, reason, 2)

    assert was_stopped(run) is is_so


def test_a_stop_of_an_attempt_before_is_none_of_this_one(run):
    begin(run, 1, 2)
    tell_end(run, 1, "stopped")
    save(run, 1, "signal", 1)

    assert not was_stopped(run)
    assert not was_stopped(make_run(run.path / "new"))
