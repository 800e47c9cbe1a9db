"""The moving average of the weights."""

from __future__ import annotations

from dataclasses import replace

import torch

from tests.training.steps import Small
from trainer.config import Phase, Recipe
from trainer.training._ema import EMA


def test_the_ema_follows_the_weights_by_its_decay(tiny: Recipe) -> None:
    torch.manual_seed(0)
    model = Small()
    ema = EMA(model, replace(tiny, ema_decay=0.75, ema_steps=2), steps_per_epoch=2)
    seen = []
    for step in range(1, 7):
        with torch.no_grad():
            model.classifier.weight.normal_()
            model.norm.running_mean.normal_()
        ema.update(step)
        seen.append([model.classifier.weight.detach().clone(), model.norm.running_mean.clone()])
    for which, averaged in enumerate((ema.module.classifier.weight, ema.module.norm.running_mean)):
        second, fourth, sixth = (seen[at][which] for at in (1, 3, 5))
        torch.testing.assert_close(averaged, 0.75 * (0.75 * second + 0.25 * fourth) + 0.25 * sixth)

    assert EMA(model, tiny, steps_per_epoch=2).module is model


def test_before_its_first_update_the_ema_is_the_network_itself(tiny: Recipe) -> None:
    """What was never averaged is the network of the start: it must be neither measured nor saved."""
    model = Small()
    ema = EMA(model, replace(tiny, ema_decay=0.9, ema_steps=3), steps_per_epoch=2)
    torch.nn.init.ones_(model.classifier.weight)
    ema.update(2)

    assert ema.module is model
    assert ema.state_dict()["weights"]["classifier.weight"].eq(1).all()

    again = EMA(Small(), replace(tiny, ema_decay=0.9, ema_steps=3), steps_per_epoch=2)
    again.load_state_dict(ema.state_dict())
    assert again.state_dict()["updates"] == 0, "the first update still takes the weights as they are"
    ema.update(3)
    assert ema.module is not model


def test_a_phase_averages_by_its_own_decay_anew_or_not_at_all(tiny: Recipe) -> None:
    """Epochs of one step: as it is, 0.5, 0.75, as it is, 0.25."""
    decays = ((0.2, 0.5), (0.4, 0.75), (0.6, 0.0), (0.8, 0.25))
    phases = tuple(Phase(at=at, ema_decay=decay) for at, decay in decays)
    model = Small()
    recipe = replace(tiny, epochs=6, phases=phases)
    ema = EMA(model, recipe, steps_per_epoch=1)
    measured = []
    for step in range(1, 7):
        torch.nn.init.constant_(model.classifier.bias, 2.0**step)
        ema.update(step)
        if step == 4:  # taken up from a checkpoint
            saved, ema = ema.state_dict(), EMA(model, recipe, steps_per_epoch=1)
            ema.load_state_dict(saved)
        measured.append(ema.module.classifier.bias[0].item())

    assert [recipe.at(epoch).ema_decay for epoch in range(6)] == [0, 0, 0.5, 0.75, 0, 0.25]
    assert measured == [2, 4, 8, 0.75 * 8 + 0.25 * 16, 32, 64]
