#!/usr/bin/env bash
# One SuperLink and its SuperNodes on the loopback, then one run of the app.
#
#     examples/flower/run.sh RUN_DIR [NAME=VALUE …]      names as in pyproject.toml
#
# NODES=3 says how many, PORT=18000 where; the nodes take the ports after it.
# Ends as `opsdash status` does: 0 when the run ended well.
#
# On several hosts: the same three commands, each where it belongs, without
# --insecure and with --ssl-certfile, --ssl-keyfile, --ssl-ca-certfile and
# --root-certificates; nodes are enrolled with --enable-supernode-auth.
set -euo pipefail

app=$(cd "$(dirname "$0")" && pwd)
run_dir=$(mkdir -p "$1" && cd "$1" && pwd)
shift
port=${PORT:-18000}
settings="run-dir=\"$run_dir\""
for setting in "$@"; do settings+=" $setting"; done

# Nothing leaves the machine, nothing is installed while it runs.
export FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
FLWR_HOME=$(mktemp -d)
export FLWR_HOME
printf '[superlink]\ndefault = "local"\n[superlink.local]\naddress = "127.0.0.1:%s"\ninsecure = true\n' \
    "$port" > "$FLWR_HOME/config.toml"

started=()
is_any_left() {
    for pid in "${started[@]}"; do
        if kill -0 -- "-$pid" 2> /dev/null; then return 0; fi
    done
    return 1
}
leave() {
    # Each was started as the leader of a group: its own helpers go with it.
    for pid in "${started[@]}"; do kill -- "-$pid" 2> /dev/null || true; done
    for _ in {1..50}; do is_any_left && sleep 0.1; done
    for pid in "${started[@]}"; do kill -KILL -- "-$pid" 2> /dev/null || true; done
    wait 2> /dev/null || true
    rm -rf "$FLWR_HOME"
}
trap leave EXIT

setsid flower-superlink --insecure --port "$port" --disable-runtime-dependency-installation &
superlink=$!
started+=("$superlink")
for number in $(seq "${NODES:-3}"); do
    setsid flower-supernode --insecure --superlink "127.0.0.1:$port" \
        --port "$((port + number))" --node-config "key=\"client-$number\"" &
    started+=($!)
done

until (: < "/dev/tcp/127.0.0.1/$port") 2> /dev/null; do
    kill -0 "$superlink"
    sleep 0.2
done
flwr run "$app" local --run-config "$settings" --stream
opsdash status "$run_dir"
