"""The published forms of data sets, one file each: known archives, source of images, arguments of `trainer prepare`.

To add a form, write its file and its line in `FORMS`.
"""

from __future__ import annotations

from trainer.dataset.forms import digits, fastai, folder, imagenet, kaggle, tiny_imagenet
from trainer.dataset.forms._form import Fetch, Form

FORMS: tuple[Form, ...] = (
    imagenet.FORM,
    kaggle.FORM,
    *fastai.FORMS,
    tiny_imagenet.FORM,
    digits.FORM,
    folder.FORM,
)

__all__ = ["FORMS", "Fetch", "Form"]
