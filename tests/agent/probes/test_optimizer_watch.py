import json

import pytest
import torch

from agent.emitter import Emitter
from agent.probes.optimizer_watch import OptimizerProbe


def test_every_so_many_steps_an_event_with_the_step_it_belongs_to(tmp_path):
    path = tmp_path / "x.jsonl"
    emitter = Emitter(path, node="rank-0", rank=0)
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    OptimizerProbe(emitter, optimizer, model.named_parameters(), every=3)

    for step in range(1, 8):
        model(torch.ones(4)).sum().backward()
        optimizer.step()
        emitter.step = step

    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [e["step"] for e in found] == [1, 4, 7]
    assert all(e["update_ratio"] > 0 for e in found)


def test_a_probe_whose_emitter_is_closed_measures_nothing(tmp_path, monkeypatch):
    emitter = Emitter(tmp_path / "x.jsonl", node="client-1", rank=None)
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    OptimizerProbe(emitter, optimizer, model.named_parameters(), every=1)
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    emitter.close()
    measured = []
    monkeypatch.setattr("agent.probes.optimizer_watch.measure", measured.append)
    monkeypatch.setattr("agent.probes.optimizer_watch.copy_parameters", measured.append)

    optimizer.step()

    assert measured == []


def test_a_probe_that_fails_is_counted_and_training_goes_on(tmp_path):
    emitter = Emitter(tmp_path / "x.jsonl", node="rank-0", rank=0)
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    OptimizerProbe(emitter, optimizer, model.named_parameters(), every=1)
    model(torch.ones(2)).sum().backward()
    before = model.weight.clone()

    optimizer.state[model.weight]["momentum_buffer"] = torch.ones(2, device="meta")
    optimizer.step()

    assert not torch.equal(model.weight, before)
    assert emitter.num_dropped == 1
    assert "optimizer probe" in emitter.problem


def test_no_memory_for_a_copy_costs_a_sample_and_not_the_step(tmp_path):
    class Full(torch.nn.Parameter):
        def detach(self):
            raise torch.OutOfMemoryError("no memory\n" + "and a page of kernels\n" * 99)

    emitter = Emitter(tmp_path / "x.jsonl", node="rank-0", rank=0)
    param = Full(torch.ones(2))
    optimizer = torch.optim.SGD([param], lr=0.1, foreach=False)
    OptimizerProbe(emitter, optimizer, [("w", param)], every=1)
    param.grad = torch.ones(2)

    optimizer.step()

    assert param.tolist() == pytest.approx([0.9, 0.9])
    assert emitter.problem == "optimizer probe: OutOfMemoryError: no memory"


def test_every_zero_steps_is_never(tmp_path):
    path = tmp_path / "x.jsonl"
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    emitter = Emitter(path, node="rank-0", rank=0)
    OptimizerProbe(emitter, optimizer, model.named_parameters(), every=0)
    model(torch.ones(2)).sum().backward()

    optimizer.step()

    assert path.read_bytes() == b""


def test_a_step_that_a_graph_records_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "x.jsonl"
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    emitter = Emitter(path, node="rank-0", rank=0)
    OptimizerProbe(emitter, optimizer, model.named_parameters(), every=1)
    model(torch.ones(2)).sum().backward()

    with monkeypatch.context() as recording:
        recording.setattr(torch.cuda, "is_initialized", lambda: True)
        recording.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        optimizer.step()
    assert path.read_bytes() == b""

    optimizer.step()
    assert b"optimizer_norms" in path.read_bytes()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # its compiler's
def test_of_a_compiled_step_the_probe_is_no_part(tmp_path):
    path, traced = tmp_path / "x.jsonl", []

    def backend(graph, _inputs):
        traced.append(graph.code)
        return graph

    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    @torch.compile(backend=backend)
    def step():
        optimizer.step()

    emitter = Emitter(path, node="rank-0", rank=0)
    OptimizerProbe(emitter, optimizer, model.named_parameters(), every=2)
    model(torch.ones(4)).sum().backward()

    for number in range(1, 6):
        step()
        emitter.step = number

    assert traced
    assert not any("norm" in code for code in traced)
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [e["step"] for e in found] == [1, 3, 5]
