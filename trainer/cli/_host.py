"""What a container's folders are on its host, so that a message can be followed outside. Set by compose.yaml."""

from __future__ import annotations

import os
import re

# In the container: the setting of .env, which compose.yaml hands on with TRAINER_ before it.
FOLDERS = {"/data": "DATA_DIR", "/runs": "RUNS_DIR", "/archives": "ARCHIVES_DIR", "/app/export": "EXPORT_DIR"}


def with_host_folders(sentence: str) -> str:
    """`sentence`, and behind it what the container's folders that it names are on the host."""
    notes = []
    for folder, setting in FOLDERS.items():
        outside = os.environ.get(f"TRAINER_{setting}")
        if not outside or not re.search(rf"(?<![\w/.-]){folder}(?![\w-])", sentence):
            continue
        # As Compose tells them apart: what has no slash is a volume.
        is_path = "/" in outside or outside.startswith((".", "~"))
        notes.append(f"{folder} is {'' if is_path else 'the Docker volume '}{outside}, {setting} in .env")
        if is_path and "Permission denied" in sentence:
            notes.append(
                f"to let the container write there: sudo chown {os.getuid()}:{os.getgid()} {outside}"
            )
    return f"{sentence} ({'; '.join(notes)})" if notes else sentence
