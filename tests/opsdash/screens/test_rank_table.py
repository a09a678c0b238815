"""What stands in the table of processes."""

import pytest

from agent.rundir.process import Liveness
from opsdash.glyphs import UNICODE
from opsdash.projections.run_state import STALE_NS
from opsdash.screens.rank_table import FIELDS, Process
from opsdash.widgets.table_lines import Layout
from tests.runs import SECOND, RunWriter, Watcher


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


def test_where_a_process_waits_is_drawn_whole_on_120_columns():
    columns = [field.column for field in FIELDS]
    beside_the_reasons = 119 * 3 // 5

    layout = Layout.of(columns, beside_the_reasons, 1, UNICODE)

    drawn = {columns[index].title: width for index, width in layout.places}
    assert drawn["at"] == 15
    assert list(drawn) == ["who", "phase", "step", "late", "memory", "seen", "at"]


def test_how_long_a_process_waits_comes_before_the_name_that_may_be_cut(row):
    waits = row._replace(waiting_at="checkpoint.save", waiting_age_ns=13 * SECOND)

    assert texts(waits)["at"] == "13.0 s checkpoint.save"
