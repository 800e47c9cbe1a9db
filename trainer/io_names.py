"""Names of the network's input and output, as in jetson-inference's tutorials; known without any library."""

from __future__ import annotations

INPUT_NAME = "input_0"  # (N, 3, H, W) float32
OUTPUT_NAME = "output_0"  # (N, classes) float32
