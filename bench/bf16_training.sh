#!/usr/bin/env bash
# Does training in bfloat16 with masters in f32 learn what training in f32 learns? train_clip on the rendered scenes, 200
# steps, three seeds in each type; the loss is averaged over the last 20 steps. The answer is yes where the mean of the
# bfloat16 runs is within two standard deviations of the f32 runs around theirs.
#   bench/bf16_training.sh PROGRAMS_DIR [OUT] [train_clip's options...]
set -euo pipefail
programs=$1 out=${2:-bf16-training}
shift $(($# < 2 ? $# : 2))
mkdir -p "$out"
for seed in 1 2 3; do
  for dtype in f32 bf16; do
    "$programs/train_clip" --data scenes:classic --steps 200 --seed $seed --dtype $dtype --output "$out/$dtype-$seed" "$@" \
      >"$out/$dtype-$seed.txt" 2>&1 || { cat "$out/$dtype-$seed.txt"; exit 1; }
  done
done
for seed in 1 2 3; do
  for dtype in f32 bf16; do
    mean=$(grep -o '"loss":[^,}]*' "$out/$dtype-$seed/metrics.jsonl" | cut -d: -f2 | tail -n 20 | awk '{ s += $1 } END { printf "%.6f", s / NR }')
    echo "$seed $dtype $mean"
  done
done | awk '
  { loss[$2, $1] = $3; sum[$2] += $3 }
  END {
    print "| seed | f32 | bf16 |\n|---|---|---|"
    for (s = 1; s <= 3; ++s) printf "| %d | %.4f | %.4f |\n", s, loss["f32", s], loss["bf16", s]
    f = sum["f32"] / 3; b = sum["bf16"] / 3
    for (s = 1; s <= 3; ++s) squares += (loss["f32", s] - f) ^ 2
    deviation = sqrt(squares / 2)
    printf "| mean | %.4f | %.4f |\n\n", f, b
    printf "f32: standard deviation %.4f; bf16 minus f32: %.4f, %.2f standard deviations\n", deviation, b - f, (b - f) / deviation
    exit (b - f) ^ 2 > 4 * squares / 2
  }' | tee "$out/table.md"
