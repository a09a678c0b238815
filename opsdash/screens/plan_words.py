"""An operation's plan as the dialog that asks for it."""

from collections.abc import Iterable

from opsdash.operations.plan import Plan
from opsdash.widgets.facts import Fact
from opsdash.widgets.plan import Plan as Shown


def shown_plan(plan: Plan) -> Shown:
    """Return what the dialog says: all of the plan, nothing else."""
    facts = [
        *_facts("reads", plan.reads),
        *_facts("writes", plan.writes),
        *_facts("loses", plan.loses or ("nothing",), "warn" if plan.loses else ""),
        *_facts("agrees", plan.agrees),
        *_facts("note", plan.notes, "warn"),
    ]
    return Shown(
        title=plan.title,
        facts=tuple(facts),
        command=plan.shell or "no command was recorded",
        confirm_name=plan.confirm_name,
        why_not=f"not from here: {plan.why_not}" if plan.why_not else "",
    )


def _facts(label: str, texts: Iterable[str], tone: str = "") -> list[Fact]:
    return [
        Fact("" if number else label, text, tone) for number, text in enumerate(texts)
    ]
