"""Load a round into a model whose names may differ from the stored ones.

Names match exactly, or after a wrapper's prefix is taken off (`module.`,
`_orig_mod.`), or by a mapping that the caller gives. What is left is matched
by shape and dtype only where that is unambiguous; anything else is refused
and says which names it could not tell apart.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from agent.rundir.errors import RunDirError

_WRAPPERS = ("module.", "_orig_mod.")


class CannotFitError(RunDirError):
    """The stored tensors and the model's cannot be told apart or do not fit."""


def match_names(
    stored: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    mapping: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return for each stored name the model's name.

    Args:
        stored: tensors of a round.
        wanted: the model's parameters and buffers.
        mapping: stored name to model name, where the caller knows better.

    Raises:
        CannotFitError: a name has no counterpart, several, or another shape.
    """
    matches = _mapped(mapping or {}, stored, wanted)
    matches |= _equal_but_for_wrappers(stored, wanted, matches)
    rest = [name for name in stored if name not in matches]
    left = [name for name in wanted if name not in set(matches.values())]
    matches |= _only_by_shape(rest, left, stored, wanted)
    for name, target in matches.items():
        if stored[name].shape != wanted[target].shape:
            raise CannotFitError(
                f"`{name}` has shape {list(stored[name].shape)}, "
                f"`{target}` has {list(wanted[target].shape)}"
            )
    return matches


def load_into(
    model: nn.Module,
    stored: Mapping[str, Tensor],
    mapping: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Copy stored tensors into a model's parameters and buffers, bit for bit.

    Nothing is copied unless everything fits.

    Returns:
        For each stored name the model's name.

    Raises:
        CannotFitError: names, shapes or dtypes do not fit.
    """
    wanted: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    wanted |= dict(model.named_buffers(remove_duplicate=False))
    matches = match_names(stored, wanted, mapping)
    for name, target in matches.items():
        if stored[name].dtype != wanted[target].dtype:
            raise CannotFitError(
                f"`{name}` is {stored[name].dtype}, `{target}` is "
                f"{wanted[target].dtype}"
            )
    with torch.no_grad():
        for name, target in matches.items():
            wanted[target].copy_(stored[name])
    return matches


def _mapped(
    mapping: Mapping[str, str],
    stored: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
) -> dict[str, str]:
    unknown = [name for name in mapping if name not in stored]
    unknown += [name for name in mapping.values() if name not in wanted]
    if unknown:
        raise CannotFitError(
            f"the mapping names {_listed(unknown)}, which do not exist"
        )
    if len(set(mapping.values())) != len(mapping):
        raise CannotFitError("the mapping sends two tensors to one name")
    return dict(mapping)


def _equal_but_for_wrappers(
    stored: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    matched: Mapping[str, str],
) -> dict[str, str]:
    """Match equal names, then those that differ by a wrapper alone.

    Two names that are one without their wrappers are left to their shapes.
    """
    taken = set(matched.values())
    found = {
        name: name
        for name in stored
        if name in wanted and name not in matched and name not in taken
    }
    gone = {*matched, *found}
    sources = _by_bare(name for name in stored if name not in gone)
    gone = {*taken, *found}
    targets = _by_bare(name for name in wanted if name not in gone)
    for bare, names in sources.items():
        candidates = targets.get(bare, [])
        if len(names) == len(candidates) == 1:
            found[names[0]] = candidates[0]
    return found


def _only_by_shape(
    rest: Iterable[str],
    left: Iterable[str],
    stored: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
) -> dict[str, str]:
    sources = _by_form(rest, stored)
    targets = _by_form(left, wanted)
    found: dict[str, str] = {}
    for form in sources.keys() | targets.keys():
        names, candidates = sources[form], targets[form]
        if len(names) == len(candidates) == 1:
            found[names[0]] = candidates[0]
            continue
        raise CannotFitError(
            f"stored {_listed(names)} and the model's {_listed(candidates)} "
            f"cannot be told apart by their shape {list(form[0])}",
            hint="say it with `--map old=new`",
        )
    return found


def _by_form(
    names: Iterable[str], tensors: Mapping[str, Tensor]
) -> defaultdict[tuple[torch.Size, torch.dtype], list[str]]:
    forms: defaultdict[tuple[torch.Size, torch.dtype], list[str]] = defaultdict(list)
    for name in names:
        forms[tensors[name].shape, tensors[name].dtype].append(name)
    return forms


def _by_bare(names: Iterable[str]) -> defaultdict[str, list[str]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        found[_bare(name)].append(name)
    return found


def _bare(name: str) -> str:
    while name.startswith(_WRAPPERS):
        name = name.split(".", 1)[1]
    return name


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "nothing"
