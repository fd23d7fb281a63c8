#!/usr/bin/env bash
# HTTP hits: the same mix of assets and ranges on 8 keep-alive connections against a bare socket
# server, nginx proxy_cache, varnish (malloc) and the proxy, all before the same origin, rounds
# interleaved. Prints requests/s, p50, p99 per peer (medians over the rounds) and the ratios.
#
#   cargo build --release --bin rezcache --example bare_server
#   benches/peers/http_hits.sh            # ROUNDS=5 SECONDS_EACH=5
#
# Needs wrk; nginx and varnishd are measured when installed (Debian: wrk nginx-light varnish).
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
ROUNDS=${ROUNDS:-5}
SECONDS_EACH=${SECONDS_EACH:-5}
have wrk "Debian package wrk"
"$PYTHON" "$HERE/mix.py" "$SCRATCH"

start_bare origin; ORIGIN=$ADDRESS
start_bare bare; peer bare "http://$ADDRESS"

if have nginx "Debian package nginx-light"; then
  port=$(free_port)
  start_nginx <<EOF
  proxy_cache_path $SCRATCH/nginx/cache levels=1:2 keys_zone=assets:10m max_size=1g inactive=1h use_temp_path=off;
  server {
    listen 127.0.0.1:$port;
    location / {
      proxy_pass http://$ORIGIN;
      proxy_cache assets;
      proxy_cache_key \$request_uri;
      proxy_cache_valid 200 1h;
      proxy_force_ranges on;
    }
  }
EOF
  answers "http://127.0.0.1:$port/"; peer nginx "http://127.0.0.1:$port"
fi

if have varnishd "Debian package varnish"; then
  port=$(free_port)
  varnishd -F -j none -n "$SCRATCH/varnish" -a "127.0.0.1:$port" -b "$ORIGIN" -s malloc,1G -t 3600 \
    >"$SCRATCH/varnish.out" 2>&1 & STARTED+=($!)
  answers "http://127.0.0.1:$port/"; peer varnish "http://127.0.0.1:$port"
fi

if [ -n "$REZCACHE" ] && [ -x "$REZCACHE" ]; then
  start_rezcache "$ORIGIN"; peer rezcache "$BASE"
else
  echo "no proxy at '$REZCACHE': measured without it" >&2
fi

check_peers
run_rounds
table
"$PYTHON" - "$SCRATCH/table.json" <<'EOF'
import json, sys
mid = json.load(open(sys.argv[1]))
if "rezcache" in mid:
    rate, p99 = mid["rezcache"]
    peers = {name: mid[name] for name in ("nginx", "varnish") if name in mid}
    if peers:
        best = max(peers, key=lambda name: peers[name][0])
        print(f"requests/s against the better peer ({best}): {rate / peers[best][0]:.2f} (goal 1.0)")
        print(f"p99 against its p99: {p99 / peers[best][1]:.2f} (goal at most 1.0)")
    print(f"requests/s against the bare server: {rate / mid['bare'][0]:.2f} (goal 0.9)")
EOF
