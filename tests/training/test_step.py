"""One optimizer step."""

import shutil
import time
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from tests.conftest import ALONE
from trainer.config import Optimizer
from trainer.data import Batch
from trainer.errors import ConfigError, TrainingDiverged
from trainer.model import build
from trainer.training import Meter, Step, choose_precision, make_loss, make_optimizer, parameter_groups
from trainer.training._average import Average
from trainer.training._step import start_rare


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


def trained(recipe, given, steps, rate=0.1):
    torch.manual_seed(0)
    model = Small()
    optimizer = make_optimizer(model, recipe, ALONE)
    step, meter = Step(model, optimizer, recipe, ALONE), Meter(ALONE)
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
        [{"params": decayed, "weight_decay": 1e-4}, {"params": rest, "weight_decay": 0}], lr=0.1, momentum=0.9
    )
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
        [{"params": decayed, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0}], lr=0.01, betas=(0.8, 0.999)
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
    average = Average(model, replace(tiny, ema_decay=0.75, ema_steps=2))
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

    assert Average(model, tiny).module is model


def test_a_classifier_can_start_with_the_odds_of_one_in_as_many_as_there_are():
    model = build("resnet18", 1000)
    start_rare(model)

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


def test_graphs_and_accumulation_are_refused_together(tiny):
    with pytest.raises(ConfigError, match="cannot accumulate the gradients of 2 micro-batches"):
        trained(replace(tiny, speed="graphs", batch_per_gpu=4), batches(1), 1)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on the CPU")
def test_a_compiled_network_takes_the_same_steps(tiny):
    given = batches(5)
    eager, _ = trained(tiny, given, 5)
    compiled, _ = trained(replace(tiny, speed="compile"), given, 5)

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
