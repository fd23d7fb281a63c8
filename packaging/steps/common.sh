# Steps of packaging/build that several packages share.
# shellcheck shell=bash disable=SC2154

# need COMMAND PACKAGE: a program, by Debian's package when it is missing.
need() {
  command -v "$1" >/dev/null && return
  install_packages "$2" || fail "needs the program $1; install it (Debian: apt-get install $2)"
  command -v "$1" >/dev/null || fail "$2 was installed, and there is still no $1"
}

install_packages() {
  command -v apt-get >/dev/null || return 1
  local root=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || return 1
    root=(sudo -n)
  fi
  "${root[@]}" apt-get update -qq </dev/null &&
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
      apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null
}

# compile COMMAND…: without the time of the commit, after which build scripts would run again.
compile() {
  env -u SOURCE_DATE_EPOCH "$@"
}

# Man pages and completions into $WORK/files, made from the command line itself. Always by the profile that
# tests use: which one makes no difference to them.
command_line_files() {
  say "man pages and completions"
  command -v cargo >/dev/null || fail "needs cargo: install Rust (see rust-version in Cargo.toml)"
  compile cargo build --release --locked --quiet --example packaging_files
  rm -rf "$WORK/files"
  "$TARGET/release/examples/packaging_files" "$WORK/files"
  # The program says it of itself; its pages say which version they are of.
  [ -s "$WORK/files/man/rezcache-proxy.1" ] || fail "the man pages are missing"
}

# sbom TARGET-TRIPLE FILE LICENCES: what of others is in the program, and the texts of their licences.
sbom() {
  need python3 python3
  python3 packaging/sbom.py --target "$1" --out "$2" --licences "$3"
}

# All files that the packaged times and names go into: never newer than the commit.
clamp_times() {
  find "$1" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
}

# Removes what an earlier build left under these names, so that checksums name one of each kind.
drop_old() {
  local name
  for name in "$@"; do
    find "$OUT" -maxdepth 1 -type f -name "$name" -delete
  done
}

checksums() {
  (
    cd "$OUT"
    rm -f SHA256SUMS
    find . -maxdepth 1 -type f ! -name 'SHA256SUMS*' -printf '%f\n' | sort | xargs -d '\n' sha256sum >SHA256SUMS.new
    mv SHA256SUMS.new SHA256SUMS
  )
}
