"""A page in one file that opens without a network.

DIALS' own templates load plotly, bootstrap and katex from a network or from a web server, so that these
pages bring a template of their own, with plotly.js from the Python package plotly.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import jinja2
from markupsafe import Markup, escape

from dials_hybrid_refine import __version__
from dials_hybrid_refine.report.figure import Figure
from dials_hybrid_refine.report.headline import Headline
from dials_hybrid_refine.report.html_tables import Table

#: oldest release of plotly, as in setup.cfg
_PLOTLY = 6

#: quantities with an index, as the log writes them
_SYMBOL = re.compile(r"\b(M?w?R2?|[IFUE])_(obs|all|calc|eq|o|c)\b")


@dataclass(frozen=True)
class Panel:
    """A tab of the page."""

    name: str
    figures: Sequence[Figure]
    tables: Sequence[Table]
    lists: Sequence[tuple[str, Sequence[str]]] = ()
    texts: Sequence[tuple[str, str]] = ()
    note: str = ""

    @property
    def identifier(self) -> str:
        """For the address of the tab."""
        return self.name.lower().replace(" ", "-")


@dataclass(frozen=True)
class Page:
    """What a page states.

    Attributes:
        program: its heading. title: of the window. subtitle: the line below.
        dials: name and version of DIALS.
    """

    program: str
    title: str
    subtitle: str
    headline: Headline
    warnings: Sequence[str]
    panels: Sequence[Panel]
    dials: str


def plotly_javascript() -> str:
    """The source of plotly.js.

    Raises:
        ValueError: if the package plotly is missing or old; that of Debian 12 brings twice the size
            and lacks some of what the layouts ask for.
    """
    try:
        import plotly
        from plotly.offline import get_plotlyjs
    except ImportError:
        version = None
    else:
        version = str(plotly.__version__)
    if version is None or int(version.split(".")[0]) < _PLOTLY:
        found = "it is not installed" if version is None else f"this is {version}"
        raise ValueError(
            f"output.html needs the Python package plotly {_PLOTLY} or newer ({found}): run "
            f"'pip install \"plotly>={_PLOTLY}\"', or give output.html=None for no page"
        )
    source: str = get_plotlyjs()
    return source


def _subscripts(text: str) -> Markup:
    """R_obs with a subscript; what is markup already stays as it is."""
    if isinstance(text, Markup):
        return text
    return Markup(_SYMBOL.sub(r"\1<sub>\2</sub>", str(escape(text))))


def html_page(page: Page) -> str:
    """The page as HTML.

    Raises:
        ValueError: if plotly.js is not installed.
    """
    folder = resources.files("dials_hybrid_refine.report") / "templates"

    def text(name: str) -> str:
        return (folder / name).read_text(encoding="utf-8")

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["subscripts"] = _subscripts
    figures = [figure for panel in page.panels for figure in panel.figures]
    return environment.from_string(text("report.html")).render(
        **vars(page),
        plots={figure.name: figure.as_plotly() for figure in figures},
        version=__version__,
        # these three are the package's own, and must not be escaped
        css=Markup(text("report.css")),
        javascript=Markup(text("report.js")),
        plotly=Markup(plotly_javascript()),
    )
