"""Whatever stands in a telemetry file: no exception, bounded memory, a verdict.

Events come through the codec with fields that no writer should write, and
bytes come without any codec. Every projection and every report is asked after.
"""

import json
import math
import random
import types
import typing

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from agent.rundir import events as ev
from opsdash.commands.panes import PANES
from opsdash.projections.batch import Origin
from opsdash.projections.events_log import EventFilter
from opsdash.projections.optimizer import Optimizer
from opsdash.projections.run import Run
from opsdash.reports.events import make_events, render_events
from opsdash.reports.report import to_json
from tests.runs import RunWriter, Watcher

# A failing example is written out: that it is long must not hide why it failed.
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")

WILD_INTS = st.one_of(
    st.integers(-3, 40),
    st.sampled_from([-1, 0, 2**31, 2**53, 2**63, 2**64, 10**9, 10**26, -(10**26)]),
)
WILD_FLOATS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([0.0, 1e308])
)
WILD_TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        [
            "step.agree",
            "step-00000010",
            "server",
            "client-1",
            "\x1b[2J\x07",
            "\u202eevil",
            "[bold red]",
            "../../etc/passwd",
            "x" * 5_000,
        ]
    ),
)
WAITS = st.builds(ev.Wait, WILD_TEXTS, WILD_INTS, WILD_INTS, WILD_INTS)
PLAIN = {
    int: WILD_INTS,
    float: WILD_FLOATS,
    str: WILD_TEXTS,
    bool: st.booleans(),
    type(None): st.none(),
    ev.Wait: WAITS,
}


def values_of(kind):
    """Values that a type of the vocabulary lets through, however silly."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind in PLAIN:
        found = PLAIN[kind]
    elif origin in (typing.Union, types.UnionType):
        found = st.one_of(*map(values_of, arguments))
    elif origin is tuple and arguments[-1] is Ellipsis:
        found = st.lists(values_of(arguments[0]), max_size=3).map(tuple)
    elif origin is tuple:
        found = st.tuples(*map(values_of, arguments))
    elif origin is dict:
        found = st.dictionaries(*map(values_of, arguments), max_size=3)
    else:
        found = events_of(kind)
    return found


def events_of(kind):
    hints = typing.get_type_hints(kind)
    names = [field.name for field in msgspec.structs.fields(kind)]
    return st.builds(kind, **{name: values_of(hints[name]) for name in names})


EVENTS = st.one_of(*(events_of(kind) for kind in ev.AnyEvent.__args__))
FILES = st.sampled_from(
    ["rank-00000", "rank-00001", "rank-99999", "server", "client-1", "rank-1000000000"]
)


def look_at_everything(watcher):
    """Ask for every view and report, as text and as JSON."""
    run, clocks = watcher.run, watcher.clocks
    watcher.verdict()
    for pane in PANES.values():
        report = pane.make(run, clocks.mono_ns, clocks.time_ns)
        json.loads(to_json(report))
        assert all(isinstance(line, str) for line in pane.render(report))
    events = make_events(run, clocks.time_ns, EventFilter(), lambda _: "again", last=50)
    json.loads(to_json(events))
    render_events(events)
    run.lateness.heat.window(40, steps_per_column=7)
    for curves in (run.steps.curves, run.optimizer.curves):
        for name in curves.names:
            steps = [step for step, _ in curves.curve(name).points()]
            assert steps == sorted(set(steps))


def run_over(tmp_path_factory, chunks, kind="ddp"):
    writer = RunWriter(tmp_path_factory.mktemp("fuzz") / "run", kind=kind)
    writer.begin()
    half = len(chunks) // 2
    for stem, data in chunks[:half]:
        writer.append(stem, data)
    watcher = Watcher(writer.run)
    for stem, data in chunks[half:]:
        writer.append(stem, data)
    watcher.read()
    look_at_everything(watcher)
    return watcher


@given(
    st.lists(st.tuples(FILES, EVENTS), max_size=30),
    st.sampled_from(["ddp", "federated"]),
)
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_sequence_of_events_gives_a_verdict(tmp_path_factory, found, kind):
    run_over(tmp_path_factory, [(stem, ev.encode(e)) for stem, e in found], kind)


def flipped(data, at, value):
    return data[:at] + bytes([value]) + data[at + 1 :]


@given(
    st.lists(
        st.tuples(FILES, EVENTS, st.integers(0, 400), st.integers(0, 255)), max_size=15
    ),
    st.lists(st.tuples(FILES, st.binary(max_size=80)), max_size=5),
)
@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_bytes_give_a_verdict(tmp_path_factory, damaged, rubbish):
    chunks = [
        (stem, flipped(ev.encode(event), at, value))
        for stem, event, at, value in damaged
    ]

    run_over(tmp_path_factory, chunks + rubbish)


@pytest.mark.soak
@given(st.lists(EVENTS, min_size=10, max_size=20), st.integers(0, 2**32))
@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)
def test_a_million_damaged_lines(tmp_path_factory, events, seed):
    writer = RunWriter(tmp_path_factory.mktemp("soak") / "run")
    writer.begin()
    watcher = Watcher(writer.run)
    samples = [ev.encode(event) for event in events]
    noise = random.Random(seed)
    for _ in range(50):
        lines = [spoilt(noise.choice(samples), noise) for _ in range(1_000)]
        writer.append(f"rank-0000{noise.randrange(4)}", b"".join(lines))
        watcher.read()
    look_at_everything(watcher)


def spoilt(line, noise):
    """A line with up to three of its bytes replaced."""
    found = bytearray(line)
    for _ in range(noise.randrange(4)):
        found[noise.randrange(len(found))] = noise.randrange(256)
    return bytes(found)


@given(st.lists(events_of(ev.OptimizerNorms), max_size=20))
@settings(max_examples=50, deadline=None)
def test_no_curve_holds_an_infinity(found):
    optimizer = Optimizer()
    origin = _origin()
    for event in found:
        optimizer.on_norms(origin, event)

    for name in optimizer.curves.names:
        values = [value for _, value in optimizer.curve(name).points()]
        assert not any(math.isinf(value) for value in values)


def test_a_verdict_before_anything_was_read_is_blind():
    verdict = Run().verdict(1, 1)

    assert verdict.state == "blind"
    assert verdict.headline == "nothing was read"


def _origin():
    return Origin(1, "0001/rank-00000.jsonl", "rank-00000", 0, 0, 0, True)
