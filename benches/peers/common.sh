# Shared by the scripts beside it: a scratch folder, the origin, the proxy, clean-up. Source it.
#
# PYTHON   a Python with hippolyzer is not needed here, any Python 3.11 does (default python3)
# REZCACHE the proxy to measure (default target/release/rezcache; absent: measured without it)

set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$HERE/../.." && pwd)
PYTHON=${PYTHON:-python3}
REZCACHE=${REZCACHE-$ROOT/target/release/rezcache}
BARE=${BARE:-$ROOT/target/release/examples/bare_server}
SCRATCH=$(mktemp -d)
STARTED=()

finish() {
  local pid
  for pid in "${STARTED[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$SCRATCH"
}
trap finish EXIT
trap 'exit 130' INT TERM

have() { command -v "$1" >/dev/null || { echo "$1 is not installed: $2" >&2; return 1; }; }

free_port() { "$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# await FILE PATTERN PID: the first match of PATTERN in FILE, once it is there.
await() {
  local tries
  for tries in $(seq 200); do
    if grep -oE -m1 "$2" "$1" 2>/dev/null; then return; fi
    kill -0 "$3" 2>/dev/null || break
    sleep 0.05
  done
  echo "it did not start; it said:" >&2
  cat "$1" >&2
  return 1
}

# answers URL: waits until something answers there.
answers() {
  local tries
  for tries in $(seq 200); do
    if curl -so /dev/null --max-time 2 "$1"; then return; fi
    sleep 0.05
  done
  echo "nothing answers at $1" >&2
  return 1
}

# start_bare NAME [option…]: sets ADDRESS to host:port of a bare server.
start_bare() {
  local name=$1; shift
  [ -x "$BARE" ] || { echo "build it first: cargo build --release --example bare_server" >&2; return 1; }
  "$BARE" --assets "$SCRATCH/assets" "$@" >"$SCRATCH/$name.out" 2>&1 & STARTED+=($!)
  ADDRESS=$(await "$SCRATCH/$name.out" '127\.0\.0\.1:[0-9]+' $!)
}

# start_rezcache ORIGIN: sets BASE to the asset URL the proxy printed (mode VIEWERASSET).
start_rezcache() {
  local listen control
  listen=$(free_port); control=$(free_port)
  "$REZCACHE" proxy --grid "bench=http://$1/" --asset-host "bench=http://$1" \
    --listen "127.0.0.1:$listen" --control "127.0.0.1:$control" --data-dir "$SCRATCH/rezcache" \
    >"$SCRATCH/rezcache.out" 2>&1 & STARTED+=($!)
  BASE=$(await "$SCRATCH/rezcache.out" 'http://127\.0\.0\.1:[0-9]+/asset/[A-Za-z0-9_-]+/[A-Za-z0-9_.-]+' $!)
}
