#!/usr/bin/env bash
# One command for a bare GPU machine that has Python, PyTorch and transformers, and no network: the full-size model
# with random weights, its speed, its memory and the machine's own ceilings, within 9 minutes. See benchmarks/gpu.py.
#
#   benchmarks/gpu.sh [--seconds 520] [--only SECTION ...] [--output FILE]
#   SCALE=tiny benchmarks/gpu.sh          a rehearsal of everything, on a processor
#   WHEELS=folder                         of wheels (diffusers, peft, accelerate) that the machine lacks
#   PYTHON=python3
set -eu
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
export PYTHONPATH="$here/..:$here${PYTHONPATH:+:$PYTHONPATH}"
export HF_HUB_OFFLINE=1 PYTORCH_CUDA_ALLOC_CONF=${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}
wheels=${WHEELS:-$here/../wheels}
for name in diffusers peft accelerate; do
    if ! "$python" -c "import importlib.util as u, sys; sys.exit(u.find_spec('$name') is None)"; then
        for wheel in "$wheels"/"$name"-*.whl; do
            # A wheel of pure Python is a zip file that can be imported from; unpacked, its data files are found as well.
            [ -e "$wheel" ] || { echo "$name is not installed, and $wheels holds no wheel of it" >&2; continue; }
            unpacked=${unpacked:-$(mktemp -d)}
            "$python" -m zipfile -e "$wheel" "$unpacked"
            export PYTHONPATH="$unpacked:$PYTHONPATH"
        done
    fi
done
exec "$python" "$here/gpu.py" "$@"
