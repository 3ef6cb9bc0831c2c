"""Refinements with a known answer, or a published one, run by the real commands.

``python -m benchmarks.validation --help`` says how, docs/validation.md shows what came out.
"""

from __future__ import annotations
