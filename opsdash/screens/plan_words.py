"""An operation's plan as the dialog that asks for it."""

from opsdash.operations.plan import Plan
from opsdash.widgets.facts import Fact
from opsdash.widgets.plan import Plan as Shown


def shown_plan(plan: Plan) -> Shown:
    """Return what the dialog says: all of the plan, nothing else."""
    facts = [Fact("reads", text) for text in plan.reads]
    facts += [Fact("writes", text) for text in plan.writes]
    facts += [Fact("loses", text, "warn") for text in plan.loses]
    if not plan.loses:
        facts.append(Fact("loses", "nothing"))
    facts += [Fact("note", text, "warn") for text in plan.notes]
    return Shown(
        title=plan.title,
        facts=tuple(facts),
        command=plan.shell or "no command was recorded",
        why_not=f"not from here: {plan.why_not}" if plan.why_not else "",
    )
