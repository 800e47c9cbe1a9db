#!/bin/sh
# Run this folder's network in jetson-inference (https://github.com/dusty-nv/jetson-inference).
#
#     sh run_jetson_inference.sh INPUT [OUTPUT] [OPTION...]       as csi://0, /dev/video0, photo.jpg
#
# It squashes the whole frame to the network's size where preprocess.json crops: its answers differ a little,
# README has the accuracy of both. It builds an engine of its own beside the model at the first start.
set -eu

here=$(cd "$(dirname -- "$0")" && pwd)
if [ $# -eq 0 ]; then
  echo "run_jetson_inference: say what to look at, as csi://0, /dev/video0 or photo.jpg" >&2
  exit 2
fi
imagenet=${IMAGENET:-$(command -v imagenet || command -v imagenet.py || true)}
if [ -z "$imagenet" ]; then
  echo "run_jetson_inference: there is no imagenet: start the container of jetson-inference, or set IMAGENET to it" >&2
  exit 3
fi
# The static model: an engine of it needs no choice of a batch.
model=$here/model_batch1.onnx
[ -f "$model" ] || model=$here/model.onnx
exec "$imagenet" --model="$model" --labels="$here/labels.txt" --input_blob=input_0 --output_blob=output_0 "$@"
