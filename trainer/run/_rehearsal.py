"""A run's parts put together before it starts: whatever does not fit is found out in a second, not in the first step.

The network is run on shapes alone, on torch's meta device; one that needs numbers is run on the CPU.
"""

from __future__ import annotations

import dataclasses
import math

import torch

from trainer.config import Recipe
from trainer.dataloader import Batch, preprocessing
from trainer.distributed import World
from trainer.errors import ConfigError, TrainerError
from trainer.model import find
from trainer.run._plan import Plan
from trainer.run._samples import samples_of
from trainer.tracking import quiet
from trainer.training import learning_rate, make_loss, make_model, make_optimizer, mixed

CPU = torch.device("cpu")


def rehearse(plan: Plan, micro_batch: int) -> None:
    """Build schedule, optimizer and network, train a step of two images at most, and read the samples.

    Args:
        plan: of the run.
        micro_batch: images that each process trains at a time.

    Raises: ConfigError that names the setting; DataError for a sample that the bundle could not be checked with.
    """
    recipe, dataset = plan.recipe, plan.dataset
    with torch.random.fork_rng([]):
        _rehearse_schedule(recipe, recipe.steps_per_epoch(len(dataset.train)))
        _rehearse_network(recipe, len(dataset.classes), min(2, micro_batch))
    samples_of(dataset.val, preprocessing(recipe.preprocess))


def _rehearse_schedule(recipe: Recipe, steps_per_epoch: int) -> None:
    total, name = recipe.epochs * steps_per_epoch, recipe.schedule.name
    if recipe.uses_ema and recipe.ema_steps > total:
        raise ConfigError(
            f"ema_steps={recipe.ema_steps} is more than the {total} steps of the run, so that nothing would be "
            f"averaged; use --set ema_steps={min(total, 32)} or less, or ema_decay=0"
        )
    setting = "schedule.pct_start" if name == "onecycle" else "schedule.warmup_epochs"
    try:
        lr_at = learning_rate(recipe, steps_per_epoch=steps_per_epoch)
    except ValueError as error:
        raise ConfigError(
            f"schedule.name={name} does not fit: {error}; change {setting} or epochs, or use a smaller global_batch"
        ) from None
    if not all(math.isfinite(lr_at(step)) for step in (0, total - 1)) or not math.isfinite(recipe.peak_lr):
        raise ConfigError(f"optimizer.base_lr={recipe.optimizer.base_lr:g} makes no finite learning rate")
    try:
        make_optimizer(torch.nn.Linear(1, 1), recipe).step()
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"optimizer.name={recipe.optimizer.name} does not take its settings: {error}"
        ) from None


def _rehearse_network(recipe: Recipe, classes: int, images: int) -> None:
    try:
        find(recipe.model)
        try:
            network = _train(recipe, classes, images, torch.device("meta"))
        except Exception:  # as of a network of one's own that looks at its numbers
            network = _train(recipe, classes, images, CPU)
    except TrainerError:
        raise
    except Exception as error:  # whatever a network of one's own raises
        said = " ".join(str(error).split())[:200]
        cure = (
            "a process gets one image at a time, on which BatchNorm may have nothing to average: use a larger "
            "global_batch, --batch-per-gpu or preprocess.train_size"
            if images == 1
            else "change the setting that it names, such as preprocess.train_size or val_size, or the model"
        )
        raise ConfigError(
            f"model={recipe.model} cannot be trained as the recipe says ({type(error).__name__}: {said}); {cure}"
        ) from None
    if ":" in recipe.model:  # torchvision's families can be (16 were tried), and it takes them seconds
        _rehearse_registration(recipe, network)


def _rehearse_registration(recipe: Recipe, network: torch.nn.Module) -> None:
    """Make what is registered of a network of one's own: torch.export's graph of it."""
    device, size = next(network.parameters(), torch.empty(0)).device, recipe.preprocess.val_size
    try:
        with quiet():
            torch.export.export(
                network, (_zeros(2, size).to(device),), dynamic_shapes=({0: torch.export.Dim.AUTO},)
            )
    except Exception as error:  # of many kinds
        said = str(error).strip().partition("\n")[0][:200]
        raise ConfigError(
            f"model={recipe.model} can be trained but not registered: torch.export cannot follow it "
            f"({type(error).__name__}: {said}); let it compute without looking at the numbers of a batch"
        ) from None


def _train(recipe: Recipe, classes: int, images: int, device: torch.device) -> torch.nn.Module:
    """Passes of `images` images of the sizes that phases begin with and the largest, and a validation pass."""
    labels = torch.zeros(images, dtype=torch.int64)
    batches = mixed(
        iter([Batch(torch.zeros(images, 3, 8, 8), labels)]),
        recipe,
        classes,
        World(0, 1, CPU),
        accumulation_steps=1,
        steps_per_epoch=1,
        first_step=0,
    )
    (batch,) = batches
    targets = (labels if batch.targets is None else batch.targets).to(device)
    with device:
        network = make_model(dataclasses.replace(recipe, sync_batch_norm=False), classes, World(0, 1, device))
        loss = make_loss(recipe)
        network.train()
        sizes = {recipe.full_res, *map(recipe.train_size, recipe.in_force)}
        for size in sorted({min(sizes), max(sizes)}):
            logits = network(_zeros(images, size))
            if logits.shape != (images, classes):
                raise ValueError(f"answers {tuple(logits.shape)} to {images} images of {classes} classes")
            loss(logits, targets).backward()  # type: ignore[no-untyped-call]
        network.eval()
        with torch.inference_mode():
            network(_zeros(1, recipe.preprocess.val_size))
    return network


def _zeros(images: int, size: int) -> torch.Tensor:
    return torch.zeros(images, 3, size, size).to(memory_format=torch.channels_last)
