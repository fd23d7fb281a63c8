# The archive for any Linux: unpack it anywhere, or install.sh puts it into ~/.local.
# shellcheck shell=bash disable=SC2154

package_tar() {
  local name arch tree page
  build_linux
  say "the archive"
  arch=${linux_triple%%-*}
  name=rezcache-$VERSION-linux-$arch
  tree=$WORK/stage/tar/$name
  mkdir -p "$tree"/{bin,man,completions,systemd,doc,monitoring,examples}
  install -m 644 packaging/doc/*.md CHANGELOG.md "$tree/doc/"
  install -m 644 packaging/monitoring/* "$tree/monitoring/"
  install -m 755 packaging/examples/* "$tree/examples/"
  install -m 755 "$linux_program" "$tree/bin/rezcache"
  for page in "$WORK"/files/man/*.1; do install -m 644 "$page" "$tree/man/"; done
  install -m 644 "$WORK/files/completions/rezcache.bash" "$WORK/files/completions/_rezcache" \
    "$WORK/files/completions/rezcache.fish" "$WORK/files/completions/_rezcache.ps1" "$tree/completions/"
  install -m 644 packaging/systemd/rezcache.service packaging/systemd/rezcache-serve.service \
    packaging/systemd/rezcache-director.service packaging/systemd/sysusers.conf "$tree/systemd/"
  install -m 644 README.md LICENSE-MIT LICENSE-APACHE packaging/rezcache.toml "$tree/"
  install -m 644 "$WORK/linux/third-party" "$tree/THIRD-PARTY"
  install -m 755 packaging/tar/install.sh "$tree/install.sh"
  clamp_times "$tree"
  drop_old 'rezcache-*-linux-*.tar.gz'
  tar -C "$WORK/stage/tar" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" \
    --format=ustar -cf - "$name" | gzip -9n >"$OUT/$name.tar.gz"
}
