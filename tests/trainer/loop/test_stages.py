"""The second stage goes back to the best of the first, and stays near it."""

import pytest
import torch

from agent.rundir.checkpoints import list_checkpoints
from agent.rundir.errors import LockedError
from agent.rundir.layout import RunDir
from agent.session import Agent
from tests.ranks import on_ranks
from tests.replaced import contents, other_run, replace
from tests.trainer.checkpoint.states import make_run, make_state, payload, publish
from tests.trainer.small import Line, make
from trainer.checkpoint.checking import differences
from trainer.config import TrainConfig
from trainer.distributed.world import World
from trainer.loop.stages import SecondStage

EPOCH = 10


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


def stage_of(run, agent, state, **settings):
    config = TrainConfig(stop_epoch=2, ema_restart_decay=0.5, **settings)
    return SecondStage(World(), run, agent, config, state, EPOCH)


def publish_at(run, step, loss, *, num_samples):
    state = make_state(seed=step)
    state.progress.num_samples = num_samples
    publish(run, step, state=state, metrics={"val_loss": loss})
    return payload(state)


@pytest.fixture
def agent(run, monkeypatch):
    monkeypatch.setenv("OPSDASH_AGENT", "off")
    with Agent.attach(run.path) as agent:
        yield agent


def test_at_its_start_the_best_of_the_first_stage_is_loaded(run, agent):
    publish_at(run, 1, 3.0, num_samples=EPOCH)
    best = publish_at(run, 2, 1.0, num_samples=2 * EPOCH)
    publish_at(run, 3, 0.5, num_samples=2 * EPOCH + 1)
    state = make_state(seed=9)
    state.progress.epoch = 2
    stage = stage_of(run, agent, state)

    told = stage.epoch_begins()

    now = payload(state)
    assert "loaded `step-00000002`" in told
    assert differences(best["model"], now["model"]) == []
    assert differences(best["average"]["model"], now["average"]["model"]) == []
    assert differences(best["optimizer"]["state"], now["optimizer"]["state"]) == []
    assert state.average.decay == 0.5
    assert [e.name for e in list_checkpoints(run) if e.is_pinned] == ["step-00000002"]


def test_a_later_epoch_that_is_not_better_is_undone(run, agent):
    best = publish_at(run, 2, 1.0, num_samples=EPOCH)
    state = make_state(seed=9)
    state.average.decay = 0.5
    state.progress.epoch = 3
    state.progress.best.observe(1.0, 2)
    stage = stage_of(run, agent, state)

    told = stage.epoch_evaluated(is_best=False)

    assert "loaded `step-00000002`" in told
    assert differences(best["model"], payload(state)["model"]) == []
    assert state.average.decay == pytest.approx(0.4999)
    assert state.progress.best.observe(99.0, 3)


@pytest.mark.parametrize(("epoch", "is_best"), [(3, True), (2, False), (1, False)])
def test_a_better_epoch_and_the_first_stage_are_left_alone(run, agent, epoch, is_best):
    publish_at(run, 2, 1.0, num_samples=EPOCH)
    state = make_state(seed=9)
    state.progress.epoch = epoch
    before = payload(state)

    assert stage_of(run, agent, state).epoch_evaluated(is_best=is_best) is None

    assert differences(before["model"], payload(state)["model"]) == []


@pytest.mark.parametrize("epoch", [0, 1, 3])
def test_other_epochs_begin_as_they_are(run, agent, epoch):
    publish_at(run, 2, 1.0, num_samples=EPOCH)
    state = make_state(seed=9)
    state.progress.epoch = epoch

    assert stage_of(run, agent, state).epoch_begins() is None


def test_without_a_checkpoint_of_the_first_stage_nothing_is_loaded(run, agent):
    publish_at(run, 3, 0.5, num_samples=2 * EPOCH + 1)
    state = make_state(seed=9)
    state.progress.epoch = 2

    told = stage_of(run, agent, state).epoch_begins()

    assert "none loaded" in told


def test_in_another_runs_directory_nothing_is_loaded_or_pinned(tmp_path, run, agent):
    other = RunDir(other_run(tmp_path / "other", "ddp"))
    publish_at(other, 2, 1.0, num_samples=EPOCH)
    state = make_state(seed=9)
    state.progress.epoch = 2
    stage, before = stage_of(run, agent, state), contents(other.path)
    replace(run.path, other.path)

    with pytest.raises(LockedError, match="another run lies in"):
        stage.epoch_begins()

    assert contents(run.path) == before


def test_a_stop_epoch_of_0_switches_it_off(run, agent):
    state = make_state()
    stage = SecondStage(World(), run, agent, TrainConfig(), state, EPOCH)

    assert not stage.is_on
    assert stage.epoch_begins() is None
    assert stage.epoch_evaluated(is_best=False) is None


def train_in_stages(run_dir):
    model = Line()
    still = torch.optim.SGD(model.parameters(), lr=1e-30)
    trainer = make(
        run_dir,
        model=model,
        optimizer=still,
        max_epochs=5,
        stop_epoch=1,
        ema_decay=0.9,
        ema_restart_decay=0.5,
    )
    return trainer.train().step


@pytest.mark.dist
def test_all_ranks_go_back_together_in_a_whole_run(tmp_path):
    ended = on_ranks(2, train_in_stages, tmp_path / "run", joins=False)

    assert [end.value for end in ended] == [15, 15]
    run = make_run(tmp_path / "run")
    newest = list_checkpoints(run)[0]
    saved = torch.load(newest.path / "state.pt", weights_only=True)
    # Undone after the second and the fourth epoch; in between any loss is best.
    assert saved["average"]["decay"] == pytest.approx(0.4998)
    assert [e.name for e in list_checkpoints(run) if e.is_pinned] == ["step-00000003"]


STAGED = {
    "max_epochs": 4,
    "stop_epoch": 1,
    "ema_decay": 0.9,
    "ema_restart_decay": 0.5,
    "save_every": 2,
    "keep": 99,
}


def train_dropping(run_dir, settings):
    model = Line(dropout=0.3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
    return make(run_dir, model=model, optimizer=optimizer, **settings).train().step


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("staged") / "whole"
    on_ranks(2, train_dropping, path, STAGED, joins=False)
    return path


@pytest.mark.dist
@pytest.mark.parametrize("die_at", [4, 5, 7, 11])
def test_a_run_that_is_killed_in_its_second_stage_ends_as_if_it_was_not(
    whole, tmp_path, die_at
):
    """Epochs end at steps 3, 6, 9 and 12: also where an epoch was undone."""
    parted = tmp_path / "parted"
    on_ranks(2, train_dropping, parted, STAGED | {"die_at": die_at}, joins=False)

    ended = on_ranks(2, train_dropping, parted, STAGED, joins=False)

    assert [end.value for end in ended] == [12, 12], ended
    states = [
        torch.load(
            list_checkpoints(RunDir(path))[0].path / "state.pt", weights_only=True
        )
        for path in (whole, parted)
    ]
    assert differences(*states) == []
