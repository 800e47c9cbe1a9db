"""What the names of files, folders and classes say. A name is bytes to Linux; here it is text as os.fsdecode makes it.

Names may hold anything but control characters, with which they could not stand in a list or on a terminal.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Collection

IMAGE_ENDINGS = (".jpeg", ".jpg", ".jpe", ".jfif", ".png", ".webp")
OTHER_IMAGES = frozenset(
    (".bmp", ".tif", ".tiff", ".gif", ".heic", ".heif", ".avif", ".jp2", ".ppm", ".pgm", ".jxl")
)
# What operating systems and network drives leave in folders and archives.
SYSTEM_FOLDERS = frozenset(
    ("__MACOSX", "@eaDir", "#recycle", "@Recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found")
)
SYSTEM_FILES = frozenset(("Thumbs.db", "desktop.ini"))

# C0 and C1, DEL, and Unicode's separators of lines and paragraphs.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def ending_of(path: str) -> str:
    """The ending of a file's name in lower case, with its dot."""
    name = os.path.basename(path)
    return os.path.splitext(name.lstrip("."))[1].lower()


def has_image_ending(name: str) -> bool:
    """Whether a file is read as an image."""
    return name.lower().endswith(IMAGE_ENDINGS)


def is_system_file(name: str) -> bool:
    """Whether a file without its folder is hidden or an operating system's, such as macOS's `._x.JPEG`."""
    return name.startswith(".") or name in SYSTEM_FILES


def is_system_folder(name: str) -> bool:
    """Whether a folder is hidden or an operating system's."""
    return (name.startswith(".") and name not in (".", "..")) or name in SYSTEM_FOLDERS


def is_system_member(name: str) -> bool:
    """Whether a member of an archive is hidden or an operating system's, at any depth."""
    *folders, file = name.split("/")
    return is_system_file(file) or any(map(is_system_folder, folders))


def has_control(name: str) -> bool:
    """Whether a name has control characters."""
    return _CONTROL.search(name) is not None


def shown(name: str) -> str:
    """A name for a message: its control characters, and bytes that are no UTF-8, as escapes."""
    return words(_CONTROL.sub(lambda found: repr(found[0])[1:-1], name))


def several(names: Collection[str], most: int = 3) -> str:
    """The first `most` of some names, for a message."""
    return ", ".join(map(shown, sorted(names)[:most])) + (" …" if len(names) > most else "")


def utf8(name: str) -> str:
    """A name as Python would read it where names are UTF-8, which is not so in every locale."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def words(name: str) -> str:
    """A name as valid text, which every file and server takes: bytes that are no UTF-8 become escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def same_to_the_eye(name: str) -> str:
    """The same text for names that look alike: macOS stores é as two characters, others as one."""
    return unicodedata.normalize("NFC", name)
