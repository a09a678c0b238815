"""A server's store holds the rounds of one run and of one model."""

import pytest

from agent.rundir.errors import RunDirError
from tests.trainer.federated.bench import make_global, run_rounds, toy
from trainer.federated import global_model
from trainer.federated.problem import Shape
from trainer.federated.transfer import ForeignModelError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "chunks" / "server" / "server_chunks.db"


def test_another_runs_store_is_refused(path, monkeypatch):
    config = toy()
    model = make_global(path, config)
    run_rounds(model, config, [1])
    model.close()

    monkeypatch.setattr("tests.trainer.federated.bench.RUN_ID", "another")

    with pytest.raises(RunDirError, match="belongs to run `run`"):
        make_global(path, config)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (
            Shape(inputs=(1, 8, 8), num_classes=10),
            "`fc.bias` is float32 [1], this",
        ),
        (
            Shape(inputs=(7,), num_classes=0),
            "`fc.weight` is float32 [1, 10], this",
        ),
    ],
)
def test_a_store_of_another_model_is_refused_by_name(path, monkeypatch, other, told):
    config = toy()
    model = make_global(path, config)
    run_rounds(model, config, [1])
    model.close()
    make = global_model.make_model
    monkeypatch.setattr(
        global_model, "make_model", lambda _shape, seed: make(other, seed)
    )

    with pytest.raises(ForeignModelError) as caught:
        make_global(path, config)

    assert told in str(caught.value)
