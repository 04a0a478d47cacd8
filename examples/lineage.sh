#!/usr/bin/env bash
# The whole way at toy size, in a few minutes on one core: data, training, pictures, completion, search.
# Usage: bash examples/lineage.sh [FOLDER]
set -euo pipefail
out=${1:-runs/lineage}

# Drawn pictures with captions: no download.
pinxit data check scenes:500
pinxit train dalle1-tiny --data scenes:2000 --out "$out"

# From text; then the same with CLIP choosing among sixteen.
pinxit generate "a red circle" --model "$out" --seed 0 -n 4 -o "$out/circle.png"
pinxit generate "a red circle" --model "$out" --seed 0 -n 4 --rerank 16 -o "$out/best.png"

# Through the codes and back; from its upper half; by label; by text.
pinxit data make scenes "$out/pictures" --n 200 --size 32
pinxit reconstruct "$out/circle.png" --model "$out" -o "$out/reconstructed"
pinxit complete "$out/circle.png" "a blue square" --model "$out" -n 4 -o "$out/completed.png"
pinxit classify "$out/circle.png" --model "$out" --labels circle,square,star --template "a {}"
pinxit search "two red stars" --in "$out/pictures" --model "$out" -o "$out/found.png"

# The same over a VQGAN: one code after the other, all at once in eight steps, parts anew, a wide picture by a window.
pinxit train taming-tiny --data scenes:2000 --out "$out/taming"
pinxit train maskgit-tiny --data scenes:2000 --out "$out/maskgit" --part codec="$out/taming/codec" --part clip="$out/taming/clip"
pinxit generate "a red circle" --model "$out/maskgit" --steps 8 --seed 0 -n 4 -o "$out/at-once.png"
pinxit generate "red circles" --model "$out/taming" --size 128x32 --seed 0 -n 4 -o "$out/wide.png"

# From noise instead of codes, by GLIDE; and by DALL·E 2, which goes on from it and knows what CLIP sees of a picture.
pinxit train glide-tiny --data scenes:2000 --out "$out/glide"
pinxit generate "a red circle" --model "$out/glide" --seed 0 -n 4 -o "$out/from-noise.png"
pinxit train dalle2-tiny --data scenes:2000 --out "$out/dalle2" --part start="$out/glide" --part clip="$out/glide"
pinxit vary "$out/circle.png" --model "$out/dalle2" -n 4 -o "$out/varied.png"
