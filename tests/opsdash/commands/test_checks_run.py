"""What the doctor says of a run that lives."""

import pytest

from opsdash.commands import checks_run as module
from opsdash.commands.checks import Mark
from opsdash.commands.checks_run import check_run
from tests.runs import SECOND, RunWriter


@pytest.fixture
def writer(tmp_path):
    writer = RunWriter(tmp_path / "run", world_size=2)
    writer.begin()
    writer.beat(0, 1)
    return writer


@pytest.mark.parametrize(
    ("hours", "words"), [(1, "ahead of this host's"), (-1, "behind this host's")]
)
def test_a_clock_that_differs_is_told_once_the_process_was_heard(
    writer, monkeypatch, hours, words
):
    writer.time_ns += hours * 3_600 * SECOND

    def heartbeat(_):
        writer.wait(1)
        writer.beat(0, 1)

    monkeypatch.setattr(module.time, "sleep", heartbeat)

    told = {check.what: check for check in check_run(writer.run)}

    assert told["clock of rank-1"].mark is Mark.WARN
    assert told["clock of rank-1"].found.endswith(words)
    assert "chronyc tracking" in told["clock of rank-0"].advice


def test_a_run_that_is_over_is_not_listened_to(writer, monkeypatch):
    writer.end()
    monkeypatch.setattr(module.time, "sleep", lambda _: pytest.fail("it waited"))

    assert not [c for c in check_run(writer.run) if c.what.startswith("clock")]
