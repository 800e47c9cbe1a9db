"""What DALI alone does with one image in a batch of 64 whose header its parser refuses: an error, or a signal.

    python benchmarks/parse_error.py [TRIES]

Needs numpy, Pillow and DALI. docs/decisions/0010-native-decoders.md has what it showed here.
"""

# DALI makes its operators at run time.
# mypy: disable-error-code="attr-defined,untyped-decorator,call-overload"

from __future__ import annotations

import collections
import io
import os
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
from nvidia.dali import fn, pipeline_def, types
from PIL import Image

BATCH = 64
Encoded = npt.NDArray[np.uint8]


def encoded(format: str = "JPEG", mode: str = "RGB") -> Encoded:
    """A smooth picture of 320 x 240 pixels."""
    coarse = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((320, 240)).convert(mode).save(file, format)
    return np.frombuffer(file.getvalue(), np.uint8)


def attempt(bad: Encoded, place: int) -> str:
    """How a fresh process ends that decodes this image among sound ones."""
    pid = os.fork()
    if not pid:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        files = [encoded()] * BATCH
        files[place] = bad

        @pipeline_def(batch_size=BATCH, num_threads=2, device_id=None)
        def decode() -> Any:
            source = fn.external_source(source=lambda: files, batch=True, dtype=types.UINT8, ndim=1)
            return fn.decoders.image(source, device="cpu")

        try:
            decode().run()
            os._exit(0)
        except RuntimeError:
            os._exit(3)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return {0: "decoded", 3: "an error"}.get(code, f"signal {-code}")


def main(tries: int) -> None:
    """Show how often each kind of damage ends how."""
    sound, palette = encoded(), encoded("BMP", "P").copy()
    palette[46:50] = 255  # colours in its palette
    kinds = {
        "zeros": np.zeros(5000, np.uint8),
        "stray bytes between two segments": np.concatenate(
            [sound[:20], np.frombuffer(b"garbage!", np.uint8), sound[20:]]
        ),
        "a BMP with too many colours": palette,
        "pixels cut off": sound[:-2000],
    }
    for kind, bad in kinds.items():
        ends = collections.Counter(attempt(bad, number % BATCH) for number in range(tries))
        print(f"{kind}: {dict(ends)}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 12)
