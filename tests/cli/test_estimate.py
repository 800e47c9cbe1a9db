"""`trainer estimate` as it is typed."""

import json

import pytest

from trainer.cli import main


def figures(capsys, *arguments):
    assert main(["estimate", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_published_run_is_estimated_from_its_own_speed(capsys):
    """60 epochs on 4 A10G at 317 images/s each took 20 hours and $32; 17 minutes an epoch are 19 of them."""
    at = ["--instance", "g5.12xlarge", "--images-per-second", "317", "--price", "1.6"]
    one = figures(capsys, "rn50-onecycle", *at)["g5.12xlarge"]

    assert one["images_per_second"] == 4 * 317
    assert one["binds"] == "GPU"
    assert one["hours"] == pytest.approx(60 * (1_281_167 + 50_000 / 3) / 1268 / 3600)
    assert 16 < one["hours"] < 20
    assert one["usd"] == pytest.approx(1.6 * one["hours"])
    assert one["measured"]


@pytest.mark.parametrize(
    ("more", "binds"),
    [
        (["--disk-mb", "20"], "disk throughput"),
        (["--disk-iops", "100"], "disk IOPS"),
        (["--images-per-second", "5000", "--disk-mb", "2000"], "CPU decode"),
        ([], "GPU"),
    ],
)
def test_the_smallest_of_four_limits_binds(capsys, more, binds):
    one = figures(capsys, "rn50-baseline", "--instance", "g4dn.xlarge", *more)["g4dn.xlarge"]

    assert one["binds"] == binds
    assert one["images_per_second"] == min(one["limits"].values())


def test_images_that_fit_into_memory_are_read_once(capsys):
    all_ = figures(capsys, "rn50-baseline")

    assert "disk throughput" in all_["g5.xlarge"]["limits"]
    assert "disk throughput" not in all_["g5.12xlarge"]["limits"]


def test_half_the_pixels_take_half_the_time_of_the_gpu(capsys):
    whole = figures(capsys, "rn50-baseline", "--instance", "g4dn.xlarge")["g4dn.xlarge"]
    half = figures(
        capsys, "rn50-baseline", "--instance", "g4dn.xlarge", "--set", "preprocess.train_size=158"
    )["g4dn.xlarge"]

    assert half["limits"]["GPU"] / whole["limits"]["GPU"] == pytest.approx((224 / 158) ** 2)


def test_crops_that_grow_count_by_their_pixels_epoch_for_epoch(capsys):
    short = figures(capsys, "rn50-65", "--instance", "g5.12xlarge")["g5.12xlarge"]
    whole = figures(capsys, "rn50-65", "--instance", "g5.12xlarge", "--set", "preprocess.min_res=192")[
        "g5.12xlarge"
    ]
    seconds = (12 * 160**2 + 4 * 192**2) / (16 * 192**2)

    assert whole["images_per_second"] / short["images_per_second"] == pytest.approx(seconds)
    validation = 16 * 50_000 / 3 * (256 / 192) ** 2
    assert short["hours"] / whole["hours"] == pytest.approx(
        (16 * 1_281_167 * seconds + validation) / (16 * 1_281_167 + validation)
    )


def test_a_data_set_of_ones_own_counts(capsys, photos):
    one = figures(capsys, "digits", "--instance", "g4dn.xlarge", "--data", str(photos))["g4dn.xlarge"]

    assert one["disk_gb"] < 0.001
    assert one["hours"] < 0.001


def test_the_table_says_that_it_predicts(capsys):
    assert main(["estimate", "rn50-baseline"]) == 0
    said = capsys.readouterr().out

    assert "rn50-baseline, 90 epochs at 224 px of ImageNet as published" in said
    assert "A prediction" in said
    assert all(name in said for name in ("g4dn.xlarge", "g5.12xlarge", "p5.48xlarge"))


def test_an_unknown_instance_names_the_known_ones(capsys):
    assert main(["estimate", "digits", "--instance", "g5.huge"]) == 2
    assert "--instance g5.huge is not known; known are g4dn.xlarge" in capsys.readouterr().err
