# The zip and the installer for Windows, cross-built on Debian.
#
# rustup's toolchain has no standard library for Windows here that matches; Debian's rustc-web comes with the
# library's source, which its cargo-web builds along. mingw-w64 links; nothing of it needs to be shipped.
# shellcheck shell=bash disable=SC2154

WINDOWS_TRIPLE=x86_64-pc-windows-gnu

package_windows() {
  windows_tools
  build_windows
  windows_tree
  local tree=$WORK/stage/windows/rezcache name=rezcache-$VERSION
  say "the zip and the installer for Windows"
  drop_old 'rezcache-*-windows-x86_64.zip'
  drop_old 'rezcache-*-setup.exe'
  clamp_times "$tree"
  local effort=(-9 -DSMALL)
  [ "$PROFILE" = dist ] || effort=(-1 -DFAST)
  (cd "$tree/.." && find rezcache | sort | zip -X -q "${effort[0]}" -@ "$OUT/$name-windows-x86_64.zip")
  # Four numbers are what Windows takes for a version.
  makensis -V2 -NOCD "${effort[1]}" -INPUTCHARSET UTF8 "-DVERSION=$VERSION" "-DVERSION4=${VERSION%%[!0-9.]*}.0" "-DSOURCE=$tree" \
    "-DOUTFILE=$OUT/$name-setup.exe" packaging/windows/rezcache.nsi
  [ -s "$OUT/$name-setup.exe" ] || fail "makensis made no installer"
}

windows_tools() {
  need makensis nsis
  need zip zip
  need x86_64-w64-mingw32-gcc gcc-mingw-w64-x86-64-posix
  [ -x /usr/bin/cargo ] && [ -d "$(/usr/bin/rustc --print sysroot 2>/dev/null)/lib/rustlib/src/rust/library/std" ] ||
    install_packages rustc-web cargo-web rust-web-src ||
    fail "needs Debian's packages rustc-web, cargo-web and rust-web-src, which build for Windows"
}

build_windows() {
  say "the program for Windows; the first build takes a quarter of an hour or more"
  local flags=()
  if [ "$PROFILE" = dist ]; then
    flags=("--remap-path-prefix=$ROOT=rezcache" "--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo")
  fi
  (
    # Debian's compiler by its path and with a folder of its own, so that the everyday toolchain is left alone.
    export RUSTC_BOOTSTRAP=1 RUSTC=/usr/bin/rustc CARGO_TARGET_DIR=$TARGET/windows
    export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER=x86_64-w64-mingw32-gcc
    export CC_x86_64_pc_windows_gnu=x86_64-w64-mingw32-gcc
    [ ${#flags[@]} = 0 ] || export RUSTFLAGS="${RUSTFLAGS:-} ${flags[*]}"
    compile /usr/bin/cargo -Zbuild-std=std,panic_unwind build --profile "$PROFILE" --locked --quiet --bin rezcache \
      --target "$WINDOWS_TRIPLE"
  )
}

windows_tree() {
  local tree=$WORK/stage/windows/rezcache file
  mkdir -p "$tree"
  cp "$TARGET/windows/$WINDOWS_TRIPLE/$PROFILE/rezcache.exe" "$tree/rezcache.exe"
  x86_64-w64-mingw32-strip --strip-all "$tree/rezcache.exe"
  crlf packaging/windows/start-rezcache.cmd "$tree/start-rezcache.cmd"
  crlf packaging/windows/README.txt "$tree/README.txt"
  crlf packaging/rezcache.toml "$tree/rezcache.toml"
  crlf "$WORK/files/completions/_rezcache.ps1" "$tree/rezcache.ps1"
  mkdir -p "$tree/doc"
  for file in packaging/doc/*.md CHANGELOG.md; do crlf "$file" "$tree/doc/${file##*/}"; done
  for file in LICENSE-MIT LICENSE-APACHE; do crlf $file "$tree/$file.txt"; done
  sbom "$WINDOWS_TRIPLE" "$OUT/rezcache-windows.cdx.json" "$WORK/third-party"
  crlf "$WORK/third-party" "$tree/THIRD-PARTY.txt"
}

# crlf FROM TO: as Windows ends its lines.
crlf() {
  sed 's/\r\{0,1\}$/\r/' "$1" >"$2"
}
