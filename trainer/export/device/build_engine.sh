#!/bin/sh
# Build a TensorRT engine of this folder's network for this very device; an engine fits no other.
#
#     sh build_engine.sh [--precision fp16|fp32|int8] [--max-batch N] [--dla CORE] [--timing-cache FILE] [--rebuild]
#
# The engine goes to engines/PRECISION-trtVERSION-….plan; one that is there already for the same model and options is
# kept, those of another TensorRT are removed. Needs trtexec: $TRTEXEC, or of PATH, or /usr/src/tensorrt/bin/trtexec,
# where JetPack has it.
# Exit code: 0 it is there, 1 trtexec failed, 2 wrong call, 3 there is no trtexec.
set -eu

say() { printf 'build_engine: %s\n' "$*" >&2; }
wrong() { say "$*"; exit 2; }

precision=fp16 max_batch=8 dla='' cache='' rebuild=''
while [ $# -gt 0 ]; do
  case $1 in
    --rebuild) rebuild=yes; shift; continue ;;
    --help | -h) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "$0"; exit 0 ;;
    --precision | --max-batch | --dla | --timing-cache) [ $# -gt 1 ] || wrong "$1 needs a value" ;;
    *) wrong "there is no option $1; --help names them" ;;
  esac
  case $1 in
    --precision) precision=$2 ;;
    --max-batch) max_batch=$2 ;;
    --dla) dla=$2 ;;
    --timing-cache) cache=$2 ;;
  esac
  shift 2
done
case $precision in fp32 | fp16 | int8) ;; *) wrong "--precision is fp16, fp32 or int8, not $precision" ;; esac
case $max_batch in '' | *[!0-9]* | 0*) wrong "--max-batch is a number of images, not $max_batch" ;; esac
case $dla in *[!0-9]*) wrong "--dla is the number of a core, not $dla" ;; esac
if [ "$dla" ] && [ "$precision" = fp32 ]; then wrong "a DLA does not compute in fp32: --precision fp16"; fi
# All of a network with Q/DQ would run on the GPU: github.com/NVIDIA/TensorRT/issues/2222.
if [ "$dla" ] && [ "$precision" = int8 ]; then wrong "a DLA takes no Q/DQ nodes, as int8 has: --precision fp16"; fi
case $cache in '' | /*) ;; *) cache=$PWD/$cache ;; esac

cd "$(dirname -- "$0")"
trtexec=${TRTEXEC:-$(command -v trtexec || echo /usr/src/tensorrt/bin/trtexec)}
if ! [ -x "$trtexec" ]; then
  say "there is no trtexec: sudo apt-get install libnvinfer-bin (or tensorrt), or set TRTEXEC to where it is"
  exit 3
fi

# The banner has v8502 for 8.5.2 and, since 10, v100300 for 10.3.0.
help=$("$trtexec" --help 2>&1) || true
number=$(printf '%s\n' "$help" | sed -n 's/.*\[TensorRT v\([0-9][0-9]*\)\].*/\1/p' | sed -n 1p)
if [ -z "$number" ]; then
  say "$trtexec does not say which TensorRT it is of: $(printf '%s\n' "$help" | sed -n 1p)"
  exit 1
fi
if [ "$number" -lt 10000 ]; then
  major=$((number / 1000)) version=$((number / 1000)).$((number / 100 % 10)).$((number % 100))
else
  major=$((number / 10000)) version=$((number / 10000)).$((number / 100 % 100)).$((number % 100))
fi
[ "$number" -ge 8500 ] || { say "TensorRT $version is too old: 8.5 (JetPack 5) is the first"; exit 1; }

# Precision. Since 11 it is that of the file; before, a flag, without which Q/DQ nodes are refused.
# A DLA takes one shape only: the static file, or as the smallest, usual and largest batch the same one.
model=model.onnx typed='' largest=$max_batch
case $precision in
  fp32) flags=--noTF32 ;;
  fp16) if [ "$major" -ge 11 ]; then flags='' typed=yes model=model_fp16.onnx; else flags=--fp16; fi ;;
  int8)
    model=model_int8.onnx typed=yes
    if [ "$major" -ge 11 ]; then flags=''; else flags='--int8 --fp16'; fi
    ;;
esac
if [ "$dla" ]; then
  largest=1
  flags="$flags --useDLACore=$dla --allowGPUFallback"
  [ "$typed" ] || model=model_batch1.onnx
fi
if ! [ -f "$model" ]; then
  say "there is no $model here; --precision fp32 takes model.onnx$([ "$major" -ge 11 ] || echo ', and so does fp16')"
  exit 2
fi
size=$(sed -n 's/.*"val_size": *\([0-9][0-9]*\).*/\1/p' preprocess.json | sed -n 1p)
[ "$size" ] || { say "preprocess.json has no val_size: copy the folder again"; exit 1; }
if [ "$model" != model_batch1.onnx ]; then # trtexec refuses shapes for a static model
  usual=$largest
  [ "$usual" -le 1 ] || usual=$(((largest + 1) / 2))
  image=3x${size}x${size}
  flags="$flags --minShapes=input_0:1x$image --optShapes=input_0:${usual}x$image --maxShapes=input_0:${largest}x$image"
fi
# 8.6 has renamed it.
case $help in *--skipInference*) flags="$flags --skipInference" ;; *) flags="$flags --buildOnly" ;; esac

made_of=$({ sha256sum "$model"; printf '%s\n' "$flags"; } | sha256sum | cut -c1-12)
engine=engines/$precision-trt$version${dla:+-dla$dla}-batch$largest-$made_of.plan
remove_others() { # engines of another TensorRT, as before an upgrade: this one loads none of them
  for other in engines/*-trt*.plan; do
    case $other in *-trt"$version"-*) ;; *) rm -f "$other" ;; esac
  done
}
if [ -f "$engine" ] && [ -z "$rebuild" ]; then
  remove_others
  say "$engine is there already"
  exit 0
fi

mkdir -p engines
if command -v flock >/dev/null; then
  exec 9>engines/.lock
  flock -n 9 || { say "another build is at work here; wait for it"; exit 1; }
fi
rm -f engines/.building* # of one that was killed
trap 'rm -f engines/.building*' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
if [ "$cache" ]; then
  # trtexec writes it anew: a copy, so that a kill leaves the old one.
  if [ -f "$cache" ]; then cp "$cache" engines/.building.cache; fi
  flags="$flags --timingCacheFile=engines/.building.cache"
fi
say "building $engine with TensorRT $version: minutes on a Jetson"
# shellcheck disable=SC2086 # the flags are words
if ! "$trtexec" --onnx="$model" --saveEngine=engines/.building.plan $flags >engines/.building.log 2>&1 ||
  ! [ -s engines/.building.plan ]; then
  grep -E '\[E\]|Unknown option|[Ee]rror' engines/.building.log | tail -n 5 >&2 || true
  mv engines/.building.log engines/failed.log
  say "trtexec of TensorRT $version could not build it; the end of what it said is above, all of it in engines/failed.log"
  exit 1
fi
if [ "$cache" ] && [ -s engines/.building.cache ]; then
  cp engines/.building.cache "$cache.new" && mv -f "$cache.new" "$cache"
fi
mv -f engines/.building.plan "$engine"
rm -f engines/failed.log
remove_others
say "built $engine"
