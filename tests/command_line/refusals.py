"""How the tests of bad input see that it is refused."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from libtbx.utils import Sorry

from dials_hybrid_refine.command_line import hybrid_refine

GIVE_EXPT = "give the .expt file"
GIVE_REFL = "give the .refl file"


def refused(folder, arguments, *parts, run=hybrid_refine.run):
    """Run a command in process: a Sorry of one line that holds all parts, and no file.

    Where the refinement had begun the summary has the same sentence.
    """
    before = set(os.listdir(folder))
    with pytest.raises(Sorry) as raised:
        run(arguments)
    message = str(raised.value)
    assert "\n" not in message
    assert not re.search(r"Error\b|Traceback|<class|report this", message), message
    for part in parts:
        assert part in message, message
    assert set(os.listdir(folder)) - before <= {
        "dials.hybrid_refine.log",
        "dials.hybrid_simulate.log",
        "dials.hybrid_refine.json",
    }
    summary = Path(folder, "dials.hybrid_refine.json")
    if summary.exists():
        content = json.loads(summary.read_text())
        assert (content["status"], content["reason"]) == ("failed", message)
    return message


def without(*names):
    """An edit of decoded experiments that takes models away."""

    def edit(content):
        for name in names:
            del content["experiment"][0][name]
            content[name] = []

    return edit
