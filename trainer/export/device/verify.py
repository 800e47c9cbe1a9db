#!/usr/bin/env python3
"""Check this folder on this device: its files, labels, preprocessing, and the answers and speed of every network.
One file of 400 lines and not a package, so that it can be copied to a device by itself.

    python3 verify.py                every model*.onnx and engines/*.plan that can be run here
    python3 verify.py model.onnx     these alone

Needs Python 3.8 and numpy; ONNX Runtime for *.onnx, TensorRT for *.plan; Pillow to make inputs of the photos.
Exit code: 0 passed, 1 failed, 2 wrong call, 3 there is nothing here to run the networks with.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import io
import json
import os
import re
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Iterator

if TYPE_CHECKING:
    import numpy as np
else:
    try:
        import numpy as np
    except ImportError:
        print(
            "verify: numpy is missing: sudo apt-get install python3-numpy, or pip install numpy",
            file=sys.stderr,
        )
        sys.exit(3)

HERE = Path(__file__).resolve().parent
INPUT, OUTPUT = (
    "input_0",
    "output_0",
)  # float32 (N, 3, H, W) normalised RGB -> float32 (N, classes) probabilities
TEXT: Any = {"encoding": "utf-8", "errors": "surrogateescape"}  # names of classes may be no UTF-8

# The largest difference of a probability from the golden answers, by precision. FP32 is built without TF32;
# its sums come in another order on a GPU. What INT8 costs in accuracy is in README: this finds a wrong network.
ALLOWED_ONNX = {"fp32": 1e-4, "fp16": 1e-2, "int8": 0.25}
ALLOWED_ENGINE = {**ALLOWED_ONNX, "fp32": 1e-3}
# Of the golden inputs, in steps of 0..255. Decoders of JPEG may differ by a step or two here and there, not on average.
ALLOWED_STEPS, ALLOWED_MEAN = 3.0, 0.1
RUNS, SECONDS = 30, 5.0  # of the timing: as many, but no longer


class Wrong(Exception):
    """Something is not as it must be: the sentence says what."""


class Missing(Exception):
    """What runs a network is not installed here."""


# Networks. Each takes float32 (N, 3, H, W), N <= max_batch where that is a number, and gives float32 (N, classes).


class OnnxNetwork:
    """A model file in ONNX Runtime on the CPU."""

    def __init__(self, path: Path) -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # its wheels report to their maker otherwise
        try:
            import onnxruntime
        except ImportError:
            raise Missing("onnxruntime is missing: pip install onnxruntime") from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its errors have no common base
            raise Wrong(f"cannot be run: {' '.join(str(error).split())[:200]}") from None
        batch = self._session.get_inputs()[0].shape[0]
        self.max_batch = batch if isinstance(batch, int) else None

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Probabilities of images."""
        answer: np.ndarray = self._session.run([OUTPUT], {INPUT: images})[0]
        return answer


class Engine:
    """An engine of TensorRT 8.5 or later."""

    def __init__(self, path: Path) -> None:
        try:
            import tensorrt
        except ImportError:
            raise Missing(
                "TensorRT's Python package is missing: sudo apt-get install python3-libnvinfer"
            ) from None
        built = re.search(r"trt([0-9.]+)", path.name)
        if built and not f"{tensorrt.__version__}.".startswith(f"{built[1].rstrip('.')}."):
            # As before an upgrade, and no fault of the bundle: its engine for this one may be there as well.
            raise Missing(
                f"it is of another TensorRT than the {tensorrt.__version__} here: sh build_engine.sh"
            )
        self._runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR))
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise Wrong("is no engine that TensorRT can load here: remove it, then sh build_engine.sh")
        self._context = self._engine.create_execution_context()
        shape = tuple(self._engine.get_tensor_shape(INPUT))
        if shape[0] < 0:
            shape = tuple(self._engine.get_tensor_profile_shape(INPUT, 0)[2])  # minimum, optimum, maximum
        self.max_batch = int(shape[0])
        self._classes = int(self._engine.get_tensor_shape(OUTPUT)[1])
        self._cuda = _Cuda()
        self._stream = self._cuda.stream()
        self._given = self._cuda.memory(4 * int(np.prod(shape)))
        self._answer = self._cuda.memory(4 * self.max_batch * self._classes)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Probabilities of images."""
        images = np.ascontiguousarray(images, np.float32)
        answer = np.empty((len(images), self._classes), np.float32)
        self._cuda.copy(self._given, images.ctypes.data, images.nbytes, _Cuda.TO_DEVICE)
        self._context.set_input_shape(INPUT, images.shape)
        self._context.set_tensor_address(INPUT, self._given)
        self._context.set_tensor_address(OUTPUT, self._answer)
        if not self._context.execute_async_v3(self._stream):
            raise Wrong("TensorRT did not run it; its own message is above")
        self._cuda.wait(self._stream)
        self._cuda.copy(answer.ctypes.data, self._answer, answer.nbytes, _Cuda.TO_HOST)
        return answer


class _Cuda:
    """The five functions of CUDA's runtime library that an engine needs, so that no package for them is needed."""

    TO_DEVICE, TO_HOST = 1, 2  # cudaMemcpyKind

    def __init__(self) -> None:
        names = [f"libcudart.so{version}" for version in ("", ".13", ".12", ".11.0")]
        for name in [*names, *(f"/usr/local/cuda/lib64/{name}" for name in names)]:
            try:
                self._library = ctypes.CDLL(name)
                return
            except OSError:
                continue
        raise Missing("CUDA's libcudart.so is not found: sudo apt-get install nvidia-cuda")

    def memory(self, size: int) -> int:
        """The address of `size` bytes on the device."""
        return self._pointer(self._library.cudaMalloc, ctypes.c_size_t(size))

    def stream(self) -> int:
        """A new stream."""
        return self._pointer(self._library.cudaStreamCreate)

    def copy(self, to: int, of: int, size: int, kind: int) -> None:
        """Copy bytes between host and device, and wait for it."""
        to_, of_ = ctypes.c_void_p(to), ctypes.c_void_p(of)
        self._check(self._library.cudaMemcpy(to_, of_, ctypes.c_size_t(size), ctypes.c_int(kind)))

    def wait(self, stream: int) -> None:
        """Wait until a stream has nothing more to do."""
        self._check(self._library.cudaStreamSynchronize(ctypes.c_void_p(stream)))

    def _pointer(self, function: Callable[..., int], *arguments: Any) -> int:
        pointer = ctypes.c_void_p()
        self._check(function(ctypes.byref(pointer), *arguments))
        return int(pointer.value or 0)

    def _check(self, code: int) -> None:
        if code:
            raise Wrong(f"CUDA answers with error {code}")


def open_network(path: Path) -> Any:
    """The network of a *.onnx or *.plan. Raises: Missing, Wrong."""
    return (OnnxNetwork if path.suffix == ".onnx" else Engine)(path)


def networks_of(folder: Path) -> list[Path]:
    """The model files and engines of a bundle; the newest engine first."""
    engines = sorted(folder.glob("engines/*.plan"), key=lambda path: -path.stat().st_mtime)
    return [*engines, *sorted(folder.glob("model*.onnx"))]


def precision_of(path: Path) -> str:
    """fp32, fp16 or int8: it is in the name of a file."""
    return next((one for one in ("int8", "fp16") if one in path.name), "fp32")


# Preprocessing, step by step as preprocess.json has it.


def to_input(encoded: bytes, preprocess: dict[str, Any]) -> np.ndarray:
    """The input (3, H, W) made of an encoded image: float32, normalised RGB."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a palette's transparency is dropped
        with Image.open(io.BytesIO(encoded)) as opened:
            image: Any = opened
            if image.mode.startswith("I"):  # 16 bits, of which Pillow would make everything above 255 white
                grey = (np.asarray(image, np.int64).clip(0, 65535) + 128) // 257
                image = Image.fromarray(grey.astype(np.uint8))
            return normalised(image.convert("RGB"), preprocess)


def normalised(photo: Any, preprocess: dict[str, Any]) -> np.ndarray:
    """The input (3, H, W) made of an RGB image of Pillow."""
    from PIL import Image

    shorter, size = preprocess["val_resize"], preprocess["val_size"]
    width, height = (shorter * side // min(photo.size) for side in photo.size)
    # BILINEAR has another name since Pillow 9.1; JetPack 5 has 7.0. It antialiases where it shrinks.
    photo = photo.resize((width, height), getattr(Image, "Resampling", Image).BILINEAR)
    left, top = (round((side - size) / 2) for side in (width, height))  # halves to even
    pixels = np.asarray(photo.crop((left, top, left + size, top + size)), np.float32) / 255
    pixels = (pixels - np.float32(preprocess["mean"])) / np.float32(preprocess["std"])
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32)


def read_labels(folder: Path) -> list[str]:
    """The names of the classes in the order of the outputs."""
    # Not splitlines: a name may have any character but a newline.
    text: str = (folder / "labels.txt").read_text(**TEXT)
    return (text[:-1] if text.endswith("\n") else text).split("\n")


# The checks: each gives the line that is printed, or raises Wrong.


def check_files(folder: Path, digest: str | None) -> str:
    """Every file has the digest that SHA256SUMS says; and SHA256SUMS the one that the registry says, if given."""
    listing = (folder / "SHA256SUMS").read_bytes()
    found = hashlib.sha256(listing).hexdigest()
    if digest is not None and found != digest:
        raise Wrong(f"SHA256SUMS has the SHA-256 {found}, not {digest}: this is not what was registered")
    count = 0
    for line in listing.decode(**TEXT).split("\n")[:-1]:
        named = re.match(r"([0-9a-f]{64})  (.+)$", line)
        if not named:
            raise Wrong("SHA256SUMS is no listing of files")
        path = folder / named[2]
        if path.is_symlink() or not path.is_file():
            raise Wrong(f"{named[2]} is missing")
        if _sha256(path) != named[1]:
            raise Wrong(f"{named[2]} is not what SHA256SUMS says: copy the folder again")
        count += 1
    if not count:
        raise Wrong("SHA256SUMS is empty")
    return f"{count} as SHA256SUMS says" + ("" if digest else f"; its own SHA-256 is {found}")


def check_labels(folder: Path, golden: np.ndarray, preprocess: dict[str, Any]) -> str:
    """labels.txt has a line for every output, and the names that golden/expected.json and preprocess.json know."""
    labels, expected = read_labels(folder), _json(folder / "golden" / "expected.json")
    if len(labels) != golden.shape[1]:
        raise Wrong(f"labels.txt has {len(labels)} lines for {golden.shape[1]} outputs")
    sealed = preprocess.get("labels_sha256")
    if sealed is not None and _sha256(folder / "labels.txt") != sealed:
        raise Wrong("labels.txt is not the file whose labels_sha256 is in preprocess.json")
    if len(expected) != len(golden):
        raise Wrong(
            f"golden/expected.json has {len(expected)} photos, golden/probabilities.npy {len(golden)}"
        )
    named = set()
    for photo, answers in zip(expected, golden):
        for one in photo["top5"]:
            index, name = one["index"], one["class"]
            if labels[index] != name.replace("\n", " "):
                raise Wrong(
                    f"line {index + 1} of labels.txt is {labels[index]!r}, golden/expected.json has {name!r}"
                )
            if abs(float(answers[index]) - one["probability"]) > 1e-6:
                raise Wrong(f"golden/expected.json and golden/probabilities.npy differ for {photo['photo']}")
            named.add(index)
        if photo["label"].replace("\n", " ") not in labels:
            raise Wrong(f"{photo['label']!r} of golden/expected.json is not in labels.txt")
    known = "all" if sealed is not None else f"the {len(named)} of golden/expected.json"
    return f"{len(labels)}, {known} compared"


def check_preprocessing(folder: Path, inputs: np.ndarray, preprocess: dict[str, Any]) -> str:
    """The golden photos become the golden inputs. Raises: Missing if there is no Pillow."""
    try:
        import PIL  # noqa: F401
    except ImportError:
        raise Missing("Pillow is missing: pip install pillow") from None
    photos = [folder / one["photo"] for one in _json(folder / "golden" / "expected.json")]
    made = [to_input(photo.read_bytes(), preprocess) for photo in photos]
    if len(made) != len(inputs) or any(one.shape != inputs.shape[1:] for one in made):
        raise Wrong("the golden inputs have another shape than preprocess.json makes of the photos")
    std = np.array(preprocess["std"], np.float32)[:, None, None]
    steps = [(one - golden) * std * 255 for one, golden in zip(made, inputs)]
    largest = max(float(np.abs(one).max()) for one in steps)
    mean = max(float(np.abs(one.mean(axis=(1, 2))).max()) for one in steps)
    if not (largest <= ALLOWED_STEPS and mean <= ALLOWED_MEAN):
        raise Wrong(
            f"preprocess.json makes other inputs of the photos than golden/inputs.npy: by {largest:.3g} of 255, "
            f"{mean:.3g} on average of a channel; mean, std, sizes or the order of the channels are wrong"
        )
    return f"{len(made)} photos become the golden inputs, largest difference {largest:.2g} of 255"


def check_network(path: Path, inputs: np.ndarray, golden: np.ndarray) -> str:
    """The answers to the golden inputs, in batches and one by one, are the golden ones; and the time of one."""
    network = open_network(path)
    allowed = (ALLOWED_ONNX if path.suffix == ".onnx" else ALLOWED_ENGINE)[precision_of(path)]
    difference = 0.0
    for batch in sorted({1, min(len(inputs), network.max_batch or len(inputs))}):
        answers = np.concatenate([network(chunk) for chunk in _chunks(inputs, batch)])
        if answers.shape != golden.shape:
            raise Wrong(f"answers with {answers.shape}, the golden answers are {golden.shape}")
        difference = max(difference, float(np.nan_to_num(np.abs(answers - golden), nan=np.inf).max()))
    if not difference <= allowed:
        raise Wrong(f"a probability differs by {difference:.2g} from the golden one, {allowed:g} is allowed")
    return (
        f"largest difference {difference:.1e} of {allowed:g} allowed; {_latency(network, inputs[:1]):.2f} ms"
    )


def _chunks(images: np.ndarray, batch: int) -> Iterator[np.ndarray]:
    for start in range(0, len(images), batch):
        yield images[start : start + batch]


def _latency(network: Any, image: np.ndarray) -> float:
    """Median milliseconds of a batch of 1, copies included."""
    times: list[float] = []
    end = time.monotonic() + SECONDS
    while len(times) < RUNS and (len(times) < 3 or time.monotonic() < end):
        start = time.perf_counter()
        network(image)
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _json(path: Path) -> Any:
    return json.loads(path.read_text(**TEXT))


class Report:
    """Prints a line for each check, and remembers how they ended."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self.unchecked: list[str] = []

    def check(self, name: str, made: Callable[[], str]) -> bool:
        """Make one check. Returns: whether it passed."""
        try:
            said, passed = f"passed   {made()}", True
        except Missing as error:
            said, passed = f"not checked: {error}", False
            self.unchecked.append(name)
        except (Wrong, OSError, ValueError, LookupError, TypeError, AttributeError, SyntaxError) as error:
            said, passed = f"FAILED   {error}", False
            self.failed.append(name)
        print(f"{name:24} {said}", flush=True)
        return passed


def main() -> int:
    """Make all checks. Returns: the exit code."""
    parser = argparse.ArgumentParser(description="Check this folder, and its networks on this device.")
    parser.add_argument(
        "networks", nargs="*", type=Path, metavar="NETWORK", help="*.onnx or *.plan; default: all"
    )
    parser.add_argument(
        "--sha256", metavar="DIGEST", help="what SHA256SUMS must have: the version's tag bundle_sha256"
    )
    given = parser.parse_args()
    for path in given.networks:
        if path.suffix not in (".onnx", ".plan") or not path.is_file():
            parser.error(f"{path} is no *.onnx or *.plan")

    report = Report()
    report.check("files", lambda: check_files(HERE, given.sha256))
    if not (HERE / "golden").is_dir():
        print("verify: there is no golden/ here to compare with", file=sys.stderr)
        return 1 if report.failed else 3
    try:
        inputs = np.load(HERE / "golden" / "inputs.npy", allow_pickle=False)
        golden = np.load(HERE / "golden" / "probabilities.npy", allow_pickle=False)
        preprocess = _json(HERE / "preprocess.json")
    except (OSError, ValueError, RecursionError) as error:
        print(f"verify: {error}; copy the folder again", file=sys.stderr)
        return 1
    report.check("labels", lambda: check_labels(HERE, golden, preprocess))
    report.check("preprocessing", lambda: check_preprocessing(HERE, inputs, preprocess))
    ran = 0
    for path in given.networks or networks_of(HERE):
        ran += report.check(path.name, lambda path=path: check_network(path, inputs, golden))  # type: ignore[misc]
    if report.failed:
        print(f"FAILED: {', '.join(report.failed)}")
        return 1
    if not ran or (given.networks and ran < len(given.networks)):
        print(
            "verify: no network could be run: install onnxruntime, or TensorRT's Python package",
            file=sys.stderr,
        )
        return 3
    print("passed" + (f"; not checked: {', '.join(report.unchecked)}" if report.unchecked else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
