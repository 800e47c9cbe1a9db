"""`trainer bench` as it is typed. How fast anything is, is not asked here."""

import json

import pytest

from trainer.cli import main

SMALL = ["--batch", "4", "--images", "8", "--rounds", "2"]
CONTENDERS = {"trainer", "trainer_again", "dali_reader"}


@pytest.mark.parametrize("more", [[], ["--cold"]])
def test_bench_loader_measures_each_contender_in_every_round(photos, capsys, more):
    assert main(["bench", "loader", str(photos), *SMALL, "--json", *more]) == 0
    figures = json.loads(capsys.readouterr().out)

    assert set(figures["turns"]) == CONTENDERS
    assert set(figures["ours_to"]) == CONTENDERS - {"trainer"}
    assert (figures["images"], figures["images_each_turn"], figures["cold"]) == (8, 8, bool(more))
    for measure in ("images_per_second", "images_per_cpu_second"):
        assert set(figures[measure]) == CONTENDERS
        for turns in figures["turns"].values():
            assert len(turns[measure]) == 2
            assert min(turns[measure]) > 0
        assert all(ratio[measure] > 0 for ratio in figures["ours_to"].values())


def test_bench_loader_makes_its_own_photos_and_a_table(tmp_path, capsys):
    assert main(["bench", "loader", "--sample", "6", "--scratch", str(tmp_path), *SMALL]) == 0
    title, *rows = capsys.readouterr().out.strip().splitlines()

    assert title.startswith("6 images, batches of 4")
    assert [row.split()[0] for row in rows] == ["trainer", "trainer_again", "dali_reader"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "there is no data folder nowhere"),
        (["."], "holds no data set"),
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
