#!/usr/bin/env bash
# Runs pipelines/github-webhooks.toml over the real payloads and shows what came of it.
set -euo pipefail

millstream=${1:?usage: demo.sh PATH-OF-MILLSTREAM}
cd "$(dirname "$0")/.."
# The secret with which the payloads of the example are signed; see data/README.md.
export WEBHOOK_SECRET="It's a Secret to Everybody"
pipeline=pipelines/github-webhooks.toml

# Each demo starts anew: what the last one wrote and remembered goes.
rm -rf pipelines/out/opened.ndjson pipelines/.millstream/github-webhooks

step() { printf '\n== %s\n' "$*"; }

step "millstream check $pipeline"
"$millstream" check "$pipeline"

step "millstream run $pipeline"
"$millstream" run "$pipeline" --admin 127.0.0.1:0

step "delivered: $(wc -l <pipelines/out/opened.ndjson) messages in pipelines/out/opened.ndjson, the first of them"
head -n 3 pipelines/out/opened.ndjson

step "millstream dlq list $pipeline"
"$millstream" dlq list "$pipeline"

first=$("$millstream" dlq list "$pipeline" --json | head -n 1 | sed 's/^{"id":"\([^"]*\)".*/\1/')
printf '\nNext, look at one of them with everything that is known about it:\n\n'
printf '    export WEBHOOK_SECRET="%s"\n' "$WEBHOOK_SECRET"
printf '    %s dlq show %s %s\n\n' "$millstream" "$pipeline" "$first"
