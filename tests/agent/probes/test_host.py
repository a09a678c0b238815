"""What a process and its host use, as it stands in telemetry."""

import sys
from types import SimpleNamespace

import psutil
import pytest
import torch

from agent.emitter import Emitter
from agent.probes.host import HostProbe
from agent.rundir.events import HostStats, decode_lines


def sample(folder) -> HostStats:
    path = folder / "rank-00000.jsonl"
    emitter = Emitter(path, node="rank-0", rank=0)
    HostProbe(folder, emitter).look()
    [found] = decode_lines(path.read_bytes())
    return found


def test_a_sample_tells_of_the_process_the_host_and_the_agent(tmp_path):
    found = sample(tmp_path)

    assert found.rss_bytes > 1 << 20
    assert found.num_threads >= 1
    assert found.num_fds >= 3
    assert found.mem_free_bytes > 0
    assert found.disk_free_bytes > 0
    assert found.net_sent_bytes >= 0
    assert found.net_received_bytes >= 0
    assert (found.agent_ns, found.agent_bytes) == (0, 0)


def test_a_host_that_tells_nothing_of_processes_keeps_no_trainer_from_beginning(
    tmp_path, monkeypatch
):
    def refuse(_process):
        raise psutil.NoSuchProcess(1)

    emitter = Emitter(tmp_path / "rank-00000.jsonl", node="rank-0", rank=0)
    with monkeypatch.context() as without_proc:
        without_proc.setattr(psutil.Process, "cpu_percent", refuse)
        probe = HostProbe(tmp_path, emitter)
        with pytest.raises(psutil.NoSuchProcess):  # told once by the pulse
            probe.look()

    assert probe.sample()["rss_bytes"] > 1 << 20


def test_a_process_without_a_gpu_tells_nothing_of_one(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")

    found = sample(tmp_path)

    assert (found.gpu_reserved_bytes, found.gpu_frac) == (None, None)


def test_all_gpus_that_a_process_uses_are_added_up(tmp_path, monkeypatch):
    """No GPU is needed to see which devices are asked, and that none is current."""
    held = {0: 0, 1: 300, 2: 500}
    cuda = SimpleNamespace(
        is_initialized=lambda: True,
        device_count=lambda: len(held),
        memory_reserved=held.__getitem__,
        memory_allocated=lambda device: held[device] // 2,
        utilization={1: 40, 2: 90}.__getitem__,
    )
    monkeypatch.setattr(torch, "cuda", cuda)

    found = sample(tmp_path)

    assert (found.gpu_allocated_bytes, found.gpu_reserved_bytes) == (400, 800)
    assert found.gpu_frac == 0.9


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_another_threads_device_is_no_obstacle(tmp_path):
    tensor = torch.zeros(1 << 20, device=f"cuda:{torch.cuda.device_count() - 1}")

    found = sample(tmp_path)

    assert found.gpu_allocated_bytes >= tensor.nbytes
    assert found.gpu_reserved_bytes >= found.gpu_allocated_bytes
