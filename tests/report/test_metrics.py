from __future__ import annotations

import numpy as np
import pytest

from tests.report.synthetic import answers, predictions_of
from trainer.report import _metrics


def certain(labels: list[int], given: list[int], classes: int = 3, confidence: float = 0.9) -> object:
    """Each image is answered with `given`, as sure as `confidence`."""
    rest = (1 - confidence) / (classes - 1)
    shares = np.full((len(labels), classes), rest)
    shares[np.arange(len(labels)), given] = confidence
    return predictions_of(np.log(shares), np.array(labels))


def test_each_class_has_precision_recall_f1_and_support_as_by_hand() -> None:
    found = _metrics.per_class(certain([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 0, 0]), 4)

    assert found.support.tolist() == [3, 2, 1, 0]
    assert found.predicted.tolist() == [4, 2, 0, 0]
    np.testing.assert_allclose(found.precision, [2 / 4, 1 / 2, np.nan, np.nan])
    np.testing.assert_allclose(found.recall, [2 / 3, 1 / 2, 0, np.nan], err_msg="no images, no recall of 0")
    np.testing.assert_allclose(found.f1, [4 / 7, 2 / 4, 0, np.nan])


def test_the_matrix_has_labels_as_rows_and_answers_as_columns() -> None:
    matrix = _metrics.confusion(certain([0, 0, 1, 2], [0, 2, 2, 2]), 3)

    assert matrix.tolist() == [[1, 0, 1], [0, 0, 1], [0, 0, 1]]


def test_a_confused_pair_counts_both_directions() -> None:
    predictions = certain([0, 1, 1, 2, 2, 0], [1, 0, 0, 1, 2, 0])

    assert _metrics.confused_pairs(predictions, 3) == [
        _metrics.Pair(0, 1, first_as_second=1, second_as_first=2),
        _metrics.Pair(1, 2, first_as_second=0, second_as_first=1),
    ]


def test_all_confusions_together_are_all_mistakes() -> None:
    predictions = answers(500, 20)
    pairs = _metrics.confused_pairs(predictions, 20)
    matrix = _metrics.confusion(predictions, 20)

    assert sum(pair.images for pair in pairs) == int((~predictions.right).sum()) > 0
    assert all(pair.first_as_second == matrix[pair.first, pair.second] for pair in pairs)
    assert [pair.images for pair in pairs] == sorted((pair.images for pair in pairs), reverse=True)


def test_a_network_that_is_right_as_often_as_it_is_sure_is_calibrated() -> None:
    as_sure = certain([0] * 9 + [1], [0] * 10, confidence=0.9)
    surer = certain([0] * 5 + [1] * 5, [0] * 10, confidence=0.9)

    assert _metrics.calibration_error(_metrics.reliability(as_sure)) == pytest.approx(0, abs=1e-9)
    assert _metrics.calibration_error(_metrics.reliability(surer)) == pytest.approx(0.4)


def test_every_image_is_in_one_bin_even_at_a_confidence_of_one() -> None:
    shares = predictions_of(np.array([[100.0, 0.0], [0.0, 0.0], [0.3, 0.0]]), np.array([0, 0, 0]))

    assert sum(one.images for one in _metrics.reliability(shares)) == 3


def test_labels_that_were_swapped_are_suspected_first() -> None:
    """Of 600 images 12 get another label than they have."""
    random = np.random.default_rng(1)
    true = np.arange(600) % 6
    logits = random.normal(size=(600, 6))
    logits[np.arange(600), true] += 5
    labels, swapped = true.copy(), random.choice(600, 12, replace=False)
    labels[swapped] = (true[swapped] + 1) % 6

    suspects, instead = _metrics.label_errors(predictions_of(logits, labels), 6)

    assert set(suspects[:11].tolist()) <= set(swapped.tolist())
    assert len(suspects) < 40
    assert (instead[:11] == true[suspects[:11]]).all()


def test_a_class_is_not_suspected_below_its_own_usual_probability() -> None:
    """The answer is another class, but no surer than its own images are never."""
    logits = np.log(np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.1, 0.9]]))
    suspects, _ = _metrics.label_errors(predictions_of(logits, np.array([0, 0, 0, 1])), 2)

    assert suspects.tolist() == []


def test_dark_images_that_are_answered_worse_show() -> None:
    labels = np.zeros(1000, int)
    dark = np.arange(1000) < 100
    shares = np.where(dark[:, None], [[0.2, 0.8]], [[0.8, 0.2]])
    brightness = np.linspace(0, 1, 1000)
    slices = _metrics.slices(predictions_of(np.log(shares), labels, brightness), None)

    assert [one.of for one in slices] == ["brightness"] * 5
    assert slices[0].top1 == 0
    assert slices[0].high < 0.1
    assert all(one.top1 == 1 and one.low > 0.9 for one in slices[1:])
    assert sum(one.images for one in slices) == 1000


def test_sizes_and_shapes_are_sliced_where_they_differ() -> None:
    sizes = np.array([[100 + at, 80] if at % 2 else [60, 200] for at in range(200)])
    slices = _metrics.slices(answers(200, 4), sizes)

    assert {one.of for one in slices} == {"shorter side", "width / height", "brightness"}
    assert sum(one.images for one in slices if one.of == "shorter side") == 200
    alike = _metrics.slices(answers(200, 4), np.full((200, 2), 32))
    assert {one.of for one in alike} == {"brightness"}, "nothing to compare where all are alike"


def test_the_surest_mistakes_and_the_least_sure_hits_come_first() -> None:
    predictions = answers(300, 10)
    wrong = _metrics.most_confident_wrong(predictions, 1000)
    unsure = _metrics.least_confident_right(predictions, 5)

    assert len(wrong) == int((~predictions.right).sum())
    assert (np.diff(predictions.probabilities[wrong, 0]) <= 0).all()
    assert predictions.right[unsure].all()
    assert (
        predictions.probabilities[unsure, 0].max()
        <= np.sort(predictions.probabilities[predictions.right, 0])[4]
    )
