"""One optimizer step."""

import shutil
import time
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from tests.conftest import ALONE
from trainer.config import Optimizer
from trainer.dataloader import Batch
from trainer.distributed import World
from trainer.errors import ConfigError, TrainingDiverged
from trainer.model import build
from trainer.training import Meter, Step, choose_precision, make_loss, make_optimizer, parameter_groups
from trainer.training._ema import EMA
from trainer.training._loss_scale import LossScaleMonitor
from trainer.training._step import LossScaler, init_classifier_prior


class Small(torch.nn.Module):
    """A convolution and a classifier: enough to have decayed and undecayed parameters."""

    def __init__(self):
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 4, 3)
        self.norm = torch.nn.BatchNorm2d(4)
        self.classifier = torch.nn.Linear(4, 3)

    def forward(self, images):
        return self.classifier(self.norm(self.convolution(images)).mean(dim=(2, 3)))


def batches(count, size=8):
    torch.manual_seed(1)
    return [Batch(torch.randn(size, 3, 8, 8), torch.randint(3, (size,))) for _ in range(count)]


def trained(recipe, given, steps, rate=0.1, world=ALONE):
    torch.manual_seed(0)
    model = Small()
    optimizer = make_optimizer(model, recipe)
    step, meter = Step(model, optimizer, recipe, world), Meter(world)
    step.warm_up([8], 8)
    source = iter(given)
    for _ in range(steps):
        step(source, rate, meter)
        meter.stepped()
    return model, meter


def test_fifty_steps_are_those_of_a_plain_pytorch_loop(tiny):
    given = batches(50)
    ours, _ = trained(tiny, given, 50)

    torch.manual_seed(0)
    plain = Small()
    decayed = [plain.convolution.weight, plain.classifier.weight]
    rest = [plain.convolution.bias, plain.norm.weight, plain.norm.bias, plain.classifier.bias]
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": 1e-4}, {"params": rest, "weight_decay": 0}],
        lr=0.1, momentum=0.9, fused=True,
    )  # fmt: skip
    for images, labels, _ in given:
        optimizer.zero_grad()
        F.cross_entropy(plain(images), labels).backward()
        optimizer.step()

    torch.testing.assert_close(ours.state_dict(), plain.state_dict(), rtol=1e-6, atol=1e-7)


def test_fifty_clipped_steps_of_adamw_are_those_of_a_plain_pytorch_loop(tiny):
    given = batches(50)
    settings = Optimizer(kind="adamw", momentum=0.8, weight_decay=0.05, clip_norm=0.1)
    ours, _ = trained(replace(tiny, optimizer=settings), given, 50, rate=0.01)

    torch.manual_seed(0)
    plain = Small()
    decayed = [plain.convolution.weight, plain.classifier.weight]
    rest = [plain.convolution.bias, plain.norm.weight, plain.norm.bias, plain.classifier.bias]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0}],
        lr=0.01, betas=(0.8, 0.999), fused=True,
    )  # fmt: skip
    longest = 0
    for images, labels, _ in given:
        optimizer.zero_grad()
        F.cross_entropy(plain(images), labels).backward()
        longest = max(longest, torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.1))
        optimizer.step()

    assert longest > 0.1, "otherwise there was nothing to clip"
    torch.testing.assert_close(ours.state_dict(), plain.state_dict(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_cross_entropy_asks_for_each_class_whether_it_is_there(tiny, smoothing):
    loss = make_loss(replace(tiny, loss="binary_cross_entropy", label_smoothing=smoothing))
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    wanted = torch.eye(3)[labels] * (1 - smoothing) + smoothing / 3
    there = logits.sigmoid()
    expected = -(wanted * there.log() + (1 - wanted) * (1 - there).log()).sum(dim=1).mean()

    torch.testing.assert_close(loss(logits, labels), expected)
    torch.testing.assert_close(loss(logits, torch.eye(3)[labels]), expected)


def test_the_average_follows_the_weights_by_its_decay(tiny):
    torch.manual_seed(0)
    model = Small()
    average = EMA(model, replace(tiny, ema_decay=0.75, ema_steps=2))
    seen = []
    for step in range(1, 7):
        with torch.no_grad():
            model.classifier.weight.normal_()
            model.norm.running_mean.normal_()
        average.update(step)
        seen.append([model.classifier.weight.detach().clone(), model.norm.running_mean.clone()])
    for which, averaged in enumerate((average.module.classifier.weight, average.module.norm.running_mean)):
        second, fourth, sixth = (seen[at][which] for at in (1, 3, 5))
        torch.testing.assert_close(averaged, 0.75 * (0.75 * second + 0.25 * fourth) + 0.25 * sixth)

    assert EMA(model, tiny).module is model


def test_a_classifier_can_start_with_the_odds_of_one_in_as_many_as_there_are():
    model = build("resnet18", 1000)
    init_classifier_prior(model)

    assert model.fc.bias.sigmoid().mean().item() == pytest.approx(1 / 1001, rel=1e-4)


def test_accumulated_gradients_are_those_of_the_whole_batch(tiny):
    """Without BatchNorm, whose statistics are of a micro-batch by definition."""
    given = batches(4)
    halves = [Batch(*(part[at : at + 4] for part in batch[:2])) for batch in given for at in (0, 4)]

    class Normless(Small):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.Identity()

    globals()["Small"], kept = Normless, Small
    try:
        whole, _ = trained(tiny, given, 4)
        parts, meter = trained(replace(tiny, batch_per_gpu=4), halves, 4)
    finally:
        globals()["Small"] = kept

    torch.testing.assert_close(parts.state_dict(), whole.state_dict(), rtol=1e-5, atol=1e-6)
    assert meter.read(step=4, rate=0.1)["train/loss"] > 0


def test_batch_norm_and_biases_are_not_decayed():
    model = build("resnet50", 10)
    decayed, rest = parameter_groups(model, Optimizer(weight_decay=0.5))
    names = {parameter: name for name, parameter in model.named_parameters()}

    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.5, 0.0)
    assert all(
        "conv" in names[p] or "downsample.0" in names[p] or "fc.weight" in names[p] for p in decayed["params"]
    )
    assert len(decayed["params"]) + len(rest["params"]) == len(names) == 161


def test_batch_norm_and_biases_are_decayed_when_the_recipe_says_so():
    decayed, rest = parameter_groups(Small(), Optimizer(decay_norm_and_bias=True))

    assert len(decayed["params"]) == 6
    assert rest["params"] == []


def test_the_meter_counts_what_was_learned(tiny):
    _, meter = trained(tiny, batches(3), 3)
    values = meter.read(step=3, rate=0.25)

    assert 0 < values["train/loss"] < 5
    assert values["train/top5"] == 1, "of three classes the right one is always among the best five"
    assert values["train/learning_rate"] == 0.25
    assert values["speed/images_per_second"] > 0
    assert 0 <= values["speed/data_wait_share"] < 1


def test_a_loss_that_is_no_number_stops_the_run_with_step_and_rate(tiny):
    given = [*batches(1), Batch(torch.full((8, 3, 8, 8), torch.nan), torch.zeros(8, dtype=torch.int64))]
    _, meter = trained(tiny, given, 2)

    with pytest.raises(TrainingDiverged, match=r"became nan by step 2 \(learning rate 0.1\)"):
        meter.read(step=2, rate=0.1)


def test_the_meter_tells_where_the_time_of_a_step_goes(tiny):
    class Slow(list):
        def __iter__(self):
            for batch in super().__iter__():
                time.sleep(0.05)
                yield batch

    _, meter = trained(tiny, Slow(batches(3)), 3)
    values = meter.read(step=3, rate=0.1)

    phases = {key.rpartition("/")[2]: value for key, value in values.items() if "step_ms" in key}
    assert phases.keys() == {"data", "forward", "backward", "count", "optimizer"}
    assert 50 < phases["data"] < 150  # ms, mean of a step
    assert min(phases.values()) > 0
    assert values["speed/data_wait_share"] > 0.2


class Overflowing(Small):
    """Has gradients that are infinite where an image is very bright; its loss stays a number."""

    def forward(self, images):
        answer = super().forward(images)
        if answer.requires_grad and images.max() > 100:
            answer.register_hook(lambda gradient: gradient * torch.inf)
        return answer


def in_fp16(recipe, given, meter=None, **scaling):
    """Steps on `given`, scaled as in fp16 on a GPU, with the weights before and after each."""
    torch.manual_seed(0)
    model, meter = Overflowing(), meter or Meter(ALONE)
    step = Step(model, make_optimizer(model, recipe), recipe, ALONE)
    step.scaler = torch.amp.GradScaler("cpu", **scaling)
    weights = [model.classifier.weight.detach().clone()]
    for batch in given:
        step(iter([batch]), 0.1, meter)
        meter.stepped()
        weights.append(model.classifier.weight.detach().clone())
    return weights, meter


def bright(batch):
    return Batch(batch.images + 1000, batch.labels)


def test_steps_that_fp16_skips_are_counted_for_each_reading(tiny):
    one, two, three, four = batches(4)
    given = [bright(one), two, bright(three), four, bright(one)]
    weights, meter = in_fp16(tiny, given, init_scale=1024.0, growth_interval=2)
    values = meter.read(step=5, rate=0.1)
    unchanged = [torch.equal(*pair) for pair in pairwise(weights)]

    assert unchanged == [True, False, True, False, True]
    assert (values["train/skipped_steps"], values["train/loss_scale"]) == (3, 1024 / 8)
    _, meter = in_fp16(tiny, [two, bright(one)], meter)
    assert meter.read(step=7, rate=0.1)["train/skipped_steps"] == 1, "of this interval"


@pytest.fixture
def unset_memory_is_nan():
    """What torch allocates and does not set is else 0 often enough to hide that it was used."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("unset_memory_is_nan")
def test_a_first_step_that_fp16_skips_leaves_no_momentum(tiny):
    one, two = batches(2)
    weights, _ = in_fp16(tiny, [bright(one), two], init_scale=1024.0)
    without, _ = in_fp16(tiny, [two], init_scale=512.0)

    torch.testing.assert_close(weights[-1], without[-1])


def test_a_run_without_scaling_goes_on_where_the_loss_is_scaled():
    """From an A10G in bf16 to a T4 in fp16, and back."""
    off, on = LossScaler("cpu", enabled=False), LossScaler("cpu", init_scale=8.0)
    on.load_state_dict(off.state_dict())
    assert on.get_scale() == 8.0

    off.load_state_dict(on.state_dict())
    assert off.get_scale() == 1.0


def test_a_step_that_is_skipped_as_the_scale_grows_again_is_not_missed(tiny):
    """The scale of the loss is the same before and after: it halves, and doubles with the next step."""
    one, two = batches(2)
    _, meter = in_fp16(tiny, [bright(one), two], init_scale=1024.0, growth_interval=1)
    values = meter.read(step=2, rate=0.1)

    assert (values["train/skipped_steps"], values["train/loss_scale"]) == (1, 1024)


def test_skipped_steps_are_not_lost_between_two_readings(tiny):
    one, two = batches(2)
    _, before = in_fp16(tiny, [bright(one)])
    after = Meter(ALONE)
    after.load_state_dict(before.state_dict())
    _, after = in_fp16(tiny, [bright(two), one], after)

    assert after.read(step=3, rate=0.1)["train/skipped_steps"] == 2


def test_without_a_scaled_loss_nothing_is_said_of_it(tiny):
    _, meter = trained(tiny, batches(1), 1)

    assert not {"train/skipped_steps", "train/loss_scale"} & meter.read(step=1, rate=0.1).keys()


def looked(*readings, every=50):
    """What is told about readings with so many skipped steps each."""
    told = []
    watch = LossScaleMonitor(told.append)
    for number, skipped in enumerate(readings, start=1):
        watch.look(number * every, {"train/skipped_steps": skipped, "train/loss_scale": 0.5})
    return told


@pytest.mark.parametrize(
    ("readings", "every"),
    [
        ((50, 50), 50),  # all of them; what was before the first reading is not known
        ((0, 26, 26, 26), 50),  # more than half in three readings
        ((0, *[1] * 10), 1),
    ],
)
def test_when_most_steps_are_skipped_it_is_said_once_with_what_to_do(readings, every):
    (said,) = looked(*readings, *readings, every=every)

    assert "steps were skipped" in said
    assert "(loss scale 0.5)" in said
    assert "lower optimizer.base_lr (--set), or with precision=bf16" in said


@pytest.mark.parametrize(
    ("readings", "every"),
    [
        ((50, 5, 0, 1), 50),  # while the scale is found
        ((0, 26, 26, 25, 26, 26), 50),
        ((0, 1, 1, 1, 1, 0, 1), 1),  # each reading a step
    ],
)
def test_few_skipped_steps_are_not_worth_a_word(readings, every):
    assert looked(*readings, every=every) == []


def test_graphs_and_accumulation_are_refused_together(tiny):
    with pytest.raises(ConfigError, match="cannot accumulate the gradients of 2 micro-batches"):
        trained(replace(tiny, speed="graphs", batch_per_gpu=4), batches(1), 1)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on the CPU")
@pytest.mark.parametrize("speed", ["compile", "graphs"])
def test_a_compiled_network_takes_the_same_steps(tiny, speed):
    given = batches(5)
    eager, _ = trained(tiny, given, 5)
    compiled, _ = trained(replace(tiny, speed=speed), given, 5)

    torch.testing.assert_close(compiled.state_dict(), eager.state_dict(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on the CPU")
def test_a_compiled_network_that_exchanges_gradients_takes_the_same_steps(tiny):
    """With a group of one, DistributedDataParallel does all that it does with more, and changes nothing."""
    given = batches(5)
    eager, _ = trained(tiny, given, 5)
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=torch.distributed.HashStore())
    try:
        of_two = replace(tiny, global_batch=2 * tiny.global_batch, speed="compile")
        compiled, _ = trained(of_two, given, 5, world=World(0, 2, torch.device("cpu")))
    finally:
        torch.distributed.destroy_process_group()

    torch.testing.assert_close(compiled.state_dict(), eager.state_dict(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("wanted", "capability", "gets"),
    [("bf16", (7, 5), "fp16"), ("bf16", (8, 6), "bf16"), ("fp16", (8, 6), "fp16"), ("fp32", (7, 5), "fp32")],
)
def test_a_t4_gets_fp16_where_an_a10g_gets_bf16(monkeypatch, wanted, capability, gets):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    precision = choose_precision(wanted, torch.device("cuda"))

    assert precision.name == gets
    assert precision.scaled == (gets == "fp16")


def test_a_cpu_never_gets_fp16():
    assert choose_precision("fp16", torch.device("cpu")).name in ("bf16", "fp32")
