#!/usr/bin/env bash
# The packages for Windows under wine: installed, used, upgraded, removed, in a Windows that is made for it.
#
#   tests/packages/windows.sh [--profile dist]
#
# Wine gives no QUIC endpoint, and lacks a DLL that each Windows has: a stand-in for it is built here, and lies
# among that Windows' own.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/packages/lib.sh
profile=release
[ "${1:-}" = --profile ] && profile=$2

export LC_ALL=C.UTF-8
install_missing wine wine wine64
install_missing curl curl ca-certificates
install_missing unzip unzip

scratch=$PWD/target/wine
rm -rf "$scratch" && mkdir -p "$scratch/tools"
out=$PWD/target/packages-test/windows next=$PWD/target/packages-test/windows-next
rm -rf "$out" "$next"
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
packaging/build windows --profile "$profile" --out "$out"
packaging/build windows --profile "$profile" --out "$next" --version "$version+next" >/dev/null
setup=$(echo "$out"/rezcache-*-setup.exe) upgrade=$(echo "$next"/rezcache-*-setup.exe)
check "one installer each" test -f "$setup" -a -f "$upgrade"
x86_64-w64-mingw32-gcc -shared -o "$scratch/tools/bcryptprimitives.dll" tests/packages/prng.c -ladvapi32
x86_64-w64-mingw32-gcc -o "$scratch/tools/standin.exe" tests/packages/viewer.c

export WINEPREFIX=$scratch/prefix WINEDEBUG=-all WINEDLLOVERRIDES='mscoree=;mshtml='
drive=$WINEPREFIX/drive_c
win() { timeout -k 5 "${limit:-120}" wine "$@" </dev/null; }
finish() {
  wineserver -k || true
}
trap finish EXIT
win wineboot -i >"$scratch/log" 2>&1 || true
wineserver -w
check "a Windows" test -d "$drive/windows"
cp "$scratch/tools/bcryptprimitives.dll" "$drive/windows/system32/"
user=$(echo "$drive"/users/*/AppData) && user=${user%/AppData}
case $user in *Public*) user=$drive/users/$(id -un) ;; esac
local=$user/AppData/Local roaming=$user/AppData/Roaming
installed=$local/Programs/rezcache
menu="$roaming/Microsoft/Windows/Start Menu/Programs/rezcache"
# What is in the user's folders; the system's own books left out.
files() { (cd "$user" && find . \( -ipath '*/temp/*' -o -ipath '*/Microsoft/Windows/INetCache*' \) -prune -o -print | LC_ALL=C sort); }
registered() { win reg query 'HKCU\Software\Microsoft\Windows\CurrentVersion\Uninstall\rezcache' /v DisplayVersion 2>/dev/null | grep DisplayVersion | tr -d '\r'; }
listening() { grep -q '}' "$1" 2>/dev/null; }
gone() { [ ! -e "$1" ]; }
forgotten() { ! registered >/dev/null; }

echo "== the zip"
mkdir "$scratch/unpacked"
unzip -q "$out"/rezcache-*-windows-x86_64.zip -d "$scratch/unpacked"
for file in rezcache.exe start-rezcache.cmd README.txt rezcache.toml LICENSE-MIT.txt THIRD-PARTY.txt; do
  check "the zip has $file" test -s "$scratch/unpacked/rezcache/$file"
done
check "the stand-in DLL is in no package" test ! -e "$scratch/unpacked/rezcache/bcryptprimitives.dll"

echo "== installed"
files >"$scratch/before"
win "$setup" /S || true
# Its status says nothing: the files do.
eventually "the program is there" 60 test -s "$installed/uninstall.exe"
check "it is the zip's" cmp "$installed/rezcache.exe" "$scratch/unpacked/rezcache/rezcache.exe"
check "it is in the start menu" test -s "$menu/rezcache.lnk"
case $(registered) in *"$version"*) ;; *) fail "Windows does not know it is installed: $(registered)" ;; esac
equal "its version" "$(win "$installed/rezcache.exe" --version | tr -d '\r')" "rezcache $version"

echo "== captures replayed"
for capture in hippo-http hippo-udp; do
  cp "fixtures/sessions/$capture.pcap" "$scratch/"
  (cd "$scratch" && limit=300 win "$installed/rezcache.exe" replay --json "$capture.pcap") >"$scratch/$capture.json" ||
    fail "replay of $capture: $(head -c 2000 "$scratch/$capture.json")"
  holds "the verdict on $capture" "$scratch/$capture.json" '"ok": *true'
done

echo "== the proxy"
mkdir -p "$roaming/rezcache/config"
printf 'log_format = "json"\r\n[proxy]\r\nlisten = "127.0.0.1:0"\r\ncontrol = "127.0.0.1:0"\r\n[[grid]]\r\nname = "home"\r\nurl = "http://127.0.0.1:9/"\r\n' \
  >"$roaming/rezcache/config/rezcache.toml"
limit=600 win "$installed/rezcache.exe" proxy >"$scratch/proxy.out" 2>"$scratch/proxy.log" &
proxy=$!
eventually "the proxy is ready" 60 listening "$scratch/proxy.out"
control=$(field control "$scratch/proxy.out")
check "its page answers" curl -sSf --max-time 10 -o "$scratch/page.html" "http://$control/"
holds "it is rezcache's page" "$scratch/page.html" rezcache
check "its numbers answer" curl -sSf --max-time 10 -o "$scratch/status.json" "http://$control/status.json"
check "what it keeps is where it should be" test -d "$local/rezcache/data/assets"
# A running program is neither replaced nor removed.
win "$upgrade" /S || true
case $(registered) in *next*) fail "a running program was replaced" ;; esac
win "$installed/uninstall.exe" /S || true
sleep 3
check "a running program is not removed" test -s "$installed/rezcache.exe"
win taskkill /f /im rezcache.exe >/dev/null 2>&1 || true
wait "$proxy" || true

echo "== Ctrl-C"
timeout -k 5 90 python3 tests/packages/press_ctrl_c.py '"control"' wine "$installed/rezcache.exe" proxy >"$scratch/ctrl-c.log" ||
  fail "Ctrl-C: status $?: $(tail -c 1000 "$scratch/ctrl-c.log")"

echo "== rezcache run"
mkdir -p "$drive/viewers" "$roaming/SecondLife/user_settings"
for viewer in FirestormOS-Releasex64 SecondLifeViewer; do cp "$scratch/tools/standin.exe" "$drive/viewers/$viewer.exe"; done
# By its settings a viewer is known.
printf '<llsd/>' >"$roaming/SecondLife/user_settings/settings.xml"
# start VIEWER: as the start menu does; what the viewer was started with is in $scratch/VIEWER.txt.
start() {
  STANDIN_RECORD="C:\\viewers\\$1.txt" win cmd /c "$(windows_path "$installed/start-rezcache.cmd")" --login-grace 1s \
    -- "C:\\viewers\\$1.exe" --autologin >"$scratch/run.log" 2>&1 || fail "rezcache run: $(cat "$scratch/run.log")"
}
windows_path() { wine winepath -w "$1" </dev/null | tr -d '\r'; }
start FirestormOS-Releasex64
holds "Firestorm's grid" "$drive/viewers/FirestormOS-Releasex64.txt" '^argument http://127\.0\.0\.1:[0-9]*/'
holds "the viewer's own arguments" "$drive/viewers/FirestormOS-Releasex64.txt" '^argument --autologin'
start SecondLifeViewer
holds "the official viewer's grid" "$drive/viewers/SecondLifeViewer.txt" '^argument rezcache-home'
grids=$roaming/SecondLife/user_settings/grids.xml
holds "that grid in its list" "$grids" 'http://127\.0\.0\.1:'

echo "== a node, which wine gives no QUIC"
limit=600 win "$installed/rezcache.exe" serve --listen 127.0.0.1:0 --log-format json >"$scratch/node.out" 2>"$scratch/node.log" &
node=$!
eventually "the node is ready" 60 listening "$scratch/node.out"
holds "it serves over HTTPS alone" "$scratch/node.out" '"faces":\["https"\]'
holds "and says so" "$scratch/node.log" 'only HTTPS is served'
address=$(field listening "$scratch/node.out") pin=$(field pin "$scratch/node.out")
equal "the node is well" "$(curl -sSkf --max-time 10 "https://$address/healthz")" ok
for pass in first second; do
  (cd "$scratch" && limit=300 win "$installed/rezcache.exe" replay --json --passes 1 \
    --cache-server "https://$address#pin=$pin" hippo-http.pcap) >"$scratch/$pass.json" ||
    fail "replay against the node: $(head -c 2000 "$scratch/$pass.json")"
done
check "what one household brought the other got from the node" python3 - "$scratch" <<'PYTHON'
import json, sys
first, second = (json.load(open(f"{sys.argv[1]}/{name}.json"))["captures"][0]["passes"][0]["served"]
                 for name in ("first", "second"))
sys.exit(not (first["service"] == 0 and first["grid"] > 0 and second["service"] > 0 and second["grid"] == 0))
PYTHON
win taskkill /f /im rezcache.exe >/dev/null 2>&1 || true
wait "$node" || true
key=$local/rezcache/data/store.key
check "the node has made its key" test -s "$key"
cp "$key" "$scratch/key"

echo "== upgraded"
win "$upgrade" /S || true
upgraded() { case $(registered) in *next*) ;; *) return 1 ;; esac; }
eventually "the new version is registered" 60 upgraded
check "the settings are kept" test -s "$roaming/rezcache/config/rezcache.toml"

echo "== removed"
win "$installed/uninstall.exe" /S || true
eventually "the program's folder is gone" 60 gone "$installed"
eventually "the start menu's is too" 60 gone "$menu"
eventually "Windows forgets it" 60 forgotten
check "what it wrote for the official viewer is gone" test ! -e "$grids"
rm -r "$roaming/SecondLife"
left=$(files | LC_ALL=C comm -13 "$scratch/before" - | grep -v -e '^\./AppData/Local/rezcache\(/\|$\)' -e '^\./AppData/Roaming/rezcache\(/\|$\)' || true)
equal "nothing is left but what it had stored" "$left" ./AppData/Local/Programs
check "the store is left" test -d "$local/rezcache/data/assets"

echo "== installed and purged"
win "$setup" /S || true
eventually "the program is there again" 60 test -s "$installed/uninstall.exe"
win "$installed/uninstall.exe" /S /PURGE || true
eventually "the settings are gone" 60 gone "$roaming/rezcache"
eventually "the store is gone" 60 gone "$local/rezcache/data/assets"
eventually "the program is gone" 60 gone "$installed"
eventually "the key is back in its place" 60 test -s "$key"
check "the key is as it was" cmp "$key" "$scratch/key"
equal "nothing is left but the key" "$(files | LC_ALL=C comm -13 "$scratch/before" -)" \
  "./AppData/Local/Programs
./AppData/Local/rezcache
./AppData/Local/rezcache/data
./AppData/Local/rezcache/data/store.key"

printf 'the packages for Windows: %d checks passed\n' "$checks"
