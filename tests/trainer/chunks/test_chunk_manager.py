import pytest
import torch
from torch import nn

from agent.rundir.chunks.errors import NoSuchRoundError
from agent.rundir.chunks.reader import ChunkStoreReader
from agent.rundir.chunks.sources import stores_in
from trainer.chunks.chunk_manager import ChunkManager
from trainer.chunks.fit import CannotFitError


class Toy(nn.Module):
    """Linear regression: `fc.weight [1, 10]`, `fc.bias [1]`, 11 parameters."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(10, 1)

    def forward(self, x):
        return self.fc(x)


class SmallNet(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
        self.inputs = torch.randn(4, 6)


class BatchNormNet(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
        self.inputs = torch.randn(4, 6)


class Cnn(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(4 * 6 * 6, 10),
        )
        self.inputs = torch.randn(2, 1, 8, 8)


@pytest.fixture
def manager(tmp_path):
    with ChunkManager(1, tmp_path) as opened:
        yield opened


@pytest.mark.parametrize("chunk_num", range(2, 13))
@pytest.mark.parametrize("kind", [SmallNet, BatchNormNet, Cnn])
def test_models_come_back_bitwise_and_compute_the_same(manager, kind, chunk_num):
    model, other = kind(), kind()
    model(model.inputs)  # moves the running statistics
    manager.save_model_chunks(model, 1, chunk_num)

    assert manager.reconstruct_model_from_chunks(1, other)

    assert len(manager.load_chunks_by_round(1)) == chunk_num
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)
    assert torch.equal(model.eval()(model.inputs), other.eval()(model.inputs))


def test_buffers_of_batch_norm_come_back(manager):
    model, other = BatchNormNet(), BatchNormNet()
    for _ in range(3):
        model(model.inputs)

    manager.save_model_chunks(model, 1)
    manager.reconstruct_model_from_chunks(1, other)

    assert other[1].num_batches_tracked == 3
    assert torch.equal(other[1].running_mean, model[1].running_mean)
    assert torch.equal(other[1].running_var, model[1].running_var)


def test_the_split_is_described_as_the_original_does():
    params = ChunkManager.model_to_params(Toy())

    chunks = ChunkManager.split_model(params, 10)

    assert [chunk["chunk_id"] for chunk in chunks] == list(range(10))
    assert [chunk["flat_size"] for chunk in chunks] == [1] * 9 + [2]
    assert chunks[0]["parts"] == {"fc.weight": [(0, 1, (1, 10))]}
    assert chunks[9]["parts"] == {
        "fc.weight": [(9, 10, (1, 10))],
        "fc.bias": [(0, 1, (1,))],
    }


def test_chunks_hold_what_the_split_says(manager):
    model = SmallNet()
    params = manager.model_to_params(model)
    manager.save_model_chunks(model, 1, 4)

    for chunk_info, data in manager.load_chunks_by_round(1):
        assert torch.equal(manager.extract_chunk_data(params, chunk_info), data)
        assert data.numel() == chunk_info["flat_size"]


def test_a_chunk_of_several_dtypes_comes_as_bytes(manager):
    model = nn.BatchNorm1d(2)
    params = manager.model_to_params(model)
    manager.save_model_chunks(model, 1, 1)

    info, data = manager.get_chunk_by_id(1, 0)

    assert data.dtype == torch.uint8
    assert data.numel() == 4 * 8 + 8
    assert info["flat_size"] == 9
    pieces = [params[name].reshape(-1).view(torch.uint8) for name in info["parts"]]
    assert torch.equal(data, torch.cat(pieces))


def test_extracting_what_is_not_there_is_a_mistake():
    with pytest.raises(KeyError):
        ChunkManager.extract_chunk_data(
            {}, {"chunk_id": 0, "parts": {"w": [(0, 1, (1,))]}, "flat_size": 1}
        )


def test_a_round_that_is_not_there_is_no_false(manager):
    with pytest.raises(NoSuchRoundError):
        manager.reconstruct_model_from_chunks(1, Toy())
    with pytest.raises(NoSuchRoundError):
        manager.load_chunks_by_round(1)


def test_another_model_is_left_as_it_was(manager):
    manager.save_model_chunks(Toy(), 1)
    other = SmallNet()
    before = other[0].weight.clone()

    with pytest.raises(CannotFitError):
        manager.reconstruct_model_from_chunks(1, other)

    assert torch.equal(other[0].weight, before)


def test_a_renamed_layer_is_matched_by_its_shape(manager):
    manager.save_model_chunks(Toy(), 1)
    renamed = nn.Sequential()
    renamed.add_module("linear", nn.Linear(10, 1))

    assert manager.reconstruct_model_from_chunks(1, renamed)


def test_a_round_saved_again_is_replaced(manager):
    first, second = Toy(), Toy()
    manager.save_model_chunks(first, 1)
    manager.save_model_chunks(second, 1)

    loaded = Toy()
    manager.reconstruct_model_from_chunks(1, loaded)

    assert torch.equal(loaded.fc.weight, second.fc.weight)


def test_rounds_beyond_those_to_keep_go(tmp_path):
    with ChunkManager("server", tmp_path, chunk_keep_rounds=3) as manager:
        for round_num in range(1, 6):
            manager.save_model_chunks(Toy(), round_num)

        assert [row.round_num for row in manager.store.rounds()] == [3, 4, 5]
        assert manager.cleanup_old_rounds(1) == (3, 4)
        assert manager.get_storage_stats().num_rounds == 1


def test_zero_is_no_word_for_the_default(manager):
    manager.save_model_chunks(Toy(), 1)

    with pytest.raises(ValueError, match="keep_rounds is 0"):
        manager.cleanup_old_rounds(0)
    with pytest.raises(ValueError, match="chunk_num is 0"):
        manager.save_model_chunks(Toy(), 2, num_chunks=0)

    assert [row.round_num for row in manager.store.rounds()] == [1]


def test_five_rounds_of_the_toy_on_a_server_and_three_clients(tmp_path):
    """1 server, 3 clients, 5 rounds of 2 local steps, SGD 0.01, 10 chunks."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, 64, 10, generator=generator)
    targets = inputs @ torch.randn(10, 1, generator=generator)
    server = Toy()
    losses = []
    managers = [ChunkManager(key, tmp_path) for key in ("server", 1, 2, 3)]

    for round_num in range(1, 6):
        clients = []
        for client, manager in enumerate(managers[1:]):
            model = Toy()
            model.load_state_dict(server.state_dict())
            optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
            for _ in range(2):
                optimizer.zero_grad()
                loss = nn.functional.mse_loss(model(inputs[client]), targets[client])
                loss.backward()
                optimizer.step()
            manager.save_model_chunks(model, round_num)
            clients.append(model)
        mean = {
            name: torch.stack([m.state_dict()[name] for m in clients]).mean(0)
            for name in server.state_dict()
        }
        server.load_state_dict(mean)
        managers[0].save_model_chunks(server, round_num)
        losses.append(nn.functional.mse_loss(server(inputs), targets).item())
    restored = Toy()
    managers[0].reconstruct_model_from_chunks(5, restored)
    for manager in managers:
        manager.close()

    assert losses == sorted(losses, reverse=True)
    assert torch.equal(restored.fc.weight, server.fc.weight)
    stores = dict(stores_in(tmp_path))
    assert set(stores) == {"server", "client-1", "client-2", "client-3"}
    for path in stores.values():
        with ChunkStoreReader(path) as reader:
            assert reader.stats().num_chunk_rows == 50
            assert reader.verify().is_sound
