"""Every kind of event in words."""

import types

import msgspec
import pytest

from agent.rundir import events as ev
from opsdash.projections.event_words import _WORDS, Severity, describe, severity

COMMON = {"time_ns": 1, "mono_ns": 1, "node": "rank-0"}


def _is_union(field):
    return isinstance(field.type, types.UnionType)


def minimal(kind):
    """An event of a kind with the least that its type asks for."""
    values = {int: 3, float: 0.5, str: "x", bool: True}
    fields = {}
    for field in msgspec.structs.fields(kind):
        if field.required and field.name not in COMMON:
            can_be_none = isinstance(None, field.type) if _is_union(field) else False
            fields[field.name] = None if can_be_none else values.get(field.type, ())
    for name in ("before", "after"):
        if name in fields:
            fields[name] = {}
    return kind(**COMMON, **fields)


@pytest.mark.parametrize("kind", ev.AnyEvent.__args__, ids=lambda k: k.__name__)
def test_every_kind_has_words_of_its_own(kind):
    event = minimal(kind)

    text = describe(event)

    assert kind in _WORDS
    assert text
    assert "\n" not in text
    assert severity(event) in Severity


def test_where_no_stacks_came_no_file_is_named():
    said = {"file": "stacks/0001/rank-00001.txt", "reason": "a hang: state T"}

    some = describe(ev.StacksWritten(**COMMON, **said))
    none = describe(ev.StacksWritten(**COMMON, **said, has_stacks=False))

    assert some == "stacks in stacks/0001/rank-00001.txt (a hang: state T)"
    assert none == "no stacks (a hang: state T)"


def test_texts_from_disk_are_clipped():
    event = ev.RunEnded(**COMMON, reason="error", error="x" * 1_000_000)

    assert len(describe(event)) < 300


@pytest.mark.parametrize(
    ("event", "wanted"),
    [
        (ev.RunEnded(**COMMON, reason="completed"), Severity.INFO),
        (ev.RunEnded(**COMMON, reason="error"), Severity.ERROR),
        (ev.StepDone(**COMMON), Severity.DETAIL),
        (ev.StepDone(**COMMON, is_skipped=True), Severity.WARNING),
        (
            ev.CheckpointVerified(
                **COMMON,
                checkpoint="c",
                digest=None,
                state="damaged",
                level="content",
                verify_ns=1,
                by="save",
            ),
            Severity.ERROR,
        ),
        (
            ev.BarrierReleased(**COMMON, name="b", index=0, wait_ns=1, error="x"),
            Severity.WARNING,
        ),
    ],
)
def test_how_much_an_event_matters_depends_on_what_it_says(event, wanted):
    assert severity(event) is wanted
