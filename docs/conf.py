"""Sphinx configuration: ``make docs`` builds the pages into build/docs."""

from __future__ import annotations

import sys
from pathlib import Path

from sphinx.application import Sphinx

import dials_hybrid_refine

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

project = "dials.hybrid_refine"
author = "The dials_hybrid_refine developers"
copyright = author
version = release = dials_hybrid_refine.__version__

extensions = ["myst_parser", "mathml", "program_page"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_ext", "examples"]
highlight_language = "none"

html_theme = "furo"
html_title = f"{project} {version}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
# mathematics needs no network: browsers draw MathML themselves
html_math_renderer = "mathml"
html_copy_source = False
html_show_copyright = False


def _leave_out_validation(app: Sphinx, docname: str, source: list[str]) -> None:
    """benchmarks/validation writes validation.md: without it the index does not list it."""
    if docname == "index" and not (HERE / "validation.md").exists():
        source[0] = source[0].replace("\nvalidation\n", "\n")


def setup(app: Sphinx) -> None:
    """Called by sphinx."""
    app.connect("source-read", _leave_out_validation)
