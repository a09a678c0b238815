"""What the palette offers: every pane, every action and every checkpoint."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from textual.app import SystemCommand
from textual.binding import Binding
from textual.command import CommandPalette, SearchIcon
from textual.dom import DOMNode

from opsdash import messages
from opsdash.projections.run import Run
from opsdash.screens.pane import Pane
from opsdash.screens.panes import PANES
from opsdash.screens.watch import WatchScreen
from opsdash.widgets.key_line import key_name

_MAX_CHECKPOINTS = 50


class Palette(CommandPalette):
    """Textual's palette, drawn with what every terminal has where that is wanted."""

    DEFAULT_CSS = """
    Palette.-ascii {
        & #--input { border: ascii $primary; }
        & CommandList { border: none; }
        & LoadingIndicator { display: none; }
    }
    """

    def __init__(self, *, ascii_only: bool) -> None:
        super().__init__(placeholder="search for an action", id="--command-palette")
        self.set_class(ascii_only, "-ascii")

    def on_mount(self) -> None:
        """A lens is two cells wide in one terminal and one in the next."""
        self.query_one(SearchIcon).icon = "/"


def palette_commands(watch: WatchScreen, run: Run) -> Iterator[SystemCommand]:
    """Yield a command per pane and action, then per checkpoint."""
    for index, pane in enumerate(PANES):
        yield SystemCommand(
            f"show {pane.title}", f"key {index + 1}", partial(_show, watch, index)
        )
    yield from key_commands((watch.pane or watch).ancestors_with_self)
    for index in range(len(PANES)):
        if index != watch.shown:
            yield from _elsewhere(watch, index)
    published = [row for row in run.checkpoints.rows() if row.is_published]
    for row in published[:_MAX_CHECKPOINTS]:
        name = row.directory
        verify, resume = messages.VerifyRequested, messages.ResumeRequested
        yield _wish(watch, f"verify {name}", row.stage, partial(verify, (name,)))
        if watch.check_action("resume", ()):
            yield _wish(watch, f"resume from {name}", row.stage, partial(resume, name))


def key_commands(nodes: Iterable[DOMNode]) -> Iterator[SystemCommand]:
    """Yield a command per key of some nodes, from the innermost outwards."""
    for node in nodes:
        yield from _actions(node)


def _show(watch: WatchScreen, index: int) -> None:
    watch.run_worker(watch.show_pane(index))


def _wish(
    watch: WatchScreen, title: str, text: str, make: Callable[[], messages.Wish]
) -> SystemCommand:
    return SystemCommand(title, text, lambda: watch.post_message(make()))


def _actions(node: DOMNode) -> Iterator[SystemCommand]:
    """Yield what the keys of a node do, where it may be done."""
    where = f"{node.TITLE}: " if isinstance(node, Pane) else ""
    for binding in _bound(type(node)):
        if node.check_action(binding.action.partition("(")[0], ()):
            yield SystemCommand(
                f"{where}{binding.description.lower()}",
                f"key {key_name(binding.key)}",
                partial(_run, node, binding.action),
            )


def _elsewhere(watch: WatchScreen, index: int) -> Iterator[SystemCommand]:
    """Yield what the keys of a pane do that is not in sight: it is shown first."""
    for binding in _bound(PANES[index].pane_class):
        if watch.check_action(binding.action.partition("(")[0], ()):
            yield SystemCommand(
                f"{PANES[index].title}: {binding.description.lower()}",
                f"keys {index + 1} {key_name(binding.key)}",
                partial(_go_and_run, watch, index, binding.action),
            )


def _bound(kind: type[DOMNode]) -> list[Binding]:
    """Return the first key of each action that a kind of node names."""
    bindings = Binding.make_bindings(getattr(kind, "BINDINGS", []))
    by_action = {
        one.action: one
        for one in reversed(list(bindings))
        if one.description and not one.action.startswith("pane(")
    }
    return list(by_action.values())[::-1]


def _go_and_run(watch: WatchScreen, index: int, action: str) -> None:
    async def go() -> None:
        await watch.app.run_action(action, await watch.show_pane(index))

    watch.run_worker(go())


def _run(node: DOMNode, action: str) -> None:
    node.app.run_worker(node.app.run_action(action, node))
