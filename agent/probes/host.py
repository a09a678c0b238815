"""What the process and its host use: processor, memory, files, disk, network."""

import contextlib
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil

from agent.emitter import Emitter
from agent.rundir.events import HostStats


@dataclass
class HostProbe:
    """Samples on demand; processor shares are means since the sample before."""

    run_dir: Path
    emitter: Emitter
    _process: psutil.Process | None = field(default=None, init=False)
    """None: where there is no `/proc`, training begins all the same."""

    def __post_init__(self) -> None:
        with contextlib.suppress(psutil.Error, OSError):
            self._begin()

    def look(self) -> None:
        """Write one sample, with what the agent itself has cost so far."""
        self.emitter.emit(
            HostStats,
            agent_ns=self.emitter.busy_ns,
            agent_bytes=self.emitter.num_bytes,
            **self.sample(),
        )

    def sample(self) -> dict[str, Any]:
        """Return the fields of a `HostStats` event that the host can tell."""
        process = self._process or self._begin()
        with process.oneshot():
            # What keeps it from wrapping has a lock, which a process that is forked
            # meanwhile would inherit for ever.
            network = psutil.net_io_counters(nowrap=False)
            return {
                "cpu_frac": process.cpu_percent() / 100,
                "rss_bytes": process.memory_info().rss,
                "num_threads": process.num_threads(),
                "num_fds": process.num_fds(),
                "host_cpu_frac": psutil.cpu_percent() / 100,
                "mem_free_bytes": psutil.virtual_memory().available,
                "disk_free_bytes": self._disk_free_bytes(),
                "net_sent_bytes": network.bytes_sent if network else None,
                "net_received_bytes": network.bytes_recv if network else None,
                **_gpu(),
            }

    def _begin(self) -> psutil.Process:
        """Begin to count what shares are of."""
        process = psutil.Process()
        process.cpu_percent()
        psutil.cpu_percent()
        self._process = process
        return process

    def _disk_free_bytes(self) -> int | None:
        try:
            return psutil.disk_usage(str(self.run_dir)).free
        except OSError:
            return None


def _gpu() -> dict[str, Any]:
    """Return what torch knows of the GPUs that this process already uses.

    The agent's thread has a current device of its own, so every device is asked;
    and only for what needs no call into CUDA, which may be recording a graph.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    cuda = torch.cuda
    reserved = {n: cuda.memory_reserved(n) for n in range(cuda.device_count())}
    used = [n for n, num_bytes in reserved.items() if num_bytes]
    if not used:
        return {}
    return {
        "gpu_allocated_bytes": sum(cuda.memory_allocated(n) for n in used),
        "gpu_reserved_bytes": sum(reserved.values()),
        "gpu_frac": _gpu_frac(cuda, used),
    }


def _gpu_frac(cuda: ModuleType, used: list[int]) -> float | None:
    """Return the greatest utilisation; None: NVML or its package is not there."""
    try:
        return float(max(cuda.utilization(n) for n in used)) / 100
    except Exception:  # noqa: BLE001 - what NVML raises depends on a package that may be missing
        return None
