#!/bin/bash
# One piece of the recipe on a machine with a large GPU:  bash tests/tools/card_recipe.sh SECONDS [options of `python -m migm_core.worlds.recipe all`]
#
# Call it again, with the same options, until it says that all is done. On one H100 for 15 minutes, starting and closing the machine included:
#
#   1. bash tests/tools/card_recipe.sh 525         limit 560 s   tokenizer 125, base 345; starting and compiling take some 25 more
#   2. bash tests/tools/card_recipe.sh 215         limit 250 s   what is left of the base, trajectories 11, head 106 beside classes 67 and class-head 31, evaluation 73
#
# A piece is over some 20 s after its SECONDS, which are counted from when Python is up. Give the second what is left of the machine, less 40.
#
# Where a machine goes on with what a call has left running, one piece of 765 does without the second start: (OUT=/tmp/out setsid nohup bash ... 765 --seconds 735 > /tmp/log 2>&1 &).
#
# The bundled models' tokenizer and base are done. For their heads and for the model of classes alone, on any machine, some 725 s in the background:
#
#   bash tests/tools/card_recipe.sh 725 --init-from demo --in-turn --tokenizer 0 --base 0 --trajectories 0 --head 380 --classes 170 --class-head 60 --evaluation 75
#
# In turn, since two processes on one card wait for each other at every step: beside the classes a head's step took three times as long. No trajectories: the head
# would compute their features once more. OUT has the head's newest weights every half minute, should the machine end early.
#
# The second call wants the first one's machine, where WORK still lies. On another machine, carry the files that the first call has left in OUT
# in a folder and name it in WEIGHTS. Models whose stages are over (report.txt tells their seconds) are then left alone; others go on from their weights:
#
#   2. WEIGHTS=FOLDER bash tests/tools/card_recipe.sh 215 --base 0 --trajectories 11 --head 85 --classes 50 --class-head 25 --evaluation 60
#
# The judge's reader is trained; --reader S trains it on. With --tasks S the base learns the other tasks too. OUT then holds at most eight files below 16 MiB: weights-N.safetensors
# of all models in 16 bits, pictures.jpg, details.jpg, curve.png, and report.txt with the evaluation and the logs. From them, on any machine:
#
#   python -m migm_core.worlds.recipe assemble FOLDER --init-from OUT --int8     writes FOLDER/checkpoint and FOLDER/maskgit, to be bundled
#
# What it takes of the environment: OUT (needed), WEIGHTS, WORK (default: /tmp/recipe), PYTHON (default: python3).
set -u
cd "$(dirname "$0")/../.."
piece=$1
shift
work=${WORK:-/tmp/recipe}
python=${PYTHON:-python3}
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false TORCHINDUCTOR_CACHE_DIR=$work/compiled
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}
mkdir -p "$work" "$OUT"
begin=()
if [ -n "${WEIGHTS:-}" ]; then begin=(--init-from "$WEIGHTS"); fi
command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
"$python" -m migm_core.worlds.recipe all "$work" --out "$OUT" --piece "$piece" ${begin[@]+"${begin[@]}"} "$@"
status=$?
ls -l "$OUT"
exit $status
