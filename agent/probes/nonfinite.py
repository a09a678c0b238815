"""Which of a step's numbers is not finite: JSON can only show such a one as null."""

from typing import Any

_LOOKED_AT = ("loss", "grad_norm")


def first_nonfinite(fields: dict[str, Any]) -> str | None:
    """Name the first field whose number is not finite; None: all are.

    What is not a float yet, e.g. a tensor of one element, becomes one in `fields`.
    """
    for name in _LOOKED_AT:
        value = fields.get(name)
        if value is not None and not isinstance(value, float):
            try:
                # `float` warns of a loss that still has its graph.
                number = value.item() if hasattr(value, "item") else value
                value = fields[name] = float(number)
            except Exception:  # noqa: BLE001, S112 - what it is will be told when it is written
                continue
        if value is not None and value - value != 0:
            return name
    return None
