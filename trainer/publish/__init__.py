"""A model as a repository of the Hugging Face Hub: weights others load in one line, the bundle, a card; and its Space.

Names are imported when they are asked for: what is wrong with a name is said before torch is imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.publish._hub import Hub, Uploaded, valid_repo
    from trainer.publish._model_folder import MODEL_FILES, Publication, report_pages, write_model_folder
    from trainer.publish._photos import may_show
    from trainer.publish._space import SPACE_FILES, write_space_folder

_MODULES = {
    "Hub": "_hub",
    "MODEL_FILES": "_model_folder",
    "Publication": "_model_folder",
    "SPACE_FILES": "_space",
    "Uploaded": "_hub",
    "may_show": "_photos",
    "report_pages": "_model_folder",
    "valid_repo": "_hub",
    "write_model_folder": "_model_folder",
    "write_space_folder": "_space",
}

__all__ = [
    "MODEL_FILES",
    "SPACE_FILES",
    "Hub",
    "Publication",
    "Uploaded",
    "may_show",
    "report_pages",
    "valid_repo",
    "write_model_folder",
    "write_space_folder",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
