"""The list of refinements: which data, which start, which models."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

#: seeds of the held-out split and of the network
SEEDS = range(5)
#: those of variants that only show what else the program does
FEW_SEEDS = range(1)
#: thickness models that are neither the default nor geometric: of CsPbBr3, where a row takes half an hour of
#: processor time, few seeds
OTHER_MODELS = ("neural_mean", "per_image")
THICKNESS_MODELS = (
    "neural", "neural_mean", "constant", "per_image", "wedge", "cylinder", "lens",
)  # fmt: skip
#: starts three times as far as the authors': mean displacement in Angstrom, and how many of them
FAR = 0.3
N_FAR = 3
#: ends the names of variants for comparison with programs that hold out nothing
_ALL = "+all"
#: largest angle in degrees by which synthetic data have their orientation turned beforehand
TURN = 0.2


@dataclass(frozen=True)
class Simulation:
    """Arguments of dials.hybrid_simulate that are the truth of a data set.

    Attributes:
        thickness: mean thickness in Angstrom at evenly spaced angles.
        width: thickness.std in Angstrom.
        arguments: the others.
    """

    thickness: tuple[float, ...]
    width: float
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Dataset:
    """Data of one crystal.

    Attributes:
        name: as in the names of rows.
        table: which table of the document its rows go to.
        crystal: quartz, cspbbr3 or molecule.
        pets: the PETS2 file in the folder of the paper. For simulated data only its scan is taken
            (None: the scan that the package ships); None for measured data: those of dials_data.
        simulation: None where intensities are not our own.
        arguments: of dials.hybrid_refine, for all rows of the data.
        import_arguments: of dials.import_pets.
    """

    name: str
    table: str
    crystal: str
    pets: str | None = None
    simulation: Simulation | None = None
    arguments: tuple[str, ...] = ()
    import_arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Start:
    """A structure to start from.

    Attributes:
        name: as in the names of rows.
        file: in the folder of the crystal, or "truth".
        displacement: mean distance in Angstrom by which the true atoms are then moved; 0: the
            sites of the file.
        u_factor: of the displacement parameters of the file.
        seed: of the directions.
    """

    name: str
    file: str
    displacement: float = 0.0
    u_factor: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Row:
    """One refinement.

    Attributes:
        dataset, start: see there.
        variant: names the models, "+" between what differs from the defaults.
        arguments: of dials.hybrid_refine, for the variant.
        seed: of the program.
        turn: largest angle in degrees by which the orientation is wrong at the start.
        quick: belongs to the short selection.
    """

    dataset: Dataset
    start: Start
    variant: str
    arguments: tuple[str, ...] = ()
    seed: int = 0
    turn: float = 0.0
    quick: bool = False

    @property
    def name(self) -> str:
        """Unique, with three slashes."""
        return f"{self.dataset.name}/{self.start.name}/{self.variant}/seed{self.seed}"

    @property
    def refine_arguments(self) -> tuple[str, ...]:
        """All arguments of dials.hybrid_refine but files and nproc."""
        return (*self.dataset.arguments, *self.arguments, f"seed={self.seed}")


_SYNTHETIC = tuple(
    Dataset(f"synthetic-{crystal}", "synthetic", crystal, f"{crystal}/synthetic.cif_pets")
    for crystal in ("quartz", "cspbbr3")
)
_NOISE = ("noise.poisson=True", "mean_intensity=40000")
#: simulated counts vary by their sigmas and no more
_WEIGHTS = ("weighting.instability=0.005",)
_SIMULATED = (
    Dataset(
        "simulated-quartz",
        "simulated",
        "quartz",
        simulation=Simulation((450.0, 700.0, 500.0, 600.0), 60.0, ("d_min=0.6", *_NOISE)),
        arguments=_WEIGHTS,
    ),
    Dataset(
        "simulated-molecule",
        "simulated",
        "molecule",
        simulation=Simulation(
            (500.0, 900.0, 700.0, 800.0), 100.0, ("d_min=0.65", "beams.s_max=0.025", *_NOISE)
        ),
        # its data determine atoms so well that the limits that R_obs asks for would bend them
        arguments=("beams.accuracy=0.004", *_WEIGHTS),
    ),
    Dataset(
        "simulated-cspbbr3",
        "simulated",
        "cspbbr3",
        "cspbbr3/experimental.cif_pets",
        Simulation((350.0, 500.0, 400.0, 450.0), 50.0, ("d_min=0.7", *_NOISE)),
        _WEIGHTS,
    ),
)
_MEASURED = (
    Dataset(
        "measured-quartz",
        "measured",
        "quartz",
        "quartz/experimental.cif_pets",
        arguments=("frames.rsg=0.9",),
    ),
    Dataset("measured-quartz-dials", "measured", "quartz"),
    Dataset(
        "measured-cspbbr3",
        "measured",
        "cspbbr3",
        "cspbbr3/experimental.cif_pets",
        arguments=("frames.rsg=0.66", "beams.g_max=2.3", "beams.s_max=0.02"),
    ),
)
#: degrees along the scan that a frame has to itself, by crystal: three semi-angles
_FRAME_WIDTH = {"quartz": 3.0, "cspbbr3": 4.5}
#: treated as programs do that work frame by frame: each frame's own intensities, orientation and scale, all
#: reflections that pass their filter
_FRAME_BY_FRAME = tuple(
    replace(
        data,
        name=f"{data.name}-frames",
        arguments=(*data.arguments, "held_out.fraction=0", "weighting.max_rejected=0"),
        import_arguments=("intensities=frames", data.arguments[0]),
    )
    for data in _MEASURED
    if data.pets is not None
)
_MEASURED_START = {
    "quartz": Start("kinematical", "kinematical.cif"),
    "cspbbr3": Start("reference", "reference.cif"),
}


def _synthetic_rows() -> list[Row]:
    rows = []
    for data in _SYNTHETIC:
        starts = [Start(f"start_{i}", f"synthetic_start_{i}.cif") for i in (1, 2)]
        starts += [
            Start(f"far_{i}", "synthetic_start_1.cif", FAR, seed=i) for i in range(1, N_FAR + 1)
        ]
        rows += [
            Row(data, s, "neural", turn=TURN, quick=(data.crystal, s.name) == ("quartz", "start_1"))
            for s in starts
        ]
    return rows


def _simulated_rows() -> list[Row]:
    start = Start("displaced", "truth", 0.1, u_factor=1.5)
    return [Row(d, start, "neural", quick=d.crystal == "quartz") for d in _SIMULATED]


def _variants(crystal: str) -> dict[str, tuple[str, ...]]:
    """Arguments of each variant of measured data beside the thickness models, by name."""
    by_frames = ("held_out.by=frames",)
    variants = {f"{m}+frames": (f"thickness.model={m}", *by_frames) for m in THICKNESS_MODELS}
    per_frame = ("orientation.model=per_frame",)
    variants["neural+per_frame"] = per_frame
    variants[f"neural+per_frame{_ALL}"] = per_frame
    if crystal == "cspbbr3":
        for kind in ("proportional", "tabulated"):
            absorption = (f"absorption.model={kind}",)
            variants[f"neural+{kind}"] = absorption
            variants[f"neural+{kind}+per_frame{_ALL}"] = (*absorption, *per_frame)
    return variants


def _held_out(variant: str) -> str:
    return f"held_out.fraction={0 if variant.endswith(_ALL) else 0.1}"


def _measured_rows() -> list[Row]:
    rows = []
    for data in _MEASURED:
        start = _MEASURED_START[data.crystal]
        models = {model: (f"thickness.model={model}",) for model in THICKNESS_MODELS}
        others = _variants(data.crystal)
        if data.crystal == "cspbbr3":
            others |= {model: models.pop(model) for model in OTHER_MODELS}
        for variants, seeds in ((models, SEEDS), (others, FEW_SEEDS)):
            rows += [
                Row(
                    data, start, name, (*arguments, _held_out(name)), seed,
                    quick=(data.name, seed) == ("measured-quartz-dials", 0)
                    and name in ("neural", "constant"),
                )
                for name, arguments in variants.items()
                for seed in seeds
            ]  # fmt: skip
    return rows


def _frame_by_frame_rows() -> list[Row]:
    rows = []
    for data in _FRAME_BY_FRAME:
        width = _FRAME_WIDTH[data.crystal]
        free = ("orientation.model=per_frame", f"orientation.frame_width={width:g}")
        variants = {
            "neural": (),
            "neural+per_frame": free,
            "per_image+per_frame": (
                "thickness.model=per_image",
                f"thickness.frame_width={width:g}",
                *free,
            ),
        }
        if data.crystal == "cspbbr3":
            variants["neural+tabulated+per_frame"] = ("absorption.model=tabulated", *free)
        start = _MEASURED_START[data.crystal]
        rows += [Row(data, start, name, arguments) for name, arguments in variants.items()]
    return rows


def all_rows() -> list[Row]:
    """Every row, those that answer most first."""
    return _synthetic_rows() + _simulated_rows() + _measured_rows() + _frame_by_frame_rows()


def select(rows: list[Row], patterns: list[str], quick: bool) -> list[Row]:
    """Rows whose name contains or, with wildcards, matches one of the patterns (none: all)."""

    def wanted(row: Row) -> bool:
        return any(p in row.name or fnmatchcase(row.name, p) for p in patterns) or not patterns

    return [row for row in rows if wanted(row) and (row.quick or not quick)]
