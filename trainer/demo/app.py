"""The demo of a bundle in a browser, in one file of more lines than others, for a Space: a picture in; the five
likeliest classes, and where the network looked, out.

    python app.py [BUNDLE]     http://127.0.0.1:7860

BUNDLE is a folder that `trainer export` wrote, or a folder of such folders, of which the newest is shown; by default
what the environment variable BUNDLE names, then `bundle` beside this file. Address and port are Gradio's own
variables, GRADIO_SERVER_NAME and GRADIO_SERVER_PORT; DEMO_HOSTS lists the host names that it answers to (default: all).

The same file runs in `trainer demo`, in the container of the Compose profile `demo`, and in a Space, each with what
requirements.txt beside it lists, and without `trainer`: so it has a copy of `trainer.export.to_input`, which a test
holds to the bundle's golden inputs. Without onnx, which may be missing, there is no map of where the network looked.
"""

from __future__ import annotations

import hashlib
import html
import json
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin

# Before gradio and onnxruntime are imported: nobody is told that they are used, and nothing is fetched.
for _switch, _value in {
    "ORT_DISABLE_TELEMETRY": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}.items():
    os.environ.setdefault(_switch, _value)

# Pillow's other formats may call programs, or are rare.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP")
NEEDED = ("model.onnx", "labels.txt", "preprocess.json")  # of a bundle
INPUT, OUTPUT = "input_0", "output_0"
MAX_FILE = 10  # MB
MAX_PIXELS = 25_000_000  # of a picture, also once its shorter side has been resized
MAX_TEXT = 100_000_000  # bytes of a PNG's compressed texts
WAITING = 8  # requests; one is answered at a time
TOP = 5
ORIENTATION = 0x0112  # EXIF's tag
SHOWN = 448  # pixels: smaller views are enlarged
# The stops of matplotlib's inferno: dark to bright for every eye, and in print.
HEAT = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float32)
CSS = """
.gradio-container {max-width: 1280px !important; margin: auto}
#facts p, #said p {margin: 0 0 .4em}
#said .wrong {border-left: 4px solid var(--error-border-color, #d33); padding: .2em .8em; font-weight: 600}
.html-container {padding: 0 !important}
.small {opacity: .75}
#top h2 {padding-left: 0}
@media (max-width: 768px) {#where {order: 1}}
"""


class Unusable(Exception):
    """A bundle or a picture that cannot be used; the text is a sentence for the user."""


@dataclass(frozen=True)
class Model:
    """The network of a bundle, ready to run."""

    labels: tuple[str, ...]  # in the order of the outputs, no two alike
    described: dict[str, Any]  # preprocess.json
    session: Any  # onnxruntime.InferenceSession
    head: Head | None  # what the map of a class is made of
    no_map: str = ""  # why there is none


@dataclass(frozen=True)
class Head:
    """The last layers of a network that ends in a global average pooling and one linear layer."""

    features: str  # name of the tensor (N, channels, rows, columns) that is pooled
    weights: npt.NDArray[np.float32]  # (classes, channels)


@dataclass(frozen=True)
class Answer:
    """What the network says of one picture."""

    top: dict[str, float]  # the likeliest classes and their probabilities
    view: Image.Image  # the part of the picture that the network saw, with the map where there is one
    notes: tuple[str, ...]  # sentences about this picture
    seconds: tuple[float, float]  # to read and resize it; in the network


def find_bundle(folder: Path) -> Path:
    """The bundle that `folder` is, or the newest in it. Raises: Unusable if there is none."""
    if (folder / "preprocess.json").is_file():
        return folder
    # The sums are written last: what has them is whole.
    sums = [path for path in folder.glob("*/SHA256SUMS") if not path.parent.name.startswith(".")]
    if not sums:
        raise Unusable(
            f"there is no exported bundle in {folder} yet; make one with `docker compose run --rm export` (or "
            "`trainer export MODEL`), then start the demo again"
        )
    return max(sums, key=lambda path: path.stat().st_mtime).parent


def load(folder: Path) -> Model:
    """Make the bundle in `folder` ready to run. Raises: Unusable if it is damaged, or none."""
    try:
        sums = dict(line.split("  ", 1)[::-1] for line in (folder / "SHA256SUMS").read_text().splitlines())
        content = {name: (folder / name).read_bytes() for name in NEEDED}
        for name, data in content.items():
            if sums.get(name) != hashlib.sha256(data).hexdigest():
                raise ValueError(f"{name} is not what SHA256SUMS says")
        described = json.loads(content["preprocess.json"])
        names = content["labels.txt"].decode(errors="replace").removesuffix("\n").split("\n")
        labels = _unlike(names, described["class_ids"])
        model = Model(labels, described, *_open(content["model.onnx"]))
        # Once, so that the first picture does not wait for it.
        _, features = _run(model, np.zeros((3, described["val_size"], described["val_size"]), np.float32))
        if features is not None and max(features.shape[1:]) == 1:
            no_map = f"of {view_size(model)} pixels the last layer makes a single place"
            model = replace(model, head=None, no_map=no_map)
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise Unusable(
            f"{folder} is no bundle, incomplete or damaged: {error}; copy or export it again"
        ) from None
    return model


def read_picture(path: str | Path) -> tuple[Image.Image, tuple[str, ...]]:
    """A picture file as RGB with the pixels that training would see, and what is to be said about it.

    Raises: Unusable if it is no picture, damaged, or too large.
    """
    PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = MAX_TEXT
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    notes = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pixels, which are counted below, and of a palette's transparency
        try:
            image = Image.open(path, formats=FORMATS)
        except Image.DecompressionBombError:
            raise Unusable(_too_many()) from None
        except (OSError, SyntaxError, ValueError):
            raise Unusable(
                "This file is no picture that can be read: use JPEG, PNG, WebP, AVIF, GIF or BMP."
            ) from None
        with image:
            if image.width * image.height > MAX_PIXELS:
                raise Unusable(_too_many(image.size))
            try:
                if image.getexif().get(ORIENTATION, 1) != 1:
                    notes.append(
                        "The camera stored this picture turned, with a note of it (EXIF) that training ignores: the "
                        "network saw it lying. Turn it and save it for an answer to the upright picture."
                    )
                if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
                    notes.append("Of an animation, the network saw the first picture.")
                return _to_rgb(image), tuple(notes)
            except Exception:  # decoders raise what they like
                raise Unusable(
                    "This picture is damaged or its file ends too early: save or upload it again."
                ) from None


def centre(photo: Image.Image, described: dict[str, Any]) -> Image.Image:
    """The part of a picture that the network sees: the centre, `val_size` pixels wide and high."""
    shorter, size = described["val_resize"], described["val_size"]
    width, height = (shorter * side // min(photo.size) for side in photo.size)
    if width * height > MAX_PIXELS:
        raise Unusable("This picture is too long and narrow: cut it to what shall be classified.")
    resized = photo.resize((width, height), Image.Resampling.BILINEAR)  # antialiases when it shrinks
    left, top = (round((side - size) / 2) for side in (width, height))
    return resized.crop((left, top, left + size, top + size))


def to_input(view: Image.Image, described: dict[str, Any]) -> npt.NDArray[np.float32]:
    """The network's input (3, val_size, val_size): RGB, normalised."""
    pixels = np.asarray(view, np.float32) / 255
    normalised = (pixels - np.float32(described["mean"])) / np.float32(described["std"])
    return np.ascontiguousarray(normalised.transpose(2, 0, 1), np.float32)


def class_map(
    head: Head, features: npt.NDArray[np.float32], index: int, size: int
) -> npt.NDArray[np.float32]:
    """Grad-CAM of one class: where in the picture the network found it, (size, size), not negative.

    Behind a global average pooling and one linear layer the gradient of a class is its row of weights, so Grad-CAM
    (Selvaraju et al. 2017, arXiv:1610.02391) is the class activation map of Zhou et al. 2016 (arXiv:1512.04150).

    Args:
        head: the last layers.
        features: what is pooled, (channels, rows, columns).
        index: the class.
        size: side of the map, pixels.
    """
    found = np.maximum(np.tensordot(head.weights[index], features, axes=1), 0)
    return np.asarray(Image.fromarray(found).resize((size, size), Image.Resampling.BILINEAR))


def classify(model: Model, path: str | Path) -> Answer:
    """What the network says of a picture file. Raises: Unusable if it cannot be read."""
    begun = time.perf_counter()
    photo, notes = read_picture(path)
    view = centre(photo, model.described)
    image = to_input(view, model.described)
    read = time.perf_counter()
    probabilities, features = _run(model, image)
    done = time.perf_counter()
    likeliest = np.argsort(-probabilities, kind="stable")[:TOP].tolist()
    view = _enlarged(view)
    if model.head and features is not None:
        view = _heated(view, class_map(model.head, features, likeliest[0], view.width))
    top = {model.labels[index]: float(probabilities[index]) for index in likeliest}
    return Answer(top, view, notes, (read - begun, done - read))


def view_size(model: Model) -> str:
    """The side lengths of what the network sees, in words."""
    return f"{model.described['val_size']} x {model.described['val_size']}"


def name_of(model: Model) -> str:
    """What the model is called: its registered version, or run and step, without the folders of somebody's machine."""
    told = model.described.get("model") or {}
    if told.get("name"):
        return f"{told['name']} version {told['version']}"
    if str(told.get("source")).startswith("models:/"):
        return str(told["source"])
    source = Path(str(told.get("source")))  # RUN/checkpoints/step-00000308-0123456789abcdef.pt
    return f"{source.parent.parent.name} {source.stem.rpartition('-')[0] or source.name}".strip()


def facts(model: Model) -> str:
    """Where the model comes from and how good it is, as HTML."""
    told = model.described.get("model") or {}
    measured = told.get("top1") is not None and told.get("top5") is not None
    accuracy = (
        f"top-1 {told['top1']:.2%}, top-5 {told['top5']:.2%} on its validation images"
        if measured
        else "not measured on its validation images"
    )
    parts = [
        f"{told.get('architecture')}, {len(model.labels):,} classes, recipe {told.get('recipe')}",
        f"MLflow run {told['run_id']}" if told.get("run_id") else "not registered in MLflow",
        f"data set {str(told.get('dataset_digest'))[:12]}",
        f"sees {view_size(model)} pixels at the centre, the shorter side resized to {model.described['val_resize']}",
    ]
    if not model.head:
        parts.append(f"no map of where a class was found: {model.no_map}")
    return (
        f"<p><b>{html.escape(name_of(model))}</b>: {accuracy}</p>"
        f"<p class=small>{html.escape(' · '.join(parts))}</p>"
    )


def said(answer: Answer) -> str:
    """The time taken and the notes, as HTML."""
    read, network = (seconds * 1e3 for seconds in answer.seconds)
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in answer.notes)
    return f"<p><b>{read + network:.0f} ms</b>: {read:.0f} to read and resize, {network:.0f} in the network</p>{notes}"


def examples(folder: Path) -> list[str]:
    """The example pictures of a bundle: its golden photos."""
    photos = sorted((folder / "golden").glob("*"))
    return [str(photo) for photo in photos if photo.suffix[1:].upper() in ("JPG", *FORMATS)]


def _gradio() -> Any:
    """Gradio, which asks the Hub for nothing; set late, because others in this process may want to."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import gradio

    return gradio


def make_page(model: Model, pictures: list[str]) -> Any:
    """The page (gradio.Blocks)."""
    gr = _gradio()

    # The file as it was uploaded: gr.Image would decode it here, and of a failure say only "Error". Not in an instance,
    # which Gradio makes anew when the picture changes, nor in a class of ours, beside whose file it writes another.
    gr.Image.preprocess = lambda self, uploaded: uploaded.path if uploaded else None

    def answer(path: str | None) -> tuple[Any, Any, Any, Any]:
        if path is None:
            return gr.skip(), None, None, gr.skip()
        try:
            of_picture = classify(model, path)
        except Unusable as error:  # what cannot be shown makes room for the next one
            return None, None, None, f"<p class=wrong>{html.escape(str(error))}</p>"
        return gr.skip(), of_picture.view, of_picture.top, said(of_picture)

    with gr.Blocks(title="What is in the picture?", analytics_enabled=False, delete_cache=(60, 600)) as page:
        gr.Markdown("# What is in the picture?")
        gr.HTML(facts(model), elem_id="facts")
        with gr.Row():
            with gr.Column():
                picture = gr.Image(
                    label="Picture",
                    type="filepath",
                    image_mode=None,
                    sources=["upload", "webcam", "clipboard"],
                    webcam_options=gr.WebcamOptions(mirror=False),  # things were learned the right way round
                    height=360,
                )
                if pictures:
                    gr.Examples(pictures, picture, label="Examples", examples_per_page=8)
            with gr.Column(elem_id="where"):
                label = "Where the first class was found" if model.head else "What the network saw"
                view = gr.Image(label=label, format="png", buttons=["fullscreen"], height=360)
            with gr.Column():
                top = gr.Label(label="Likeliest classes", num_top_classes=TOP, elem_id="top")
                text = gr.HTML(elem_id="said")
        limits = f"{MAX_FILE} MB and {MAX_PIXELS // 1_000_000} million pixels"
        gr.HTML(
            f"<p class=small>Files up to {limits}, deleted after ten minutes and sent nowhere else.</p>",
        )
        results = [picture, view, top, text]
        picture.change(
            answer, picture, results, api_name="classify", concurrency_limit=1, show_progress_on=top
        )
        picture.clear(lambda: "", None, text, api_visibility="private")
    return page.queue(max_size=WAITING)


def serve(model: Model, pictures: list[str], port: int) -> None:
    """Answer at GRADIO_SERVER_NAME and `port` from now on."""
    gr = _gradio()
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    hosts = [host for host in os.environ.get("DEMO_HOSTS", "*").split(",") if host]
    make_page(model, pictures).launch(
        server_port=port,
        share=False,
        max_file_size=f"{MAX_FILE}mb",
        app_kwargs={"middleware": [Middleware(TrustedHostMiddleware, allowed_hosts=hosts)]},
        run_history=False,
        footer_links=[],
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        ssr_mode=False,
        quiet=True,
        css=CSS,
        theme=gr.themes.Default(font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace")),
        prevent_thread_lock=True,
    )


def main() -> int:
    """Run the command line and return the exit code."""
    folder = sys.argv[1] if sys.argv[1:] else os.environ.get("BUNDLE") or Path(__file__).with_name("bundle")
    try:
        bundle = find_bundle(Path(folder))
        model = load(bundle)
        port = int(os.environ.get("GRADIO_SERVER_PORT", "7860"))
        serve(model, examples(bundle), port)
    except Unusable as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    here = f"http://127.0.0.1:{port}"
    print(
        f"demo: {name_of(model)} is shown at {os.environ.get('DEMO_URL', here)}; Ctrl-C ends it", flush=True
    )
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        return 0


def _run(
    model: Model, image: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
    outputs = [OUTPUT, model.head.features] if model.head else [OUTPUT]
    probabilities, *features = model.session.run(outputs, {INPUT: image[None]})
    return probabilities[0], features[0][0] if features else None


def _unlike(names: list[str], ids: list[str]) -> tuple[str, ...]:
    """Names that are all different: ImageNet has two cranes."""
    if len(names) != len(ids):
        raise ValueError(f"labels.txt has {len(names)} lines for {len(ids)} classes")
    times = Counter(names)
    return tuple(f"{name} ({i})" if times[name] > 1 else name for name, i in zip(names, ids, strict=True))


def _open(network: bytes) -> tuple[Any, Head | None, str]:
    """An ONNX file as a session that has the features as an output as well, its last layers, or why not."""
    import onnxruntime

    head, no_map = None, "the package onnx is not installed"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # on busy cores it only costs
    try:
        with suppress(ImportError):
            import onnx

            model = onnx.load_from_string(network)
            head, no_map = _head(model.graph, onnx.numpy_helper.to_array)
            if head:
                model.graph.output.append(onnx.ValueInfoProto(name=head.features))
                network = model.SerializeToString()
        session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the libraries' errors have no common base
        raise ValueError(f"model.onnx cannot be run ({' '.join(str(error).split())[:200]})") from None
    return session, head, no_map


def _head(graph: Any, to_array: Callable[[Any], npt.NDArray[np.float32]]) -> tuple[Head | None, str]:
    made_by = {name: node for node in graph.node for name in node.output}
    nodes: list[Any] = []
    name = OUTPUT
    while name in made_by and len(nodes) < 4:
        nodes.append(made_by[name])
        name = nodes[-1].input[0]
    if [node.op_type for node in nodes] != ["Softmax", "Gemm", "Flatten", "GlobalAveragePool"]:
        return None, "the network does not end in a pooling and one linear layer"
    (weights,) = (one for one in graph.initializer if one.name == nodes[1].input[1])
    return Head(name, to_array(weights)), ""


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, of which Pillow alone would make everything above 255 white
        grey = np.array(image, np.int32)  # changed in place: there may be 25 million
        np.clip(grey, 0, 65_535, out=grey)
        grey += 128
        grey //= 257
        image = Image.fromarray(grey.astype(np.uint8))
    return image.convert("RGB")


def _too_many(size: tuple[int, int] | None = None) -> str:
    has = f"{size[0]} x {size[1]}" if size else "too many"
    return f"This picture has {has} pixels; {MAX_PIXELS // 1_000_000} million are allowed: make it smaller."


def _enlarged(view: Image.Image) -> Image.Image:
    if view.width >= SHOWN:
        return view
    times = SHOWN // view.width
    # Few pixels are shown as such: blurred, they would look like more than they are.
    how = Image.Resampling.NEAREST if times > 4 else Image.Resampling.BICUBIC
    return view.resize((times * view.width, times * view.height), how)


def _heated(view: Image.Image, found: npt.NDArray[np.float32]) -> Image.Image:
    """The view in grey below a map of the same size: the brighter, the more was found there."""
    share = found / max(found.max(), np.finfo(np.float32).tiny)
    stops = np.linspace(0, 1, len(HEAT))
    heat = np.stack([np.interp(share, stops, HEAT[:, channel]) for channel in range(3)], axis=-1)
    grey = np.asarray(view.convert("L"), np.float32)[..., None]
    return Image.fromarray((0.5 * grey + 0.5 * heat).astype(np.uint8))


if __name__ == "__main__":
    raise SystemExit(main())
