#!/usr/bin/env bash
# Checks a published CLIP ViT-B/32 against the probabilities that CLIP's README prints for its own figure: whether the
# figure CLIP.png shows "a diagram", "a dog" or "a cat".
#
#   tests/published_clip.sh DIR [CLIP.png]
#
# It needs what this repository does not hold:
#   DIR        OpenAI's ViT-B/32 in the form that transformers' save_pretrained writes: config.json,
#              model.safetensors, preprocessor_config.json and the tokenizer's files. With transformers installed:
#                python3 -c 'from transformers import CLIPModel, CLIPProcessor as P; n = "openai/clip-vit-base-patch32"
#                CLIPModel.from_pretrained(n).save_pretrained("DIR"); P.from_pretrained(n).save_pretrained("DIR")'
#   CLIP.png   the figure of the repository openai/CLIP; by default DIR/CLIP.png
# and the built program classify: build/cpu/examples/classify, or the path in TESSERA_CLASSIFY.
# Exit status: 0 all three agree within 0.002, 1 they do not, 2 something is missing.
set -euo pipefail
root=$(dirname "${BASH_SOURCE[0]}")/..
directory=${1:-}
figure=${2:-$directory/CLIP.png}
classify=${TESSERA_CLASSIFY:-$root/build/cpu/examples/classify}

missing() {
  echo "published_clip.sh: $1" >&2
  exit 2
}
[ -n "$directory" ] || missing "name the folder of OpenAI's ViT-B/32: tests/published_clip.sh DIR [CLIP.png]"
[ -f "$directory/config.json" ] || missing "$directory holds no config.json; the script's first lines say how to get it"
[ -f "$figure" ] || missing "there is no $figure; it is the figure CLIP.png of the repository openai/CLIP"
[ -x "$classify" ] || missing "there is no program $classify; build it (tests/run.sh does) or set TESSERA_CLASSIFY"

# ViT-B/32, as CLIP's README prints them
expected="a diagram=0.9927937
a dog=0.00421068
a cat=0.00299572"

result=$(mktemp)
trap 'rm -f "$result"' EXIT
"$classify" --checkpoint "$directory" --image "$figure" --classes "a diagram,a dog,a cat" --prompts "{}" \
  --output "$result" >/dev/null

status=0
while IFS== read -r name probability; do
  ours=$(sed -n "s/^ *\"$name\": \([0-9.e+-]*\),*$/\1/p" "$result")
  verdict=$(awk -v a="$ours" -v b="$probability" 'BEGIN { d = a - b; if (d < 0) d = -d; print (a != "" && d <= 0.002) ? "ok" : "DIFFERS" }')
  printf '%-10s expected %-10s got %-10s %s\n' "$name" "$probability" "${ours:-nothing}" "$verdict"
  [ "$verdict" = ok ] || status=1
done <<<"$expected"
exit "$status"
