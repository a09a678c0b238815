"""Have a name typed before something is done that cannot be undone."""

import sys

from opsdash.commands.arguments import UsageError
from opsdash.commands.console import say
from opsdash.operations.plan import Plan


def confirm(plan: Plan, *, is_agreed: bool) -> None:
    """Return if the plan may be carried out.

    Args:
        plan: It was shown before.
        is_agreed: `--yes` was given.

    Raises:
        UsageError: the name was not typed, or there is nobody to type it.
    """
    if not plan.confirm_name or is_agreed:
        return
    if not sys.stdin.isatty():
        raise UsageError("nobody is there to confirm it", hint="--yes confirms it")
    say("", f"type {plan.confirm_name} to confirm:")
    if sys.stdin.readline().strip() != plan.confirm_name:
        raise UsageError(f"that is not `{plan.confirm_name}`: nothing was done")
