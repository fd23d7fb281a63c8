# What the tests of packages share: checks that say what they found, and waiting that ends.
# shellcheck shell=bash

checks=0
fail() {
  printf 'FAILED: %s\n' "$*" >&2
  exit 1
}

# check WHAT COMMAND…: the command must succeed.
check() {
  local what=$1
  shift
  "$@" || fail "$what"
  checks=$((checks + 1))
}

# equal WHAT FOUND WANTED
equal() {
  [ "$2" = "$3" ] || fail "$1: found '$2', wanted '$3'"
  checks=$((checks + 1))
}

# holds WHAT FILE PATTERN
holds() {
  grep -q -e "$3" "$2" || fail "$1: no '$3' in $2: $(head -c 2000 "$2")"
  checks=$((checks + 1))
}

# eventually WHAT SECONDS COMMAND…: tries until the command succeeds.
eventually() {
  local what=$1 until=$((SECONDS + $2))
  shift 2
  until "$@"; do
    [ $SECONDS -lt $until ] || fail "$what (waited until ${until} s after the start)"
    sleep 0.2
  done
  checks=$((checks + 1))
}

# install_missing COMMAND PACKAGE…: Debian's packages, unless the command is there.
install_missing() {
  local command=$1 root=()
  shift
  command -v "$command" >/dev/null && return
  [ "$(id -u)" = 0 ] || root=(sudo -n)
  "${root[@]}" apt-get update -qq </dev/null
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null
  command -v "$command" >/dev/null || fail "there is no $command; install it (Debian: apt-get install $*)"
}

# field NAME FILE: the value of a text field in the first line of JSON that has it.
field() {
  sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p" "$2" | head -n 1
}
