"""The directive ``program``: a page of a command from its docstring and its PHIL parameters.

DIALS' own pages of programs show both too, with the directives of ``libtbx.sphinx``. They print PHIL as
text; here each parameter has its help, type, default and expert level, and an address of its own,
such as ``dials.hybrid_refine.html#thickness.model``.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable
from typing import Any

import torch  # noqa: F401  before DIALS, which would limit it to one thread
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

#: from this level on, parameters are not meant to be used
_HIDDEN = 3


class Program(SphinxDirective):
    """``.. program-page:: MODULE``: a module with a docstring and a ``phil_scope``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module = importlib.import_module(self.arguments[0])
        self.env.note_dependency(str(module.__file__))
        return [*self._introduction(str(module.__doc__)), _parameters(module.phil_scope)]

    def _introduction(self, docstring: str) -> list[nodes.Node]:
        """The docstring, which is reStructuredText."""
        holder = nodes.container()
        lines = StringList(docstring.splitlines(), source=self.arguments[0])
        self.state.nested_parse(lines, self.content_offset, holder)
        return list(holder.children)


def _parameters(scope: Any) -> nodes.section:
    """A section with the parameters that stand alone, and one within it for each scope."""
    return _filled(_section("Parameters", "parameters"), scope)


def _scope(scope: Any) -> nodes.section:
    section = _section(scope.full_path(), scope.full_path())
    if scope.help:
        section += nodes.paragraph(text=_sentence(scope.help))
    if scope.multiple:
        section += nodes.paragraph(text="It may be given more than once.")
    return _filled(section, scope)


def _filled(section: nodes.section, scope: Any) -> nodes.section:
    visible = [child for child in scope.objects if _visible(child)]
    section += _definitions(child for child in visible if child.is_definition)
    for child in visible:
        if child.is_scope:
            section += _scope(child)
    return section


def _section(title: str, name: str) -> nodes.section:
    section = nodes.section(ids=[name], names=[name])
    section += nodes.title(text=title)
    return section


def _definitions(definitions: Iterable[Any]) -> list[nodes.definition_list]:
    """No list where there is nothing to list."""
    items = [_definition(definition) for definition in definitions]
    return [nodes.definition_list("", *items, classes=["parameters"])] if items else []


def _definition(definition: Any) -> nodes.definition_list_item:
    name = definition.full_path()
    term = nodes.term(ids=[name])
    term += nodes.literal(text=f"{name} = {_default(definition)}")
    facts = [_type(definition)]
    if definition.multiple:
        facts.append("may be given more than once")
    if definition.expert_level:
        facts.append(f"expert level {definition.expert_level}")
    body = nodes.definition()
    body += nodes.paragraph("", "", nodes.emphasis(text="; ".join(facts)), classes=["facts"])
    if definition.help:
        body += nodes.paragraph(text=_sentence(definition.help))
    return nodes.definition_list_item("", term, body)


def _default(definition: Any) -> str:
    """As users write it."""
    words = [word.value for word in definition.words]
    if definition.type is not None and definition.type.phil_type == "choice":
        words = [word.lstrip("*") for word in words if word.startswith("*")] or ["None"]
    return " ".join(words)


def _type(definition: Any) -> str:
    """The kind of value, with its limits or choices."""
    if definition.type is None:
        return "text"
    if definition.type.phil_type == "choice":
        return "one of " + ", ".join(word.value.lstrip("*") for word in definition.words)
    return re.sub(r"\((.*)\)", _limits, str(definition.type))


def _limits(match: re.Match[str]) -> str:
    """``(value_min=0, value_max=1)`` as " from 0 to 1"."""
    given = dict(part.split("=") for part in match[1].split(", ") if part)
    return "".join(f" {word} {given[key]}" for key, word in _LIMITS.items() if key in given)


_LIMITS = {"value_min": "from", "value_max": "to"}


def _visible(child: Any) -> bool:
    """Whether the parameter, or one of the scope, is meant to be used."""
    if child.is_definition:
        return (child.expert_level or 0) < _HIDDEN
    return any(_visible(grandchild) for grandchild in child.objects)


def _sentence(help: str) -> str:
    return " ".join(str(help).split())


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("program-page", Program)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
