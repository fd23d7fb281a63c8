#!/usr/bin/env bash
# The RPM and the archive, installed and removed; the lists of contents against their format; and that two
# builds of one commit are the same to the last bit.
#
#   tests/packages/others.sh [--profile dist]
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/packages/lib.sh
profile=release
[ "${1:-}" = --profile ] && profile=$2
export LC_ALL=C.UTF-8
install_missing rpm rpm

out=$PWD/target/packages-test/others again=$PWD/target/packages-test/again work=$PWD/target/packages-test/work
rm -rf "$out" "$again" "$work" && mkdir -p "$work"
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
packaging/build deb rpm tar --profile "$profile" --out "$out"
packaging/build deb rpm tar --profile "$profile" --out "$again" >/dev/null
(cd "$out" && sha256sum --quiet -c SHA256SUMS)
equal "both builds have the same sums" "$(cat "$out/SHA256SUMS")" "$(cat "$again/SHA256SUMS")"

echo "== the RPM"
rpm=$(echo "$out"/rezcache-*.rpm)
rpm -qlp "$rpm" >"$work/list"
for file in /usr/bin/rezcache /etc/rezcache/rezcache.toml /usr/lib/systemd/user/rezcache.service \
  /usr/lib/systemd/system/rezcache-serve.service /usr/lib/systemd/system/rezcache-director.service /usr/lib/sysusers.d/rezcache.conf \
  /usr/share/man/man1/rezcache-proxy.1.gz /usr/share/zsh/site-functions/_rezcache \
  /usr/share/licenses/rezcache/THIRD-PARTY; do
  holds "the RPM's files" "$work/list" "^$file\$"
done
rpm -qp --requires "$rpm" >"$work/requires"
holds "it needs this C library" "$work/requires" '^libc\.so\.6(GLIBC_2'
holds "it needs authorities" "$work/requires" '^ca-certificates$'
equal "its configuration is the administrator's" "$(rpm -qcp "$rpm")" /etc/rezcache/rezcache.toml
equal "its licence" "$(rpm -qp --qf '%{LICENSE}' "$rpm")" 'MIT OR Apache-2.0'
rpm -qp --scripts "$rpm" >"$work/scripts"
holds "its scripts make the node's user" "$work/scripts" 'useradd --system'
for script in preinstall postinstall preuninstall postuninstall; do
  sed -n "/^$script scriptlet/,/^[a-z]* scriptlet/{/scriptlet/d;p}" "$work/scripts" >"$work/$script"
  check "$script is a script" sh -n "$work/$script"
  check "$script does something" test -s "$work/$script"
done
# Into a root of its own, which has no shell for the scripts.
mkdir "$work/root"
rpm --root "$work/root" --dbpath /rpmdb --nodeps --noscripts -i "$rpm" 2>"$work/rpm.log" || fail "rpm -i: $(cat "$work/rpm.log")"
equal "the program that it installs" "$("$work/root/usr/bin/rezcache" --version)" "rezcache $version"
echo '# changed' >>"$work/root/etc/rezcache/rezcache.toml"
rpm --root "$work/root" --dbpath /rpmdb --nodeps --noscripts -e rezcache 2>"$work/rpm.log" || fail "rpm -e: $(cat "$work/rpm.log")"
equal "what it leaves" "$(cd "$work/root" && find . -path ./rpmdb -prune -o -type f -print)" ./etc/rezcache/rezcache.toml.rpmsave

echo "== the archive"
archive=$(echo "$out"/rezcache-*.tar.gz)
tar -C "$work" -xzf "$archive"
unpacked=$(echo "$work"/rezcache-*-linux-*)
for file in README.md LICENSE-MIT LICENSE-APACHE THIRD-PARTY rezcache.toml bin/rezcache man/rezcache.1 \
  completions/rezcache.fish completions/_rezcache.ps1; do
  check "the archive has $file" test -s "$unpacked/$file"
done
mkdir "$work/home"
at_home() { env -i HOME="$work/home" PATH=/usr/bin:/bin "$@"; }
at_home sh "$unpacked/install.sh" >"$work/installed"
holds "it says how to go on" "$work/installed" 'rezcache run'
equal "the program that it installs" "$(at_home "$work/home/.local/bin/rezcache" --version)" "rezcache $version"
holds "the unit starts that one" "$work/home/.config/systemd/user/rezcache.service" \
  "^ExecStart=\"$work/home/.local/bin/rezcache\" proxy"
at_home "$work/home/.local/bin/rezcache" replay fixtures/sessions/hippo-idle.pcap >"$work/replay" || fail "replay: $(cat "$work/replay")"
mkdir -p "$work/home/.local/share/rezcache" && touch "$work/home/.local/share/rezcache/kept"
at_home sh "$unpacked/install.sh" >/dev/null
at_home sh "$unpacked/install.sh" --remove >/dev/null
equal "what it leaves" "$(cd "$work/home" && find . -type f)" ./.local/share/rezcache/kept

echo "== the lists of contents"
if [ ! -x target/sbom-tools/bin/python ]; then
  python3 -m venv target/sbom-tools
  target/sbom-tools/bin/pip install --quiet --no-input --disable-pip-version-check 'cyclonedx-python-lib[json-validation]==9.1.0'
fi
python3 packaging/sbom.py --target x86_64-pc-windows-gnu --out "$out/rezcache-windows.cdx.json"
check "they are CycloneDX 1.5, whole, and of no machine" target/sbom-tools/bin/python - "$out"/rezcache-*.cdx.json <<'PYTHON'
import json, sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

for name in sys.argv[1:]:
    text = open(name, encoding="utf-8").read()
    fault = JsonStrictValidator(SchemaVersion.V1_5).validate_str(text)
    if fault:
        sys.exit(f"{name}: {fault}")
    bom = json.loads(text)
    names = {component["name"] for component in bom["components"]}
    assert {"rustls", "ring", "quinn", "libsqlite3-sys"} <= names and len(names) > 150, names
    assert not {"proptest", "clap_mangen", "syn"} & names, "not in the program"
    assert ("windows-sys" in names) == ("windows" in name), name
    for component in bom["components"]:
        assert component["purl"].startswith("pkg:cargo/") and component["licenses"], component
        assert len(component["hashes"][0]["content"]) == 64, component
    refs = {component["bom-ref"] for component in bom["components"]} | {bom["metadata"]["component"]["bom-ref"]}
    assert all(needed in refs for d in bom["dependencies"] for needed in d["dependsOn"])
    assert "/home/" not in text and "/root/" not in text and "/.cargo/" not in text, "a path of this machine"
PYTHON

printf 'RPM, archive and lists of contents: %d checks passed\n' "$checks"
