#!/usr/bin/env bash
# Makes target/plugins/order-events-javascript.wasm, or another plugin in JavaScript:
#
#   build.sh [PLUGIN.js OUTPUT.wasm]
#
# Needs Node 20 with npm; the packages of package-lock.json are installed into target/javascript.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
plugin=${1:-$here/plugin.js}
output=${2:-$root/target/plugins/order-events-javascript.wasm}
tools=$root/target/javascript

command -v npm >/dev/null || { echo "build.sh: plugins in JavaScript need npm: apt-get install nodejs npm" >&2; exit 1; }
mkdir -p "$tools" "$(dirname "$output")"
if ! cmp -s "$here/package-lock.json" "$tools/installed"; then
    cp "$here/package.json" "$here/package-lock.json" "$tools"
    npm ci --prefix "$tools" --no-audit --no-fund --silent
    cp "$here/package-lock.json" "$tools/installed"
fi
# Node looks for packages beside the script.
cp "$here/build.js" "$tools"
node "$tools/build.js" "$plugin" "$output.new" "$root/plugin-sdk/wit"
mv "$output.new" "$output"
