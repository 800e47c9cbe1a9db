"""The bundle for a Jetson: written with torch and onnx; read and run with numpy, Pillow and ONNX Runtime alone.

Names are imported when they are asked for, so that reading a bundle imports none of what writes it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.export._bundle import MODEL, LoadedBundle, check_out, is_bundle, load_bundle
    from trainer.export._export import Bundle, export, whole_or_nothing
    from trainer.export._graph import to_onnx
    from trainer.export._images import BundleImages
    from trainer.export._preprocess import to_input
    from trainer.export._variants import HEADINGS, Format, Variants, read_variants

_MODULES = {
    "HEADINGS": "_variants",
    "MODEL": "_bundle",
    "Bundle": "_export",
    "BundleImages": "_images",
    "Format": "_variants",
    "LoadedBundle": "_bundle",
    "Variants": "_variants",
    "check_out": "_bundle",
    "export": "_export",
    "is_bundle": "_bundle",
    "load_bundle": "_bundle",
    "read_variants": "_variants",
    "to_input": "_preprocess",
    "to_onnx": "_graph",
    "whole_or_nothing": "_export",
}

__all__ = [
    "HEADINGS",
    "MODEL",
    "Bundle",
    "BundleImages",
    "Format",
    "LoadedBundle",
    "Variants",
    "check_out",
    "export",
    "is_bundle",
    "load_bundle",
    "read_variants",
    "to_input",
    "to_onnx",
    "whole_or_nothing",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
