"""The published forms of data sets, one file each: known archives, source of images, arguments of `trainer prepare`.

To add a form, write its file and its line in `FORMS`.
"""

from __future__ import annotations

import os

from trainer.dataset._look import MOST_ARCHIVES, Look
from trainer.dataset._names import several, shown
from trainer.dataset.forms import digits, fastai, folder, huggingface, imagenet, kaggle, tiny_imagenet
from trainer.dataset.forms._form import Fetch, Form, Found
from trainer.errors import DataError
from trainer.hints import nearest

FORMS: tuple[Form, ...] = (
    imagenet.FORM,
    kaggle.FORM,
    huggingface.FORM,
    *fastai.FORMS,
    tiny_imagenet.FORM,
    digits.FORM,
    folder.FORM,
)


def recognise(address: str) -> tuple[Form, Found]:
    """The form of what lies at a path or URL: each form is asked in turn, then about the archives in a folder.

    Args:
        address: a folder, an archive, a folder of archives, or an archive's URL.

    Raises: DataError if there is nothing, or nothing that one form alone recognises, with all that are known.
    """
    look = Look(address)
    if look.is_local and not os.path.exists(look.path):
        hint = (
            nearest(address, [form.name for form in FORMS])
            or "; give a folder of images, an archive or its URL"
        )
        raise DataError(f"there is no {shown(address)}{hint}")
    found, nearly = _asked([look])
    if not found and look.archives:
        found, others = _asked(look.archives[:MOST_ARCHIVES])
        nearly = nearly or others
    if len(found) == 1:
        return found[0]
    if found:
        commands = "".join(
            f"\n  trainer prepare {form.name} {' '.join(one.arguments)}" for form, one in found
        )
        raise DataError(f"{shown(address)} holds several data sets; say which:{commands}")
    if nearly:
        raise nearly
    holds = (
        ""
        if not look.is_folder
        else f", a folder of {several([*look.folders(), *look.files()]) or 'nothing'},"
    )
    known = "".join(f"\n  {form.name:<14} {form.layout}" for form in FORMS if form.layout)
    raise DataError(
        f"{shown(address)}{holds} is none of the forms that are known; give one of these, or name the form "
        f"(trainer prepare FORM --help):{known}"
    )


def _asked(looks: list[Look]) -> tuple[list[tuple[Form, Found]], DataError | None]:
    """What all forms recognise, and the first mistake that one has named."""
    found: list[tuple[Form, Found]] = []
    nearly = None
    for look in looks:
        for form in FORMS:
            try:
                if one := form.recognise(look):
                    found.append((form, one))
            except DataError as mistake:
                nearly = nearly or mistake
    return found, nearly


__all__ = ["FORMS", "Fetch", "Form", "Found", "Look", "recognise"]
