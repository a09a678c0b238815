"""Values of real training states, looked at after their bytes were found right."""

import copy
import json

import pytest
import safetensors.torch
import torch

from agent.rundir.layout import MANIFEST_NAME, STATE_NAME
from agent.rundir.manifest import encode_manifest, parse_manifest
from agent.rundir.verify.verdict import State
from tests.agent.rundir.verify.archives import saved, write_checkpoint
from trainer.checkpoint.deep import look_at, main
from trainer.checkpoint.describe import describe_optimizer, describe_tensors
from trainer.optim.ema import WeightAverage


def trained_state():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(3):
        model(torch.randn(5, 4)).sum().backward()
        optimizer.step()
    state = {
        "schema": 1,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": WeightAverage(model, 0.9).state_dict(),
        "progress": {"step": 3},
        "rng": [{"torch": torch.get_rng_state()}],
    }
    return copy.deepcopy(state), describe_optimizer(optimizer, model)


@pytest.fixture
def state():
    return trained_state()[0]


def publish(tmp_path, state, **fields):
    directory = tmp_path / "step-00000003"
    settings = {
        "step": 3,
        "tensors": describe_tensors(state, STATE_NAME),
        "optimizer": trained_state()[1],
        "has_rng": True,
        "has_ema": True,
        **fields,
    }
    write_checkpoint(directory, {STATE_NAME: saved(state)}, **settings)
    return directory


def messages(outcome):
    return [finding.message for finding in outcome.findings]


def test_a_checkpoint_as_trained_is_sound(state, tmp_path):
    outcome = look_at(publish(tmp_path, state))

    assert outcome.state is State.SOUND
    assert outcome.findings == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_named(value, state, tmp_path):
    state["optimizer"]["state"][1]["exp_avg"][2] = value

    outcome = look_at(publish(tmp_path, state))

    assert outcome.state is State.DAMAGED
    assert outcome.findings[0].tensor == "optimizer.state.1.exp_avg"
    assert outcome.findings[0].found.startswith("1 ")


def test_only_minus_infinity_is_mentioned_and_no_damage(state, tmp_path):
    state["model"]["mask"] = torch.full((3, 3), float("-inf")).triu(1)

    outcome = look_at(publish(tmp_path, state))

    assert outcome.state is State.SOUND
    assert outcome.findings[0].tensor == "model.mask"
    assert outcome.findings[0].found == "3 -inf"


def without(part):
    return lambda state: state.update({part: None})


def with_other_shape(state):
    state["model"]["0.weight"] = torch.ones(8, 5)


def with_other_dtype(state):
    state["model"]["0.bias"] = state["model"]["0.bias"].half()


def with_renamed_tensor(state):
    state["model"]["0.weigth"] = state["model"].pop("0.weight")


def with_other_step(state):
    state["progress"]["step"] = 2


def with_a_step_ahead(state):
    state["optimizer"]["state"][2]["step"] += 4


def with_fewer_parameters(state):
    state["optimizer"]["param_groups"][0]["params"].pop()


def with_other_moments(state):
    state["optimizer"]["state"][0]["exp_avg"] = torch.ones(4, 8)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (without("rng"), "random number generators"),
        (without("average"), "average of the weights"),
        (without("optimizer"), "optimizer's state is missing"),
        (with_other_step, "completed steps"),
        (with_a_step_ahead, "the step counter of `1.weight` is 7"),
        (with_fewer_parameters, "the optimizer's parameters"),
        (with_other_moments, "`exp_avg` of `0.weight`"),
    ],
)
def test_a_promise_of_the_manifest_that_is_not_kept(change, told, state, tmp_path):
    change(state)

    outcome = look_at(publish(tmp_path, state))

    assert outcome.state is State.DAMAGED
    assert any(told in message for message in messages(outcome))


@pytest.mark.parametrize(
    ("change", "tensor"),
    [
        (with_other_shape, "model.0.weight"),
        (with_other_dtype, "model.0.bias"),
        (with_renamed_tensor, "model.0.weight"),
    ],
)
def test_a_tensor_that_is_not_as_described_is_named(change, tensor, state, tmp_path):
    described = describe_tensors(state, STATE_NAME)
    change(state)

    outcome = look_at(publish(tmp_path, state, tensors=described))

    assert outcome.state is State.DAMAGED
    assert outcome.findings[0].tensor == tensor


@pytest.mark.parametrize("legacy", [False, True])
def test_a_bare_file_is_asked_for_finite_values(legacy, tmp_path):
    path = tmp_path / "model.pt"
    data = {"a": torch.ones(3), "b": [torch.tensor([1.0, float("nan")])]}
    path.write_bytes(saved(data, _use_new_zipfile_serialization=not legacy))

    outcome = look_at(path)

    assert outcome.state is State.DAMAGED
    assert [f.tensor for f in outcome.findings] == ["b.0"]


def test_safetensors_are_asked_too(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"w": torch.tensor([float("inf")])}, path)

    assert look_at(path).findings[0].tensor == "w"


class Custom:
    pass


def test_what_only_code_could_load_is_not_loaded(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"object": Custom()}, path)

    outcome = look_at(path)

    assert outcome.state is State.UNREADABLE
    assert "only run code can make" in outcome.findings[0].message


def test_files_of_other_kinds_are_passed_over_aloud(tmp_path):
    directory = tmp_path / "step-00000003"
    write_checkpoint(directory, {"config.json": b"{}", "__0_0.distcp": b"x"})

    outcome = look_at(directory)

    assert outcome.state is State.SOUND
    assert [f.file for f in outcome.findings] == ["config.json", "__0_0.distcp"]


def test_the_command_prints_one_line_of_json(state, tmp_path, capfdbinary):
    state["model"]["0.bias"][0] = float("nan")

    code = main([str(publish(tmp_path, state))])

    printed = capfdbinary.readouterr().out
    answer = json.loads(printed)
    assert printed.count(b"\n") == 1
    assert code == 2
    assert answer["state"] == "damaged"
    assert answer["findings"][0]["tensor"] == "model.0.bias"


def test_a_manifest_that_cannot_be_read_cannot_be_compared(state, tmp_path):
    directory = publish(tmp_path, state)
    (directory / MANIFEST_NAME).write_text("{}")

    assert look_at(directory).state is State.UNREADABLE


def test_manifests_of_these_tests_are_real(state, tmp_path):
    directory = publish(tmp_path, state)
    data = (directory / MANIFEST_NAME).read_bytes()

    manifest = parse_manifest(data, directory)

    assert encode_manifest(manifest).splitlines()[:5] == data.splitlines()[:5]
    assert len(manifest.tensors) > 10
