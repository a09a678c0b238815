"""Why there are no stacks of a process to be seen, and who could change that."""

import shlex

from opsdash.projections.run_state import State
from opsdash.screens.pane import View


def is_over(view: View | None) -> bool:
    """Whether nobody is seen to run who could be asked for anything."""
    return view is None or view.verdict.state in (State.DEAD, State.FINISHED)


def how_to_ask(view: View, *, may_act: bool) -> str:
    """Return how stacks are asked for; where nobody can be asked, that."""
    if is_over(view):
        return "its run has ended: nobody can be asked for any"
    if not may_act:
        return f"`{_command(view)}` asks for them"
    return "K asks for them"


def why_no_stacks(view: View, stem: str, *, may_act: bool) -> tuple[str, ...]:
    """Return why a process wrote none, and what there is instead, line by line."""
    note, attempt = view.run.stacks.of(stem), view.run.directory.newest_attempt
    if note is not None and note.attempt == attempt:
        return (note.reason,)
    how = how_to_ask(view, may_act=may_act)
    if is_over(view):
        return (how, "what processes wrote while they ran is kept in `stacks/`")
    told = view.run.requests.rows()
    asked = [row for row in told if row.kind == "stacks" and row.attempt == attempt]
    why = ["it was asked and wrote none: it is stopped, or cannot see requests"]
    if not any(row.is_over for row in asked):
        why = []
    if may_act:
        return (*why, f"when this is closed, {how}")
    # On a line of its own: the directory's name may be long.
    return (*why, "this command asks for them:", _command(view))


def _command(view: View) -> str:
    return f"opsdash request {shlex.quote(view.run.directory.path)} stacks"
