"""Effects that other installed packages offer: found by their entry points, chosen by PHIL.

``docs/effects.md`` says what a package must provide.
"""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, cast

import torch

import iotbx.phil
import libtbx.phil

from dials_hybrid_refine.io.command_input import CommandInput, parse_command_line
from dials_hybrid_refine.models.effects import (
    CurveEffect,
    Effect,
    EffectContext,
    IntensityEffect,
    NamedEffect,
    described,
)

logger = logging.getLogger("dials.hybrid_refine.effects")

#: the entry-point group
GROUP = "dials_hybrid_refine.effects"


class EffectPlugin(Protocol):
    """What an entry point names: an instance, or a class that is made without arguments."""

    #: definitions of the effect's PHIL scope
    phil: str

    def make(self, params: Any, context: EffectContext) -> Effect:
        """The effect at its starting point, from the extract of that scope."""


@dataclass(frozen=True)
class InstalledEffect:
    """An effect that an installed package offers.

    Attributes:
        name: of the entry point and of the PHIL scope below ``effects``.
        package, version: the distribution it belongs to.
        plugin: None if it is broken.
        scope: the content of the PHIL scope.
        fault: what is wrong with it, if it is broken.
    """

    name: str
    package: str
    version: str
    plugin: EffectPlugin | None
    scope: libtbx.phil.scope
    fault: str | None = None

    @property
    def warning(self) -> str:
        """A sentence on a broken plug-in."""
        return (
            f"the effect {self.name} of the package {self.package} {self.version} cannot be used: "
            f"{self.fault}"
        )

    def refuse(self) -> ValueError:
        """The error for a broken plug-in that is to be used."""
        return ValueError(
            f"{self.warning}; correct or update that package, or set effects.{self.name}.use=False"
        )


def installed_effects() -> list[InstalledEffect]:
    """All effects that installed packages offer, by name; broken ones say so and raise nothing."""
    found = sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value))
    found = [entry for entry in found if entry.name.isidentifier()]
    offered = Counter(entry.name for entry in found)
    effects = {entry.name: _load(entry) for entry in found}
    return [
        effect
        if offered[name] == 1
        else replace(effect, plugin=None, fault="several packages offer an effect of that name")
        for name, effect in effects.items()
    ]


def _load(entry: EntryPoint) -> InstalledEffect:
    name = entry.dist.metadata["Name"] if entry.dist else entry.module
    version = entry.dist.version if entry.dist else "of unknown version"
    nothing = iotbx.phil.parse("")
    try:
        loaded = entry.load()
        plugin = cast(EffectPlugin, loaded() if isinstance(loaded, type) else loaded)
        if not callable(plugin.make):
            raise TypeError("make is not a function")
        scope = _own_scope(plugin.phil)
    except (Exception, SystemExit) as error:  # other people's code may raise anything
        return InstalledEffect(entry.name, name, version, None, nothing, described(error))
    return InstalledEffect(entry.name, name, version, plugin, scope)


def _own_scope(text: str) -> libtbx.phil.scope:
    """The PHIL of a plug-in, with all its defaults understood.

    Raises:
        ValueError: for definitions that the program could not handle; PHIL raises others.
    """
    scope = iotbx.phil.parse(text, process_includes=True)
    defaults = scope.extract()
    for definition in scope.all_definitions():
        if definition.path == "use":
            raise ValueError("its PHIL defines use, which is the program's own switch")
        value = defaults
        for part in definition.path.split("."):
            if isinstance(value, list):
                raise ValueError("its PHIL has a scope with .multiple=True")
            value = getattr(value, part)
    return scope


def with_effects(scope: libtbx.phil.scope, effects: Sequence[InstalledEffect]) -> libtbx.phil.scope:
    """A program's PHIL with a scope for each installed effect; the given one is not changed."""
    if not effects:
        return scope
    result = copy.deepcopy(scope)
    for effect in effects:
        help_text = f"Refine with the effect {effect.name} of the package {effect.package}."
        if effect.fault is not None:
            help_text = f"Broken: this effect of the package {effect.package} cannot be used."
        branch = iotbx.phil.parse(
            "effects\n"
            '  .help = "Effects that other installed packages add to the calculation."\n'
            f'{{\n{effect.name} {{\nuse = False\n.type = bool\n.help = "{help_text}"\n}}\n}}\n'
        )
        branch.get_without_substitution(f"effects.{effect.name}")[0].adopt_scope(effect.scope)
        result.adopt_scope(branch)
    return result


def parse_with_effects(
    scope: libtbx.phil.scope, usage: str, epilog: str, args: Sequence[str]
) -> tuple[CommandInput, list[InstalledEffect]]:
    """``parse_command_line`` with the parameters of all installed effects.

    Raises:
        ValueError: as there, and if a broken effect is to be used.
    """
    effects = installed_effects()
    broken = [effect for effect in effects if effect.fault is not None]
    try:
        command = parse_command_line(with_effects(scope, effects), usage, epilog, args)
    except ValueError as error:
        for effect in broken:  # its own parameters are not known
            if f"effects.{effect.name}." in str(error):
                raise effect.refuse() from error
        raise
    for effect in broken:
        if _scope_of(command.params, effect).use:
            raise effect.refuse()
    return command, effects


def warn_of_broken(effects: Sequence[InstalledEffect]) -> None:
    """A line in the log for each effect that cannot be used."""
    for effect in effects:
        if effect.fault is not None:
            logger.warning("%s", effect.warning)


def make_effects(
    effects: Sequence[InstalledEffect], params: Any, context: EffectContext
) -> list[NamedEffect]:
    """The effects in use, at their starting points.

    Raises:
        ValueError: if one is broken, or does not make what it should.
    """
    made = []
    for installed in effects:
        own = _scope_of(params, installed)
        if not own.use:
            continue
        if installed.plugin is None:
            raise installed.refuse()
        try:
            effect = installed.plugin.make(own, context)
            _check(effect)
        except (Exception, SystemExit) as error:  # other people's code may raise anything
            raise replace(installed, fault=described(error)).refuse() from error
        made.append(NamedEffect(effect, installed.name, installed.package, installed.version))
    return made


def _scope_of(params: Any, effect: InstalledEffect) -> Any:
    return getattr(params.effects, effect.name)


def _check(effect: Effect) -> None:
    """Whether a plug-in made an effect that can be refined.

    Raises:
        TypeError, ValueError: say what is wrong.
    """
    if not isinstance(effect, (CurveEffect, IntensityEffect)):
        raise TypeError(
            f"make returned {type(effect).__name__}, which is no CurveEffect or IntensityEffect"
        )
    for name, parameter in effect.named_parameters():
        if parameter.dtype != torch.float64:
            raise TypeError(f"its parameter {name} is not of torch.float64")
        if not parameter.isfinite().all():
            raise ValueError(f"its parameter {name} is not finite")
    if effect.prior_residuals().dim() != 1:
        raise ValueError("prior_residuals does not return a tensor of one dimension")
    for name, value in effect.report().items():
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"report gives {name} as {type(value).__name__} and not as a tensor")
