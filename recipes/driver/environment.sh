#!/usr/bin/env bash
# Makes a virtual environment with fairseq and this plugin, unless it is there already;
# what is missing or has changed is installed into one that is there.
# Usage: recipes/driver/environment.sh FOLDER [EXTRAS]        e.g. .venv recipes
#   PYTHON   interpreter to use (default: python3)
#   FAIRSEQ  "fairseq-fixed" (default) or "stock", fairseq 0.12.2 with torch 2.2.2
set -euo pipefail
CDPATH='' cd "$(dirname "$0")/../.."
case $1 in /*) venv=$1 ;; *) venv=$PWD/$1 ;; esac
extras=${2:-recipes} python=${PYTHON:-python3} fairseq=${FAIRSEQ:-fairseq-fixed}

"$python" -c 'import sys; assert (3, 9) <= sys.version_info[:2] <= (3, 13), sys.version' 2>/dev/null || {
  echo "environment.sh: needs Python 3.9 to 3.13; '$python' is not: set PYTHON" >&2
  exit 1
}
step() { echo "[$(date +%H:%M:%S)] $*"; }
# One call at a time makes an environment.
if command -v flock >/dev/null && { exec 9>"$venv.lock"; } 2>/dev/null; then
  flock -n 9 || { step "Waiting for another call, which makes $venv" && flock 9; } || true
fi
base="$fairseq $("$python" --version)"
setup=$(cksum <setup.py)
sources=$(find fairseq_phm -name '*.py' -exec cksum {} + | sort | cksum)
old_base='' old_extras='' old_setup='' old_sources=''
{ read -r old_base && read -r old_extras && read -r old_setup && read -r old_sources; } \
  2>/dev/null <"$venv/.installed" || true
if [ "$old_base" = "$base" ]; then # with what other calls wanted
  extras=$(tr , '\n' <<<"$old_extras,$extras" | sort -u | paste -sd, -)
fi
if [ "$old_base,$old_extras,$old_setup,$old_sources" = "$base,$extras,$setup,$sources" ]; then
  exit 0
fi
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
# A copy: setuptools would install modules that are gone from build/ beside the sources.
source=$(mktemp -d)
trap 'rm -rf "$source"' EXIT
cp -r setup.py pyproject.toml README.md LICENSE fairseq_phm "$source"

if [ "$old_base,$old_extras,$old_setup" = "$base,$extras,$setup" ]; then
  pip install -q --no-build-isolation --no-deps --force-reinstall "$source"
elif [ "$old_base" = "$base" ]; then
  step "Installing into $venv: $extras"
  pip install -q --no-build-isolation "$source[$extras]"
else
  if [ -e "$venv" ] && [ ! -e "$venv/.installed" ]; then
    echo "environment.sh: $venv is there and not made by this script: move it, or set RECIPE_PYTHON" >&2
    exit 1
  fi
  step "Making $venv, once (about 4 minutes where fairseq has no wheel)"
  rm -rf "$venv"
  mkdir -p "$venv"
  : >"$venv/.installed" # empty: not finished
  "$python" -m venv "$venv"
  pip install -q numpy"$([ "$fairseq" = stock ] && echo '<2')" cython "setuptools<81" wheel
  if [ "$fairseq" = stock ]; then
    # fairseq 0.12.2 pins an omegaconf that new versions of pip refuse.
    step "Installing torch 2.2.2"
    pip install -q torch==2.2.2 torchaudio==2.2.2
    step "Building fairseq 0.12.2"
    pip install -q --no-deps fairseq==0.12.2
    pip install -q hydra-core==1.3.2 omegaconf==2.3.0 bitarray cffi regex scikit-learn \
      sacrebleu tqdm
    pip install -q --no-build-isolation "$source[$extras]"
  else
    step "Installing torch"
    pip install -q "torch<=2.13.0"
    step "Installing fairseq-fixed and the plugin"
    # Without isolation: it would download another torch to build against.
    pip install -q --no-build-isolation "$source[fairseq,$extras]"
  fi
fi
(cd / && "$venv/bin/python" -c \
  'import logging; logging.disable(logging.INFO); import fairseq_phm')
printf '%s\n' "$base" "$extras" "$setup" "$sources" >"$venv/.installed"
