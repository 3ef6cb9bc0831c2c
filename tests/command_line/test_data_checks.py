"""What is wrong with the data is in log, JSON, CIF and page."""

from __future__ import annotations

import json

import numpy as np
import pytest
from command_runs import FAST, INPUT

from dials.array_family import flex
from libtbx.utils import Sorry

from dials_hybrid_refine.command_line import hybrid_refine


def test_sound_data_of_a_narrow_scan(summary):
    """20 degrees of quartz, which is all there is to say."""
    assert [found["name"] for found in summary["data_checks"]] in ([], ["low_completeness"])


@pytest.fixture
def faulty(files):
    """Five rows overloaded, and four others twice."""
    table = flex.reflection_table.from_file("data.refl")
    overloaded = flex.bool(np.arange(len(table)) < 5)
    table.set_flags(overloaded, table.flags.overloaded)
    table.extend(table.select(flex.bool(np.arange(len(table)) >= len(table) - 4)))
    table.as_file("data.refl")
    return files


def test_findings_are_everywhere(faulty):
    quick = ["absolute_structure.test=False", "difference_map=False"]
    hybrid_refine.run([*INPUT, *FAST, *quick, "beams.g_max=1.2"])
    summary = json.loads((faulty / "dials.hybrid_refine.json").read_text())
    found = {f["name"]: f for f in summary["data_checks"]}
    assert found["repeated_rows"]["values"] == {"n": 4}
    assert found["overloaded"]["values"]["n"] == 5
    assert found["beyond_beams"]["severity"] == "warning"
    log = (faulty / "dials.hybrid_refine.log").read_text()
    page = (faulty / "dials.hybrid_refine.html").read_text()
    cif = " ".join((faulty / "hybrid_refined.cif").read_text().split())
    for finding in found.values():
        sentence = finding["sentence"]
        assert (sentence in summary["warnings"]) == (finding["severity"] == "warning")
        assert sentence in log and sentence in page and sentence in cif


@pytest.mark.parametrize("wanted", [True, False])
def test_they_come_before_the_calculation_or_not_at_all(faulty, stop_before_refinement, wanted):
    with pytest.raises(Sorry, match="the input was good"):
        hybrid_refine.run([*INPUT, f"data_checks={wanted}"])
    assert ("occur again" in (faulty / "dials.hybrid_refine.log").read_text()) == wanted
