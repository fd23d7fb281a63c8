#!/bin/sh
# Installs rezcache for you alone into ~/.local, or into a folder that you name; no root is needed.
#
#   ./install.sh [FOLDER]              installs or upgrades
#   ./install.sh --remove [FOLDER]     removes it again; what rezcache has stored and its settings are left
set -eu

remove=no
if [ "${1:-}" = --remove ]; then
  remove=yes
  shift
fi
case "${1:-}" in
  -*) sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
here=$(cd "$(dirname "$0")" && pwd)
prefix=${1:-$HOME/.local}
data=${XDG_DATA_HOME:-$HOME/.local/share}
units=${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user
if [ -n "${1:-}" ]; then
  mkdir -p "$prefix"
  prefix=$(cd "$prefix" && pwd)
  data=$prefix/share
  units=$prefix/lib/systemd/user
fi

# put FILE PLACE MODE
put() {
  if [ "$remove" = yes ]; then
    rm -f "$2"
    # Folders that nothing else is in go too.
    rmdir -p "$(dirname "$2")" 2>/dev/null || true
  else
    mkdir -p "$(dirname "$2")"
    # Beside it and renamed: a rezcache that runs goes on with what it has.
    cp "$1" "$2.new"
    chmod "$3" "$2.new"
    mv -f "$2.new" "$2"
  fi
}

# A proxy that runs as a unit would go on without its program.
if [ "$remove" = yes ] && command -v systemctl >/dev/null; then
  systemctl --user disable --now rezcache.service >/dev/null 2>&1 || true
fi
put "$here/bin/rezcache" "$prefix/bin/rezcache" 755
for page in "$here"/man/*.1; do
  put "$page" "$data/man/man1/${page##*/}" 644
done
put "$here/completions/rezcache.bash" "$data/bash-completion/completions/rezcache" 644
put "$here/completions/_rezcache" "$data/zsh/site-functions/_rezcache" 644
put "$here/completions/rezcache.fish" "$data/fish/vendor_completions.d/rezcache.fish" 644
# The unit names the program as the system's package installs it.
unit=$(mktemp)
sed "s|^ExecStart=/usr/bin/rezcache|ExecStart=\"$prefix/bin/rezcache\"|" "$here/systemd/rezcache.service" >"$unit"
put "$unit" "$units/rezcache.service" 644
rm -f "$unit"

if [ "$remove" = yes ]; then
  echo "rezcache is removed. What it has stored is left: ${XDG_DATA_HOME:-$HOME/.local/share}/rezcache"
  exit 0
fi
echo "rezcache is installed in $prefix; nothing has been started."
case ":$PATH:" in
  *":$prefix/bin:"*) echo "Start your viewer through it: rezcache run" ;;
  *) echo "Start your viewer through it: $prefix/bin/rezcache run   ($prefix/bin is not in your PATH)" ;;
esac
