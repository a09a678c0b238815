"""Read the federated configuration: flag over variable over TOML over default.

Every value is checked where it is read, so that an error names the flag, the
variable or the file that it came from.
"""

import argparse
import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from trainer.catalogue import Setting
from trainer.federated.config import (
    BUILT_IN,
    FederatedConfig,
    round_rules,
    settings,
)
from trainer.settings import UsageError, nearest


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Give a parser one flag per setting, grouped as they are documented."""
    groups: dict[str, Any] = {}
    for setting in settings():
        if setting.section not in groups:
            groups[setting.section] = parser.add_argument_group(setting.section)
        _add_flag(groups[setting.section], setting)
    parser.add_argument(
        "--config", type=Path, metavar="FILE.toml", help="settings by name, as TOML"
    )


def read_config(
    flags: Mapping[str, Any], environment: Mapping[str, str], file: Path | None
) -> FederatedConfig:
    """Put the configuration together.

    Args:
        flags: By field name; None where the flag was not given.
        environment: `os.environ`.
        file: The TOML file; None: there is none.

    Raises:
        UsageError: a key is unknown, or a value is not what its setting takes.
    """
    from_file = _read_file(file) if file is not None else {}
    values = {}
    for setting in settings():
        if flags.get(setting.name) is not None:
            source, value = setting.flag, flags[setting.name]
        elif setting.variable in environment:
            source, value = setting.variable, environment[setting.variable]
        elif setting.name in from_file:
            source, value = f"{setting.name} in {file}", from_file[setting.name]
        else:
            continue
        values[setting.name] = _converted(setting, value, source)
    config = _with_absolute_data(FederatedConfig(**values))
    try:
        round_rules(config)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return config


def _with_absolute_data(config: FederatedConfig) -> FederatedConfig:
    """Return the configuration as it is understood from any directory."""
    if config.data in BUILT_IN:
        return config
    return dataclasses.replace(config, data=str(Path(config.data).absolute()))


def _add_flag(group: Any, setting: Setting) -> None:  # noqa: ANN401 - argparse names no type
    unit = f" [{setting.unit}]" if setting.unit else ""
    text = f"{setting.description}{unit} (default: {setting.default})"
    extra: dict[str, Any] = {"metavar": setting.unit.upper() or "VALUE"}
    if isinstance(setting.default, bool):
        extra = {"action": argparse.BooleanOptionalAction}
    group.add_argument(
        setting.flag,
        dest=setting.name,
        default=None,
        help=text.replace("%", "%%"),
        **extra,
    )


def _converted(setting: Setting, value: Any, source: str) -> Any:  # noqa: ANN401 - of the setting's type
    try:
        return msgspec.convert(value, setting.type, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"`{source}` is `{value}`: {str(error).lower()}",
            hint=f"{setting.flag} {setting.default}",
        ) from error


def _read_file(file: Path) -> dict[str, Any]:
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"`{file}` cannot be read as TOML: {error}") from error
    names = {setting.name for setting in settings()}
    for key in found:
        if key not in names:
            near = nearest(key, names)
            raise UsageError(
                f"`{file}` has an unknown key `{key}`"
                + (f": did you mean `{near}`" if near else ""),
                hint="python -m trainer fl-server --help",
            )
    return found
