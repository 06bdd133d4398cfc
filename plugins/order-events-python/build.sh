#!/usr/bin/env bash
# Makes target/plugins/order-events-python.wasm.
#
# Needs Python 3.10 with pip; the packages of requirements.txt are installed into target/python, which
# needs no virtual environment and touches no other.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
output=$root/target/plugins/order-events-python.wasm
tools=$root/target/python

command -v python3 >/dev/null || { echo "build.sh: plugins in Python need python3: apt-get install python3 python3-pip" >&2; exit 1; }
mkdir -p "$tools" "$(dirname "$output")"
if ! cmp -s "$here/requirements.txt" "$tools/installed"; then
    if ! python3 -m pip --version >/dev/null 2>&1; then
        [ "$(id -u)" = 0 ] || { echo "build.sh: python3 has no pip: apt-get install python3-pip" >&2; exit 1; }
        apt-get update -qq >&2 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-pip >&2
    fi
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --upgrade \
        --target "$tools/packages" --only-binary :all: --require-hashes --requirement "$here/requirements.txt"
    cp "$here/requirements.txt" "$tools/installed"
fi
# In a folder of its own: Python would leave its bytecode beside the sources.
rm -rf "$tools/plugin"
mkdir "$tools/plugin"
cp "$here"/*.py "$tools/plugin"
PYTHONPATH=$tools/packages "$tools/packages/bin/componentize-py" --quiet --wit-path "$root/plugin-sdk/wit" --world plugin \
    componentize --stub-wasi --python-path "$tools/plugin" --output "$output.new" plugin
mv "$output.new" "$output"
