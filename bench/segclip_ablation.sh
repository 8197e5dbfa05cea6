#!/usr/bin/env bash
# SegCLIP's ablations on rendered scenes, one row a training, one seed: losses, where the groups are formed, how many
# centres and cross-attention layers, patch size, with and without an encoder that was trained before.
#
#   bench/segclip_ablation.sh OUTPUT [STEPS] [ROW...]
#
# A row that is finished is not run again, one that was interrupted goes on. OUTPUT/table.md holds what is there so far,
# OUTPUT/ROW/gallery.png pictures with predictions and groups. Needs the programs in build/cpu/examples (examples/demo.sh
# builds them, or: cmake --preset cpu && cmake --build --preset cpu).
set -euo pipefail
here=$(pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
if [ $# -lt 1 ]; then
  sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 1
fi
case $1 in /*) output=$1 ;; *) output=$here/$1 ;; esac
steps=${2:-1000}
shift $(($# < 2 ? $# : 2))
programs=${TESSERA_PROGRAMS:-build/cpu/examples}
[ -x "$programs/train_segclip" ] || { echo "segclip_ablation.sh: there is no $programs/train_segclip; build it first" >&2; exit 1; }
mkdir -p "$output"

# train PROGRAM FOLDER OPTION...
train() {
  [ -e "$output/$2/config.json" ] || "$programs/$1" --data scenes:classic --output "$output/$2" "${@:3}"
  [ -e "$output/$2/config.json" ] || exit 1 # stopped by Ctrl-C
}
train train_pacl encoder --steps 2000
train train_pacl encoder-16 --steps 2000 --patch-size 16

small=(--superpixel-scale 20 --superpixel-sigma 0.5 --superpixel-min-size 10 --decoder-width 64 --decoder-heads 4 --learning-rate 2e-3)
usual=(--init "$output/encoder" --group-layer 3)
declare -A rows=(
  [all]="${usual[*]}"
  [contrastive]="${usual[*]} --no-reconstruction --no-superpixels"
  [contrastive-reconstruction]="${usual[*]} --no-superpixels"
  [contrastive-superpixels]="${usual[*]} --no-reconstruction"
  [layer-1]="--init $output/encoder --group-layer 1"
  [layer-2]="--init $output/encoder --group-layer 2"
  [centres-6]="${usual[*]} --centres 6"
  [centres-10]="${usual[*]} --centres 10"
  [cross-0]="${usual[*]} --cross-layers 0"
  [cross-1]="${usual[*]} --cross-layers 1"
  [cross-3]="${usual[*]} --cross-layers 3"
  [cross-4]="${usual[*]} --cross-layers 4"
  [patch-16]="--init $output/encoder-16 --group-layer 3"
  [scratch]="--group-layer 3"
  [majority]="${usual[*]} --superpixel-majority"
  [paper]="${usual[*]} --paper keys,assignment,aggregation,reconstruction,embeddings"
  [captions-only]="${usual[*]} --captions-only"
)
order=(all contrastive contrastive-reconstruction contrastive-superpixels layer-1 layer-2 centres-6 centres-10 cross-0 cross-1 cross-3
  cross-4 patch-16 scratch majority paper captions-only)
[ $# -eq 0 ] || order=("$@")
for row in "${order[@]}"; do
  [ -n "${rows[$row]:-}" ] || { echo "segclip_ablation.sh: there is no row $row; rows: ${!rows[*]}" >&2; exit 1; }
done

table() {
  echo "| row | mIoU %, released read-out | unseen combinations | cosines |"
  echo "|---|--:|--:|--:|"
  for row in "${order[@]}"; do
    [ -e "$output/$row/metrics.json" ] || continue
    printf '| %s | %.1f | %.1f | %.1f |\n' "$row" $(grep -E '"(miou|miou_unseen_combinations|miou_raw)":' "$output/$row/metrics.json" |
      sort -u | sed 's/.*"\(.*\)": *\([0-9.]*\).*/\1 \2/' | awk '{v[$1]=$2} END {print v["miou"], v["miou_unseen_combinations"], v["miou_raw"]}')
  done
}
for row in "${order[@]}"; do
  [ -e "$output/$row/metrics.json" ] && continue
  echo "== $row =="
  # shellcheck disable=SC2086
  train train_segclip "$row/model" --steps "$steps" "${small[@]}" ${rows[$row]}
  "$programs/demo" --model "$output/$row/model" --output "$output/$row" >"$output/$row/demo.log"
  table >"$output/table.md.part" && mv "$output/table.md.part" "$output/table.md"
done
table | tee "$output/table.md"
