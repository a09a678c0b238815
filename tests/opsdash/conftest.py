"""What every test of a screen gets: a pilot that a loaded machine does not hurry."""

import json

import pytest

from agent.rundir.request_args import KINDS
from agent.rundir.requests import ACCEPTS_NAME
from tests.patient_pilot import PatientPilot
from tests.run_states import STATES


@pytest.fixture(autouse=True)
def _patient_pilot(monkeypatch):
    """`App.run_test` looks its pilot up when it is called."""
    monkeypatch.setattr("textual.pilot.Pilot", PatientPilot)


@pytest.fixture(autouse=True)
def _patient_screens(monkeypatch):
    """What lies on a disk is drawn at once, however loaded the machine is."""
    for where in ("operations.beside", "jobs.errand"):
        monkeypatch.setattr(f"opsdash.{where}.PATIENCE_S", 30.0)


@pytest.fixture
def on(tmp_path):
    """Watch a run in a state, whose trainer takes every request."""
    from tests.watched import still_clocks, watching  # noqa: PLC0415 - few tests want a screen

    def on(state, **options):
        writer = STATES[state](tmp_path / state)
        _accept(writer)
        clocks = still_clocks(writer, 40.0 if state == "dead" else 1.0)
        return watching(writer.path, clocks=clocks, **options)

    return on


def _accept(writer):
    writer.run.requests.mkdir(mode=0o700)
    path = writer.run.requests / ACCEPTS_NAME
    told = {"schema": 1, "attempt": writer.attempt, "kinds": sorted(KINDS)}
    path.write_text(json.dumps(told))
    path.chmod(0o600)
