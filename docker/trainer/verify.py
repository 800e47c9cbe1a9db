"""Check, while the image is built, that NGC's builds are used and that our packages run on them."""

from importlib import import_module
from importlib.util import find_spec

OURS = "/opt/trainer"

for name in ("torch", "torchvision", "numpy", "nvidia.dali"):
    where = find_spec(name).origin
    assert not where.startswith(OURS), f"{name} comes from {where}: it hides NGC's build; see scripts/lock"

for name in (
    "matplotlib.figure",
    "mlflow.pytorch",
    "pandas",
    "scipy",
    "sklearn",
    "requests",
    "isal",
    "simplejpeg",
    "onnx",
    "onnxruntime",
    "pydantic",
    "torchvision",
):
    import_module(name)
