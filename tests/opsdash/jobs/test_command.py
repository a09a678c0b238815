"""The line of a command of the trainer's that has ended."""

from types import SimpleNamespace

import pytest

from opsdash.jobs.command import CommandJob, say_repaired

LEFT = {"repaired": [], "left": ["chunk 25 of round 5"]}


def ended(*results, complaint="", exit_code=2, is_cancelled=False):
    """What is shown of a repair that ended so."""
    command = SimpleNamespace(
        plan=SimpleNamespace(title="repair it"),
        is_done=True,
        exit_code=exit_code,
        is_cancelled=is_cancelled,
        results=results,
        complaint=complaint,
        error=complaint or f"it ended with exit code {exit_code}",
    )
    return CommandJob(command, say_repaired).state()


@pytest.mark.parametrize(
    ("results", "complaint", "detail"),
    [
        ((LEFT,), "", "0 mended, 1 left: chunk 25 of round 5"),
        ((LEFT,), "the disk is full", "the disk is full"),
        ((), "", "it ended with exit code 2"),
    ],
)
def test_why_it_failed_is_what_it_said_then_what_it_found(results, complaint, detail):
    state = ended(*results, complaint=complaint)

    assert (state.outcome, state.detail) == ("failed", detail)


def test_what_went_well_is_summed_up():
    state = ended({"repaired": ["a", "b"], "left": []}, exit_code=0)

    assert (state.outcome, state.detail) == ("ok", "2 chunks mended")
