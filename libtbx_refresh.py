"""Configure dials_hybrid_refine in a libtbx (source) build of DIALS.

libtbx writes the dispatchers itself, from the LIBTBX_SET_DISPATCHER_NAME lines in
dials_hybrid_refine/command_line/*.py.
"""

from __future__ import annotations

import importlib.util

try:
    from dials.precommitbx.nagger import nag
except ModuleNotFoundError:
    pass
else:
    nag()  # asks developers for the pre-commit hooks; does nothing outside a git checkout

for module, name, package in (("torch", "PyTorch", "pytorch"), ("plotly", "plotly", "plotly")):
    if importlib.util.find_spec(module) is None:
        print(f"dials_hybrid_refine needs {name}: conda install {package}")
