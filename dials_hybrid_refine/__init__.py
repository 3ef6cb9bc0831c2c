"""Refinement of crystal structures against 3D electron diffraction data, as a part of DIALS.

A differentiable dynamical (many-beam) diffraction simulation and a neural model of the
crystal's thickness are refined together by one gradient.
"""

from __future__ import annotations

__version__ = "0.1.0"
