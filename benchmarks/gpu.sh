#!/usr/bin/env bash
# What is to be measured on a GPU, in at most eight minutes: a table a file, in $OUT.
# What is there already is not measured again. Without a GPU, the same on the CPU.
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=$(realpath -m "${OUT:-benchmarks/gpu}")
PYTHON=${PYTHON:-$PWD/.venv/bin/python}
mkdir -p "$OUT"
export PLAIN_PROGRESS=1

part() { # NAME SECONDS COMMAND...: its output is kept where it succeeds
  local name=$1 seconds=$2
  shift 2
  if [ -s "$OUT/$name.txt" ]; then
    echo "$name: there"
  elif timeout "$seconds" "$@" > "$OUT/$name.part" 2> "$OUT/$name.log"; then
    mv "$OUT/$name.part" "$OUT/$name.txt"
    echo "$name: done"
  else
    echo "$name: failed or not done within $seconds s, see $OUT/$name.log"
  fi
}

part device 20 "$PYTHON" -c "import torch; print(torch.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU')"
part tests 90 "$PYTHON" -m pytest -q tests/saes/test_kernels.py tests/saes/test_sparse.py tests/training/test_gpu.py -k 'not compile'
part rate 30 "$PYTHON" benchmarks/training.py rate
part shapes 50 "$PYTHON" benchmarks/training.py shapes
part paths 80 "$PYTHON" benchmarks/training.py paths
part table 110 "$PYTHON" benchmarks/training.py table
part notebook 90 bash -c "cd notebooks && $PYTHON -m papermill --no-progress-bar -k python3 02_shapes_train.ipynb /dev/null -p SAVE_PATH $(mktemp -d) -y 'BASE_MODELS: [mlp]' -y 'AE_EPOCHS: {mlp: 5}' -p SMALL True"
