#!/usr/bin/env bash
# From a bare machine to a model that has learned from captions alone and segments pictures that it has never seen.
#
#   examples/demo.sh [--quick] [--system pacl|clip|segclip] [--seed N] [--output DIR] [PICTURE...]
#   examples/demo.sh --checkpoint DIR --classes "cat,dog,grass" photo.jpg     your photos by a CLIP of yours
#
# Installs what is missing, builds, renders captioned scenes, trains, evaluates on held-out scenes, and writes
# demo/report.html, demo/metrics.json and demo/model. About seven minutes on two cores; --quick takes five. SegCLIP is
# trained twice, from scratch and on an encoder that PACL has trained before, which takes three times as long.
set -euo pipefail
started=$(date +%s)
here=$(pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/prerequisites.sh
# Threads that wait give their core away: on a machine with other work, spinning ones cost many times their use.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

system=pacl seed=0 quick=0 output=demo checkpoint= classes= pictures=()
usage() { sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
bad() {
  echo "demo.sh: $1 (see examples/demo.sh --help)" >&2
  exit 1
}
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage; exit 0 ;;
    --quick) quick=1; shift ;;
    --system | --seed | --output | --checkpoint | --classes)
      [ $# -ge 2 ] || bad "$1 needs a value"
      printf -v "${1#--}" '%s' "$2"
      shift 2 ;;
    -*) bad "there is no option $1" ;;
    *)
      case $1 in /*) path=$1 ;; *) path=$here/$1 ;; esac
      [ -f "$path" ] || bad "there is no picture $1"
      pictures+=("$path")
      shift ;;
  esac
done
case $system in pacl | clip | segclip) ;; *) bad "--system is pacl, clip or segclip, not $system" ;; esac
[[ $seed =~ ^(0|[1-9][0-9]{0,17})$ ]] || bad "--seed must be a whole number, not $seed"
[ -z "$checkpoint" ] || [ -n "$classes" ] || bad "--checkpoint needs --classes \"word,word,...\""
[ -z "$checkpoint" ] || [ ${#pictures[@]} -gt 0 ] || bad "--checkpoint needs a picture"
case $checkpoint in "" | /*) ;; *) checkpoint=$here/$checkpoint ;; esac
[ -z "$checkpoint" ] || [ -e "$checkpoint" ] || bad "there is no checkpoint $checkpoint"

package_seconds=0
tessera_install "${tessera_build_packages[@]}"

echo "== building =="
mkdir -p build
cmake --preset cpu -DTESSERA_TESTS=OFF >build/configure.log 2>&1 || { cat build/configure.log >&2; exit 1; }
cmake --build --preset cpu -j "$(tessera_jobs)" --target example_train_pacl example_train_clip example_train_segclip example_demo example_segment
programs=build/cpu/examples

steps=2000 baseline_steps=300
if [ "$quick" = 1 ]; then steps=1400 baseline_steps=200; fi
# A training that was interrupted goes on; one that is finished begins anew.
fresh=(--fresh)
if [ -e "$output/training" ] && [ "$(cat "$output/training")" = "$system $seed $steps" ]; then fresh=(); fi
mkdir -p "$output"
[ ${#fresh[@]} -eq 0 ] || rm -rf "$output/model" "$output/baseline" "$output/encoder" "$output/scratch"
echo "$system $seed $steps" >"$output/training"

# train SYSTEM FOLDER STEPS [OPTION...]
train() {
  "$programs/train_$1" --data scenes:classic --output "$output/$2" --steps "$3" --seed "$seed" "${fresh[@]}" "${@:4}"
  [ -e "$output/$2/config.json" ] || exit 1 # stopped by Ctrl-C: the same command goes on
}
beside=()
if [ "$system" = segclip ]; then
  # Superpixels, groups and decoder in the measure of scenes of 64 pixels.
  small=(--superpixel-scale 20 --superpixel-sigma 0.5 --superpixel-min-size 10 --decoder-width 64 --decoder-heads 4 --group-layer 3)
  echo "== training an encoder on rendered scenes and their captions (PACL) =="
  train pacl encoder $steps
  echo "== training SegCLIP on that encoder =="
  train segclip model $steps --snapshots 8 --init "$output/encoder" --learning-rate 2e-3 "${small[@]}"
  echo "== training SegCLIP from scratch =="
  train segclip scratch $steps "${small[@]}"
  beside=(--encoder "$output/encoder" --beside "from scratch=$output/scratch")
else
  echo "== training $system on rendered scenes and their captions =="
  train "$system" model $steps --snapshots 8
fi
baseline=()
if [ "$system" != clip ]; then
  echo "== the baseline: plain CLIP on fewer images =="
  train clip baseline $baseline_steps
  baseline=(--baseline "$output/baseline")
fi
echo "== segmenting scenes that the model has never seen =="
own=()
[ -z "$checkpoint" ] || own=(--checkpoint "$checkpoint" --classes "$classes")
"$programs/demo" --model "$output/model" "${baseline[@]}" "${beside[@]}" --output "$output" --seed "$seed" --package-seconds "$package_seconds" \
  --started "$started" "${own[@]}" "${pictures[@]}"
rm -f "$output/training"
echo
echo "Open $output/report.html in a browser. To segment a picture with the model:"
echo "  $programs/segment --checkpoint $output/model --image PICTURE --classes \"dog,grass,key\" --output overlay.png"
