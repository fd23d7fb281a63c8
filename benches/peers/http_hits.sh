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

declare -A URL
PEERS=()
peer() { PEERS+=("$1"); URL[$1]=$2; }

start_bare origin; ORIGIN=$ADDRESS
start_bare bare; peer bare "http://$ADDRESS"

if have nginx "Debian package nginx-light"; then
  port=$(free_port)
  mkdir -p "$SCRATCH/nginx"
  # No tcp_nopush: it holds the last part of an answer back for up to 40 ms.
  cat >"$SCRATCH/nginx.conf" <<EOF
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
}
EOF
  nginx -p "$SCRATCH/nginx" -c "$SCRATCH/nginx.conf" 2>"$SCRATCH/nginx.out" & STARTED+=($!)
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

# Warm, and see that every peer serves the right bytes.
for name in "${PEERS[@]}"; do
  "$PYTHON" - "$SCRATCH" "${URL[$name]}" "$name" <<'EOF'
import pathlib, sys, urllib.request
folder, base, name = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
seen = set()
for line in (folder / "requests.tsv").read_text().splitlines():
    query, wanted = line.split("\t")
    whole = (folder / "assets" / query.split("=")[1]).read_bytes()
    # Whole first, so that it is kept; then as the mix asks.
    for asked in ("", wanted):
        if (query, asked) in seen:
            continue
        seen.add((query, asked))
        expected, status = whole, 200
        if asked:
            first, last = (int(part) for part in asked.removeprefix("bytes=").split("-"))
            expected, status = whole[first:last + 1], 206
        request = urllib.request.Request(f"{base}/?{query}", headers={"Range": asked} if asked else {})
        with urllib.request.urlopen(request) as reply:
            if (reply.status, reply.read()) != (status, expected):
                sys.exit(f"{name} answers {reply.status} with other bytes for {query} {asked}")
EOF
done

for round in $(seq "$ROUNDS"); do
  for name in "${PEERS[@]}"; do
    url=${URL[$name]}
    prefix=$("$PYTHON" -c 'import sys, urllib.parse; print(urllib.parse.urlsplit(sys.argv[1]).path)' "$url")
    line=$(MIX_PREFIX=$prefix MIX_REQUESTS=$SCRATCH/requests.tsv wrk -t1 -c8 -d"${SECONDS_EACH}s" -s "$HERE/mix.lua" "$url" | sed -n 's/^JSON //p')
    echo "$name $line" >>"$SCRATCH/results"
    echo "round $round $name $line" >&2
  done
done

"$PYTHON" - "$SCRATCH/results" <<'EOF'
import collections, json, statistics, sys
rows = collections.defaultdict(list)
for line in open(sys.argv[1]):
    name, _, text = line.partition(" ")
    rows[name].append(json.loads(text))
mid = {}
print(f"{'':10}{'requests/s':>12}{'MB/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'errors':>8}   (medians of {len(next(iter(rows.values())))} rounds)")
for name, rounds in rows.items():
    rate = statistics.median(r["requests"] / r["seconds"] for r in rounds)
    p50, p99 = (statistics.median(r[key] for r in rounds) / 1000 for key in ("p50_us", "p99_us"))
    mid[name] = (rate, p99)
    mb = statistics.median(r["bytes"] / r["seconds"] / 1e6 for r in rounds)
    print(f"{name:10}{rate:12.0f}{mb:9.0f}{p50:9.3f}{p99:9.3f}{sum(r['errors'] for r in rounds):8}")
if "rezcache" in mid:
    rate, p99 = mid["rezcache"]
    peers = {name: mid[name] for name in ("nginx", "varnish") if name in mid}
    if peers:
        best = max(peers, key=lambda name: peers[name][0])
        print(f"requests/s against the better peer ({best}): {rate / peers[best][0]:.2f} (goal 1.0)")
        print(f"p99 against its p99: {p99 / peers[best][1]:.2f} (goal at most 1.0)")
    print(f"requests/s against the bare server: {rate / mid['bare'][0]:.2f} (goal 0.9)")
EOF
