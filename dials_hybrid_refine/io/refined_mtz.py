"""Merged intensities and structure factors as an MTZ file."""

from __future__ import annotations

from cctbx.array_family import flex
from iotbx.mtz import label_decorator

from dials_hybrid_refine.io.kinematical_intensities import KinematicalIntensities


class _Labels(label_decorator):
    """FC and PHIC, as CCP4 programs name them."""

    def phases(self, root_label: str, anomalous_sign: str | None = None) -> str:
        return "PHIC"


def write_mtz(data: KinematicalIntensities, wavelength: float, path: str) -> None:
    """Write columns IOBS SIGIOBS FOBS SIGFOBS FC PHIC and FreeR_flag (1: held out).

    All are on the scale of FC in Angstrom. FOBS is the square root of IOBS, 0 where that is
    negative. FreeR_flag is left out where stretches of the scan were held out.
    """
    intensities = data.intensities()
    dataset = intensities.as_mtz_dataset(
        column_root_label="IOBS",
        title="dials.hybrid_refine",
        crystal_name="crystal",
        dataset_name="electrons",
        wavelength=wavelength,
    )
    dataset.add_miller_array(intensities.f_sq_as_f(), column_root_label="FOBS")
    dataset.add_miller_array(
        data.structure_factors(), column_root_label="FC", label_decorator=_Labels()
    )
    if data.held_out is not None:
        flags = data.miller_set().array(data=flex.int(data.held_out.astype(int).tolist()))
        dataset.add_miller_array(flags, column_root_label="FreeR_flag")
    mtz = dataset.mtz_object()
    if mtz.space_group_name().startswith("No."):  # a setting that CCP4's list of symbols has not
        info = data.symmetry.space_group_info()
        mtz.set_space_group_info(info, symbol=info.type().lookup_symbol())
    mtz.write(path)
