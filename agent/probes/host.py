"""What the process and its host use: processor, memory, files, disk, network."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from agent.emitter import Emitter
from agent.rundir.events import HostStats


@dataclass
class HostProbe:
    """Samples on demand; processor shares are means since the sample before."""

    run_dir: Path
    emitter: Emitter
    _process: psutil.Process = field(default_factory=psutil.Process)

    def __post_init__(self) -> None:
        self._process.cpu_percent()
        psutil.cpu_percent()

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
        with self._process.oneshot():
            network = psutil.net_io_counters()
            return {
                "cpu_frac": self._process.cpu_percent() / 100,
                "rss_bytes": self._process.memory_info().rss,
                "num_threads": self._process.num_threads(),
                "num_fds": self._process.num_fds(),
                "host_cpu_frac": psutil.cpu_percent() / 100,
                "mem_free_bytes": psutil.virtual_memory().available,
                "disk_free_bytes": self._disk_free_bytes(),
                "net_sent_bytes": network.bytes_sent if network else None,
                "net_received_bytes": network.bytes_recv if network else None,
                **_gpu_memory(),
            }

    def _disk_free_bytes(self) -> int | None:
        try:
            return psutil.disk_usage(str(self.run_dir)).free
        except OSError:
            return None


def _gpu_memory() -> dict[str, int]:
    """Return torch's own counts where this process already uses a GPU."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    return {
        "gpu_allocated_bytes": torch.cuda.memory_allocated(),
        "gpu_reserved_bytes": torch.cuda.memory_reserved(),
    }
