"""Whatever lies in a run directory is shown as data, at any size, and never obeyed."""

import json
import os
import sqlite3

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.rundir import events as ev
from opsdash.screens.panes import PANES
from tests.run_states import STATES
from tests.runs import RunWriter
from tests.screen_text import screen_text
from tests.watched import refreshed, still_clocks, watching

EVIL = (
    "\x1b[2J\x1b]0;owned\x07",
    "[bold red]markup[/]",
    "\u202egnp.exe\u2066",
    "x" * 100_000,
    "\ud800 lone",
    "日本語\u200b\ufe0f",
    "a\tb\nc\rd\0e",
)


def hostile(path) -> RunWriter:
    """A run in which everything that can be strange is."""
    run = RunWriter(path)
    argv = (EVIL[0],)
    run.begin(argv=argv, resume_command=(*argv, "{checkpoint}"), world_size=10**9)
    run.beat(0, 1, phase=EVIL[0][:30], step=-5, phase_age_ns=-1, limit_ns=2**63)
    for text in EVIL[:4]:
        run.emit(0, ev.NonfiniteFound, tensor=text, where=text, step=10**26)
        run.emit(1, ev.BarrierArrived, name=text, index=-1, limit_ns=10**30)
        run.emit(0, ev.CheckpointRefused, checkpoint="../../" + text, reason=text)
        run.emit("server", ev.ClientJoined, client=text, session=text)
        run.emit("server", ev.RoundStarted, clients=(text,), model_digest=text)
    run.emit(0, ev.StepDone, step=3, loss=None, nonfinite="head", time_ns=-(2**60))
    run.emit(0, ev.StepDone, step=2**62, loss=1e308, time_ns=2**63 - 1)
    run.append("rank-00001", b'{"kind":"step_done","loss":NaN}\n' + b"\xff\xfe" * 999)
    run.append("rank-00001", b"z" * (1 << 20) + b"\n")
    run.append("rank-1000000000", b'{"kind":"heartbeat"}\n')
    _strange_files(run)
    return run


def _strange_files(run: RunWriter) -> None:
    checkpoints = run.run.checkpoints
    (checkpoints / "step-00000001").symlink_to("/etc")
    (checkpoints / "step-00000002").symlink_to("step-00000003")
    (checkpoints / "step-00000003").symlink_to("step-00000002")
    (checkpoints / EVIL[1].replace("/", "")).mkdir()
    (checkpoints / "step-00000004").mkdir()
    (checkpoints / "step-00000004" / "manifest.json").write_text('{"schema":99}')
    run.run.latest.symlink_to("/etc/passwd")
    os.mkfifo(run.run.verified)
    store = run.run.chunk_store("server")
    store.parent.mkdir(parents=True)
    with sqlite3.connect(store) as other:
        other.execute("CREATE TABLE t (x)")
    other.close()
    (run.run.chunks / "client-1").symlink_to("/etc")
    run.run.operations.mkdir()
    line = {"schema": 1, "id": "x", "kind": EVIL[0], "stage": "done", "time_ns": 1}
    text = json.dumps({**line, "by": EVIL[0], "text": EVIL[1]})
    (run.run.operations / "evil.jsonl").write_text(text + "\n" + "{" * 10_000 + "\n")


@pytest.mark.parametrize("size", [(120, 36), (80, 24), (20, 6)])
async def test_a_hostile_run_is_shown_by_every_pane(tmp_path, size):
    run = hostile(tmp_path / "run")

    async with watching(run.path, size=size) as (app, pilot):
        for index in range(len(PANES)):
            await pilot.press(str(index + 1))
            await refreshed(app, pilot)
            await pilot.press("down", "enter", "end", "left", "escape", "escape")
            shown = screen_text(app)

            assert not any(ord(c) < 32 and c != "\n" for c in shown)
            assert "\u202e" not in shown
            await pilot.press("escape")


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.sampled_from(sorted(STATES)),
    st.lists(
        st.tuples(st.sampled_from(["rank-00000", "rank-00001", "server"]), st.binary()),
        max_size=6,
    ),
)
async def test_any_bytes_behind_any_run_are_shown(tmp_path_factory, state, pieces):
    await _show_all(tmp_path_factory.mktemp("run") / "run", state, pieces)


@pytest.mark.soak
@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from(sorted(STATES)),
    st.lists(
        st.tuples(
            st.sampled_from(["rank-00000", "rank-00001", "server", "client-1"]),
            st.binary(max_size=4_000),
        ),
        max_size=40,
    ),
)
async def test_any_bytes_behind_any_run_are_shown_many_times(
    tmp_path_factory, state, pieces
):
    await _show_all(tmp_path_factory.mktemp("run") / "run", state, pieces)


async def _show_all(path, state, pieces):
    writer = STATES[state](path)
    for stem, data in pieces:
        writer.append(stem, data + b"\n")
    async with watching(path, clocks=still_clocks(writer)) as (app, pilot):
        for index in range(len(PANES)):
            await pilot.press(str(index + 1))
            await refreshed(app, pilot)
        assert app.crash is None
