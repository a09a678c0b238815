"""Read the configuration: flag over `OPSDASH_<FIELD>` over TOML over default.

`NCCL_TIMEOUT`, which people set and torch does not read, stands before a default.

Every value is checked where it is read, so that an error names the flag, the
variable or the file that it came from. An unknown key is refused with the
nearest name there is; nothing is guessed.
"""

import argparse
import difflib
import math
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from agent.rundir.errors import EXIT_USAGE, RunDirError
from trainer.catalogue import Setting, settings
from trainer.config import TrainConfig

_PREFIX = "OPSDASH_"
_FOREIGN = {"timeout_s": "NCCL_TIMEOUT"}
"""Variables of others' that a setting is taken from where nothing else sets it."""
_NEAR = 0.85
"""How alike a foreign `OPSDASH_` variable and a setting's must be to be a typo."""


class UsageError(RunDirError):
    """The command line, a variable or the file is not what this trainer takes."""

    exit_code = EXIT_USAGE


class UsageParser(argparse.ArgumentParser):
    """argparse that raises, with the nearest name, instead of leaving."""

    def __init__(self, **arguments: Any) -> None:  # noqa: ANN401 - argparse's own
        super().__init__(allow_abbrev=False, **arguments)

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print.

        Raises:
            UsageError: always.
        """
        raise UsageError(message, hint=f"{self.prog} --help")

    def parse(self, arguments: list[str]) -> argparse.Namespace:
        """Parse every argument.

        Raises:
            UsageError: one is unknown, missing or malformed.
        """
        known, rest = self.parse_known_args(arguments)
        if not rest:
            return known
        flags = [flag for action in self._actions for flag in action.option_strings]
        near = nearest(rest[0].partition("=")[0], flags)
        raise UsageError(
            f"unknown argument `{rest[0]}`"
            + (f": did you mean `{near}`" if near else ""),
            hint=f"{self.prog} --help",
        )


def add_settings(parser: argparse.ArgumentParser, kind: type = TrainConfig) -> None:
    """Give a parser one flag per setting, grouped as they are documented."""
    groups: dict[str, Any] = {}
    for setting in settings(kind):
        if setting.section not in groups:
            groups[setting.section] = parser.add_argument_group(setting.section)
        is_switch = isinstance(setting.default, bool)
        groups[setting.section].add_argument(
            setting.flag,
            dest=setting.name,
            default=None,
            help=_help(setting),
            **(
                {"action": argparse.BooleanOptionalAction}
                if is_switch
                else {"metavar": setting.unit.upper().replace(" ", "_") or "VALUE"}
            ),
        )
    parser.add_argument(
        "--config", type=Path, metavar="FILE.toml", help="settings by name, as TOML"
    )


def read_config(
    flags: Mapping[str, Any], environment: Mapping[str, str], file: Path | None
) -> TrainConfig:
    """Put the data-parallel trainer's configuration together; see `read_values`.

    Raises:
        UsageError: a key is unknown, or a value is not what its setting takes.
    """
    config = TrainConfig(**read_values(TrainConfig, flags, environment, file))
    _check_together(config)
    return config


def read_values(
    kind: type,
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    file: Path | None,
    *,
    command: str = "ddp",
) -> dict[str, Any]:
    """Return what was given of the settings of a class, by name, and checked.

    Args:
        kind: The class.
        flags: By field name; None where the flag was not given.
        environment: `os.environ`.
        file: The TOML file; None: there is none.
        command: Whose `--help` lists the settings.

    Raises:
        UsageError: a key is unknown, or a value is not what its setting takes.
    """
    known = settings(kind)
    from_file = {} if file is None else _read_file(file, known, command)
    _refuse_near_misses(environment, known)
    values = {}
    for setting in known:
        if flags.get(setting.name) is not None:
            source, value = setting.flag, flags[setting.name]
        elif setting.variable in environment:
            source, value = setting.variable, environment[setting.variable]
        elif setting.name in from_file:
            source, value = f"{setting.name} in {file}", from_file[setting.name]
        elif _FOREIGN.get(setting.name, "") in environment:
            source = _FOREIGN[setting.name]
            value = environment[source]
        else:
            continue
        values[setting.name] = _converted(setting, value, source)
    return values


def check_settings(config: TrainConfig) -> None:
    """Check a configuration that was made in code, as one that is read is checked.

    Raises:
        UsageError: a value is not what its setting takes.
    """
    for setting in settings():
        _converted(setting, getattr(config, setting.name), setting.name)
    _check_early_save(config)


def nearest(name: str, names: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the most similar of some names; None: none is similar."""
    found = difflib.get_close_matches(name, list(names), n=1, cutoff=cutoff)
    return found[0] if found else None


def _converted(setting: Setting, value: Any, source: str) -> Any:  # noqa: ANN401 - of the setting's type
    hint = f"{setting.flag} {setting.default}"
    try:
        converted = msgspec.convert(value, setting.type, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"`{source}` is `{value}`: {str(error).lower()}", hint=hint
        ) from error
    if isinstance(converted, float) and not math.isfinite(converted):
        raise UsageError(f"`{source}` is `{value}`: it has to be finite", hint=hint)
    return converted


def _read_file(file: Path, known: tuple[Setting, ...], command: str) -> dict[str, Any]:
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"`{file}` cannot be read as TOML: {error}") from error
    names = {setting.name for setting in known}
    for key in found:
        if key not in names:
            near = nearest(key, names)
            raise UsageError(
                f"`{file}` has an unknown key `{key}`"
                + (f": did you mean `{near}`" if near else ""),
                hint=f"python -m trainer {command} --help",
            )
    return found


def _refuse_near_misses(
    environment: Mapping[str, str], known: tuple[Setting, ...]
) -> None:
    """Refuse a misspelt setting; other parts of the product have variables too."""
    names = {setting.variable for setting in known}
    for name in environment:
        if not name.startswith(_PREFIX) or name in names:
            continue
        near = nearest(name, names, cutoff=_NEAR)
        if near is not None:
            raise UsageError(
                f"the environment has an unknown variable `{name}`: "
                f"did you mean `{near}`",
                hint=f"unset {name}",
            )


def _check_together(config: TrainConfig) -> None:
    if config.width % config.heads:
        raise UsageError(
            f"`--width` {config.width} is not a multiple of `--heads` {config.heads}",
            hint=f"--width {config.heads * max(1, config.width // config.heads)}",
        )
    if not config.steps and not config.max_epochs:
        raise UsageError("neither `--steps` nor `--max-epochs` ends this run")
    _check_early_save(config)


def _check_early_save(config: TrainConfig) -> None:
    if config.fix_iter and not config.static_graph:
        raise UsageError(
            "`--fix-iter` saves a static graph early and needs `--static-graph`"
        )


def _help(setting: Setting) -> str:
    unit = f" [{setting.unit}]" if setting.unit else ""
    text = f"{setting.description}{unit} (default: {setting.default})"
    return text.replace("%", "%%")
