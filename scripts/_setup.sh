# Sourced by the other scripts: the virtual environment .venv, installed from a lock file. Needs only Python >= 3.11.
# Nothing is downloaded when the lock file has not changed since the last time.

VENV=${MODELYARD_VENV:-$PWD/.venv}
UV=$VENV/bin/uv

say() { printf '\033[1m==>\033[0m %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
    [ -n "$candidate" ] && command -v "$candidate" >/dev/null || continue
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then echo "$candidate"; return; fi
  done
  die "Python 3.11 or newer is needed (set PYTHON=/path/to/python3 if it is not on PATH)"
}

ensure_uv() {
  if ! "$VENV/bin/python" -c '' 2>/dev/null; then
    local python; python=$(find_python)
    "$python" -m venv "$VENV" || die "could not make $VENV; on Debian and Ubuntu: apt-get install python3-venv"
  fi
  [ -x "$UV" ] || "$VENV/bin/pip" install -q --disable-pip-version-check --require-hashes -r requirements/uv.txt || die "could not install uv from the package index"
  # uv does not read pip's configuration: pass on an index that the machine's owner set there.
  local index
  if [ -z "${UV_DEFAULT_INDEX:-}" ] && index=$("$VENV/bin/pip" config get global.index-url 2>/dev/null); then export UV_DEFAULT_INDEX=$index; fi
}

ensure_venv() { # LOCK: dev | local
  local stamp=$VENV/.lock-$1
  local want; want=$(cat "requirements/$1.lock" pyproject.toml | sha256sum)
  ensure_uv
  [ "$(cat "$stamp" 2>/dev/null)" = "$want" ] && return
  say "installing $1 packages into ${VENV#"$PWD"/} ..."
  VIRTUAL_ENV=$VENV "$UV" pip install -q --require-hashes -r "requirements/$1.lock" || die "could not install requirements/$1.lock"
  VIRTUAL_ENV=$VENV "$UV" pip install -q --no-deps -e . || die "could not install modelyard itself"
  printf '%s' "$want" >"$stamp"
}
