# What the packages for Linux share: the program, and a tree of files as they are installed.
# shellcheck shell=bash disable=SC2154

linux_program=''
# The program for Linux into $linux_program, built once.
build_linux() {
  [ -z "$linux_program" ] || return 0
  say "the program for Linux"
  linux_triple=$(rustc -vV | sed -n 's/^host: //p')
  local flags=()
  if [ "$PROFILE" = dist ]; then
    # Whose machine built it is nobody's business.
    flags=("--remap-path-prefix=$ROOT=rezcache" "--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo")
  fi
  (
    [ ${#flags[@]} = 0 ] || export RUSTFLAGS="${RUSTFLAGS:-} ${flags[*]}"
    compile cargo build --profile "$PROFILE" --locked --quiet --bin rezcache
  )
  mkdir -p "$WORK/linux"
  cp "$TARGET/$PROFILE/rezcache" "$WORK/linux/rezcache"
  # The tables of symbols are a third of it, and no message of ours needs them.
  need strip binutils
  strip --strip-all --remove-section=.comment "$WORK/linux/rezcache"
  linux_program=$WORK/linux/rezcache
  sbom "$linux_triple" "$OUT/rezcache-linux.cdx.json" "$WORK/linux/third-party"
}

# linux_tree ROOT ZSH-FOLDER: everything that deb and rpm have in common, as it is installed.
linux_tree() {
  local root=$1 zsh=$2 page
  build_linux
  install -D -m 755 "$linux_program" "$root/usr/bin/rezcache"
  for page in "$WORK"/files/man/*.1; do
    install -D -m 644 "$page" "$root/usr/share/man/man1/${page##*/}"
    gzip -9n "$root/usr/share/man/man1/${page##*/}"
  done
  install -D -m 644 "$WORK/files/completions/rezcache.bash" "$root/usr/share/bash-completion/completions/rezcache"
  install -D -m 644 "$WORK/files/completions/_rezcache" "$root/$zsh/_rezcache"
  install -D -m 644 "$WORK/files/completions/rezcache.fish" "$root/usr/share/fish/vendor_completions.d/rezcache.fish"
  install -D -m 644 packaging/rezcache.toml "$root/etc/rezcache/rezcache.toml"
  # That one is the node's, and not for everybody's eyes; this one is the template for residents.
  install -D -m 644 packaging/rezcache.toml "$root/usr/share/doc/rezcache/examples/rezcache.toml"
  install -m 644 packaging/doc/*.md CHANGELOG.md "$root/usr/share/doc/rezcache/"
  install -D -m 644 -t "$root/usr/share/doc/rezcache/monitoring" packaging/monitoring/*
  install -D -m 755 -t "$root/usr/share/doc/rezcache/examples" packaging/examples/*
  install -D -m 644 packaging/systemd/rezcache.service "$root/usr/lib/systemd/user/rezcache.service"
  install -D -m 644 packaging/systemd/rezcache-serve.service "$root/usr/lib/systemd/system/rezcache-serve.service"
  install -m 644 packaging/systemd/rezcache-director.service "$root/usr/lib/systemd/system/"
  install -D -m 644 packaging/systemd/sysusers.conf "$root/usr/lib/sysusers.d/rezcache.conf"
}
