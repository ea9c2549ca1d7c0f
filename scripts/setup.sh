#!/bin/sh
# Makes .venv and installs ggjax into it, unless that is done: `setup.sh`, with tools `setup.sh dev`.
set -eu
cd "$(dirname "$0")/.."
group=${1:-}

# The extra for the driver's CUDA version; an older driver cannot load newer libraries.
cuda_extra() {
    version=$(nvidia-smi 2>/dev/null | sed -n 's/.*CUDA[A-Za-z ]*Version: *\([0-9]*\)\..*/\1/p' | head -n 1)
    if [ "${version:-0}" -ge 13 ]; then
        echo "[cuda13]"
    elif [ "${version:-0}" -eq 12 ]; then
        echo "[cuda12]"
    fi
}

if ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null; then
    python=$(scripts/find_python.sh)
    echo "Making .venv with $python"
    "$python" -m venv --clear .venv
fi

extra=$(cuda_extra)
wanted="$extra $(cksum <pyproject.toml)"
stamp=.venv/installed${group:+-$group}
[ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && exit 0

echo "Installing ggjax$extra${group:+ and the tools of its $group group} into .venv: some minutes"
# errors alone are shown; --group needs pip 25.1
install() {
    .venv/bin/python -m pip install -qq --disable-pip-version-check "$@"
}
install --upgrade 'pip>=25.1'
install --editable ".$extra" ${group:+--group "$group"}
# with the tools, all that serving needs is there too
echo "$wanted" | tee .venv/installed >"$stamp"
