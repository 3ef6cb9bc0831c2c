"""The page, the plots' JSON and the picture files of dials.hybrid_refine."""

from __future__ import annotations

import json
import re

import matplotlib.image
import numpy as np
import pytest
from browser import check_page
from command_runs import FAST, INPUT

from libtbx.utils import Sorry

from dials_hybrid_refine.command_line import hybrid_refine

#: of every refinement; rocking curves come in addition
PLOTS = {
    "thickness_distribution", "thickness_profile", "orientation_correction", "scale", "f_obs_f_calc",
    "r_by_angle", "r_by_resolution", "r_by_significance", "residual_by_intensity",
    "residual_by_resolution", "residual_by_angle", "normal_probability", "convergence_r",
    "convergence_loss", "convergence_thickness", "structure_view",
}  # fmt: skip
PANELS = [
    "experiment", "agreement", "rocking-curves", "structure", "convergence", "reflections", "details",
]  # fmt: skip


@pytest.fixture(scope="module")
def page(refined):
    return refined / "dials.hybrid_refine.html"


@pytest.fixture(scope="module")
def plots(page):
    """The plots that the page holds."""
    text = page.read_text()
    found = re.search(r'<script type="application/json" id="plots">(.*?)</script>', text, re.S)
    return json.loads(found.group(1))


@pytest.mark.parametrize("width", [1280, 400])
def test_every_plot_is_drawn(page, plots, browser, width):
    names = check_page(browser, page, width)
    assert names == set(plots)
    assert {n for n in names if not n.startswith("rocking_curve_")} == PLOTS
    assert browser.panels() == PANELS


def test_texts_and_tables(page, refined, browser):
    """The address of a tab, the numbers of the summary, a table that scrolls inside a narrow page."""
    summary = json.loads((refined / "dials.hybrid_refine.json").read_text())
    browser.open(page, 400, "#structure")
    assert browser.driver.find_element("id", "structure").is_displayed()
    assert not browser.driver.find_element("id", "experiment").is_displayed()
    shown = browser.driver.find_element("id", "summary").text
    for key in ("r_obs", "r_obs_held_out"):
        assert f"{100 * summary['statistics'][key]:.2f} %" in shown
    assert summary["structure"]["space_group"] in shown
    table = browser.driver.find_element("css selector", "#structure .table")
    assert table.size["width"] <= 400 < browser.scroll_width("#structure .table")
    assert all(atom["label"] in table.text for atom in summary["structure"]["atoms"])


def test_rocking_curves_hold_the_calculated_intensity(plots, refined):
    """The area under the shaded curve is the calculated intensity that the caption states.

    The trapezoidal rule over a few dozen tilts and the tails that are not in the curve leave a few
    per cent.
    """
    curves = [plot for name, plot in plots.items() if name.startswith("rocking_curve_")]
    strong = [c for c in curves if c["help"].startswith("Strongest")]
    assert len(strong) == 6 and len(curves) == 12
    for curve in strong:
        window = curve["data"][0]
        stated = float(re.search(r"I_calc (\d+)", curve["help"]).group(1))
        x, y = np.array(window["x"]), np.array(window["y"])
        area = (np.diff(x) * (y[1:] + y[:-1]) / 2).sum()
        assert area == pytest.approx(stated, rel=0.05)


def test_distributions_have_the_mean_that_is_stated(plots):
    """Density times thickness integrates to the mean, at every angle."""
    heat, mean = plots["thickness_distribution"]["data"][:2]
    heights, density = np.array(heat["y"]), np.array(heat["z"])
    step = np.gradient(heights)[:, None]
    total = (density * step).sum(0)
    assert total == pytest.approx(1000, rel=0.01)  # in % for 10 Angstrom
    assert (density * heights[:, None] * step).sum(0) / total == pytest.approx(mean["y"], rel=0.02)


def test_plots_as_files_and_json(files):
    arguments = [*INPUT, *FAST, "output.plots=pictures", "output.plots_json=plots.json"]
    hybrid_refine.run([*arguments, "output.html=None"])
    plots = json.loads((files / "plots.json").read_text())
    assert not (files / "dials.hybrid_refine.html").exists()
    assert set(plots) >= PLOTS
    for name, plot in plots.items():
        assert {"data", "layout"} <= set(plot)
        assert plot["layout"]["title"]["text"]
        image = matplotlib.image.imread(files / "pictures" / f"{name}.png")[..., :3]
        assert (np.ptp(image, axis=-1) > 0.25).sum() > 100, f"{name} is blank"
    for axis in ("xaxis", "yaxis"):
        titles = {
            n: p["layout"][axis]["title"]["text"] for n, p in plots.items() if axis in p["layout"]
        }
        assert all(titles.values())


@pytest.mark.parametrize(
    "argument, named",
    [
        ("output.plots=data.expt", "is a file"),
        ("output.plots=lost/pictures", "create it first"),
        ('output.plots=""', "None"),
    ],
)
def test_folder_that_cannot_be(files, argument, named):
    with pytest.raises(Sorry, match=f"output.plots.*{named}"):
        hybrid_refine.run([*INPUT, argument])
