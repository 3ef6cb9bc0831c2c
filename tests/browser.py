"""Opens a page in headless Chromium and tells what a person would see."""

from __future__ import annotations

import base64
import io
import json
import time
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np

#: what is drawn in colour has channels that differ by more than this (of 1); text and grids are grey
_COLOURED = 0.25


class Browser:
    """One window; use it as a context manager."""

    def __init__(self, program: str, driver: str) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = program
        for argument in (
            "--headless=new",
            "--hide-scrollbars",
            "--no-sandbox",  # in containers there is no other user to run as
            "--disable-dev-shm-usage",
            "--use-gl=angle",  # WebGL, without a graphics card
            "--use-angle=swiftshader",
            "--enable-unsafe-swiftshader",
        ):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(driver))

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: Any) -> None:
        self.driver.quit()

    def open(self, page: Path, width: int, address: str = "") -> None:
        """Load a file in a window so many pixels wide; what was logged before is forgotten.

        ``address``: of a part of the page, with #.
        """
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)
        self._set_size(width, 900)
        self.driver.get("about:blank")
        self.driver.get(page.resolve().as_uri() + address)

    def errors(self) -> list[str]:
        """What the console holds as errors, uncaught exceptions and blocked requests included."""
        return [e["message"] for e in self.driver.get_log("browser") if e["level"] == "SEVERE"]

    def requests(self) -> list[str]:
        """The addresses asked for; data inside the page are none."""
        messages = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        addresses = [
            m["params"]["request"]["url"]
            for m in messages
            if m["method"] == "Network.requestWillBeSent"
        ]
        return [a for a in addresses if not a.startswith(("data:", "blob:", "about:"))]

    def panels(self) -> list[str]:
        """Identifiers of the tabs."""
        return self.driver.execute_script(
            "return [...document.querySelectorAll('nav button')].map(b => b.dataset.panel)"
        )

    def show(self, panel: str, seconds: float = 60) -> None:
        """Click on a tab and wait until its plots are drawn."""
        self.driver.execute_script(f"document.getElementById('tab-{panel}').click()")
        end = time.monotonic() + seconds
        waiting = ".panel.shown .plot:not([data-drawn=done])"
        while self.driver.find_elements("css selector", waiting):
            assert time.monotonic() < end, f"the plots of {panel} are not drawn"
            time.sleep(0.05)

    def _set_size(self, width: int, height: int) -> None:
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )

    def coloured_pixels(self) -> dict[str, int]:
        """How many pixels of each plot of the tab that is shown are in colour."""
        width, height = self.driver.execute_script(
            "return [window.innerWidth, document.documentElement.scrollHeight]"
        )
        self._set_size(width, height)
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
        self._set_size(width, 900)
        image = matplotlib.image.imread(io.BytesIO(base64.b64decode(shot["data"])))[..., :3]
        coloured = np.ptp(image, axis=-1) > _COLOURED
        frames = self.driver.execute_script(
            """
            return [...document.querySelectorAll('.panel.shown .plot')].map(plot => {
              const box = plot.getBoundingClientRect();
              return [plot.dataset.plot, box.left, box.right,
                      box.top + window.scrollY, box.bottom + window.scrollY];
            });
            """
        )
        return {
            name: int(coloured[int(top) : int(bottom), int(left) : int(right)].sum())
            for name, left, right, top, bottom in frames
        }

    def cut_off(self) -> list[str]:
        """Texts of plots of the tab that is shown that leave the frame of their plot."""
        return self.driver.execute_script(
            """
            return [...document.querySelectorAll('.panel.shown .plot')].flatMap(plot => {
              const frame = plot.getBoundingClientRect();
              return [...plot.querySelectorAll('svg text')].filter(text => {
                const box = text.getBoundingClientRect();
                return box.width > 0 && (box.left < frame.left - 1 || box.right > frame.right + 1
                  || box.top < frame.top - 1 || box.bottom > frame.bottom + 1);
              }).map(text => plot.dataset.plot + ': ' + text.textContent);
            });
            """
        )

    def scroll_width(self, selector: str = "html") -> int:
        """Width of an element's content in pixels."""
        return self.driver.execute_script(
            f"return document.querySelector('{selector}').scrollWidth"
        )


def check_page(browser: Browser, page: Path, width: int) -> set[str]:
    """Open all tabs; every plot must be drawn within its frame, nothing fail or be asked for.

    Returns:
        Names of the plots.
    """
    browser.open(page, width)
    names: set[str] = set()
    for panel in browser.panels():
        browser.show(panel)
        coloured = browser.coloured_pixels()
        assert [name for name, n in coloured.items() if n < 20] == [], "blank plots"
        assert browser.cut_off() == []
        names |= set(coloured)
        assert browser.scroll_width() <= width, f"{panel} is too wide"
    assert browser.errors() == []
    assert browser.requests() == [page.resolve().as_uri()]
    return names
