"""Counting how often a network is right: for all images, for each class, in one process and in two."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
import torch

from tests.conftest import ALONE
from trainer.config import Recipe
from trainer.dataloader import Batch, ValLoader
from trainer.dataset import Dataset
from trainer.distributed import World
from trainer.errors import Stopped
from trainer.preprocess import MEAN, STD
from trainer.training import Accuracy, evaluate, flip_tta, predict

CLASSES = 12


class Share(list[Batch]):
    """A process's batches; all processes together have `rounds` at most."""

    rounds = 4


@pytest.fixture(scope="module")
def answers() -> Batch:
    """Logits of 40 images, right more often in some classes than in others, and none of the last class."""
    random = torch.Generator().manual_seed(3)
    labels = torch.randint(CLASSES - 1, (40,), generator=random)
    logits = torch.randn(40, CLASSES, generator=random)
    logits[torch.arange(40), labels] += labels / 4
    return Batch(logits, labels)


def share(answers: Batch, rank: int = 0, size: int = 1, batch: int = 5) -> Share:
    logits, labels = answers.images[rank::size], answers.labels[rank::size]
    indices = torch.arange(len(answers.labels))[rank::size]
    return Share(
        Batch(logits[at : at + batch], labels[at : at + batch], None, indices[at : at + batch])
        for at in range(0, len(labels), batch)
    )


def by_hand(answers: Batch) -> list[list[int]]:
    """Images, right ones and those among the best five, of each class."""
    rows = [[0, 0, 0] for _ in range(CLASSES)]
    for logits, label in zip(answers.images.tolist(), answers.labels.tolist(), strict=True):
        better = sum(one > logits[label] for one in logits)
        rows[label][0] += 1
        rows[label][1] += better < 1
        rows[label][2] += better < 5
    return rows


def counts(accuracy: Accuracy) -> list[list[int]]:
    return [[one.num_images, one.top1_images, one.top5_images] for one in accuracy.per_class]


def test_each_class_is_counted_as_by_hand_and_together_they_are_all(answers: Batch) -> None:
    accuracy = evaluate(lambda logits: logits, share(answers, batch=10), ALONE, classes=CLASSES)
    of = accuracy.per_class

    assert counts(accuracy) == by_hand(answers)
    assert sum(one.num_images for one in of) == accuracy.num_images == 40
    assert sum(one.top1 * one.num_images for one in of if one.num_images) == pytest.approx(40 * accuracy.top1)
    assert sum(one.top5 * one.num_images for one in of if one.num_images) == pytest.approx(40 * accuracy.top5)
    assert 0 < accuracy.top1 < accuracy.top5 < 1
    assert (of[-1].num_images, math.isnan(of[-1].top1)) == (0, True)


def test_each_image_gets_its_own_logits_in_one_process_and_in_two(answers: Batch) -> None:
    for size in (1, 2):
        seen: dict[int, torch.Tensor] = {}
        for rank in range(size):
            world = World(rank, size, ALONE.device)
            for indices, logits, labels, _ in predict(lambda x: x, share(answers, rank, size, 10), world):
                assert torch.equal(labels, answers.labels[indices])
                seen |= dict(zip(indices.tolist(), logits, strict=True))

        assert seen.keys() == set(range(40))
        assert all(torch.equal(logits, answers.images[index]) for index, logits in seen.items())


def test_each_image_of_a_data_set_is_predicted_once_with_its_own_label(
    tiny: Recipe, dataset: Dataset
) -> None:
    """Nine images in batches of two: the first of two processes has a batch more than the second."""
    seen: dict[int, int] = {}
    for rank in range(2):
        world = World(rank, 2, ALONE.device)
        images = ValLoader(dataset.val, tiny.preprocess, world, batch=2)
        for indices, logits, labels, _ in predict(lambda x: x.mean(dim=(2, 3)), images, world):
            assert logits.shape == (len(indices), 3)
            assert logits.dtype == torch.float32
            seen |= dict(zip(indices.tolist(), labels.tolist(), strict=True))

    assert sorted(seen) == list(range(9))
    assert [seen[index] for index in range(9)] == dataset.val.labels.tolist()


def test_processes_with_unequal_shares_ask_equally_often_whether_to_stop(answers: Batch) -> None:
    """`stop` is a collective: a process that did not ask would leave the others waiting."""
    shares = [share(answers, rank, size=2) for rank in range(2)]
    shares[1].pop()
    asked = [0, 0]
    for rank in range(2):

        def stop(rank: int = rank) -> bool:
            asked[rank] += 1
            return False

        list(predict(lambda x: x, shares[rank], World(rank, 2, ALONE.device), stop=stop))

    assert asked == [4, 4]


def test_a_stop_ends_the_pass_before_the_next_batch(answers: Batch) -> None:
    asked = iter([False, False, True])
    predictions = predict(lambda x: x, share(answers, batch=10), ALONE, stop=lambda: next(asked))

    assert len([next(predictions), next(predictions)]) == 2
    with pytest.raises(Stopped, match="during an evaluation"):
        next(predictions)


def test_classes_are_not_counted_unless_they_are_asked_for(answers: Batch) -> None:
    assert evaluate(lambda logits: logits, share(answers, batch=10), ALONE).per_class == ()


@dataclass(frozen=True)
class Half(World):
    """One of two processes; what the other one has is there already."""

    others: tuple[torch.Tensor, ...] = ()
    mine: list[torch.Tensor] = field(default_factory=list)

    def all_reduce_sum(self, values: torch.Tensor) -> torch.Tensor:
        self.mine.append(values.clone())
        return values + self.others[len(self.mine) - 1] if self.others else values


def test_two_processes_count_what_one_does(answers: Batch) -> None:
    shares = [share(answers, rank, size=2) for rank in range(2)]
    shares[1].pop()  # one has a batch less
    second = Half(1, 2, ALONE.device)
    evaluate(lambda logits: logits, shares[1], second, classes=CLASSES)
    first = Half(0, 2, ALONE.device, others=tuple(second.mine))
    together = evaluate(lambda logits: logits, shares[0], first, classes=CLASSES)

    batches = [*shares[0], *shares[1]]
    seen = Batch(torch.cat([one.images for one in batches]), torch.cat([one.labels for one in batches]))
    assert together.num_images == 35
    assert counts(together) == by_hand(seen)


class Photos(Share):
    """A process's share of four photos, of which three are red, green and white."""

    num_images = 4

    @classmethod
    def of(cls, rank: int, size: int) -> Photos:
        pixels = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 0]])
        images = ((pixels - torch.tensor(MEAN)) / torch.tensor(STD))[:, :, None, None].expand(4, 3, 6, 6)
        labels, indices = torch.tensor([0, 1, 2, 0]), torch.arange(4)
        mine = slice(rank, None, size)
        return cls([Batch(images[mine], labels[mine], None, indices[mine])])


def classify(images: torch.Tensor) -> torch.Tensor:
    """Seven logits: how red, green and blue it is, and four that are always the same."""
    return torch.cat([3 * images.mean(dim=(2, 3)), torch.arange(4.0).expand(len(images), 4)], dim=1)


def test_of_each_image_is_kept_what_was_answered_and_how_bright_it_is() -> None:
    images = Photos.of(0, 1)
    accuracy = evaluate(classify, images, ALONE, keep=7)
    kept, shares = accuracy.predictions, classify(images[0].images).softmax(dim=1)

    assert kept.labels.tolist() == [0, 1, 2, 0]
    assert kept.right.mean() == accuracy.top1
    assert kept.loss.mean() == pytest.approx(accuracy.loss, rel=1e-5)
    assert kept.classes.shape == (4, 5)
    assert kept.classes[:, 0].tolist() == shares.argmax(dim=1).tolist()
    assert kept.probabilities[1].tolist() == pytest.approx(shares[1].topk(5).values.tolist(), rel=1e-5)
    assert kept.label_probability.tolist() == pytest.approx(shares[range(4), kept.labels].tolist(), rel=1e-5)
    assert kept.brightness.tolist() == pytest.approx([0.299, 0.587, 1, 0], abs=1e-6)


def test_two_processes_keep_what_one_does() -> None:
    second = Half(1, 2, ALONE.device)
    evaluate(classify, Photos.of(1, 2), second, keep=7)
    first = Half(0, 2, ALONE.device, others=tuple(second.mine))
    together = evaluate(classify, Photos.of(0, 2), first, keep=7).predictions
    alone = evaluate(classify, Photos.of(0, 1), ALONE, keep=7).predictions

    for name, values in vars(together).items():
        assert values.ravel().tolist() == pytest.approx(vars(alone)[name].ravel().tolist()), name


def test_of_fewer_than_five_classes_all_are_kept() -> None:
    kept = evaluate(lambda images: images.mean(dim=(2, 3)), Photos.of(0, 1), ALONE, keep=3).predictions

    assert kept.classes.shape == (4, 3)
    assert kept.probabilities.sum(axis=1).tolist() == pytest.approx([1] * 4)


def test_a_mirrored_network_answers_the_mean_for_an_image_and_its_mirror_image() -> None:
    def leftmost(images: torch.Tensor) -> torch.Tensor:  # what the left column of pixels says
        return images[:, :, :, 0].sum(dim=2)

    images = torch.zeros(1, 3, 2, 4)
    images[0, 0, :, 0] = 1.0  # on the left
    images[0, 1, :, -1] = 3.0  # on the right

    assert leftmost(images).tolist() == [[2, 0, 0]]
    assert flip_tta(leftmost)(images).tolist() == [[1, 3, 0]]
