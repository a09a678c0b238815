"""Whether a state can be loaded again without running code, asked before it is saved.

Saving takes any object; loading with `weights_only` refuses most. A state that
holds one, say a NumPy number as a learning rate, would give checkpoints that
verify and can never be resumed from. torch's own loader is asked, on a copy
without the data, so that types which a user has declared safe are safe here.
"""

import io
import pickle
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from agent.rundir.errors import RunDirError

_MARK = "WeightsUnpickler error: "
_ADVICE = (". Please use", " was not an allowed global")


class UnloadableStateError(RunDirError):
    """A state holds what no checkpoint can give back."""


def require_loadable(saved: Any) -> None:  # noqa: ANN401 - whatever is to be saved
    """Refuse a state that `torch.load(weights_only=True)` would refuse.

    Raises:
        UnloadableStateError: the first value that is to blame, by its path.
    """
    skeleton = _without_data(saved)
    error = _error_of(skeleton)
    if error is None:
        return
    path, value = _culprit("", skeleton)
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    raise UnloadableStateError(
        f"`{path}` is a `{kind.removeprefix('builtins.')}`, which cannot be loaded "
        "again from a checkpoint",
        hint="keep numbers, strings, tensors, lists and dicts there, e.g. `float(…)`",
    ) from error


def why_not_loaded(error: Exception) -> str:
    """Return torch's reason, without its advice to load with running code."""
    lines = [line.strip() for line in str(error).splitlines()] or [""]
    marked = (line.partition(_MARK)[2] for line in lines if _MARK in line)
    reason = next(marked, lines[0]) or type(error).__name__
    for advice in _ADVICE:
        reason = reason.partition(advice)[0]
    return reason


def _without_data(value: Any) -> Any:  # noqa: ANN401 - any saved type
    """Return a copy without tensors; what is no plain container stays itself."""
    if type(value) in (Tensor, nn.Parameter):
        return None  # always loadable, and each costs a record of its own
    if type(value) in (dict, OrderedDict):
        return {key: _without_data(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_without_data(item) for item in value)
    return value


def _error_of(value: Any) -> Exception | None:  # noqa: ANN401 - any saved type
    buffer = io.BytesIO()
    try:
        torch.save(value, buffer)
        buffer.seek(0)
        torch.load(buffer, weights_only=True)
    except (pickle.PickleError, AttributeError, TypeError, RuntimeError) as error:
        return error
    return None


def _culprit(path: str, value: Any) -> tuple[str, Any]:  # noqa: ANN401 - any saved type
    children: Any = ()
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list | tuple):
        children = enumerate(value)
    for key, item in children:
        if _error_of(item) is not None:
            return _culprit(f"{path}.{key}" if path else str(key), item)
    return path, value
