"""SHELX .ins and .res files to a structure and its constraints.

The instructions that describe the atoms are put in the form that iotbx reads; constraints are made of
the rest in ``shelx_constraints``. What remains is left out, named to the user where it would have
changed the refinement.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import iotbx.shelx
from cctbx import sgtbx

from dials_hybrid_refine.io.restraints_shelx import (
    RESTRAINT_INSTRUCTIONS,
    ShelxAtoms,
    read_restraints,
)
from dials_hybrid_refine.io.shelx_atoms import (
    AfixGroup,
    AtomLine,
    ModelInstruction,
    RecordingBuilder,
    free_partly_fixed,
    set_anisotropic,
)
from dials_hybrid_refine.io.shelx_constraints import make_constraints
from dials_hybrid_refine.io.structure_atoms import (
    LoadedStructure,
    ModelError,
    check_amount,
    element_of_type,
    make_symmetry,
    replaced_types,
)
from dials_hybrid_refine.models.connectivity import Disorder

#: what would change the model or its refinement, if it were applied
_NOT_APPLIED = frozenset(
    "SAME BUMP NCSY XNPD HFIX MOVE FRAG BASF EXTI SWAT SPEC NEUT ABIN BEDE LONE BIND CONN FREE OMIT "
    "SHEL".split()
)
_OTHER = frozenset(
    "ACTA ANSC ANSR BLOC BOND CGLS CONF DAMP DISP END ESEL FEND FMAP GRID HOPE HTAB L.S. LAUE LIST MERG "
    "MOLE MORE MPLA MUST PATT PLAN PRIG REM RTAB SIZE STIR TEMP TIME TITL TREF TWST UNIT WGHT WIGL WPDB".split()
)
#: what becomes constraints, with the names of atoms
_CONSTRAINING = frozenset(("EADP", "EXYZ", "SUMP", "ANIS"))


def read_shelx(text: str) -> LoadedStructure:
    """The structure of a SHELX file with those constraints that iotbx understands.

    Raises:
        ModelError: if what the file says cannot be used.
        Exception: whatever iotbx raises where the text is not a SHELX file.
    """
    instructions = _sort(text)
    symmetry = make_symmetry(instructions.cell, instructions.space_group)
    check_amount(len(instructions.atoms), symmetry)
    rewritten = instructions.rewritten()
    try:
        model = _parsed(rewritten, RecordingBuilder(set_grad_flags=True))
    except iotbx.shelx.error as error:  # it counts the lines of the text as rewritten
        lines = rewritten.splitlines()
        reason = re.sub(r" at line (\d+)$", lambda m: f": {lines[int(m[1]) - 1]}", str(error))
        raise ModelError(f"an instruction is not understood ({reason}): correct it") from error
    except IndexError as error:
        raise ModelError(
            "a value of an atom refers to a free variable that FVAR does not give: complete FVAR or correct "
            "the atom (10 added to a value keeps it fixed, 20 and more name a variable)"
        ) from error
    # iotbx moves atoms onto special positions: read again without, for the sites as given
    plain = _parsed(rewritten, RecordingBuilder(min_distance_sym_equiv=0))
    structure = model.structure
    if not structure.is_similar_symmetry(symmetry):
        raise ModelError("the symmetry is not understood: check CELL, LATT and SYMM")
    for scatterer, atom in zip(structure.scatterers(), instructions.atoms):
        scatterer.label = atom.label  # iotbx has put it in upper case
    disorder = Disorder(tuple(model.conformer_indices or ()), tuple(model.sym_excl_indices or ()))
    notes = free_partly_fixed(structure, model.behaviours)
    as_read = list(structure.sites_frac())
    constraints, unsupported, more = make_constraints(
        structure, instructions.atoms, instructions.groups, instructions.constraints,
        model.behaviours, disorder,
    )  # fmt: skip
    # what an idealised group moves is no special position
    given = [
        site if after == before else after
        for site, before, after in zip(
            plain.structure.sites_frac(), as_read, structure.sites_frac()
        )
    ]
    set_anisotropic(structure, instructions.atoms, instructions.constraints)
    instructions.unsupported |= unsupported
    scatterers = structure.scatterers()
    labels = [atom.label for atom in instructions.atoms]
    restraints, left_out = read_restraints(
        instructions.restraints,
        ShelxAtoms(labels, [s.element_symbol() for s in scatterers]),
        any(line.startswith("RESI") for line in instructions.model),
    )
    instructions.unsupported |= set(left_out)
    return LoadedStructure(
        structure=structure,
        given_sites=given,
        shelx_constraints=constraints,
        disorder=disorder,
        warnings=(*instructions.warnings(), *notes, *more),
        unsupported=tuple(sorted(instructions.unsupported)),
        restraints=tuple(restraints),
        cell_su=instructions.cell_su,
    )


def _parsed(text: str, builder: RecordingBuilder) -> RecordingBuilder:
    """Have iotbx read the symmetry and the atoms.

    Its own constraints are not asked for: it takes any U that depends on a free variable for one
    that depends on another U.
    """
    stream = iotbx.shelx.command_stream(file=io.StringIO(text))
    stream = iotbx.shelx.crystal_symmetry_parser(stream, builder)
    iotbx.shelx.atom_parser(stream.filtered_commands(), builder).parse()
    return builder


@dataclass
class _Instructions:
    """The instructions of a file, sorted by what becomes of them."""

    cell: list[float] = field(default_factory=list)
    cell_su: tuple[float, ...] | None = None
    lattice: list[str] = field(default_factory=list)
    elements: list[str] = field(default_factory=list)
    types: dict[str, str] = field(default_factory=dict)
    atoms: list[AtomLine] = field(default_factory=list)
    groups: list[AfixGroup] = field(default_factory=list)
    constraints: list[ModelInstruction] = field(default_factory=list)
    residue: str = "0"
    afix: AfixGroup | None = None
    model: list[str] = field(default_factory=list)
    restraints: list[str] = field(default_factory=list)
    unsupported: set[str] = field(default_factory=set)
    n_peaks: int = 0
    complete: bool = False

    @property
    def space_group(self) -> sgtbx.space_group:
        group = sgtbx.space_group()
        for line in self.lattice:
            name, _, value = line.partition(" ")
            if name == "SYMM":
                try:
                    group.expand_smx(sgtbx.rt_mx(value.replace(" ", "")))
                except (RuntimeError, ValueError):
                    raise ModelError(
                        f"the instruction {line} is not understood: correct it"
                    ) from None
                continue
            if not re.fullmatch(r"-?[1-7]", value):
                raise ModelError(f"the instruction {line} is not understood: correct it")
            if int(value) > 0:
                group.expand_inv(sgtbx.tr_vec((0, 0, 0)))
            group.expand_conventional_centring_type("*PIRFABC"[abs(int(value))])
        return group

    def rewritten(self) -> str:
        cell = "CELL 0.02 " + " ".join(repr(v) for v in self.cell)  # the wavelength is not used
        lines = [cell, *self.lattice, "SFAC " + " ".join(self.elements), *self.model, "HKLF 4"]
        return "\n".join(lines) + "\n"

    def warnings(self) -> list[str]:
        found = replaced_types(self.types)
        if self.n_peaks:
            found.append(f"{self.n_peaks} peaks (Q) in the list of atoms are left out")
        if self.unsupported:
            names = ", ".join(sorted(self.unsupported))
            found.append(f"these SHELX instructions are not applied: {names}")
        return found


def _logical_lines(text: str) -> Iterator[str]:
    """Instructions with their continuation lines, without comments."""
    pending = ""
    for raw in text.splitlines():
        if not pending and (not raw.strip() or raw[0].isspace()):
            continue
        is_text = not pending and raw[:4].upper() in ("TITL", "REM ")
        line = raw if is_text else pending + raw.split("!")[0].rstrip()
        pending = ""
        if line.endswith("=") and not is_text:
            pending = line[:-1] + " "
            continue
        yield line.strip()
    if pending:
        raise ModelError("the last instruction is not complete: the file is truncated")


def _sort(text: str) -> _Instructions:
    """Sort the instructions of a file.

    Raises:
        ModelError: for missing instructions.
    """
    found = _Instructions()
    in_fragment = False
    for line in _logical_lines(text):
        words = line.split()
        if not words:
            continue
        name = words[0].upper().partition("_")[0][:4] if "_" in words[0] else words[0].upper()
        if in_fragment or name == "FRAG":
            found.unsupported.add("FRAG")
            in_fragment = name != "FEND"
        elif name in ("HKLF", "END"):
            _check_data_format(found, words)
            found.complete = True
            break
        else:
            _take(found, name, words)
    for missing, value in (("CELL (the unit cell)", found.cell), ("SFAC", found.elements)):
        if not value:
            raise ModelError(f"the instruction {missing} is missing: the file is not complete")
    if not any(line.startswith("LATT") for line in found.lattice):
        raise ModelError("no symmetry was found: add LATT and SYMM instructions")
    if not found.atoms:
        raise ModelError("no atoms were found: give a file with the structure's atomic coordinates")
    if not found.complete:
        raise ModelError("neither HKLF nor END was found: the file is truncated")
    return found


def _check_data_format(found: _Instructions, words: list[str]) -> None:
    """What HKLF says of the crystal; its data are not read.

    Raises:
        ModelError: for reflections that several domains contribute to (HKLF 5 and 6).
    """
    if words[1:2] in (["5"], ["6"]):
        raise _twin(" ".join(words[:2]), "if this crystal is single, write HKLF 4 and remove BASF")
    if len(words) > 3:
        found.unsupported.add("the matrix of HKLF")


def _twin(instruction: str, remedy: str) -> ModelError:
    return ModelError(
        f"{instruction} describes a twin, and twins cannot be refined: {remedy}; otherwise give data of "
        "a single domain"
    )


def _numbers(words: list[str]) -> list[float]:
    """The arguments of an instruction as numbers.

    Raises:
        ModelError: if one is none.
    """
    for word in words[1:]:
        if not re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", word):
            raise ModelError(
                f"the instruction {' '.join(words)} has {word!r}, which is not a number: correct it"
            )
    return [float(word) for word in words[1:]]


def _take(found: _Instructions, name: str, words: list[str]) -> None:
    """Put one instruction in its place.

    Raises:
        ModelError: for one that cannot be used.
    """
    arguments = words[1:]
    if name == "TWIN":
        raise _twin("TWIN", "if this crystal is single, remove TWIN and BASF")
    if name == "CELL":
        found.cell = _numbers(words)[1:7]
        if len(found.cell) != 6:
            raise ModelError("the instruction CELL needs a wavelength and six numbers: complete it")
    elif name == "ZERR":
        numbers = [v for v in arguments[1:7] if re.fullmatch(r"\d+\.?\d*|\.\d+", v)]
        found.cell_su = tuple(float(v) for v in numbers) if len(numbers) == 6 else None
    elif name in ("LATT", "SYMM"):
        found.lattice.append(f"{name} {' '.join(arguments)}")
    elif name == "SFAC":
        with_coefficients = len(arguments) > 1 and re.match(r"[-+.\d]", arguments[1])
        for symbol in arguments[:1] if with_coefficients else arguments:
            found.types[symbol] = element_of_type(symbol.lstrip("$"))
            found.elements.append(found.types[symbol])
    elif name in ("FVAR", "PART"):
        _numbers(words)
        found.model.append(" ".join([name, *arguments]))
    elif name == "RESI":
        found.residue = next((a for a in arguments if a.isdigit()), "0")
        found.model.append(" ".join([name, *arguments]))
    elif name == "AFIX":
        found.afix = AfixGroup.of(_numbers(words))
        if found.afix is not None:
            found.groups.append(found.afix)
    elif name in _CONSTRAINING:
        suffix = words[0].partition("_")[2]
        found.constraints.append(ModelInstruction(name, suffix, arguments, len(found.atoms)))
    elif name in RESTRAINT_INSTRUCTIONS:
        found.restraints.append(" ".join(words))
    elif name in _NOT_APPLIED:
        found.unsupported.add(name)
    elif name.startswith("+"):
        found.unsupported.add("+file")
    elif name in _OTHER:
        pass
    elif re.fullmatch(r"Q\d+", name):
        found.n_peaks += 1
    else:
        if not arguments or not re.fullmatch(r"\d+", arguments[0]):
            raise ModelError(
                f"the instruction {' '.join(words)} is not understood: correct or remove it"
            )
        if not 1 <= int(arguments[0]) <= len(found.elements):
            raise ModelError(
                f"the atom {words[0]} is of type {arguments[0]}, but SFAC names {len(found.elements)} before "
                "it: correct one of them"
            )
        _numbers(words)
        defaults = {4: ["11.0", "0.05"], 5: ["0.05"]}  # occupancy and U that SHELX assumes
        arguments = [*arguments, *defaults.get(len(arguments), [])]
        if found.afix is not None:
            arguments = found.afix.with_values(arguments)
            found.afix.members.append(len(found.atoms))
        found.atoms.append(AtomLine(words[0], found.residue))
        found.model.append(" ".join([words[0], *arguments]))
