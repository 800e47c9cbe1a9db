"""`trainer export`: a registered model as an ONNX bundle."""

from __future__ import annotations

import argparse
import json

from trainer.export import export


def run(options: argparse.Namespace) -> int:
    """Write the bundle and say how well it agrees with the model."""
    bundle = export(options.model, options.out, runs=options.runs)
    if options.json:
        print(json.dumps({"bundle": str(bundle.folder), "max_difference": bundle.max_difference}))
    else:
        print(
            f"bundle written to {bundle.folder}; ONNX Runtime and PyTorch agree within "
            f"{bundle.max_difference:.1e} in probability"
        )
    return 0
