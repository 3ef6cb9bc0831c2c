"""Refines the data sets of many folders with dask, each by refine_folder.sh in a process of its own.

python refine_dask.py [--workers N | --scheduler ADDRESS] FOLDER ... [NAME=VALUE ...]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from distributed import Client, LocalCluster, as_completed

SCRIPT = Path(__file__).resolve().with_name("refine_folder.sh")


def refine(folder: str, parameters: list[str]) -> int:
    """The exit code of dials.hybrid_refine."""
    command = ["bash", str(SCRIPT), folder, *parameters]
    return subprocess.run(command, stdout=subprocess.DEVNULL).returncode


def main() -> int:
    """0 if all runs have results, 1 otherwise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=1, help="runs at a time on this machine")
    parser.add_argument("--scheduler", help="address of a dask scheduler to use instead")
    parser.add_argument("arguments", nargs="+", metavar="FOLDER or NAME=VALUE")
    options = parser.parse_args()
    parameters = [argument for argument in options.arguments if "=" in argument]
    folders = [str(Path(a).resolve()) for a in options.arguments if "=" not in a]
    cluster = options.scheduler or LocalCluster(
        n_workers=options.workers, threads_per_worker=1, dashboard_address=None
    )
    codes = []
    with Client(cluster) as client:
        futures = client.map(refine, folders, parameters=parameters, pure=False)
        names = dict(zip(futures, folders))
        for future in as_completed(futures):
            code = future.result() if future.status == "finished" else future.status
            codes.append(code)
            print(f"{len(codes)} of {len(folders)}: {names[future]}: exit code {code}", flush=True)
    return 0 if all(code == 0 for code in codes) else 1


if __name__ == "__main__":
    sys.exit(main())
