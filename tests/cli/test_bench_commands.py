"""`trainer bench` as it is typed. How fast anything is, is not asked here."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from tests.cli.conftest import until
from tests.conftest import ALONE
from trainer.cli import main
from trainer.performance._bench_loader import cpu_seconds
from trainer.performance._bench_train import limits
from trainer.performance._peers import peers

SMALL = ["--batch", "4", "--images", "8", "--rounds", "2"]
CONTENDERS = {"trainer", "trainer_again", "trainer_decoding", *peers()}


def test_bench_loader_compares_with_one_other_and_with_smaller_photos(photos, capsys):
    sizes = ["--shorter-side", "32", "--shorter-side", "24"]
    assert main(["bench", "loader", str(photos), *SMALL, "--only", "torchvision", *sizes, "--json"]) == 0

    figures = json.loads(capsys.readouterr().out)
    smaller = {"trainer_max_side_24", "trainer_max_side_32"}
    assert set(figures["turns"]) == {"trainer", "torchvision", *smaller}


def test_bench_loader_counts_the_processor_time_of_children():
    """torchvision's loader works in processes of its own: what they use is no gift."""
    burn = "import time\nend = time.process_time() + 1\nwhile time.process_time() < end: pass\ninput()"
    before = cpu_seconds()
    child = subprocess.Popen(["sh", "-c", f"{sys.executable} -c '{burn}'; true"], stdin=subprocess.PIPE)
    try:
        until(lambda: cpu_seconds() - before > 0.9, seconds=30)
    finally:
        child.communicate(b"\n")


def test_bench_train_tells_five_rates_where_a_step_goes_and_what_the_device_could(photos, tmp_path, capsys):
    trace = tmp_path / "traces" / "trace.json"
    arguments = [
        "bench",
        "train",
        "digits",
        "--data",
        str(photos),
        "--set",
        "global_batch=4",
        "--profile",
        str(trace),
    ]
    assert main([*arguments, "--steps", "2", "--rounds", "2", "--device", "cpu", "--json"]) == 0

    figures = json.loads(capsys.readouterr().out)
    assert figures["images_per_second"].keys() == {"synthetic", "real", "loader", "plain", "validation"}
    assert all(len(turns) == 2 and min(turns) > 0 for turns in figures["turns"].values())
    assert figures["step_ms"].keys() == {"data", "forward", "backward", "count", "optimizer"}
    step = figures["batch"] / figures["images_per_second"]["real"]
    assert 0.1 * step < sum(figures["step_ms"].values()) / 1000 < 10 * step  # seconds, not milliseconds
    assert 0 < figures["validation_share"] < 1
    assert 0 < figures["flops_share"] < 1
    assert 0 < figures["bandwidth_share"] < 1
    assert json.loads(trace.read_text())["traceEvents"]


def test_the_counted_arithmetic_of_resnet_50_is_the_published_one(tiny):
    """4.089 GMAC forward (torchvision's metadata); three times that, but for the gradient of the pixels."""
    recipe = replace(tiny, images=replace(tiny.preprocess, train_size=224, val_size=224, val_resize=256))

    assert limits(recipe, ALONE, 1.0)["gflop_per_image"] == pytest.approx(2 * (3 * 4.089 - 0.118), rel=0.005)


def test_bench_loop_compares_training_with_its_bare_steps(photos, capsys):
    arguments = ["--data", str(photos), "--set", "global_batch=4", "--set", "batch_per_gpu=4"]
    # More steps than an epoch of the photos has.
    assert main(["bench", "loop", "digits", *arguments, "--steps", "3", "--rounds", "4", "--json"]) == 0

    figures = json.loads(capsys.readouterr().out)
    in_loop, in_bare = figures["seconds"]["loop"], figures["seconds"]["bare"]
    assert len(in_loop) == len(in_bare) == 4
    assert figures["loop_to_bare"] == pytest.approx(sum(in_bare) / sum(in_loop))
    low, high = figures["loop_to_bare_95"]
    assert low <= figures["loop_to_bare"] <= high


def test_bench_loader_measures_each_contender_in_every_round(photos, capsys):
    assert main(["bench", "loader", str(photos), *SMALL, "--json", "--cold"]) == 0
    figures = json.loads(capsys.readouterr().out)

    assert set(figures["turns"]) == CONTENDERS
    assert set(figures["ours_to"]) == CONTENDERS - {"trainer"}
    assert (figures["images"], figures["images_each_turn"], figures["cold"]) == (8, 8, True)
    for measure in ("images_per_second", "images_per_cpu_second"):
        assert set(figures[measure]) == CONTENDERS
        for turns in figures["turns"].values():
            assert len(turns[measure]) == 2
            assert min(turns[measure]) > 0
        assert all(ratio[measure] > 0 for ratio in figures["ours_to"].values())


def test_bench_loader_makes_its_own_photos_and_a_table(tmp_path, capsys):
    only = ["--only", "dali_reader"]
    assert main(["bench", "loader", "--sample", "6", "--scratch", str(tmp_path), *SMALL, *only]) == 0
    title, *rows = capsys.readouterr().out.strip().splitlines()

    assert title.startswith("6 images, batches of 4")
    assert [row.split()[0] for row in rows] == ["trainer", "dali_reader"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "there is no data folder nowhere"),
        (["."], "holds no data set"),
        (["--sample", "4", "--only", "tensorflow"], "there are trainer_again, trainer_decoding, dali_reader"),
        (["--sample", "4", "--batch", "8"], "global_batch=8 is larger than the 4 training images"),
    ],
)
def test_bench_loader_says_what_is_wrong_with_its_input(tmp_path, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(tmp_path)

    assert main(["bench", "loader", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("trainer: ")
    assert err.count("\n") == 1, err
    assert says in err


@pytest.mark.parametrize("arguments", [[], ["data", "--sample", "4"]])
def test_bench_loader_wants_either_a_folder_or_a_number(arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "loader", *arguments])

    assert stopped.value.code == 2
