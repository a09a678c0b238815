"""What a pane is given to show, and what every pane can do.

A pane keeps no state of the run: it is handed a `View` four times a second
while it is on the screen, and at once when it comes to it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

from textual.containers import Vertical
from textual.widget import Widget
from textual.widgets import Input

from agent.rundir.verify.verdict import Verdict as StoreVerdict
from opsdash.projections.run import Run
from opsdash.projections.run_state import Verdict

ACTS = frozenset(
    {
        *("resume", "restore", "request", "pause_run", "take_stacks"),
        *("pin", "repair", "restore_round"),
    }
)
"""Actions that change something; a dashboard that only reads has none of them."""
ABOUT_A_RUN = ("cancel_job", "hold", "pick_run")
"""Actions that mean nothing while a run is still being picked."""


@runtime_checkable
class KnowsWhoActs(Protocol):
    """An app that was told whether its operator only reads."""

    is_readonly: bool


def may_act(app: object) -> bool:
    """Whether keys that act exist in an app."""
    return not (isinstance(app, KnowsWhoActs) and app.is_readonly)


@dataclass(frozen=True)
class View:
    """One moment of a run."""

    run: Run
    now_mono_ns: int
    """The reader's monotonic clock, ns."""
    now_ns: int
    """The reader's wall clock, Unix ns."""
    verdict: Verdict
    stores: Mapping[str, StoreVerdict] = field(default_factory=dict)
    """What verifications in this dashboard found, by `chunks/<node>`."""


class Pane(Vertical):
    """One of the numbered parts of the dashboard."""

    DEFAULT_CSS = """
    Pane { height: 1fr; background: $background; }
    """
    TITLE: ClassVar[str]
    """As the bar of panes shows it: `BarriersPane` is `barriers`."""

    def __init_subclass__(cls, **options: Any) -> None:  # noqa: ANN401 - Textual's, passed on
        super().__init_subclass__(**options)
        cls.TITLE = cls.__name__.removesuffix("Pane").lower()

    def check_action(
        self,
        action: str,
        parameters: tuple[object, ...],  # noqa: ARG002 - Textual's signature
    ) -> bool | None:
        """Leave acting to who may act."""
        return may_act(self.app) or action not in ACTS

    def show(self, view: View) -> None:
        """Show the run as it is now."""
        raise NotImplementedError

    def focus_first(self) -> None:
        """Put the focus where the keys of this pane work."""
        candidates = (w for w in self.query("*") if w.can_focus and _is_shown(w))
        # What is typed first is a key, never the beginning of a filter.
        first = next((w for w in candidates if not isinstance(w, Input)), None)
        if first is not None:
            self.focus_now(first)

    def focus_now(self, widget: Widget) -> None:
        """Give the focus before the next key is read, not some time after."""
        self.screen.set_focus(widget)

    def offers(self, action: str) -> bool:  # noqa: ARG002 - panes that know say more
        """Whether one of its own actions leads to something now."""
        return True

    def words_of(self, action: str) -> str | None:  # noqa: ARG002 - panes that know say more
        """Return what an action does now; None: what its key always says."""
        return None

    @property
    def opens_rows(self) -> bool:
        """Whether enter leads somewhere from a row of this pane."""
        return True

    @property
    def has_filter(self) -> bool:
        """Whether there are rows here that a filter can be typed for."""
        return False

    def filter_rows(self) -> bool:
        """Begin to type a filter; False: this pane has nothing to filter."""
        return False

    def text_to_copy(self) -> tuple[str, str] | None:
        """Return what `c` copies, and what it is; None: nothing here."""
        return None


def _is_shown(widget: Widget) -> bool:
    return all(node.display for node in widget.ancestors_with_self)
