#!/usr/bin/env bash
# Makes a virtual environment with fairseq and this plugin, unless it is there already.
# Usage: recipes/environment.sh FOLDER [EXTRAS]     e.g. recipes/environment.sh .venv recipes
#   PYTHON   interpreter to use (default: python3)
#   FAIRSEQ  "fairseq-fixed" (default) or "stock", fairseq 0.12.2 with torch 2.2.2
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1 extras=${2:-recipes} python=${PYTHON:-python3} fairseq=${FAIRSEQ:-fairseq-fixed}

"$python" -c 'import sys; assert (3, 9) <= sys.version_info[:2] <= (3, 13), sys.version' 2>/dev/null || {
  echo "environment.sh: needs Python 3.9 to 3.13; '$python' is not: set PYTHON" >&2
  exit 1
}
wanted="$fairseq $extras $("$python" --version) $(cksum <setup.py)"
if [ "$(cat "$venv/.installed" 2>/dev/null)" = "$wanted" ]; then exit 0; fi

echo "Installing into $venv (about 4 minutes where fairseq has no wheel) ..."
rm -rf "$venv"
"$python" -m venv "$venv"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
if [ "$fairseq" = stock ]; then
  # fairseq 0.12.2 pins an omegaconf that new versions of pip refuse.
  pip install -q "torch==2.2.2" "torchaudio==2.2.2" "numpy<2"
  pip install -q --no-deps "fairseq==0.12.2"
  pip install -q hydra-core==1.3.2 omegaconf==2.3.0 bitarray cffi cython regex scikit-learn \
    sacrebleu tqdm
  pip install -q -e ".[$extras]"
else
  # With torch there first, fairseq builds against it instead of downloading another one.
  pip install -q "torch<=2.13.0" numpy cython "setuptools<81" wheel
  pip install -q --no-build-isolation -e ".[fairseq,$extras]"
fi
"$venv/bin/python" -c 'import fairseq_phm'
echo "$wanted" >"$venv/.installed"
