"""Files that are missing, corrupt or swapped: one sentence that says what, where and what to do."""

from __future__ import annotations

import os
import random

import pytest
from command_runs import INPUT
from model_files import PDB, SHELX
from refusals import GIVE_EXPT, GIVE_REFL, refused

from libtbx.utils import Sorry

from dials_hybrid_refine.command_line import hybrid_refine

NEEDS = "needs an .expt, a .refl and a structure file"


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["data.refl", "model.cif"], ["no experiments file", NEEDS]),
        (["data.expt", "model.cif"], ["no reflection file", NEEDS]),
        (["data.expt", "data.refl"], ["no structure file", NEEDS]),
        (["d_min=1"], [NEEDS]),
        ([*INPUT, "truth.cif"], ["2 structure files", "model.cif, truth.cif", "give one"]),
        ([*INPUT, "input.structure=truth.cif"], ["2 structure files", "give one"]),
        ([*INPUT, "data.expt"], ["hold 2 experiments", "of 1: give files that belong together"]),
        ([*INPUT, "data.refl"], ["holds 1 experiment but", "of 2: give files that belong together"]),
        (["lost.expt", *INPUT[1:]], ["lost.expt does not exist", "check"]),
        (["data.expt", "lost.refl", "model.cif"], ["lost.refl does not exist", "check"]),
        ([*INPUT[:2], "lost.cif"], ["lost.cif does not exist", "check"]),
        ([*INPUT[:2], "input.structure=lost.cif"], ["lost.cif does not exist", "check"]),
        ([*INPUT[:2], "input.reflections=lost.refl"], ["lost.refl does not exist", "check"]),
        ([*INPUT[:2], "folder"], ["folder", "is a directory"]),
        ([*INPUT[:2], "model.xyz"], ["model.xyz is not a structure", "give a CIF"]),
    ],
)  # fmt: skip
def test_files_that_are_not_there(files, arguments, parts):
    (files / "truth.cif").write_text((files / "model.cif").read_text())
    (files / "model.xyz").write_text("3\nwater\nO 0 0 0\n")
    (files / "folder").mkdir()
    refused(files, arguments, *parts)


def test_structure_may_be_a_parameter(files, stop_before_refinement):
    refused(files, [*INPUT[:2], "input.structure=model.cif"], "the input was good")
    refused(
        files,
        ["input.experiments=data.expt", "input.reflections=data.refl", "model.cif"],
        "the input was good",
    )


@pytest.mark.parametrize("name, what", [("data.expt", GIVE_EXPT), ("data.refl", GIVE_REFL)])
@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff\x13" * 40, b"hello\n", b"[]", b"{}", b'{"__id__": 3}', b"\x93"]
)
def test_corrupt_data_files(files, name, what, content):
    (files / name).write_bytes(content)
    refused(files, INPUT, name, what)


@pytest.mark.parametrize("name", INPUT)
def test_truncated_files(files, name):
    content = (files / name).read_bytes()
    for share in (0.02, 0.3, 0.5, 0.95):
        (files / name).write_bytes(content[: int(share * len(content))])
        refused(files, INPUT, name)


@pytest.mark.parametrize("name", INPUT)
def test_garbled_files(files, name, stop_before_refinement):
    """Bytes replaced anywhere: refused with a sentence, or read where that does no harm."""
    content = (files / name).read_bytes()
    generator = random.Random(4)
    for _ in range(40):
        garbled = bytearray(content)
        for _ in range(3):
            garbled[generator.randrange(len(content))] = generator.randrange(256)
        (files / name).write_bytes(bytes(garbled))
        with pytest.raises(Sorry) as raised:
            hybrid_refine.run(INPUT)
        assert "\n" not in str(raised.value)
        assert name in str(raised.value) or "the input was good" in str(raised.value)


@pytest.mark.parametrize("name, content", [("model.ins", SHELX), ("model.pdb", PDB)])
def test_truncated_structures(files, stop_before_refinement, capsys, name, content):
    """Cut off anywhere: refused, or read with a word about it; a SHELX file ends with END."""
    generator = random.Random(5)
    for cut in sorted(generator.sample(range(1, len(content) - 5), 25)):
        (files / name).write_text(content[:cut])
        message = refused(files, [*INPUT[:2], name])
        if "the input was good" in message:
            assert "may be truncated" in capsys.readouterr().out and name == "model.pdb"
        else:
            assert name in message


def test_truncated_checkpoint(files, refined):
    whole = (refined / "hybrid_refine.checkpoint").read_bytes()
    generator = random.Random(6)
    for cut in generator.sample(range(len(whole)), 6):
        (files / "cut.checkpoint").write_bytes(whole[:cut])
        parts = ["cut.checkpoint is no checkpoint", "start without checkpoint.resume"]
        refused(files, [*INPUT, "checkpoint.resume=cut.checkpoint"], *parts)


@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff\x13" * 40, b"hello\n", b"data_x\n", b"\x89PNG\r\n"]
)
@pytest.mark.parametrize("name", ["model.cif", "model.ins", "model.pdb"])
def test_no_structure(files, name, content):
    (files / name).write_bytes(content)
    refused(files, [*INPUT[:2], name], name, "give")


def test_each_file_as_each_other(files):
    """Swapped contents: the sentence names the file that is not what it should be."""
    contents = {name: (files / name).read_bytes() for name in INPUT}
    for name in INPUT:
        for other in set(INPUT) - {name}:
            (files / name).write_bytes(contents[other])
            refused(files, INPUT, name, "give")
        (files / name).write_bytes(contents[name])


def test_empty_structure(files):
    (files / "model.cif").write_text("")
    refused(files, INPUT, "model.cif is empty", "give")


def test_swapped_names(files):
    os.rename("data.expt", "x")
    os.rename("data.refl", "data.expt")
    os.rename("x", "data.refl")
    refused(files, INPUT, "data.expt is not a readable experiments file", GIVE_EXPT)


def test_a_data_file_as_structure(files):
    (files / "copy.cif").write_bytes((files / "data.refl").read_bytes())
    refused(files, [*INPUT[:2], "copy.cif"], "copy.cif is not a text file", "give")
    (files / "copy.cif").write_bytes((files / "data.expt").read_bytes())
    refused(files, [*INPUT[:2], "copy.cif"], "copy.cif")


def test_a_file_without_permission(files):
    if os.geteuid() == 0:
        pytest.skip("root may read any file")
    for name in INPUT:
        os.chmod(name, 0)
        refused(files, INPUT, name)
        os.chmod(name, 0o600)


COMMANDS = {
    "no structure": ("dials.hybrid_refine", ["data.expt", "data.refl"], "structure file"),
    "unknown parameter": ("dials.hybrid_refine", [*INPUT, "d_mn=1"], "d_min"),
    "wrong value": ("dials.hybrid_refine", [*INPUT, "d_min=abc"], "d_min"),
    "wrong choice": ("dials.hybrid_refine", [*INPUT, "thickness.model=foo"], "thickness.model"),
    "unknown option": ("dials.hybrid_refine", [*INPUT, "--foo"], "--foo"),
    "missing file": ("dials.hybrid_refine", ["lost.expt", *INPUT[1:]], "lost.expt"),
    "corrupt experiments": ("dials.hybrid_refine", ["bad.expt", *INPUT[1:]], "bad.expt"),
    "corrupt reflections": (
        "dials.hybrid_refine", ["data.expt", "bad.refl", "model.cif"], "bad.refl",
    ),
    "corrupt structure": ("dials.hybrid_refine", [*INPUT[:2], "bad.cif"], "bad.cif"),
    "unwritable": ("dials.hybrid_refine", [*INPUT, "output.json=/proc/x"], "/proc/x"),
    "too few": ("dials.hybrid_refine", [*INPUT, "d_min=2.0"], "give more data"),
    "simulate": ("dials.hybrid_simulate", ["data.expt", "model.cif", "d_min=x"], "d_min"),
}  # fmt: skip


@pytest.mark.parametrize("case", COMMANDS)
def test_real_commands(files, call, case):
    """Exit code 1, one line ``Sorry: ...``, no traceback and no file left but the log and the summary with
    the reason."""
    name, arguments, part = COMMANDS[case]
    for suffix in ("expt", "refl", "cif"):
        (files / f"bad.{suffix}").write_bytes(b'{"truncated": [')
    before = set(os.listdir(files))
    process = call(name, *arguments)
    assert process.returncode == 1
    everything = process.stdout + process.stderr
    sorry = [line for line in everything.splitlines() if line.startswith("Sorry: ")]
    assert len(sorry) == 1 and part in sorry[0], everything
    assert process.stderr == sorry[0] + "\n"
    assert "Traceback" not in everything
    assert set(os.listdir(files)) - before <= {f"{name}.log", "dials.hybrid_refine.json"}
