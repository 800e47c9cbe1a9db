"""What leaves the house: the bundle for a Jetson. ONNX and ONNX Runtime are imported here only."""

from trainer.export._bundle import LoadedBundle, is_bundle, load_bundle
from trainer.export._export import Bundle, export, to_onnx
from trainer.export._preprocess import to_input

__all__ = ["Bundle", "LoadedBundle", "export", "is_bundle", "load_bundle", "to_input", "to_onnx"]
