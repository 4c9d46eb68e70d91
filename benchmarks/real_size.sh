#!/usr/bin/env bash
# Everything that the evidence wants from a GPU, for a chat model of a real size: engines, a step beside TRL's, control over three
# preferences, people's ratings. Needs nothing but this checkout with its environment, and the model's folder (or hub id where the hub can
# be reached).
#
#   benchmarks/real_size.sh BASE [OUT]            all of it
#   PARTS="engines step" benchmarks/real_size.sh BASE [OUT]   some parts: engines step scoring rows plan control seeds ratings several vllm
#   RATINGS=DIR PROMPTS=FILE ...                  for `ratings`: rated answers, and prompts to train and evaluate on (docs/evidence.md)
#   BENCHMARKS=DIR ...                            beside these: the folder with xstest's files, whose prompts people labelled
#   VLLM_URL=http://HOST:8000 ...                 for `vllm`: a server that serves BASE (moslim_core/policy/engines/vllm.py)
#   SMALL=1 benchmarks/real_size.sh BASE [OUT]    the same at the scale of two CPU cores
#
# Each part logs to OUT/PART.log; one that fails does not keep the others from running, but the script then ends with 1. A repeat goes on
# where it stopped.
set -uo pipefail
BASE=${1:?the chat model: a folder, or a hub id}
OUT=$(mkdir -p "${2:-real_size}" && cd "${2:-real_size}" && pwd)
if [ -d "$BASE" ]; then BASE=$(cd "$BASE" && pwd); fi
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
if [ -n "${SMALL:-}" ]; then
  # The demo's data, and its encoder as the backbone of the reward model.
  SIZES=(2) STEP=(--prompts 2 --tokens 32) TOKENS=32 SCORED=40
  RUN=(--profile demo --set "model.base=$BASE" --set "work_dir=$OUT/work")
else
  SIZES=(8 32) STEP=(--prompts 8 --tokens 96) TOKENS=96 SCORED=600
  RUN=(--profile gpu-small --set "model.base=$BASE" --set "reward.backbone=$BASE" --set data.source=jsonl --set "data.path=$OUT/rows.jsonl"
    --set "work_dir=$OUT/work")
fi

engines() {
  # Two requests a prompt, four answers each: 64 and 256 answers, or 16.
  for prompts in "${SIZES[@]}"; do
    "$PYTHON" benchmarks/engines.py --base "$BASE" --prompts "$prompts" --group 4 --tokens "$TOKENS"
  done
}

step() { "$PYTHON" benchmarks/policy_step.py --base "$BASE" --rounds 2 --preferences 3 6 "${STEP[@]}"; }

scoring() { "$PYTHON" benchmarks/scoring.py --base "$BASE" --rows "$SCORED"; }

# Rated answers of the model itself, at its own length, where the hub's are out of reach.
rows() {
  if [ -n "${SMALL:-}" ] || [ -f "$OUT/rows.jsonl" ]; then return; fi
  "$PYTHON" -c 'import json; from moslim_core.data import starter; print(*(json.dumps({"prompt": p}) for p in starter.prompts()), sep="\n")' \
    > "$OUT/prompts.jsonl" || return
  "$PYTHON" -m flows.cli sample --profile gpu-small --set "model.base=$BASE" --set "work_dir=$OUT/work" \
    --prompts "$OUT/prompts.jsonl" --answers 10 --output "$OUT/rows.jsonl"
}

# What the plan foretells stands beside what the run then takes.
plan() { "$PYTHON" -m flows.cli plan "${RUN[@]}"; }

control() { "$PYTHON" -m flows.cli run "${RUN[@]}"; }

seeds() { "$PYTHON" -m flows.cli compare "${RUN[@]}" --over policy.optimiser=online_dpo,rloo --seeds 0,1,2; }

# Helpfulness, honesty and harmlessness as people rate them, with three seeds; the judge is a second reward model, of other prompts and on
# another backbone, and what is refused of people's safe and unsafe prompts stands beside it.
ratings() {
  if [ -z "${RATINGS:-}" ] || [ -z "${PROMPTS:-}" ]; then echo "RATINGS and PROMPTS name no files: nothing to do"; return; fi
  local people=()
  if [ -n "${BENCHMARKS:-}" ]; then
    people=(--set evaluation.suite=controllability,xstest --set "evaluation.data_dir=$BENCHMARKS" --set evaluation.max_new_tokens=96)
  fi
  "$PYTHON" -m flows.cli compare --profile three-h --over policy.optimiser=online_dpo,rloo --seeds 0,1,2 --set "model.base=$BASE" \
    --set "data.path=$RATINGS" --set "policy.prompts=$PROMPTS" --set "work_dir=$OUT/ratings" \
    --set "evaluation.judge_backbone=$BASE" "${people[@]}"
}

# The same run as `control`, on every GPU that is there.
several() {
  local count; count=$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())')
  if [ "$count" -lt 2 ]; then echo "$count GPUs: nothing to do"; return; fi
  "$PYTHON" -m flows.cli run "${RUN[@]}" --set "policy.processes=$count" --set policy.accelerate=ddp
}

# The same run, its answers drawn by vLLM, after its engine beside the others.
vllm() {
  if [ -z "${VLLM_URL:-}" ]; then echo "VLLM_URL names no server: nothing to do"; return; fi
  "$PYTHON" benchmarks/engines.py --base "$BASE" --prompts "${SIZES[-1]}" --group 4 --tokens "$TOKENS" --vllm-url "$VLLM_URL" \
    && "$PYTHON" -m flows.cli run "${RUN[@]}" --set policy.engine=vllm --set "policy.vllm_url=$VLLM_URL"
}

failed=0
for part in ${PARTS:-engines step scoring rows plan control seeds ratings several vllm}; do
  echo "$(date +%T) $part: $OUT/$part.log"
  SECONDS=0
  if "$part" > "$OUT/$part.log" 2>&1; then
    echo "  done in $SECONDS s"
  else
    echo "  failed: $(tail -n 1 "$OUT/$part.log")"
    failed=1
  fi
done
exit "$failed"
