"""Running dials.import_pets in the working folder, and seeing that it refuses."""

from __future__ import annotations

import os
import re

import pytest

from dials.array_family import flex
from dxtbx.model.experiment_list import ExperimentListFactory
from libtbx.utils import Sorry

from dials_hybrid_refine.command_line import import_pets

OUTPUT = {"imported_pets.expt", "imported_pets.refl"}
LOG = "dials.import_pets.log"


def load():
    experiments = ExperimentListFactory.from_json_file("imported_pets.expt", check_format=False)
    return experiments, flex.reflection_table.from_file("imported_pets.refl")


def run(text, *arguments):
    with open("data.cif_pets", "w") as file:
        file.write(text)
    import_pets.run(["data.cif_pets", *arguments])


def refused(text, *parts, arguments=()):
    """A Sorry of one line that names the file and holds all parts, and no output."""
    with pytest.raises(Sorry) as raised:
        run(text, *arguments)
    message = str(raised.value)
    assert "\n" not in message and message.startswith("data.cif_pets: ")
    assert not re.search(r"Error\b|Traceback|<class|report this", message), message
    for part in parts:
        assert part in message, message
    assert set(os.listdir()) == {"data.cif_pets", LOG}
    return message


def without(text, name):
    """The text without the column of a loop."""
    lines, names, values = [], [], False
    for line in text.splitlines():
        if line == "loop_":
            names, values = [], False
        elif line.startswith("_"):
            names.append(line.split()[0])
        elif name in names and not values:
            values = True
        if name in names and not line.startswith("_"):
            words = line.split()
            del words[names.index(name)]
            line = " ".join(words)
        if line.split()[:1] != [name]:
            lines.append(line)
    return "\n".join(lines) + "\n"
