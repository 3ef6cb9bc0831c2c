"""The parameter of the checks of the data."""

from __future__ import annotations

DATA_CHECKS_PHIL = """
data_checks = True
  .type = bool
  .help = "Look for what a referee would ask about the data, such as beam damage, merged or corrected"
          "intensities and wrong sigmas. Nothing is changed by it."
"""
