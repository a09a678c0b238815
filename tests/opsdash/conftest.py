"""What every test of a screen gets: a pilot that a loaded machine does not hurry."""

import pytest

from tests.patient_pilot import PatientPilot


@pytest.fixture(autouse=True)
def _patient_pilot(monkeypatch):
    """`App.run_test` looks its pilot up when it is called."""
    monkeypatch.setattr("textual.pilot.Pilot", PatientPilot)
