#!/usr/bin/env bash
# The first thing to run on a machine with a GPU: does it agree with the processor, and how fast is it? Under ten minutes.
# Needs the package's dependencies; weights and data are not needed.
set -euo pipefail
cd "$(dirname "$0")/../.."
output="${1:-experiments/benchmarks/$(hostname)}"
sections="${2:-[latents_agree,draws_agree,set_gradients,students_agree,tangents,denoiser,steps,encoding,students]}"
PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" python3 -m manifoldgd bench device=cuda sections="$sections" output="$output"
