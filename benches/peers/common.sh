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

declare -A URL
PEERS=()
# peer NAME URL: one that is measured; requests go below the URL.
peer() { PEERS+=("$1"); URL[$1]=$2; }

# start_nginx: nginx with the http block's further lines from standard input.
start_nginx() {
  mkdir -p "$SCRATCH/nginx"
  # No tcp_nopush: it holds the last part of an answer back for up to 40 ms.
  {
    cat <<EOF
daemon off;
$([ "$(id -u)" -ne 0 ] || echo "user root;")
worker_processes auto;
pid $SCRATCH/nginx/pid;
error_log stderr error;
events { worker_connections 256; }
http {
  access_log off;
  sendfile on;
  tcp_nopush off;
  tcp_nodelay on;
  keepalive_requests 1000000000;
  client_body_temp_path $SCRATCH/nginx/body;
  proxy_temp_path $SCRATCH/nginx/temp;
  fastcgi_temp_path $SCRATCH/nginx/fastcgi;
  uwsgi_temp_path $SCRATCH/nginx/uwsgi;
  scgi_temp_path $SCRATCH/nginx/scgi;
EOF
    cat
    echo "}"
  } >"$SCRATCH/nginx.conf"
  nginx -p "$SCRATCH/nginx" -c "$SCRATCH/nginx.conf" 2>"$SCRATCH/nginx.out" & STARTED+=($!)
}

# check_peers: warms every peer, and sees that it serves the right bytes.
check_peers() {
  local name
  for name in "${PEERS[@]}"; do
    "$PYTHON" - "$SCRATCH" "${URL[$name]}" "$name" <<'EOF'
import os, pathlib, ssl, sys, urllib.request
folder, base, name = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
trust = ssl._create_unverified_context()
always = dict([os.environ["MIX_HEADER"].split(": ", 1)]) if os.environ.get("MIX_HEADER") else {}
bodies = {file.name: file.read_bytes() for file in (folder / "assets").rglob("*") if file.is_file()}
seen = set()
for line in (folder / "requests.tsv").read_text().splitlines():
    target, wanted = line.split("\t")
    whole = bodies[target[-36:]]
    # Whole first, so that it is kept; then as the mix asks.
    for asked in ("", wanted):
        if (target, asked) in seen:
            continue
        seen.add((target, asked))
        expected, status = whole, 200
        if asked:
            first, last = (int(part) for part in asked.removeprefix("bytes=").split("-"))
            expected, status = whole[first:last + 1], 206
        request = urllib.request.Request(f"{base}{target}", headers=always | ({"Range": asked} if asked else {}))
        with urllib.request.urlopen(request, context=trust) as reply:
            if (reply.status, reply.read()) != (status, expected):
                sys.exit(f"{name} answers {reply.status} with other bytes for {target} {asked}")
EOF
  done
}

# run_rounds: ROUNDS rounds of SECONDS_EACH on 8 keep-alive connections, the peers in turns.
run_rounds() {
  local round name url prefix line
  for round in $(seq "$ROUNDS"); do
    for name in "${PEERS[@]}"; do
      url=${URL[$name]}
      prefix=$("$PYTHON" -c 'import sys, urllib.parse; print(urllib.parse.urlsplit(sys.argv[1]).path)' "$url")
      line=$(MIX_PREFIX=$prefix MIX_REQUESTS=$SCRATCH/requests.tsv wrk -t1 -c8 -d"${SECONDS_EACH}s" -s "$HERE/mix.lua" "$url" | sed -n 's/^JSON //p')
      echo "$name $line" >>"$SCRATCH/results"
      echo "round $round $name $line" >&2
    done
  done
}

# table: the medians over the rounds; rate and p99 of each peer also in $SCRATCH/table.json.
table() {
  "$PYTHON" - "$SCRATCH/results" "$SCRATCH/table.json" <<'EOF'
import collections, json, statistics, sys
rows = collections.defaultdict(list)
for line in open(sys.argv[1]):
    name, _, text = line.partition(" ")
    rows[name].append(json.loads(text))
mid = {}
print(f"{'':14}{'requests/s':>12}{'MB/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'errors':>8}   (medians of {len(next(iter(rows.values())))} rounds)")
for name, rounds in rows.items():
    rate = statistics.median(r["requests"] / r["seconds"] for r in rounds)
    p50, p99 = (statistics.median(r[key] for r in rounds) / 1000 for key in ("p50_us", "p99_us"))
    mid[name] = (rate, p99)
    mb = statistics.median(r["bytes"] / r["seconds"] / 1e6 for r in rounds)
    print(f"{name:14}{rate:12.0f}{mb:9.0f}{p50:9.3f}{p99:9.3f}{sum(r['errors'] for r in rounds):8}")
json.dump(mid, open(sys.argv[2], "w"))
EOF
}
