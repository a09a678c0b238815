"""Take tensors out of an optimizer's state and put them back.

What remains is JSON of plain values (numbers, text, None, lists, tuples,
dictionaries): never pickle. A `float` that JSON cannot hold exactly does not
exist, since Python writes the shortest text that reads back the same; NaN and
infinities are written the way Python's `json` reads them.
"""

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from agent.rundir.chunks.layout import BadLayoutError

OPTIMIZER_PREFIX = "optimizer:"
"""Starts the names of an optimizer's tensors; no model uses a colon."""

_MAX_DEPTH = 32


def take_apart(state: Mapping[str, Any]) -> tuple[str, dict[str, Tensor]]:
    """Return the state as JSON around its tensors, and the tensors by name.

    Names follow the path: `optimizer:state.0.exp_avg`.

    Raises:
        TypeError: it holds something that is neither a tensor nor plain.
    """
    tensors: dict[str, Tensor] = {}
    tree = _encode(dict(state), OPTIMIZER_PREFIX, tensors)
    return json.dumps(tree, separators=(",", ":")), tensors


def put_together(text: str, tensors: Mapping[str, Tensor]) -> Any:  # noqa: ANN401 - any plain value
    """Return what `take_apart` was given.

    Raises:
        BadLayoutError: the text is damaged or names a tensor that is missing.
    """
    try:
        return _decode(json.loads(text), tensors)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise BadLayoutError(
            f"the optimizer's state cannot be read: {error}"
        ) from error


def _encode(value: object, path: str, tensors: dict[str, Tensor]) -> object:
    if path.count(".") > _MAX_DEPTH:
        raise TypeError(f"`{path}` is nested too deeply, perhaps in itself")
    if isinstance(value, Tensor):
        # Two paths can read alike: `{"a.b": …}` and `{"a": {"b": …}}`, 1 and "1".
        while path in tensors:
            path += "+"
        tensors[path] = value
        return {"tensor": path}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        pairs = [
            [_key(key, path), _encode(item, _below(path, key), tensors)]
            for key, item in value.items()
        ]
        return {"dict": pairs}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        items = [
            _encode(item, _below(path, i), tensors) for i, item in enumerate(value)
        ]
        return {kind: items}
    raise TypeError(f"`{path}` is a {type(value).__name__}, which is not plain")


def _below(path: str, key: object) -> str:
    separator = "" if path == OPTIMIZER_PREFIX else "."
    return f"{path}{separator}{key}"


def _key(key: object, path: str) -> object:
    if isinstance(key, int | str):
        return key
    raise TypeError(f"`{path}` has a key that is neither text nor a whole number")


def _decode(node: Any, tensors: Mapping[str, Tensor]) -> object:  # noqa: ANN401 - JSON
    if not isinstance(node, dict):
        return node
    ((kind, content),) = node.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _decode(item, tensors) for key, item in content}
    items = [_decode(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items
