"""Weights to begin with, from a file or from an http(s) address.

What comes from the network is written beside its final name, hashed on the way,
compared with the digest that was asked for and verified byte by byte before it
is unpickled; and then only tensors are.
"""

import hashlib
import os
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any
from urllib.error import URLError
from urllib.parse import urlsplit

import torch
from safetensors.torch import load_file
from torch import nn

from agent.rundir.atomic import fsync_directory
from agent.rundir.errors import DamagedCheckpointError, UnreadableFileError
from agent.rundir.verify.path import verify_path
from agent.rundir.verify.verdict import EXIT_DAMAGED, Level
from trainer.checkpoint.load import file_digest
from trainer.checkpoint.plain import why_not_loaded
from trainer.optim.ema import without_prefix

_BLOCK_BYTES = 1 << 20
_TIMEOUT_S = 30.0
_MODEL_KEYS = ("model", "state_dict", "model_state_dict")
"""Under which foreign checkpoints keep a model, in the order of preference."""


def fetch(source: str, folder: Path, digest: str) -> Path:
    """Return a local, verified file with the weights. Rank 0 only.

    Args:
        source: A path, or an `http://` or `https://` address.
        folder: Where a download goes; made if missing.
        digest: `sha256:…` or `blake3:…`; empty: any.

    Raises:
        UnreadableFileError: it cannot be had.
        DamagedCheckpointError: it has another digest, or is damaged.
    """
    if urlsplit(source).scheme in ("http", "https"):
        path = _download(source, folder, digest)
    else:
        path = Path(source).absolute()
        _require_digest(path, digest)
    verdict = verify_path(path, Level.CONTENT)
    if verdict.exit_code == EXIT_DAMAGED:
        why = "; ".join(finding.message for finding in verdict.findings[:3])
        raise DamagedCheckpointError(
            f"`{path}` is {verdict.state.value}: {why}", hint=f"opsdash verify {path}"
        )
    return path


def load_weights(path: Path, model: nn.Module) -> None:
    """Put the weights of a file into a model.

    Args:
        path: A state dict, or a checkpoint that has one under a usual name; of
            torch or of safetensors.
        model: Unwrapped; names and shapes must be the file's.

    Raises:
        UnreadableFileError: the file is something else, or of another model.
    """
    try:
        found = _read(path)
        weights = next((found[k] for k in _MODEL_KEYS if k in found), found)
        model.load_state_dict(without_prefix(weights, model))
    except Exception as error:  # foreign bytes make an unpickler raise anything
        raise UnreadableFileError(
            f"`{path}` has no weights for this model: {why_not_loaded(error)}"
        ) from error


def _read(path: Path) -> Any:  # noqa: ANN401 - whatever was saved
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _download(address: str, folder: Path, digest: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    name = Path(urlsplit(address).path).name or "weights"
    key = hashlib.sha256(f"{address} {digest}".encode()).hexdigest()[:16]
    final = folder / f"{key}-{name}"
    if final.exists() and digest:
        _require_digest(final, digest)
        return final
    partial = folder / f".{final.name}.{os.getpid()}.partial"
    try:
        with partial.open("wb") as file:
            _copy(address, file)
            os.fsync(file.fileno())
        _require_digest(partial, digest)
        partial.replace(final)
    finally:
        partial.unlink(missing_ok=True)
    fsync_directory(folder)
    return final


def _copy(address: str, file: IO[bytes]) -> None:
    try:
        with urllib.request.urlopen(address, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - the scheme was checked
            expected = answer.headers.get("Content-Length")
            while block := answer.read(_BLOCK_BYTES):
                file.write(block)
        file.flush()
    except (URLError, OSError, HTTPException, ValueError) as error:
        raise UnreadableFileError(f"`{address}` cannot be fetched: {error}") from error
    if expected is not None and file.tell() != int(expected):
        raise UnreadableFileError(
            f"`{address}` ended after {file.tell()} of {expected} bytes"
        )


def _require_digest(path: Path, digest: str) -> None:
    if not digest:
        return
    try:
        with path.open("rb") as file:
            found = file_digest(file, like=digest)
    except OSError as error:
        raise UnreadableFileError(f"`{path}` cannot be checked: {error}") from error
    if found != digest:
        raise DamagedCheckpointError(
            f"`{path}` has digest `{found}`, `{digest}` was asked for"
        )
