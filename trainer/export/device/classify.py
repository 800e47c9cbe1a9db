#!/usr/bin/env python3
"""Say what is on a photo, or what a camera sees, by the network of this folder.

    python3 classify.py PHOTO...                     photos, for which Pillow is needed
    python3 classify.py --camera csi                 the camera at a Jetson's CSI connector; csi:1 is the second
    python3 classify.py --camera 0                   /dev/video0; OpenCV is needed for cameras
    python3 classify.py --camera rtsp://HOST/PATH    whatever OpenCV opens, a file of a film as well

Needs what verify.py needs, which lies beside it. The network is the newest engine of this TensorRT, or model.onnx.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, Iterator

sys.dont_write_bytecode = True  # the folder stays as it was sealed
from verify import HERE, Missing, Wrong, networks_of, open_network, read_labels, to_input  # noqa: E402
from verify import normalised as to_normalised  # noqa: E402

# Full HD of the sensor, made into what OpenCV takes by the Jetson's own hardware; the newest frame only.
CSI = (
    "nvarguscamerasrc sensor-id={sensor} ! video/x-raw(memory:NVMM), width=1920, height=1080, framerate=30/1 ! "
    "nvvidconv ! video/x-raw, format=BGRx ! videoconvert ! video/x-raw, format=BGR ! appsink drop=1 max-buffers=1"
)


def main() -> int:
    """Classify what the command line names. Returns: the exit code."""
    parser = argparse.ArgumentParser(description="Say what is on a photo, or what a camera sees.")
    parser.add_argument("photos", nargs="*", type=Path, metavar="PHOTO")
    parser.add_argument(
        "--camera", metavar="CAMERA", help="csi, csi:N, a number of /dev/video, an address or a film"
    )
    parser.add_argument(
        "--frames", type=int, metavar="N", help="stop after as many of the camera; default: go on"
    )
    parser.add_argument(
        "--network", type=Path, metavar="FILE", help="*.onnx or *.plan; default: the newest engine"
    )
    parser.add_argument("--top", type=int, default=5, metavar="N", help="classes to name (default 5)")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each image")
    given = parser.parse_args()
    if bool(given.photos) == bool(given.camera):
        parser.error("name photos or --camera")
    if given.top < 1 or (given.frames is not None and given.frames < 1):
        parser.error("--top and --frames are at least 1")

    try:
        labels = read_labels(HERE)
        preprocess = json.loads(
            (HERE / "preprocess.json").read_text(encoding="utf-8", errors="surrogateescape")
        )
        path, network = _network(given.network)
        print(f"{path.name}, {len(labels)} classes", file=sys.stderr)
        images = (
            _frames(given.camera, given.frames, preprocess)
            if given.camera
            else _photos(given.photos, preprocess)
        )
        failed = False
        for name, image, wrong in images:
            if wrong:
                print(f"classify: {name}: {wrong}", file=sys.stderr)
                failed = True
                continue
            start = time.perf_counter()
            answers = network(image[None])[0]
            _show(name, answers, labels, 1e3 * (time.perf_counter() - start), given)
        return int(failed)
    except Missing as error:
        print(f"classify: {error}", file=sys.stderr)
        return 3
    except (Wrong, OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        print(f"classify: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _network(asked: Path | None) -> tuple[Path, Any]:
    """The network asked for; or the first that runs here. Raises: Missing, Wrong."""
    if asked is not None:
        return asked, open_network(asked)
    engines = [path for path in networks_of(HERE) if path.suffix == ".plan"]
    for path in engines:
        try:
            return path, open_network(path)
        except (Missing, Wrong) as error:
            print(f"classify: {path.name} is left out: {error}", file=sys.stderr)
    return HERE / "model.onnx", open_network(HERE / "model.onnx")


def _photos(paths: list[Path], preprocess: dict[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Name and input of each photo, or what is wrong with it."""
    for path in paths:
        if path.exists() and not path.is_file():  # a pipe or a device may never end
            yield str(path), None, "it is no file"
            continue
        try:
            yield str(path), to_input(path.read_bytes(), preprocess), ""
        except ImportError:
            raise Missing("Pillow is missing: pip install pillow") from None
        except Exception as error:  # Pillow's have no common base, such as that of a bomb
            yield str(path), None, str(error)


def _frames(camera: str, count: int | None, preprocess: dict[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Name and input of each frame of a camera, until it ends."""
    try:
        import cv2
        from PIL import Image
    except ImportError as error:
        raise Missing(f"{error.name} is missing: sudo apt-get install python3-opencv python3-pil") from None
    kind, _, number = camera.partition(":")
    if kind == "csi" and (number.isdigit() or camera == "csi"):
        capture = cv2.VideoCapture(CSI.format(sensor=number or 0), cv2.CAP_GSTREAMER)
    else:
        capture = cv2.VideoCapture(int(camera) if camera.isdigit() else camera)
    if not capture.isOpened():
        raise Wrong(
            f"camera {camera} cannot be opened; is it connected, and is this user in the group video?"
        )
    try:
        index = 0
        while count is None or index < count:
            there, frame = capture.read()
            if not there:
                if not index:
                    raise Wrong(f"camera {camera} gives no picture")
                return
            rgb = Image.fromarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
            yield f"frame {index}", to_normalised(rgb, preprocess), ""
            index += 1
    finally:
        capture.release()


def _show(name: str, answers: Any, labels: list[str], milliseconds: float, given: argparse.Namespace) -> None:
    """Print the most likely classes."""
    best = [(labels[i], float(answers[i])) for i in answers.argsort()[::-1][: given.top]]
    if given.json:
        top = [{"class": label, "probability": share} for label, share in best]
        print(json.dumps({"image": name, "top": top, "milliseconds": round(milliseconds, 3)}), flush=True)
        return
    words = ", ".join(f"{label} {share:.1%}" for label, share in best)
    # A label may hold what a terminal cannot show.
    line = f"{name}: {words}  ({milliseconds:.1f} ms)"
    print(line.encode("utf-8", "replace").decode("utf-8"), flush=True)


if __name__ == "__main__":
    sys.exit(main())
