"""Model files to crystal structures."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cctbx import xray

from dials_hybrid_refine.io.structure_atoms import LoadedStructure, ModelError
from dials_hybrid_refine.io.structure_checks import check_structure
from dials_hybrid_refine.io.structure_cif import read_cif
from dials_hybrid_refine.io.structure_pdb import read_pdb
from dials_hybrid_refine.io.structure_shelx import read_shelx
from dials_hybrid_refine.models.connectivity import Disorder
from dials_hybrid_refine.models.restraints.request import RestraintRequest

_READERS = {"PDB": read_pdb, "SHELX": read_shelx}
#: what tells the formats apart, asked in this order (a CIF may quote a SHELX file)
_SIGNS = {
    "CIF": re.compile(r"^\s*data_\S", re.MULTILINE | re.IGNORECASE),
    "PDB": re.compile(r"^(ATOM  |HETATM|CRYST1)", re.MULTILINE),
    "SHELX": re.compile(r"^(TITL|CELL|LATT|SFAC)\b", re.MULTILINE | re.IGNORECASE),
}
_SUFFIXES = {
    ".cif": "CIF",
    ".mcif": "CIF",
    ".mmcif": "CIF",
    ".ins": "SHELX",
    ".res": "SHELX",
    ".pdb": "PDB",
    ".ent": "PDB",
}
#: of parameters, symmetry and data of Jana2006 and Jana2020; an .m50 has lines CELL and LATTICE, too
_JANA = {".m40", ".m41", ".m42", ".m50", ".m70", ".m90", ".m95"}
_JANA_START = re.compile(r"\s*Version Jana", re.IGNORECASE)


@dataclass(frozen=True)
class StructureFile:
    """A structure and what was found while reading it.

    Attributes:
        structure: atoms are neutral elements with unique labels and positive-definite U, on
            special positions where they are near one; its scattering table is "electron".
        shelx_constraints: of a SHELX file, for ``smtbx.refinement.constraints``.
        warnings: sentences for the user's log.
        unsupported: names of SHELX instructions that are not applied.
        disorder: which atoms are alternatives of each other.
        riding: hydrogen atoms (indices) that ride according to a CIF, which does not say how.
        restraints: of a SHELX file.
        cell_su: s.u. of a, b, c (Angstrom) and the angles (degrees), or None if the file has none.
    """

    structure: xray.structure
    shelx_constraints: list[Any]
    warnings: tuple[str, ...]
    unsupported: tuple[str, ...]
    disorder: Disorder = Disorder()
    riding: tuple[int, ...] = ()
    restraints: tuple[RestraintRequest, ...] = ()
    cell_su: tuple[float, ...] | None = None


def read_structure(path: str | os.PathLike[str], data_block: str | None = None) -> StructureFile:
    """Read a crystal structure from CIF (also magnetic and mmCIF), SHELX .ins/.res or PDB.

    The format is told from the content. The symmetry of a CIF is that of its operations; where
    there are none, of its Hall or Hermann-Mauguin symbol. Atoms within 0.25 Angstrom of a
    symmetry element (0.5 of their image) are moved onto it. Charges are stripped from
    scattering types and D is read as H. A missing or zero U becomes 0.01 Angstrom^2.

    Args:
        data_block: of a CIF in which several have atoms.

    Raises:
        ValueError: names the file, says what is wrong with it and what to do.
    """
    path = Path(path)
    text = _text(path)
    kind = _format(path, text)
    try:
        loaded = _load(kind, text, data_block)
        found = check_structure(loaded)
    except ModelError as error:
        raise ValueError(f"{path}: {error}") from error
    loaded.structure.scattering_type_registry(table="electron")
    return StructureFile(
        structure=loaded.structure,
        shelx_constraints=loaded.shelx_constraints,
        warnings=(*_signs_of_truncation(text), *loaded.warnings, *found),
        unsupported=loaded.unsupported,
        disorder=loaded.disorder,
        riding=loaded.riding,
        restraints=loaded.restraints,
        cell_su=loaded.cell_su if loaded.cell_su and any(loaded.cell_su) else None,
    )


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist: give the file of the structure") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder: give the file of the structure") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): check the file") from None
    if not content.strip():
        raise ValueError(f"{path} is empty: give the file of a structure")
    if b"\0" in content:
        raise ValueError(f"{path} is not a text file: give a structure as CIF, SHELX or PDB file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _format(path: Path, text: str) -> str:
    if path.suffix.lower() in _JANA or _JANA_START.match(text):
        raise ValueError(f"{path} is a file of Jana's own: give the CIF that Jana writes")
    for kind, sign in _SIGNS.items():
        if sign.search(text):
            return kind
    if path.suffix.lower() in _SUFFIXES:
        kind = _SUFFIXES[path.suffix.lower()]
        raise ValueError(
            f"{path} is no {kind} file, in spite of its name: it is truncated or corrupt, give a complete one"
        )
    raise ValueError(f"{path} is not a structure: give a CIF, SHELX .ins or .res, or PDB file")


def _signs_of_truncation(text: str) -> list[str]:
    if text.endswith(("\n", "\r")):
        return []
    return ["the last line of the file has no end: the file may be truncated"]


def _load(kind: str, text: str, data_block: str | None) -> LoadedStructure:
    """Run a reader; whatever a parser stumbles over is the file's fault.

    Raises:
        ModelError: if the file cannot be used.
    """
    try:
        return read_cif(text, data_block) if kind == "CIF" else _READERS[kind](text)
    except ModelError:
        raise
    except Exception as error:  # noqa: BLE001  parsers raise Sorry, RuntimeError, AssertionError...
        detail = " ".join(str(error).split())[:160].strip(". ,:") or type(error).__name__
        raise ModelError(
            f"not readable as {kind} file ({detail}): it is truncated or corrupt, give a complete one"
        ) from error
