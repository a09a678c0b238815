"""JobLine: a job that runs beside the run, such as reading a checkpoint again.

Its outcome stays on the line until the owner takes it away: a result that
vanishes was not seen.
"""

from dataclasses import dataclass
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message

from opsdash.glyphs import Glyphs, glyphs_of
from opsdash.units import percent
from opsdash.widgets.lines import LineWidget
from opsdash.widgets.spans import Line, Span, fit, within, wrap

_MAX_REASON_LINES = 2
_OUTCOME_TONES = {"ok": "ok", "failed": "bad", "cancelled": "warn"}


@dataclass(frozen=True)
class JobState:
    """What is known of a job."""

    title: str
    """What is done to what: `verify step-00001200`."""
    done_frac: float | None = None
    """0 to 1; None while the size of the work is not known."""
    detail: str = ""
    """Beside the bar: `1.2 GiB of 3.4 GiB, 2 files`."""
    outcome: str = ""
    """Empty while it runs, then `ok`, `failed` or `cancelled`."""
    can_cancel: bool = True
    """Whether `x` does anything while it runs."""

    @property
    def is_running(self) -> bool:
        """Whether there is still something to cancel."""
        return not self.outcome


class JobLine(LineWidget, can_focus=True):
    """Title, bar, detail, and how it ended."""

    DEFAULT_CSS = "JobLine { height: auto; }"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("x", "cancel", "Cancel job")]

    class CancelRequested(Message):
        """The operator wants the job to stop."""

        def __init__(self, job_line: "JobLine") -> None:
            super().__init__()
            self.job_line = job_line

        @property
        def control(self) -> "JobLine":
            """The line, for `@on` selectors."""
            return self.job_line

    def __init__(
        self,
        state: JobState,
        *,
        id: str | None = None,  # noqa: A002 - Textual's name for it
        classes: str | None = None,
    ) -> None:
        super().__init__(id=id, classes=classes)
        self.state = state

    def show(self, state: JobState) -> None:
        """Replace what is known of the job."""
        self.state = state
        self.changed()

    def lines(self, width: int, height: int) -> list[Line]:  # noqa: ARG002 - as high as it needs
        """Return the job as one line; why it failed is told on more."""
        glyphs = glyphs_of(self.app)
        if self.state.is_running:
            return [self._while_running(width, glyphs)]
        return self._when_ended(width, glyphs)

    def action_cancel(self) -> None:
        """Ask for the job to stop, if it runs."""
        if self.state.is_running and self.state.can_cancel:
            self.post_message(self.CancelRequested(self))

    def _while_running(self, width: int, glyphs: Glyphs) -> Line:
        state = self.state
        hint = "x cancels" if state.can_cancel else ""
        share = percent(state.done_frac) if state.done_frac is not None else "..."
        # The bar is what gives way: the words around it say the same.
        title_room = min(len(state.title) + 1, max(1, width // 2))
        rest = f" {share:>7}  {state.detail}  "
        bar = max(0, min(20, width - title_room - len(rest) - len(hint)))
        done = round(bar * min(1.0, max(0.0, state.done_frac or 0.0)))
        spans = (
            Span(fit(state.title, title_room - 1, ellipsis=glyphs.ellipsis), "title"),
            Span(" "),
            Span(glyphs.done * done + glyphs.to_do * (bar - done), "accent"),
            Span(rest),
            Span(hint, "dim"),
        )
        return within(spans, width, glyphs.ellipsis)

    def _when_ended(self, width: int, glyphs: Glyphs) -> list[Line]:
        state = self.state
        marks = {"ok": glyphs.finished, "failed": glyphs.dead}
        tone = _OUTCOME_TONES.get(state.outcome, "warn")
        mark = marks.get(state.outcome, glyphs.degraded)
        head = (
            Span(f"{mark} {state.outcome} ", tone),
            Span(f"{state.title} ", "title"),
        )
        room = width - sum(len(span.text) for span in head)
        if state.outcome != "failed" or len(state.detail) <= room:
            return [within((*head, Span(state.detail)), width, glyphs.ellipsis)]
        parts = wrap(state.detail, max(8, width - 2))
        if len(parts) > _MAX_REASON_LINES:
            rest = " ".join(parts[_MAX_REASON_LINES - 1 :])
            parts[_MAX_REASON_LINES - 1 :] = [rest]
        reason = (within((Span("  "), Span(p)), width, glyphs.ellipsis) for p in parts)
        return [within(head, width, glyphs.ellipsis), *reason]
