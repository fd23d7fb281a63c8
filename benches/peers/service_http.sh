#!/usr/bin/env bash
# Hot reads of a node over HTTP/1.1: the same mix of assets and ranges on 8 keep-alive connections
# against nginx that serves the same bytes as files, plain and with TLS, rounds interleaved. Prints
# requests/s, p50, p99 (medians over the rounds) and the ratios.
#
#   cargo build --release --bin rezcache --example fill_node
#   benches/peers/service_http.sh         # ROUNDS=5 SECONDS_EACH=5
#
# Needs wrk, nginx and openssl (Debian: wrk nginx-light openssl).
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
ROUNDS=${ROUNDS:-5}
SECONDS_EACH=${SECONDS_EACH:-5}
FILL=${FILL:-$ROOT/target/release/examples/fill_node}
have wrk "Debian package wrk"
have nginx "Debian package nginx-light"
have openssl "Debian package openssl"
for program in "$REZCACHE" "$FILL"; do
  [ -x "$program" ] || { echo "'$program' is missing: cargo build --release --bin rezcache --example fill_node" >&2; exit 1; }
done

# The node's paths, so that nginx finds its files under the same ones.
BELOW=/v1/grids/bench.example/assets
"$PYTHON" "$HERE/mix.py" "$SCRATCH" --paths
mkdir -p "$SCRATCH/root$(dirname "$BELOW")"
cp -r "$SCRATCH/assets" "$SCRATCH/root$BELOW"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
  -addext subjectAltName=DNS:localhost -keyout "$SCRATCH/key.pem" -out "$SCRATCH/chain.pem" 2>/dev/null

plain=$(free_port); tls=$(free_port)
start_nginx <<EOF
  open_file_cache max=10000;
  root $SCRATCH/root;
  default_type application/octet-stream;
  ssl_certificate $SCRATCH/chain.pem;
  ssl_certificate_key $SCRATCH/key.pem;
  server { listen 127.0.0.1:$plain; }
  server { listen 127.0.0.1:$tls ssl; }
EOF
answers "http://127.0.0.1:$plain/"

# start_node NAME SCHEME [option…]: a node of its own with all assets in memory.
start_node() {
  local name=$1 scheme=$2 port; shift 2
  port=$(free_port)
  "$REZCACHE" serve --listen "127.0.0.1:$port" --data-dir "$SCRATCH/$name" --memory-size 1GiB "$@" \
    >"$SCRATCH/$name.out" 2>&1 & STARTED+=($!)
  MIX_HEADER=$("$FILL" "$(await "$SCRATCH/$name.out" "$scheme://127\.0\.0\.1:[0-9]+(#pin=[A-Za-z0-9:_/+=-]+)?" $!)" \
    bench.example "$SCRATCH/assets")
  export MIX_HEADER
  peer "$name" "$scheme://127.0.0.1:$port$BELOW"
}

peer nginx "http://127.0.0.1:$plain$BELOW"
start_node rezcache http --plain-http
peer nginx-tls "https://127.0.0.1:$tls$BELOW"
start_node rezcache-tls https --certificate "$SCRATCH/chain.pem" --certificate-key "$SCRATCH/key.pem"

check_peers
run_rounds
table
"$PYTHON" - "$SCRATCH/table.json" <<'EOF'
import json, sys
mid = json.load(open(sys.argv[1]))
for ours, peer in (("rezcache", "nginx"), ("rezcache-tls", "nginx-tls")):
    rate, p99 = (mid[ours][at] / mid[peer][at] for at in (0, 1))
    print(f"{ours} against {peer}: requests/s {rate:.2f} (goal 0.8), p99 {p99:.2f}")
EOF
