"""What the host offers: versions, memory, GPUs, and the variables of training."""

import os
import platform
import shutil
import socket
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import psutil

from opsdash import units
from opsdash.commands.checks import Check, Mark

_PACKAGES = ("textual", "watchdog", "msgspec", "torch", "grpcio")
_PREFIXES = ("NCCL_", "GLOO_", "TORCH_", "TORCHELASTIC_", "MASTER_")
_NAMES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
_LEAST_MEMORY_FRAC = 0.1
_GPU_FIELDS = (
    "name,memory.used,memory.total,temperature.gpu,"
    "ecc.errors.uncorrected.volatile.total"
)
_INTERFACE_VARIABLES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
_FULL_FRAC = 0.95
_ASK_S = 5


def check_host() -> Iterator[Check]:
    """Look at versions, memory, GPUs and the environment."""
    yield Check(
        Mark.OK,
        "versions",
        f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {_version(name)}" for name in _PACKAGES),
    )
    yield _memory()
    yield from _gpus()
    yield from _environment()
    yield from check_interfaces(dict(os.environ))
    yield from check_peer(dict(os.environ))


def check_interfaces(environment: dict[str, str]) -> Iterator[Check]:
    """Look at the network interfaces, and at those that the variables name."""
    up = [name for name, found in psutil.net_if_stats().items() if found.isup]
    yield Check(Mark.OK if up else Mark.WARN, "interfaces", ", ".join(up) or "none up")
    for variable in _INTERFACE_VARIABLES:
        wanted = environment.get(variable, "")
        # NCCL: `=` is the whole name, `^` all but these, else a beginning.
        names = [
            name.strip() for name in wanted.lstrip("=^").split(",") if name.strip()
        ]
        lost = [name for name in names if not any(one.startswith(name) for one in up)]
        if lost and not wanted.startswith("^"):
            yield Check(
                Mark.WARN,
                variable,
                f"{wanted}: no interface {', '.join(lost)} is up here",
                f"export {variable}={_likely(up)}",
            )


def _likely(names: list[str]) -> str:
    """Return the interface that other hosts can probably be reached by."""
    return next((name for name in names if name != "lo"), "eth0")


def check_peer(environment: dict[str, str]) -> Iterator[Check]:
    """Try to reach the host that ranks meet at, where the environment names one."""
    host, port = environment.get("MASTER_ADDR"), environment.get("MASTER_PORT", "")
    if not host:
        return
    what = f"MASTER_ADDR {host}"
    try:
        if port.isdecimal():
            socket.create_connection((host, int(port)), timeout=_ASK_S).close()
            yield Check(Mark.OK, what, f"port {port} answers")
        else:
            address = socket.gethostbyname(host)
            yield Check(Mark.OK, what, f"resolves to {address}")
    except ConnectionRefusedError:
        yield Check(Mark.NOTE, what, f"reached; nobody listens on port {port} now")
    except OSError as error:
        yield Check(
            Mark.WARN,
            what,
            f"cannot be reached: {error}",
            "check the name, the firewall, and NCCL_SOCKET_IFNAME / GLOO_SOCKET_IFNAME",
        )


def _memory() -> Check:
    memory = psutil.virtual_memory()
    free_frac = memory.available / memory.total
    is_low = free_frac < _LEAST_MEMORY_FRAC
    return Check(
        Mark.WARN if is_low else Mark.OK,
        "memory",
        f"{units.byte_size(memory.available)} of {units.byte_size(memory.total)} "
        f"available, {os.cpu_count()} cores",
        "a rank may be killed for memory" if is_low else "",
    )


def _gpus() -> Iterator[Check]:
    """Ask the driver's own tool; torch is never loaded here."""
    program = shutil.which("nvidia-smi")
    if program is None:
        yield Check(Mark.NOTE, "GPU", "none that nvidia-smi tells of")
        return
    command = [program, f"--query-gpu={_GPU_FIELDS}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(  # noqa: S603 - found on PATH, fixed arguments
            command, capture_output=True, text=True, timeout=_ASK_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        yield Check(Mark.WARN, "GPU", f"nvidia-smi fails: {error}", "nvidia-smi -q")
        return
    for number, line in enumerate(answer.stdout.splitlines()[:16]):
        yield _gpu(number, line)


def _gpu(number: int, line: str) -> Check:
    cells = [cell.strip() for cell in line.split(",")]
    errors = cells[-1] if cells else ""
    is_bad = errors.isdecimal() and int(errors) > 0
    used, total = (_mebibytes(cell) for cell in (*cells[1:3], "", "")[:2])
    is_full = bool(total) and used > _FULL_FRAC * total
    advice = "its memory is taken: whose process is it? nvidia-smi" if is_full else ""
    return Check(
        Mark.WARN if is_bad or is_full else Mark.OK,
        f"GPU {number}",
        ", ".join(cells[:4]) + (" C" if len(cells) > 3 else ""),
        f"{errors} uncorrected memory errors: take it out" if is_bad else advice,
    )


def _mebibytes(cell: str) -> int:
    """Return what nvidia-smi says of a memory, such as `1024 MiB`; 0: nothing."""
    number = cell.partition(" ")[0]
    return int(number) if number.isdecimal() else 0


def _environment() -> Iterator[Check]:
    found = {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith(_PREFIXES) or name in _NAMES
    }
    if not found:
        yield Check(Mark.OK, "environment", "nothing steers distributed training")
    for name, value in list(found.items())[:40]:
        advice = ""
        if name == "NCCL_TIMEOUT":
            advice = "torch reads no such variable; this trainer takes it as seconds"
        yield Check(Mark.NOTE, name, value, advice)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
