"""dials.hybrid_refine over several processes: same result, one voice, one end."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
from command_runs import FAST, INPUT
from several_processes import outcomes, started
from working_directory import working_in

from dials_hybrid_refine.command_line import hybrid_refine
from dials_hybrid_refine.command_line.launch import Launch, launched

#: what takes time and says nothing here is left out
ARGUMENTS = [
    *INPUT, *FAST, "beams.g_max=1.45", "beams.s_max=0.01", "beams.tilt_step=0.1",
    "absolute_structure.test=False", "difference_map=False", "output.html=None",
]  # fmt: skip
PLAIN = ["-m", "dials_hybrid_refine.command_line.hybrid_refine", *ARGUMENTS]


@pytest.fixture(scope="module")
def alone(simulated, tmp_path_factory) -> Path:
    """A folder with the refinement by one process."""
    folder = tmp_path_factory.mktemp("alone")
    for name in INPUT:
        shutil.copy(simulated / name, folder)
    with working_in(folder):
        hybrid_refine.run(ARGUMENTS)
    return folder


def assert_same_result(folder: Path, expected: Path) -> None:
    """To the last digit."""
    found, one = (
        json.loads((f / "dials.hybrid_refine.json").read_text()) for f in (folder, expected)
    )
    for content in (found, one):
        del content["timing"], content["parameters"]
    assert found == one


def wait_for(process, stage: str) -> None:
    """Until the log has the first step of a stage."""
    assert any(line.split()[:1] == [stage] for line in process.stdout)


def test_a_lost_process_ends_the_run_which_one_goes_on(files, alone):
    """SIGKILL to one of two; a single process goes on from the checkpoint to the result it would
    have had alone."""
    with started(2 * [PLAIN]) as processes:
        wait_for(processes[0], "start")
        processes[1].kill()
        (code, _, errors), (_, output, _) = outcomes(processes)
    assert code == 1
    (sentence,) = errors.strip().splitlines()
    assert sentence.startswith("Sorry: process 1 (")
    assert "checkpoint.resume=hybrid_refine.checkpoint" in sentence
    assert output == ""
    failed = json.loads((files / "dials.hybrid_refine.json").read_text())
    assert failed["status"] == "failed" and failed["reason"] in sentence
    hybrid_refine.run([*ARGUMENTS, "checkpoint.resume=hybrid_refine.checkpoint"])
    assert_same_result(files, alone)


def test_a_signal_to_one_process_stops_all_at_the_same_step(files, alone):
    """The first being lost is another matter: the second says so."""
    with started(2 * [[*PLAIN, "output.log=None"]]) as processes:
        wait_for(processes[0], "start")
        processes[1].send_signal(signal.SIGTERM)
        (first, output, _), (second, nothing, errors) = outcomes(processes)
    assert (first, second, nothing, errors) == (130, 130, "", "")
    assert json.loads((files / "dials.hybrid_refine.json").read_text())["status"] == "interrupted"
    with started(2 * [[*PLAIN, "checkpoint.resume=hybrid_refine.checkpoint"]]) as processes:
        ends = outcomes(processes)
    assert [code for code, _, _ in ends] == [0, 0]
    assert ends[1][1:] == ("", "")
    assert_same_result(files, alone)


def test_the_loss_of_the_first_process_and_errors_of_others_are_told(files):
    """One sentence, by a process that is left."""
    with started([PLAIN, [*PLAIN, "nonsense=1"]]) as processes:
        (code, _, errors), (second, output, silence) = outcomes(processes)
    assert (code, second, output) == (1, 1, "")
    # it speaks itself where the first takes more than five seconds to notice
    assert silence == "" or "there is no parameter nonsense" in silence
    (sentence,) = errors.strip().splitlines()
    assert sentence.startswith("Sorry: process 1 of 2 (")
    assert "there is no parameter nonsense" in sentence
    failed = json.loads((files / "dials.hybrid_refine.json").read_text())
    assert failed["status"] == "failed" and "no parameter nonsense" in failed["reason"]
    with started([PLAIN, [*PLAIN, "seed=7"]]) as processes:
        (code, _, errors), (second, _, silence) = outcomes(processes)
    assert (code, second, silence) == (1, 1, "")
    assert "different files, parameters" in errors
    with started(2 * [PLAIN]) as processes:
        wait_for(processes[0], "start")
        processes[0].kill()
        _, (code, _, errors) = outcomes(processes)
    assert code == 1
    (sentence,) = errors.strip().splitlines()
    assert sentence.startswith("Sorry: process 0 (")


TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "a", "MASTER_PORT": "29400"}
OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4", "MASTER_PORT": "29400"}
SLURM = {
    "SLURM_JOB_ID": "17",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "3",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "gpu[07-09,12]-ib,other",
}


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({}, None),
        (TORCHRUN, Launch(1, 4, "a", 29400)),
        ({**TORCHRUN, "HYBRID_REFINE_LAUNCHER": "none"}, None),
        ({**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, Launch(2, 4, "127.0.0.1", 29400)),
        ({**OPEN_MPI, "MASTER_ADDR": "b"}, Launch(2, 4, "b", 29400)),
        # within a job of SLURM the daemons are tasks of a step, the processes are not
        ({**SLURM, **OPEN_MPI}, Launch(2, 4, "gpu07-ib", 29400)),
        ({"PMI_RANK": "0", "PMI_SIZE": "1"}, None),
        ({**SLURM, "MASTER_PORT": "29400"}, Launch(3, 4, "gpu07-ib", 29400)),
        # the batch script itself
        ({"SLURM_JOB_ID": "17", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, None),
    ],
)
def test_launchers(environment, expected):
    assert launched(environment) == expected


def test_tasks_of_one_step_choose_one_port_and_other_steps_another():
    ports = [
        launched({**SLURM, "SLURM_PROCID": rank, "SLURM_STEP_ID": step}).port
        for step in "01"
        for rank in "03"
    ]
    assert ports[0] == ports[1] != ports[2] == ports[3]
    assert all(1024 < port < 32768 for port in ports)


@pytest.mark.parametrize(
    "environment, sentence",
    [
        (OPEN_MPI, "MASTER_ADDR"),
        ({**TORCHRUN, "HYBRID_REFINE_LAUNCHER": "srun"}, "not started by srun"),
        ({**TORCHRUN, "HYBRID_REFINE_LAUNCHER": "slurm"}, "one of none, torchrun"),
        ({**TORCHRUN, "RANK": "x"}, "RANK=x is not a number"),
        ({**TORCHRUN, "RANK": "4"}, "not below"),
    ],
)
def test_environments_that_are_not_understood(environment, sentence):
    with pytest.raises(ValueError, match=sentence):
        launched(environment)
