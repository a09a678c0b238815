"""What stands in the table of processes."""

import pytest

from agent.rundir.process import Liveness
from opsdash.projections.run_state import STALE_NS
from opsdash.screens.rank_table import FIELDS, Process
from tests.runs import RunWriter, Watcher


@pytest.fixture
def row(tmp_path):
    writer = RunWriter(tmp_path / "run")
    writer.begin()
    writer.beat()
    watcher = Watcher(writer.run)
    return watcher.run.rank_rows(watcher.clocks.mono_ns)[0]


def texts(row):
    """The cells of a process by their titles."""
    one = Process(row, None)
    return {field.column.title: field.cell(one).text for field in FIELDS}


@pytest.mark.parametrize(
    ("fields", "phase", "where"),
    [
        ({"liveness": Liveness.ALIVE}, "training", ""),
        ({"liveness": Liveness.DEAD}, "gone", "was training"),
        ({"liveness": Liveness.DEAD, "ended": "completed"}, "completed", ""),
        ({"seen_age_ns": STALE_NS + 1}, "silent", "was training"),
        ({"seen_age_ns": STALE_NS + 1, "ended": "error"}, "error", ""),
    ],
)
def test_a_process_that_is_gone_trains_no_more(row, fields, phase, where):
    found = texts(row._replace(phase="training", waiting_at=None, **fields))

    assert (found["phase"], found["at"]) == (phase, where)
