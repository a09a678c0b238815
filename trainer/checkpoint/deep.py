"""Look at the values of a checkpoint: `python -m trainer verify-deep PATH`.

The verifier runs this in a process of its own, after every byte was found to be
as saved. Files are mapped and loaded with `weights_only`, so nothing in them is
run; one line of JSON goes to standard output. What is left to be found are
mistakes of whoever saved: values that are not finite, a state that is not what
its manifest describes, an optimizer whose steps do not fit.
"""

import pickle
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import safetensors.torch
import torch
from torch import Tensor

from agent.rundir.errors import RunDirError
from agent.rundir.layout import MANIFEST_NAME, STATE_NAME
from agent.rundir.manifest import Manifest, TensorEntry, read_manifest
from agent.rundir.verify.deep import DEEP_SCHEMA, DeepAnswer
from agent.rundir.verify.outcome import Outcome
from agent.rundir.verify.text import visible
from agent.rundir.verify.verdict import State
from trainer.checkpoint.deep_parts import check_parts
from trainer.checkpoint.describe import describe_tensors
from trainer.checkpoint.finite import find_not_finite
from trainer.checkpoint.plain import why_not_loaded

_TORCH_SUFFIXES = {".pt", ".pth", ".ckpt", ".bin"}
_ZIP_SIGNATURE = b"PK\x03\x04"


def main(argv: list[str]) -> int:
    """Print what is found in the checkpoint at a path as one line of JSON.

    Args:
        argv: the path, last.

    Returns:
        The exit code of the state: 0 sound, 1 cannot tell, 2 damaged.
    """
    outcome = look_at(Path(argv[-1]))
    answer = DeepAnswer(
        schema=DEEP_SCHEMA, state=outcome.state, findings=outcome.all_findings()
    )
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    sys.stdout.flush()
    return outcome.state.exit_code


def look_at(path: Path) -> Outcome:
    """Return what is found in a checkpoint directory or a file."""
    outcome = Outcome()
    if not path.is_dir():
        _look_at_file(path, path.name, None, outcome)
        return outcome
    if not (path / MANIFEST_NAME).exists():
        _pass_over(path.name, outcome)
        return outcome
    try:
        manifest, _ = read_manifest(path)
    except RunDirError as error:
        outcome.add(State.UNREADABLE, MANIFEST_NAME, visible(str(error)))
        return outcome
    for entry in manifest.files:
        _look_at_file(path / entry.name, entry.name, manifest, outcome)
    return outcome


def _look_at_file(
    path: Path, name: str, manifest: Manifest | None, outcome: Outcome
) -> None:
    """Load one file and look at its values, and at whether they were described."""
    try:
        if path.suffix == ".safetensors":
            state: Any = safetensors.torch.load_file(path)
        elif path.suffix in _TORCH_SUFFIXES:
            state = _load(path)
        else:
            _pass_over(name, outcome)
            return
    except pickle.UnpicklingError as error:
        _report_load(name, "it holds types that only run code can make", error, outcome)
        return
    except (OSError, RuntimeError, ValueError, EOFError, LookupError) as error:
        _report_load(name, "torch cannot load it", error, outcome)
        return
    _check_finite(state, name, outcome)
    if manifest is not None:
        _check_tensors(manifest, state, name, outcome)
        if isinstance(state, Mapping) and name == STATE_NAME:
            check_parts(manifest, state, outcome)


def _load(path: Path) -> Any:  # noqa: ANN401 - whatever was saved
    with path.open("rb") as file:
        is_archive = file.read(len(_ZIP_SIGNATURE)) == _ZIP_SIGNATURE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(
            path, map_location="cpu", weights_only=True, mmap=is_archive or None
        )


def _report_load(name: str, why: str, error: Exception, outcome: Outcome) -> None:
    reason = visible(why_not_loaded(error))
    outcome.add(
        State.UNREADABLE,
        name,
        f"the values in `{visible(name)}` were not looked at: {why}: {reason}",
    )


def _pass_over(name: str, outcome: Outcome) -> None:
    outcome.add(
        State.SOUND,
        name,
        f"the values in `{visible(name)}` were not looked at: not a file of torch's",
    )


def _check_finite(state: object, name: str, outcome: Outcome) -> None:
    """Report tensors with NaN or `+inf`; mention those with only `-inf`."""
    for tensor_name, tensor in _iter_tensors(state, ""):
        found = find_not_finite(tensor)
        if found is None:
            continue
        is_mask = not found.num_nan and not found.num_positive
        outcome.add(
            State.SOUND if is_mask else State.DAMAGED,
            name,
            f"the tensor `{visible(tensor_name)}` has values that are not finite"
            + (": a mask?" if is_mask else ""),
            tensor=tensor_name,
            differs=("finite values", str(found)),
        )


def _check_tensors(
    manifest: Manifest,
    state: Any,  # noqa: ANN401 - whatever was saved
    name: str,
    outcome: Outcome,
) -> None:
    """Compare names, dtypes, shapes and records with the manifest's."""
    told = {entry.name: entry for entry in manifest.tensors if entry.file == name}
    if not told:
        return
    found = {entry.name: entry for entry in describe_tensors(state, name)}
    for tensor_name in [*told, *(n for n in found if n not in told)]:
        one, other = told.get(tensor_name), found.get(tensor_name)
        if one != other:
            outcome.add(
                State.DAMAGED,
                name,
                f"the tensor `{visible(tensor_name)}` is not as the manifest tells",
                tensor=tensor_name,
                differs=(_shown(one), _shown(other)),
            )


def _shown(entry: TensorEntry | None) -> str:
    if entry is None:
        return "nothing"
    return f"{entry.dtype} {list(entry.shape)} in `{entry.record}`"


def _iter_tensors(value: object, path: str) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor in a state with its path, without recursion."""
    waiting = [(path, value)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, Tensor):
            yield path, value
            continue
        children: list[tuple[object, object]] = []
        if isinstance(value, Mapping):
            children = list(value.items())
        elif isinstance(value, list | tuple):
            children = list(enumerate(value))
        for key, item in reversed(children):
            waiting.append((f"{path}.{key}" if path else str(key), item))
