#!/usr/bin/env bash
# The Debian package from its build to its purge, in a root that has never seen rezcache: a system made by
# debootstrap (kept as an archive in target/), into which nothing else of this machine is mounted.
#
#   tests/packages/deb.sh [--profile dist]     the program of profile release otherwise, which tests have built
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/packages/lib.sh
profile=release built=no
while [ $# -gt 0 ]; do
  case $1 in
    --profile) profile=$2 && shift ;;
    --built) built=yes ;;
  esac
  shift
done
export LC_ALL=C.UTF-8

first=$PWD/target/packages-test/first next=$PWD/target/packages-test/next
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
if [ $built = no ]; then
  install_missing debootstrap debootstrap
  install_missing dpkg-shlibdeps dpkg-dev
  install_missing systemd-analyze systemd
  install_missing curl curl ca-certificates
  rm -rf "$first" "$next"
  packaging/build deb --profile "$profile" --out "$first"
  packaging/build deb --profile "$profile" --out "$next" --version "$version+next" >/dev/null
fi
if [ "$(id -u)" != 0 ]; then
  exec sudo -n bash "$0" --built || fail "a root of its own takes root: sudo asks for a password"
fi
deb=$(echo "$first"/rezcache_*.deb) upgrade=$(echo "$next"/rezcache_*.deb)
check "one package each" test -f "$deb" -a -f "$upgrade"
(cd "$first" && sha256sum --quiet -c SHA256SUMS)

# The clean root. The release is this machine's, whose libraries the program was linked with.
codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
archive=target/clean-root/$codename.tar root=$PWD/target/clean-root/root notes=$PWD/target/clean-root/notes
rm -rf "$root" "$notes"
mkdir -p "$notes"
if [ ! -s "$archive" ]; then
  echo "== a clean $codename"
  debootstrap --variant=minbase --include=ca-certificates "$codename" "$root" >target/clean-root/log 2>&1 ||
    fail "debootstrap: $(tail -n 3 target/clean-root/log)"
  # Without what it was made from.
  rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
  tar -C "$root" -cf "$archive.new" . && mv "$archive.new" "$archive"
else
  mkdir "$root"
  tar -C "$root" -xf "$archive"
fi
running=''
finish() {
  [ -z "$running" ] || kill -9 "$running" 2>/dev/null || true
  rm -rf "$root"
}
trap finish EXIT

inside() { chroot "$root" env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"; }
resident() {
  chroot --userspec=resident:resident "$root" env -i HOME=/home/resident PATH=/usr/bin:/bin "$@"
}
# What is in the root; the package manager's own books left out.
files() {
  (cd "$root" && find . -xdev \( -path ./var/lib/dpkg -o -path ./var/log \) -prune -o -printf '%p %y\n' | LC_ALL=C sort)
}
# setting UNIT KEY: the last value of a key in an installed unit.
setting() { sed -n "s/^$2=//p" "$root/usr/lib/systemd/$1" | tail -n 1; }
listening() { [ -s "$1" ] && [ "$(head -n 1 "$1" | tail -c 2)" = '}' ]; }

inside useradd --create-home resident
files >"$notes/before"

echo "== installed"
cp "$deb" "$root/rezcache.deb"
inside dpkg -i /rezcache.deb >"$notes/dpkg.log" 2>&1 || fail "dpkg -i: $(cat "$notes/dpkg.log")"
holds "it says what to do" "$notes/dpkg.log" 'nothing has been started'
equal "dpkg's state" "$(inside dpkg-query -W -f '${db:Status-Status}' rezcache)" installed
equal "its version" "$(inside rezcache --version)" "rezcache $version"
equal "the configuration is the node's and root's" "$(stat -c %a "$root/etc/rezcache/rezcache.toml")" 640
equal "the group of the configuration" "$(inside stat -c %U:%G /etc/rezcache/rezcache.toml)" root:rezcache
inside dpkg --verify rezcache >"$notes/verify.log"
equal "installed as packaged" "$(cat "$notes/verify.log")" ''
check "the template says nothing wrong" inside rezcache check-config --config /etc/rezcache/rezcache.toml >/dev/null
check "residents can read the template" inside runuser -u resident -- cat \
  /usr/share/doc/rezcache/examples/rezcache.toml >/dev/null
for page in rezcache rezcache-proxy rezcache-serve rezcache-director; do
  check "man page of $page" test -s "$root/usr/share/man/man1/$page.1.gz"
done
check "bash takes the completions" bash -n "$root/usr/share/bash-completion/completions/rezcache"
equal "no unit is enabled" "$(find "$root/etc/systemd" -name 'rezcache*' | wc -l)" 0

echo "== units"
for unit in system/rezcache-serve.service system/rezcache-director.service user/rezcache.service; do
  # This machine has no /usr/bin/rezcache, which would be all that is found.
  mkdir -p "$notes/units" "$notes/run"
  sed 's|^ExecStart=/usr/bin/rezcache |ExecStart=/bin/true |' "$root/usr/lib/systemd/$unit" \
    >"$notes/units/${unit##*/}"
  # It answers with status 0 whatever it finds: whatever it prints is a fault.
  found=$(XDG_RUNTIME_DIR="$notes/run" systemd-analyze verify "--${unit%%/*}" --man=no \
    "$notes/units/${unit##*/}" 2>&1 || echo "status $?")
  equal "systemd-analyze verify $unit" "$found" ''
done
check "rezcache-serve.service is closed tightly" \
  systemd-analyze security --offline=true --threshold=30 --no-pager "$root/usr/lib/systemd/system/rezcache-serve.service" >"$notes/security.log"
check "so is rezcache-director.service" \
  systemd-analyze security --offline=true --threshold=30 --no-pager "$root/usr/lib/systemd/system/rezcache-director.service" >>"$notes/security.log"

echo "== a capture replayed with the installed program"
mkdir "$root/home/resident/captures"
cp fixtures/sessions/hippo-http.pcap "$root/home/resident/captures/"
resident rezcache replay --json /home/resident/captures/hippo-http.pcap >"$notes/replay.json" ||
  fail "replay: $(head -c 2000 "$notes/replay.json")"
holds "the replay's verdict" "$notes/replay.json" '"ok": *true'

echo "== the proxy as the user's unit starts it"
mkdir -p "$root/home/resident/.config/rezcache"
cat >"$root/home/resident/.config/rezcache/rezcache.toml" <<TOML
log_format = "json"
[proxy]
listen = "127.0.0.1:0"
control = "127.0.0.1:0"
[[grid]]
name = "home"
url = "http://127.0.0.1:9/"
TOML
inside chown -R resident:resident /home/resident
read -r -a start <<<"$(setting user/rezcache.service ExecStart)"
chroot --userspec=resident:resident "$root" env -i HOME=/home/resident PATH=/usr/bin:/bin \
  "${start[@]}" >"$notes/proxy.out" 2>"$notes/proxy.log" &
running=$!
eventually "the proxy is ready" 30 listening "$notes/proxy.out"
control=$(field control "$notes/proxy.out")
check "its page answers" curl -sSf --max-time 10 -o "$notes/page.html" "http://$control/"
holds "it is rezcache's page" "$notes/page.html" 'rezcache'
check "its numbers answer" curl -sSf --max-time 10 -o "$notes/status.json" "http://$control/status.json"
kill -TERM "$running"
status=0
wait "$running" || status=$?
running=''
equal "the proxy's end by SIGTERM" "$status" 0

echo "== rezcache run"
cat >"$root/home/resident/firestorm" <<'VIEWER'
#!/bin/sh
printf '%s\n' "$@" >/home/resident/started-with
VIEWER
chmod +x "$root/home/resident/firestorm"
resident rezcache run --login-grace 1s -- /home/resident/firestorm --autologin >"$notes/run.log" 2>&1 ||
  fail "rezcache run: $(cat "$notes/run.log")"
holds "the viewer's grid" "$root/home/resident/started-with" '^http://127\.0\.0\.1:[0-9]*/$'
holds "the viewer's own arguments" "$root/home/resident/started-with" '^--autologin$'

echo "== a node as the system's unit starts it"
# What a service manager does before: folders, user, environment.
inside install -d -o rezcache -g rezcache -m "$(setting system/rezcache-serve.service StateDirectoryMode)" \
  "/var/lib/$(setting system/rezcache-serve.service StateDirectory)"
inside install -d -o rezcache -g rezcache "/var/cache/$(setting system/rezcache-serve.service CacheDirectory)"
printf 'log_format = "json"\n[serve]\nlisten = "127.0.0.1:0"\nhot_dir = "/var/cache/rezcache/hot"\n' \
  >"$root/etc/rezcache/rezcache.toml"
user=$(setting system/rezcache-serve.service User)
read -r -a start <<<"$(setting system/rezcache-serve.service ExecStart)"
chroot --userspec="$user:$user" "$root" env -i PATH=/usr/bin:/bin "$(setting system/rezcache-serve.service Environment)" \
  "${start[@]}" >"$notes/node.out" 2>"$notes/node.log" &
running=$!
eventually "the node is ready" 30 listening "$notes/node.out"
node=$(field listening "$notes/node.out")
equal "the node is well" "$(curl -sSkf --max-time 10 "https://$node/healthz")" ok
kill -TERM "$running"
status=0
wait "$running" || status=$?
running=''
equal "the node's end by SIGTERM" "$status" 0

echo "== a director as the system's unit starts it"
inside install -d -o rezcache -g rezcache -m "$(setting system/rezcache-director.service StateDirectoryMode)" \
  "/var/lib/$(setting system/rezcache-director.service StateDirectory)"
cat >"$root/etc/rezcache/director.toml" <<TOML
log_format = "json"
[director]
zone = "cache.example.org"
ns = ["ns1.example.org"]
dns_listen = "127.0.0.1:0"
status_listen = "127.0.0.1:0"
store = "file:///var/lib/rezcache/store"
[[node]]
name = "otter"
url = "https://127.0.0.1:1"
TOML
inside chown root:rezcache /etc/rezcache/director.toml
chmod 640 "$root/etc/rezcache/director.toml"
read -r -a start <<<"$(setting system/rezcache-director.service ExecStart)"
chroot --userspec="$user:$user" "$root" env -i PATH=/usr/bin:/bin "$(setting system/rezcache-director.service Environment)" \
  "${start[@]}" >"$notes/director.out" 2>"$notes/director.log" &
running=$!
eventually "the director is ready" 30 grep -q '"status"' "$notes/director.out"
check "its page answers" curl -sSf --max-time 10 -o "$notes/director.html" "http://$(field status "$notes/director.out")/"
holds "it names the node" "$notes/director.html" 'otter'
kill -TERM "$running"
status=0
wait "$running" || status=$?
running=''
equal "the director's end by SIGTERM" "$status" 0
check "it has left something for the purge" test -s "$root/var/lib/rezcache-director/director-name"

key=/var/lib/rezcache/store.key
check "it has made its key in the package's place" test -s "$root$key"
cp -p "$root$key" "$notes/key"

echo "== upgraded"
cp "$root/etc/rezcache/rezcache.toml" "$notes/kept.toml"
cp "$upgrade" "$root/rezcache.deb"
inside dpkg -i /rezcache.deb >"$notes/dpkg.log" 2>&1 || fail "dpkg -i: $(cat "$notes/dpkg.log")"
equal "the version afterwards" "$(inside dpkg-query -W -f '${Version}' rezcache)" "$version+next-1"
check "the administrator's configuration is kept" cmp "$notes/kept.toml" "$root/etc/rezcache/rezcache.toml"
equal "its group too" "$(inside stat -c %a:%G /etc/rezcache/rezcache.toml)" 640:rezcache
check "the key is kept" cmp "$notes/key" "$root$key"
resident rezcache replay --json /home/resident/captures/hippo-http.pcap >"$notes/replay.json" ||
  fail "replay after the upgrade: $(head -c 2000 "$notes/replay.json")"

echo "== removed, then purged"
inside dpkg -r rezcache >"$notes/dpkg.log" 2>&1 || fail "dpkg -r: $(cat "$notes/dpkg.log")"
check "the program is gone" test ! -e "$root/usr/bin/rezcache"
check "the configuration is not" cmp "$notes/kept.toml" "$root/etc/rezcache/rezcache.toml"
check "the store is not" test -d "$root/var/lib/rezcache/store"
inside dpkg -P rezcache >"$notes/dpkg.log" 2>&1 || fail "dpkg -P: $(cat "$notes/dpkg.log")"
holds "the purge names the key it leaves" "$notes/dpkg.log" "$key"
check "the key is as it was" cmp "$notes/key" "$root$key"
rm "$root/rezcache.deb"
# What is new, beside what residents have in their own folders.
left=$(files | LC_ALL=C comm -13 "$notes/before" - | grep -v '^\./home/resident/')
equal "what is left" "$left" "./var/lib/rezcache d
./var/lib/rezcache/store.key f"
equal "nothing else is gone" "$(files | LC_ALL=C comm -23 "$notes/before" -)" ''
equal "the resident's own data is left" "$(test -d "$root/home/resident/.local/share/rezcache" && echo yes)" yes
check "the user of the node is left" inside getent passwd rezcache >/dev/null

printf 'the Debian package: %d checks passed\n' "$checks"
