"""Images that go with a model."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from tests.dataset.encoded import HEIGHT, WIDTH, encoded, with_text
from trainer.dataset import folder, open_dataset, prepare
from trainer.run._samples import samples_of


def test_samples_carry_no_text_that_pillow_refuses(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split / "c").mkdir(parents=True)
        for behind in (False, True):
            png = with_text(encoded("PNG"), behind=behind)
            (tmp_path / split / "c" / f"{behind}.png").write_bytes(png)
        (tmp_path / split / "c" / "photo.jpg").write_bytes(encoded())
    prepare(folder(tmp_path, out=tmp_path), tmp_path)

    samples = {one.name: one.jpeg for one in samples_of(open_dataset(tmp_path).val)}
    assert samples.keys() == {"False.png", "True.png", "photo.jpg"}
    assert samples["photo.jpg"] == encoded()
    for jpeg in samples.values():
        with Image.open(io.BytesIO(jpeg)) as image:
            image.load()
            assert image.size == (WIDTH, HEIGHT)
