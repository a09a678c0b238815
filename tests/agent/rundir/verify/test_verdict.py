import json

import msgspec
import pytest

from agent.rundir.verify.path import verify_path
from agent.rundir.verify.verdict import State, Verdict, worst, worst_exit_code
from tests.verdicts import verdict

CODES = {
    State.SOUND: 0,
    State.NO_CHECKSUM: 1,
    State.NON_CANONICAL: 1,
    State.UNREADABLE: 1,
    State.CHANGED_SINCE_SAVE: 2,
    State.TRUNCATED: 2,
    State.DAMAGED: 2,
}


@pytest.mark.parametrize("state", State)
def test_each_state_has_its_exit_code(state):
    assert verdict(state).exit_code == CODES[state]


def test_the_worst_of_several_counts():
    states = [State.NO_CHECKSUM, State.TRUNCATED, State.SOUND]

    assert worst(states) is State.TRUNCATED
    assert worst_exit_code(verdict(state) for state in states) == 2
    assert worst([]) is State.SOUND
    assert worst_exit_code([]) == 0


def test_a_verdict_survives_json(tmp_path):
    for found in (verdict(State.DAMAGED), verify_path(tmp_path / "gone.pt")):
        again = msgspec.json.decode(msgspec.json.encode(found), type=Verdict)

        assert again == found


def test_json_is_snake_case_and_leaves_out_what_is_unknown():
    fields = json.loads(msgspec.json.encode(verdict(State.CHANGED_SINCE_SAVE)))

    assert fields["state"] == "changed_since_save"
    assert fields["findings"] == [
        {"file": "model.pt", "message": "so it is", "offset": 7}
    ]
