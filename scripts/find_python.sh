#!/bin/sh
# Prints the path of a Python that is new enough and really runs, or says what to install.

# A shim may stand on PATH for a version that is not selected: only running it tells. The path that it
# reports of itself is kept, for the shim may stop working in another folder.
path_if_usable() {
    "$1" -c 'import ensurepip, sys, venv; print(sys.executable); sys.exit(sys.version_info < (3, 12))' \
        2>/dev/null
}

candidates() {
    for name in python3.13 python3.12 python3.14 python3 python; do
        command -v "$name"
    done
    # HOME may be another than the one pyenv was installed for
    pyenv=$(command -v pyenv) && pyenv=$(dirname "$(dirname "$(readlink -f "$pyenv")")")
    for root in "$PYENV_ROOT" "$HOME/.pyenv" "$pyenv"; do
        [ -n "$root" ] && ls -d "$root"/versions/3.1[2-9]*/bin/python 2>/dev/null
    done
    command -v uv >/dev/null && uv python find '>=3.12' 2>/dev/null
}

candidates | while read -r candidate; do
    if path=$(path_if_usable "$candidate"); then
        echo "$path"
        break
    fi
done | grep . && exit 0

cat >&2 <<'MESSAGE'
ggjax needs Python 3.12 or newer, with venv, and found none. Install one of:
    uv python install 3.13
    pyenv install 3.13
    sudo apt-get install python3.12 python3.12-venv
MESSAGE
exit 1
