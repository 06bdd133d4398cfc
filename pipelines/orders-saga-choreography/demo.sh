#!/usr/bin/env bash
# Runs the saga against a broker, sends three orders by HTTP, and shows what came of them.
#
#   KAFKA_BROKER   its address; by default 127.0.0.1:9092
#   KAFKA_TOPICS   the command kafka-topics of Kafka; by default that of tests/services/compose.yaml
set -euo pipefail

millstream=$(realpath "${1:?usage: demo.sh PATH-OF-MILLSTREAM}")
cd "$(dirname "$0")/../.."
export KAFKA_BROKER=${KAFKA_BROKER:-127.0.0.1:9092} PORT=${PORT:-8080}
compose="docker compose --file tests/services/compose.yaml exec -T kafka /opt/kafka/bin/kafka-topics.sh"
topics=${KAFKA_TOPICS:-$compose}
folder=$(mktemp --directory)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"' EXIT

step() { printf '\n== %s\n' "$*"; }

step "topics at $KAFKA_BROKER"
for topic in orders payments inventory; do
    $topics --bootstrap-server "$KAFKA_BROKER" --create --if-not-exists --topic "$topic" --partitions 3
done

step "millstream run pipelines/http-to-kafka.toml and pipelines/orders-saga-choreography"
"$millstream" run pipelines/http-to-kafka.toml --admin 127.0.0.1:0 2>"$folder/http.log" &
"$millstream" run pipelines/orders-saga-choreography --admin 127.0.0.1:0 >"$folder/events" 2>"$folder/saga.log" &

# Waits until a file has so many lines that match, while both processes run.
wait_for() {
    until [ "$(grep -cE "$2" "$folder/$1")" -ge "$3" ]; do
        if [ "$(jobs -pr | wc -l)" -lt 2 ]; then
            cat "$folder"/*.log
            exit 1
        fi
        sleep 0.2
    done
}
# The first time the plugins are compiled.
wait_for http.log "sources::http: listening" 1

run=$(date +%s)
order() {
    local body
    body=$(printf '{"order":"%s","customer":{"email":"ada@shop.example"},"sku":"%s","quantity":%s,"total":%s}' "$@")
    echo "$body"
    curl --silent --show-error --fail --noproxy '*' --header "x-order: $1" --header "x-request-id: request-$1" \
        --data "$body" "http://127.0.0.1:$PORT/orders"
    echo
}
step "three orders: one that can be had, one too dear, one whose goods are not there"
order "good-$run" tea 2 25
order "dear-$run" tea 50 2500
order "gone-$run" coffee 4 40

wait_for events "\"order\.(confirmed|cancelled)\",\"order\":\"[a-z]+-$run\"" 3
for order in good dear gone; do
    step "what became of $order-$run"
    grep "$order-$run" "$folder/events"
done
