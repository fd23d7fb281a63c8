# The Debian package: dpkg-deb over the common tree, so that no packaging tool has to be built first.
# shellcheck shell=bash disable=SC2154

package_deb() {
  need dpkg-deb dpkg
  need dpkg-shlibdeps dpkg-dev
  local root=$WORK/stage/deb doc=usr/share/doc/rezcache arch version depends size file
  linux_tree "$root" usr/share/zsh/vendor-completions
  say "the Debian package"
  arch=$(dpkg --print-architecture)
  # "+" and "~" mean the same there; the revision is the packaging's.
  version=$VERSION-1

  install -D -m 644 README.md "$root/$doc/README.md"
  install -m 644 packaging/README.md "$root/$doc/README.packages.md"
  install -m 644 "$WORK/linux/third-party" "$root/$doc/THIRD-PARTY"
  gzip -9n "$root/$doc/README.md" "$root/$doc/README.packages.md" "$root/$doc/THIRD-PARTY"
  sed 's/^$/./;s/^/ /' LICENSE-MIT >"$WORK/stage/mit"
  sed -e "/^@MIT@$/{r $WORK/stage/mit" -e 'd}' packaging/debian/copyright >"$root/$doc/copyright"
  deb_changelog "$version" | gzip -9n >"$root/$doc/changelog.Debian.gz"

  # What the program needs of the system, by its symbols.
  mkdir -p "$WORK/stage/shlibs/debian"
  printf 'Source: rezcache\n\nPackage: rezcache\nArchitecture: any\n' >"$WORK/stage/shlibs/debian/control"
  depends=$(cd "$WORK/stage/shlibs" && dpkg-shlibdeps -O --ignore-missing-info -e"$root/usr/bin/rezcache" 2>/dev/null)
  depends=${depends#shlibs:Depends=}
  [ -n "$depends" ] || fail "dpkg-shlibdeps does not say what the program needs"

  mkdir -p "$root/DEBIAN"
  (cd "$root" && find etc usr -type f -print0 | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
  (cd "$root" && find etc -type f -printf '/%p\n' | sort) >"$root/DEBIAN/conffiles"
  size=$(du -k -s --apparent-size --exclude=DEBIAN "$root" | cut -f 1)
  sed -e "s|@VERSION@|$version|;s|@ARCH@|$arch|;s|@SIZE@|$size|" \
    -e "s|@DEPENDS@|$depends|;s|@MAINTAINER@|$MAINTAINER|" packaging/debian/control.in >"$root/DEBIAN/control"
  for file in postinst prerm postrm; do
    install -m 755 "packaging/debian/$file" "$root/DEBIAN/$file"
  done
  clamp_times "$root"
  drop_old 'rezcache_*.deb'
  # What is made for a test need not be small.
  local effort=6
  [ "$PROFILE" = dist ] || effort=1
  dpkg-deb --root-owner-group -Zxz -z$effort --build "$root" "$OUT/rezcache_${version}_$arch.deb" >/dev/null
}

deb_changelog() {
  printf 'rezcache (%s) unstable; urgency=medium\n\n  * Version %s.\n\n -- %s  %s\n' \
    "$1" "$VERSION" "$MAINTAINER" "$(date -R -d "@$SOURCE_DATE_EPOCH")"
}
