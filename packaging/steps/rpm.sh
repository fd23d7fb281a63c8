# The RPM: rpmbuild over the common tree.
# shellcheck shell=bash disable=SC2154

package_rpm() {
  need rpmbuild rpm
  local root=$WORK/stage/rpm top=$WORK/stage/rpmbuild doc=usr/share/doc/rezcache licenses=usr/share/licenses/rezcache
  linux_tree "$root" usr/share/zsh/site-functions
  say "the RPM"
  install -D -m 644 README.md "$root/$doc/README.md"
  install -m 644 packaging/README.md "$root/$doc/README.packages.md"
  install -D -m 644 LICENSE-MIT "$root/$licenses/LICENSE-MIT"
  install -m 644 LICENSE-APACHE "$root/$licenses/LICENSE-APACHE"
  install -m 644 "$WORK/linux/third-party" "$root/$licenses/THIRD-PARTY"
  clamp_times "$root"
  # Of nobody's machine, and of the commit's time.
  rpmbuild --quiet -bb packaging/rpm/rezcache.spec \
    --define "_topdir $top" --define "rezcache_version $VERSION" --define "rezcache_tree $root" \
    --define "_buildhost reproducible" --define "use_source_date_epoch_as_buildtime 1" \
    --define "clamp_mtime_to_source_date_epoch 1" --define "_binary_payload w9.gzdio" \
    --define "_dbpath $top/db" >"$WORK/stage/rpmbuild.log" 2>&1 || {
    cat "$WORK/stage/rpmbuild.log" >&2
    fail "rpmbuild failed"
  }
  drop_old 'rezcache-*.rpm'
  find "$top/RPMS" -name '*.rpm' -exec cp {} "$OUT/" \;
}
