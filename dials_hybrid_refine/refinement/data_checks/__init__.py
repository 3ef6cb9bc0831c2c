"""Checks of the data that a referee would make: one file for each, which returns a Finding or None."""

from __future__ import annotations
