#!/bin/sh
# Run a command; where RAY_ADDRESS is the host:port of a Ray cluster, join it first with a raylet that offers nothing: a driver needs one beside it.
# It leaves with the command. `ray ...` itself (a head, a worker) starts what it says.
set -eu
case "${1:-}:${RAY_ADDRESS:-}" in
  ray:* | *: | *://*) exec "$@" ;;
esac
ray start --address="$RAY_ADDRESS" --num-cpus=0 --num-gpus=0 --object-store-memory=200000000 >/dev/null
trap 'kill -TERM "$child" 2>/dev/null || true' TERM INT
"$@" &
child=$!
status=0
wait "$child" || status=$?
while kill -0 "$child" 2>/dev/null; do # a signal ends `wait`, not the command
  status=0
  wait "$child" || status=$?
done
ray stop >/dev/null 2>&1 || true
exit "$status"
