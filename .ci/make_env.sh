#!/usr/bin/env bash
# Make or update the virtual environment of the Makefile: make_env.sh FOLDER
#
# DIALS comes from the first python3 that can import it, or else from Debian's packages. All other
# packages that are missing are installed by pip into FOLDER, which sees those of that python3.
#
#   PYTHON   a python3 to try first
#   TORCH    what pip is to install where PyTorch is missing
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=$1

say() { echo "make_env: $*"; }
stop() { say "$*" >&2; exit 1; }

has_dials() { "$1" -c "import dials.array_family.flex" >/dev/null 2>&1; }

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 /usr/bin/python3; do
        if has_dials "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

install_debian_packages() {
    command -v apt-get >/dev/null ||
        stop "no python3 with DIALS was found: install DIALS, for example in a conda environment, and give make PYTHON=path/of/its/python3"
    [ "$(id -u)" = 0 ] ||
        stop "Debian's $* must be installed first: run 'sudo apt-get update && sudo apt-get install --no-install-recommends $*', or give make the python3 of another DIALS with PYTHON=path/of/its/python3"
    say "installing Debian's $* (some minutes)"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# libtbx looks for its configuration below sys.prefix, which in a virtual environment is not where cctbx
# was installed: lib/cctbx on Debian, share/cctbx in conda environments.
link_cctbx() {
    local base folder
    base=$("$venv/bin/python" -c "import sys; print(sys.base_prefix)")
    for folder in lib/cctbx share/cctbx; do
        if [ -d "$base/$folder" ]; then
            mkdir -p "$venv/${folder%/*}"
            ln -s "$base/$folder" "$venv/$folder"
        fi
    done
}

if ! has_dials "$venv/bin/python"; then
    missing=()
    python=$(find_python) || { python=/usr/bin/python3; missing+=(dials); }
    "$python" -c "import ensurepip" >/dev/null 2>&1 || missing+=(python3-venv)
    if [ ${#missing[@]} -gt 0 ]; then
        install_debian_packages "${missing[@]}"
    fi
    say "making $venv with $python"
    "$python" -m venv --clear --system-site-packages "$venv"
    link_cctbx
    has_dials "$venv/bin/python" ||
        stop "DIALS cannot be imported in a virtual environment made with $python: '$venv/bin/python -c \"import dials.array_family.flex\"' shows why"
fi

# The tests of the report open it in a browser. Without one they are skipped.
if ! { command -v chromium && command -v chromedriver; } >/dev/null 2>&1; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        install_debian_packages chromium chromium-driver
    else
        say "no chromium and chromedriver were found: the tests that open the report will be skipped"
    fi
fi

pip_install() { "$venv/bin/python" -m pip install -qq --disable-pip-version-check "$@"; }

if ! "$venv/bin/python" -c "import torch" >/dev/null 2>&1; then
    say "installing ${TORCH:=torch}"
    # shellcheck disable=SC2086  # TORCH may hold options for pip too
    pip_install $TORCH
fi
say "installing dials_hybrid_refine (editable) with what its tests need"
pip_install "setuptools>=70.1" # the first that builds wheels without the wheel package
pip_install --no-build-isolation --editable ".[docs,test,dev]"
