"""Every setting as data: for flags, for documentation and to compare two starts."""

import dataclasses
import os
from collections.abc import Collection
from typing import Annotated, Any, NamedTuple, get_type_hints

from trainer.config import DEFINING, ONCE, TrainConfig


class Setting(NamedTuple):
    """One field, as the command line and the documentation see it."""

    name: str
    section: str
    unit: str
    description: str
    type: Any
    """With its limits, for `msgspec.convert`."""
    default: Any

    @property
    def flag(self) -> str:
        """`--batch-size`."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """`OPSDASH_BATCH_SIZE`."""
        return "OPSDASH_" + self.name.upper()


def settings(kind: type = TrainConfig) -> tuple[Setting, ...]:
    """Return every field of a class of settings, in the order of the documentation."""
    types = get_type_hints(kind)
    return tuple(
        Setting(
            name=field.name,
            section=field.metadata["section"],
            unit=field.metadata["unit"],
            description=field.metadata["meta"].description,
            type=Annotated[types[field.name], field.metadata["meta"]],
            default=field.default,
        )
        for field in dataclasses.fields(kind)
    )


def defining(
    config: object,
    sections: Collection[str] = DEFINING,
    *,
    leave_out: Collection[str] = (),
) -> dict[str, Any]:
    """Return what an existing run is only continued with, less some sections."""
    return {
        setting.name: getattr(config, setting.name)
        for setting in settings(type(config))
        if setting.section in sections and setting.section not in leave_out
    }


def lasting(config: TrainConfig) -> TrainConfig:
    """Return a configuration without what was meant for one start only."""
    once = [s for s in settings() if s.section in ONCE]
    return dataclasses.replace(config, **{s.name: s.default for s in once})


def as_flags(config: object) -> list[str]:
    """Return the flags that make this configuration out of the defaults.

    What came from the environment or from a file becomes a flag too, so that
    the run can be started again anywhere.
    """
    flags = []
    for setting in settings(type(config)):
        value = getattr(config, setting.name)
        # A default that overrules a variable has to overrule it again.
        if value == setting.default and setting.variable not in os.environ:
            continue
        if isinstance(value, bool):
            flags.append(setting.flag if value else f"--no-{setting.flag[2:]}")
        else:
            flags += [setting.flag, str(value)]
    return flags
