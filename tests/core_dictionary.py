"""The core CIF dictionary (DDLm), as PyCIFRW understands it, to check files against."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

#: contents of the definitions that the dictionary takes from templ_attr.cif, which is not at hand: what
#: the frame says of type and range, by its name
_TEMPLATES = {
    "general_su": ("Real", "0.0:"),
    "miller_index": ("Integer", None),
    "atom_site_id": ("Text", None),
    "aniso_uij": ("Real", None),
    "fract_coord": ("Real", None),
    "cell_length": ("Real", "1.0:"),
    "cell_angle": ("Real", "0.0:180.0"),
}
_NUMBERS = {
    "Real": re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?(\(\d+\))?"),
    "Integer": re.compile(r"[-+]?\d+"),
    "Count": re.compile(r"\d+"),
}


class CoreDictionary:
    """Names, aliases, codes, loops and keys are checked by PyCIFRW; numbers and ranges here, as it
    leaves these out for DDLm."""

    def __init__(self, path: Path) -> None:
        import CifFile

        self._module = CifFile
        with contextlib.redirect_stdout(io.StringIO()):  # it tells all it does
            self.definitions = CifFile.CifDic(
                str(path), grammar="2.0", do_imports="No", do_dREL=False
            )
        self._canonical = {}
        for name, aliases in self.definitions.alias_table.items():
            for alias in [aliases] if isinstance(aliases, str) else aliases:
                self._canonical[alias.lower()] = name

    def violations(self, text: str) -> list[str]:
        """What the dictionary forbids in a CIF of one block."""
        with contextlib.redirect_stdout(io.StringIO()):
            cif = self._module.ReadCif(io.StringIO(text), grammar="1.1")
            (name,) = cif.keys()
            block = cif[name]
            for tag in list(block.keys()):
                canonical = self._canonical.get(tag.lower(), tag)
                if canonical != tag:
                    block.ChangeTagName(tag, canonical)
            results, unknown = self._module.Validate(cif, dic=self.definitions)
        _, problems = results[name]
        found = [f"{tag}: not in the dictionary" for tag in unknown[name]["no_matches"]]
        found += [f"{tag}: {problem}" for tag, problem in problems.items()]
        for tag in block.keys():
            if tag in self.definitions:
                values = block[tag]
                values = [values] if isinstance(values, str) else values
                found += [
                    f"{tag}: {value}" for value in values if not self._is_legal(tag, str(value))
                ]
        return found

    def _is_legal(self, tag: str, value: str) -> bool:
        """Whether a value is a number, and in range, where the definition asks for that."""
        contents, bounds = self._contents(self.definitions[tag])
        if contents not in _NUMBERS or value in (".", "?"):
            return True
        if not _NUMBERS[contents].fullmatch(value):
            return False
        low, _, high = (bounds or ":").partition(":")
        number = float(value.partition("(")[0])
        return (not low or number >= float(low)) and (not high or number <= float(high))

    @staticmethod
    def _contents(definition: Any) -> tuple[str, str | None]:
        if "_import.get" in definition:
            frame = definition["_import.get"][0]["save"]
            if frame in _TEMPLATES:
                return _TEMPLATES[frame]
        return definition.get("_type.contents", "Text"), definition.get("_enumeration.range")
