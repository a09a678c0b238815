"""What each client did in each round, as letters."""

from opsdash.projections.run_state import Verdict
from opsdash.screens.client_cells import LEGEND, show_clients
from opsdash.screens.pane import View
from tests.run_states import STATES
from tests.runs import Watcher


class Grid:
    def show(self, clients, rounds, cells):
        self.clients, self.rounds, self.cells = clients, rounds, cells


def test_every_cell_has_a_letter_of_the_legend_and_says_why(tmp_path):
    writer = STATES["federated"](tmp_path / "run")
    watcher = Watcher(writer.run)
    clocks = watcher.clocks
    verdict: Verdict = watcher.verdict()
    grid = Grid()

    show_clients(grid, View(watcher.run, clocks.mono_ns, clocks.time_ns, verdict))

    letters = {
        client: "".join(grid.cells[client, n].letter for n in grid.rounds)
        for client in grid.clients
    }
    assert letters == {
        "client-1": "oooooooo",
        "client-2": "ooo!xroo",
        "client-3": "oooooooo",
    }
    assert {cell.letter for cell in grid.cells.values()} <= {e.letter for e in LEGEND}
    assert grid.cells["client-2", 4].text == "refused: the round ended before it came"
    assert grid.cells["client-2", 5].text.startswith("not asked, it was away (")
    assert "optimizer reset" in grid.cells["client-2", 6].text
