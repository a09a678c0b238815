"""Read the federated configuration: flag over variable over TOML over default."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.federated.config import BUILT_IN, FederatedConfig, round_rules
from trainer.settings import UsageError, read_values


def read_config(
    flags: Mapping[str, Any], environment: Mapping[str, str], file: Path | None
) -> FederatedConfig:
    """Put the configuration together; see `trainer.settings.read_values`.

    Raises:
        UsageError: a key is unknown, or a value is not what its setting takes.
    """
    values = read_values(FederatedConfig, flags, environment, file, command="fl-server")
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
