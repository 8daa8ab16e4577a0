#!/usr/bin/env bash
# The first thing to run on a machine with a GPU: does it agree with the processor, and how fast is it? About five minutes.
# Needs the package's dependencies; weights and data are not needed.
set -euo pipefail
cd "$(dirname "$0")/../.."
output="${1:-experiments/benchmarks/$(hostname)}"
mkdir -p "$output"
PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" python3 experiments/benchmarks/device.py --device cuda --output "$output/device.json"
