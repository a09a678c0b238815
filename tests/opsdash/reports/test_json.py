"""The JSON that programs read: its fields are documented, and stay."""

import json
import os
import re
import types
import typing
from pathlib import Path

import msgspec
import pytest

from agent.rundir.events import EventsDropped, HostStats, RunEnded
from opsdash.commands.panes import PANES
from opsdash.commands.verify import VerifyReport
from opsdash.projections.events_log import EventFilter
from opsdash.reports.barriers import BarriersReport
from opsdash.reports.checkpoints import CheckpointsReport
from opsdash.reports.chunks import ChunksReport
from opsdash.reports.events import EventReport, EventsReport, make_events
from opsdash.reports.optimizer import OptimizerReport
from opsdash.reports.report import news_of, to_json
from opsdash.reports.rounds import RoundsReport
from opsdash.reports.status import ReasonReport, StatusReport
from opsdash.reports.store import (
    RoundsDiffReport,
    StoredChunksReport,
    StoredRoundsReport,
)
from tests.runs import RunWriter, Watcher

DOCUMENT = Path(__file__).parents[3] / "docs" / "json.md"
REPORTS = {
    "status": StatusReport,
    "barriers": BarriersReport,
    "checkpoints": CheckpointsReport,
    "optimizer": OptimizerReport,
    "chunks": ChunksReport,
    "rounds": RoundsReport,
}
OF_ONE_STORE = [StoredRoundsReport, StoredChunksReport, RoundsDiffReport]
ALL = [*REPORTS.values(), *OF_ONE_STORE, EventsReport, EventReport, VerifyReport]


def structs_of(kind):
    """A struct and every struct that its fields hold."""
    found, pending = {}, [kind]
    while pending:
        kind = pending.pop()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            if kind not in found:
                found[kind] = None
                pending += typing.get_type_hints(kind).values()
        else:
            pending += [a for a in typing.get_args(kind) if a is not Ellipsis]
    return list(found)


def type_name(kind):
    """A field's type in the words of JSON."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(type_name, arguments))
    if origin is tuple:
        return f"list of {type_name(arguments[0])}"
    if origin is dict:
        return f"object of {type_name(arguments[1])}"
    plain = {int: "integer", float: "number", str: "string", bool: "boolean"}
    plain[type(None)] = "null"
    if kind in plain:
        return plain[kind]
    return "string" if issubclass(kind, str) else f"`{kind.__name__}`"


def fields_of(kind):
    hints = typing.get_type_hints(kind)
    return [(f.name, type_name(hints[f.name])) for f in msgspec.structs.fields(kind)]


def documented():
    """Fields by struct, as the page says."""
    found = {}
    for part in DOCUMENT.read_text().split("\n### ")[1:]:
        name = part.split("`")[1]
        found[name] = re.findall(r"^\| `(\w+)` \| (.+?) \|", part, flags=re.MULTILINE)
    return found


@pytest.mark.parametrize(
    "kind", {s: None for r in ALL for s in structs_of(r)}, ids=lambda k: k.__name__
)
def test_every_field_is_documented_with_its_type(kind):
    assert documented()[kind.__name__] == fields_of(kind)


def test_the_page_names_nothing_that_is_not_there():
    names = {struct.__name__ for report in ALL for struct in structs_of(report)}

    assert set(documented()) == names


def test_names_are_snake_case():
    for report in ALL:
        for struct in structs_of(report):
            for field in msgspec.structs.fields(struct):
                assert re.fullmatch(r"[a-z][a-z0-9_]*", field.encode_name)


@pytest.fixture
def watcher(tmp_path):
    writer = RunWriter(tmp_path / "run")
    writer.begin()
    writer.steps(1, 30, late={1: 30_000_000})
    writer.checkpoint(10)
    writer.beat()
    return Watcher(writer.run)


def test_nobody_is_sent_to_the_command_that_he_just_gave(watcher):
    watcher.clocks.wait(20)
    status, clocks = PANES["status"], watcher.clocks
    report = status.make(watcher.run, clocks.mono_ns, clocks.time_ns)

    assert any(reason.command == "status" for reason in report.reasons)
    assert not any("opsdash status" in line for line in status.render(report))


@pytest.mark.parametrize("name", PANES)
def test_a_run_whose_name_is_no_utf_8_is_told_with_escapes(tmp_path, name):
    writer = RunWriter(tmp_path / os.fsdecode(b"run-\xe9"))
    writer.begin()
    writer.steps(1, 3)
    writer.checkpoint(2)
    (writer.run.checkpoints / os.fsdecode(b"step-\xff")).mkdir()
    watcher, pane = Watcher(writer.run), PANES[name]
    clocks = watcher.clocks

    told = to_json(pane.make(watcher.run, clocks.mono_ns, clocks.time_ns))

    assert json.loads(told)["run"] == f"{tmp_path}/run-\\udce9"


def test_which_command_helps_is_told_apart_from_how_it_is_written(watcher):
    status, clocks = PANES["status"], watcher.clocks
    report = status.make(watcher.run, clocks.mono_ns, clocks.time_ns)
    fixes = {"python -m opsdash status run": "status", "opsdash status.py": None}
    reasons = tuple(
        ReasonReport("warning", "slow", fix, command) for fix, command in fixes.items()
    )

    lines = status.render(msgspec.structs.replace(report, reasons=reasons))

    assert "try       opsdash status.py" in lines
    assert not any("python -m opsdash" in line for line in lines)


def test_what_is_over_has_nothing_at_risk(tmp_path):
    writer = RunWriter(tmp_path / "run")
    writer.begin()
    writer.steps(1, 11)
    writer.checkpoint(10)
    status, told = PANES["status"], []
    for is_over in (False, True):
        if is_over:
            for rank in range(writer.world_size):
                writer.emit(rank, RunEnded, reason="completed")
        watcher = Watcher(writer.run)
        clocks = watcher.clocks
        report = status.make(watcher.run, clocks.mono_ns, clocks.time_ns)
        told.append([line for line in status.render(report) if "at risk" in line])

    assert told == [["at risk   1 step, 100 ms of work"], []]


def test_what_watching_costs_and_the_network_carries_is_told(tmp_path):
    writer = RunWriter(tmp_path / "run")
    host = {"cpu_frac": 0.5, "rss_bytes": 1, "num_threads": 1, "num_fds": 1}
    host |= {"host_cpu_frac": 0.1, "mem_free_bytes": 1}
    for rank in (0, 1):
        writer.emit(rank, HostStats, **host, agent_bytes=1, net_sent_bytes=10**6)
    writer.wait(2)
    writer.emit(0, HostStats, **host, agent_bytes=70, net_sent_bytes=10**6 + 600)
    writer.emit(1, EventsDropped, num_dropped=3, reason="the disk is full")
    watcher = Watcher(writer.run)

    status = PANES["status"]
    report = status.make(watcher.run, watcher.clocks.mono_ns, watcher.clocks.time_ns)

    first, second = report.ranks
    assert (report.agent_bytes, report.num_dropped) == (71, 3)
    assert (first.agent_bytes, first.num_dropped) == (70, 0)
    assert (second.agent_bytes, second.num_dropped) == (1, 3)
    assert (first.net_sent_bytes_per_s, second.net_sent_bytes_per_s) == (300.0, None)
    assert first.net_received_bytes_per_s is None


@pytest.mark.parametrize("name", PANES)
def test_what_is_printed_is_what_the_type_says(watcher, name):
    clocks = watcher.clocks
    report = PANES[name].make(watcher.run, clocks.mono_ns, clocks.time_ns)

    read = msgspec.json.decode(to_json(report), type=REPORTS[name])

    assert read == report
    assert (read.schema, read.report) == (1, name)


def test_events_too(watcher):
    report = make_events(watcher.run, 5, EventFilter(), lambda row: "again", last=10)

    read = msgspec.json.decode(to_json(report), type=EventsReport)

    assert read == report
    assert len(read.events) == 10


@pytest.mark.parametrize("name", PANES)
def test_time_alone_is_no_news(watcher, name):
    clocks, pane = watcher.clocks, PANES[name]
    before = news_of(pane.make(watcher.run, clocks.mono_ns, clocks.time_ns))
    clocks.wait(1)

    after = news_of(pane.make(watcher.run, clocks.mono_ns, clocks.time_ns))

    assert after == before


@pytest.mark.parametrize("name", PANES)
def test_text_stays_within_eighty_columns(watcher, name):
    pane = PANES[name]
    report = pane.make(watcher.run, watcher.clocks.mono_ns, watcher.clocks.time_ns)

    long = [
        line
        for line in pane.render(report)
        # Commands are there to be pasted and never broken.
        if len(line) > 80 and " opsdash " not in line
    ]

    assert long == []
