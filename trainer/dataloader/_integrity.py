"""A check that every image of a data set decodes, before a training run finds out.

libjpeg-turbo decodes each JPEG in its strict mode, at an eighth of its size: all of the file is read, and
only arithmetic on pixels is saved. It finds every damage at which DALI's decoder stops, and damage that DALI
and Pillow accept without a warning (docs/decisions/0005). DALI's decoder, which is the one that trains, then
decodes each file that is not a plain JPEG or had a warning. All of it happens in child processes: a decoder that
dies of an image tells which one it was.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from trainer.dataloader._child import DecodingChild
from trainer.dataset import Dataset, Finding, Split, in_threads


def check_decoding(
    dataset: Dataset, *, progress: Callable[[int], None] = lambda _: None
) -> Iterator[Finding]:
    """Decode every image; yield a finding for each image that is damaged, or unusual but handled.

    Args:
        dataset: the opened data set.
        progress: called with the number of images decoded since the last call.
    """
    local = threading.local()
    with ExitStack() as children:

        def look(split: Split, indices: range) -> Iterator[Finding]:
            if not hasattr(local, "child"):
                local.child = children.enter_context(DecodingChild("check"))
            rows = split.rows
            requests = (
                [str(split.path(index)), int(rows["bytes"][index]), int(rows["crc32"][index])]
                for index in indices
            )
            for index, (_, verdict) in zip(indices, local.child.answers(requests), strict=True):
                if isinstance(verdict, str):
                    verdict = "bad", f"cannot be decoded: {verdict}"
                if verdict is not None:
                    yield Finding(split.name(index), *verdict)

        yield from in_threads(dataset, look, progress, batch=64)
