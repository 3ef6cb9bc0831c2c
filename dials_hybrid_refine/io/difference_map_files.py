"""The difference map for graphics programs: CCP4 map, and its coefficients as MTZ."""

from __future__ import annotations

from iotbx.mtz import label_decorator

from dials_hybrid_refine.refinement.difference_map import DifferenceMap, potential_map


def write_map(difference: DifferenceMap, path: str) -> None:
    """A CCP4 map of one unit cell in e/Angstrom."""
    labels = ["dials.hybrid_refine: difference of the electrostatic potential, e/Angstrom"]
    potential_map(difference.coefficients).as_ccp4_map(file_name=path, labels=labels)


def write_map_coefficients(difference: DifferenceMap, path: str) -> None:
    """An MTZ file of structure factors in Angstrom, under the names that CCP4 programs know.

    DELFWT, PHDELWT: the difference map. FC, PHIC: the model. FWT, PHWT: their sum.
    """
    model, change = difference.model, difference.coefficients
    decorator = label_decorator(phases_prefix="PHI_")
    both = model.customized_copy(data=model.data() + change.data())
    dataset = change.as_mtz_dataset(column_root_label="DELFWT", label_decorator=decorator)
    dataset.add_miller_array(both, column_root_label="FWT", label_decorator=decorator)
    dataset.add_miller_array(model, column_root_label="FC", label_decorator=decorator)
    content = dataset.mtz_object()
    for root, phase in (("DELFWT", "PHDELWT"), ("FWT", "PHWT"), ("FC", "PHIC")):
        content.get_column(f"PHI_{root}").set_label(phase)
    content.write(path)
