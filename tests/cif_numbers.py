"""Numbers of a CIF, as the tests read them."""

from __future__ import annotations

import re

#: items of the refinement and the keys of the summary that hold the same numbers
STATISTICS = {
    "_refine_ls_R_factor_gt": "r_obs",
    "_refine_ls_R_factor_all": "r_all",
    "_refine_ls_wR_factor_ref": "wr_all",
    "_refine_ls_goodness_of_fit_ref": "gof",
    "_refine_ls_number_reflns": "n_reflections",
    "_refine_ls_number_reflns_gt": "n_observed",
    "_refine_ls_number_parameters": "n_parameters",
}


def value_and_su(text):
    """Value, s.u. (0 without brackets) and size of the last digit of a number in a CIF."""
    number, su = re.fullmatch(r"(-?\d+(?:\.\d*)?)(?:\((\d+)\))?", text).groups()
    unit = 10.0 ** -len(number.partition(".")[2])
    return float(number), int(su or 0) * unit, unit


def check_statistics(block, statistics):
    """Those of the summary, to the digits of the CIF."""
    for name, key in STATISTICS.items():
        value, _, unit = value_and_su(block[name])
        assert abs(value - statistics[key]) <= 0.5001 * unit, name
