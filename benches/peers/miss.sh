#!/usr/bin/env bash
# Misses: textures nobody asked before, through the proxy and directly, rounds interleaved. Prints
# throughput on 8 connections and the time to the first byte on one.
#
#   cargo build --release --bin rezcache --example bare_server
#   benches/peers/miss.sh                 # ROUNDS=5 SECONDS_EACH=5 PROBES=300 DELAY_US=0 RATE_MBIT=1000
#
# DELAY_US is the time the origin thinks; a real simulator takes 100000. RATE_MBIT is the line that
# the origin's connections share, faster than any home has; RATE_MBIT=0 is loopback's own speed, where
# the processor is the line and every byte passes it twice.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
ROUNDS=${ROUNDS:-5}
SECONDS_EACH=${SECONDS_EACH:-5}
PROBES=${PROBES:-300}
DELAY_US=${DELAY_US:-0}
RATE_MBIT=${RATE_MBIT:-1000}
line=()
[ "$RATE_MBIT" = 0 ] || line=(--rate-mbit "$RATE_MBIT")
have wrk "Debian package wrk"
"$PYTHON" "$HERE/mix.py" "$SCRATCH" >/dev/null
start_bare origin --delay-us "$DELAY_US" "${line[@]}"; ORIGIN=$ADDRESS
[ -x "$REZCACHE" ] || { echo "no proxy at '$REZCACHE'" >&2; exit 1; }
start_rezcache "$ORIGIN"

run=0
for round in $(seq "$ROUNDS"); do
  for name in direct proxy; do
    if [ "$name" = direct ]; then url=http://$ORIGIN; else url=$BASE; fi
    prefix=$("$PYTHON" -c 'import sys, urllib.parse; print(urllib.parse.urlsplit(sys.argv[1]).path)' "$url")
    run=$((run + 1))
    line=$(MIX_PREFIX=$prefix MIX_UNIQUE=$run wrk -t1 -c8 -d"${SECONDS_EACH}s" -s "$HERE/mix.lua" "$url" | sed -n 's/^JSON //p')
    echo "$name $line" >>"$SCRATCH/results"
    echo "round $round $name $line" >&2
  done
done

"$PYTHON" - "$SCRATCH/results" "http://$ORIGIN" "$BASE" "$PROBES" <<'EOF'
import collections, http.client, json, statistics, sys, time, urllib.parse, uuid

rows = collections.defaultdict(list)
for line in open(sys.argv[1]):
    name, _, text = line.partition(" ")
    rows[name].append(json.loads(text))
speed = {name: statistics.median(r["bytes"] / r["seconds"] for r in rounds) for name, rounds in rows.items()}
errors = {name: sum(r["errors"] for r in rounds) for name, rounds in rows.items()}
print(f"throughput: direct {speed['direct'] / 1e6:.0f} MB/s, through the proxy {speed['proxy'] / 1e6:.0f} MB/s, "
      f"ratio {speed['proxy'] / speed['direct']:.3f} (goal 0.98), errors {errors}")

bases = {"direct": urllib.parse.urlsplit(sys.argv[2]), "proxy": urllib.parse.urlsplit(sys.argv[3])}
lines = {name: http.client.HTTPConnection(base.netloc) for name, base in bases.items()}
times = collections.defaultdict(list)
for _ in range(int(sys.argv[4])):
    for name, line in lines.items():
        start = time.perf_counter()
        line.request("GET", f"{bases[name].path}/?texture_id={uuid.uuid4()}")
        reply = line.getresponse()
        reply.read(1)
        times[name].append((time.perf_counter() - start) * 1000)
        if reply.status != 200:
            sys.exit(f"{name} answered {reply.status}")
        reply.read()
p50 = {name: statistics.median(values) for name, values in times.items()}
print(f"first byte, p50: direct {p50['direct']:.3f} ms, through the proxy {p50['proxy']:.3f} ms, "
      f"added {p50['proxy'] - p50['direct']:.3f} ms (goal at most 0.2)")
EOF
