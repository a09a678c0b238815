"""What the palette offers: every pane, every action and every checkpoint."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from textual.app import SystemCommand
from textual.binding import Binding
from textual.dom import DOMNode

from opsdash import messages
from opsdash.projections.run import Run
from opsdash.screens.pane import Pane
from opsdash.screens.watch import PANES, WatchScreen
from opsdash.widgets.key_line import key_name

_MAX_CHECKPOINTS = 50


def palette_commands(watch: WatchScreen, run: Run) -> Iterator[SystemCommand]:
    """Yield a command per pane, then per key that works here, then per checkpoint."""
    for index, pane in enumerate(PANES):
        yield SystemCommand(
            f"show {pane.TITLE}", f"key {index + 1}", partial(_show, watch, index)
        )
    yield from key_commands((watch.pane or watch).ancestors_with_self)
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
    for binding in Binding.make_bindings(getattr(type(node), "BINDINGS", [])):
        name = binding.action.partition("(")[0]
        is_offered = binding.description and not binding.action.startswith("pane(")
        if is_offered and node.check_action(name, ()):
            yield SystemCommand(
                f"{where}{binding.description.lower()}",
                f"key {key_name(binding.key)}",
                partial(_run, node, binding.action),
            )


def _run(node: DOMNode, action: str) -> None:
    node.app.run_worker(node.app.run_action(action, node))
