"""What a network is made of and what an image costs in it, found out without computing anything."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from trainer.errors import ConfigError
from trainer.model._build import build

CONTAINERS = (torch.nn.Sequential, torch.nn.ModuleList, torch.nn.ModuleDict)
MOST = 0.5  # share of all parameters; a part that holds more is shown by its own parts
REST = "(elsewhere)"


@dataclass(frozen=True)
class Layer:
    """A row of a summary: a layer, or a block of some."""

    name: str  # as in the state_dict
    kind: str  # its class
    output: tuple[int, ...] | None  # shape for one image; None: it was not called, or answers no tensor
    parameters: int
    macs: int  # multiply-adds for one image


@dataclass(frozen=True)
class Summary:
    """A network's layers in order, and their sums."""

    size: int  # pixels; the image is square
    layers: tuple[Layer, ...]

    @property
    def parameters(self) -> int:
        """Numbers that are learned."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-adds of convolutions and matrix products for one image, forward; FLOPs are twice that."""
        return sum(layer.macs for layer in self.layers)

    def line(self) -> str:
        """All of it in some words."""
        giga, mega = self.macs / 1e9, self.macs / 1e6
        macs = f"{giga:.2f} GMAC" if giga >= 1 else f"{mega:.2f} MMAC"
        return f"{self.parameters:,} parameters, {macs} an image at {self.size} px"

    def table(self) -> str:
        """A line for each layer, and the sums."""
        rows = [("layer", "kind", "output", "parameters", "MMAC")]
        for layer in self.layers:
            shape = " x ".join(map(str, layer.output)) if layer.output is not None else "-"
            rows.append((layer.name, layer.kind, shape, f"{layer.parameters:,}", _mega(layer.macs)))
        rows.append((f"all, {self.size} px", "", "", f"{self.parameters:,}", _mega(self.macs)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "".join(
            "  ".join(f"{cell:{'<' if at < 3 else '>'}{widths[at]}}" for at, cell in enumerate(row)) + "\n"
            for row in rows
        )

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {
            "size": self.size,
            "parameters": self.parameters,
            "macs": self.macs,
            "layers": [asdict(layer) for layer in self.layers],
        }


def summary(model: torch.nn.Module, size: int) -> Summary:
    """Layers of `model` with their output, parameters and multiply-adds for one image of `size` pixels.

    Nothing is computed, for fake tensors have shapes only; a network that looks at its numbers is run on the
    CPU. A block is a row; a Sequential is shown by its parts, as is what holds most of the parameters.

    Raises: ConfigError if the network cannot take such an image.
    Source: torch.utils.flop_counter, whose FLOPs are twice the multiply-adds.
    """
    first = next(model.parameters(), torch.empty(0))
    if first.is_meta:
        return _measured(model, size, first.device, nullcontext())
    try:
        return _measured(model, size, first.device, FakeTensorMode(allow_non_fake_inputs=True))
    except ConfigError:
        return _measured(copy.deepcopy(model).cpu(), size, torch.device("cpu"), nullcontext())


def summary_of(architecture: str, classes: int, size: int) -> Summary:
    """As `summary`, of a network that needs no memory where it can be built without; see `build`."""
    try:
        with torch.device("meta"):
            model = build(architecture, classes)
        return summary(model, size)
    except Exception:  # whatever a network of one's own does that wants real numbers
        return summary(build(architecture, classes), size)


def _measured(
    model: torch.nn.Module, size: int, device: torch.device, mode: AbstractContextManager[Any]
) -> Summary:
    parts = dict(_parts(model, sum(p.numel() for p in model.parameters())))
    outputs: dict[str, tuple[int, ...]] = {}
    macs = dict.fromkeys(parts, 0)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(_evaluating(model))
        stack.enter_context(mode)
        counter = stack.enter_context(FlopCounterMode(display=False))

        def watch(name: str, part: torch.nn.Module) -> None:
            before: list[int] = []

            def enter(*_: Any) -> None:
                before.append(counter.get_total_flops())

            def leave(_: Any, __: Any, output: Any) -> None:
                macs[name] += (counter.get_total_flops() - before.pop()) // 2
                answer = output[0] if isinstance(output, tuple | list) and output else output
                if isinstance(answer, torch.Tensor):
                    outputs[name] = tuple(answer.shape[1:])

            stack.callback(part.register_forward_pre_hook(enter).remove)
            stack.callback(part.register_forward_hook(leave).remove)

        for name, part in parts.items():
            watch(name, part)
        try:
            model(torch.zeros(1, 3, size, size, device=device))
        except Exception as error:
            said = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"the network cannot take an image of {size} x {size} pixels ({type(error).__name__}: {said}); "
                "it must turn (N, 3, H, W) images into (N, classes) logits"
            ) from None
        total = counter.get_total_flops() // 2
    counted: set[int] = set()  # a parameter that two layers share counts once
    layers = [
        Layer(name, type(part).__name__, outputs.get(name), _new_parameters(part, counted), macs[name])
        for name, part in parts.items()
    ]
    rest = Layer(
        REST, type(model).__name__, None, _new_parameters(model, counted), total - sum(macs.values())
    )
    return Summary(size, (*layers, rest) if rest.parameters or rest.macs else tuple(layers))


def _parts(module: torch.nn.Module, whole: int, prefix: str = "") -> Iterator[tuple[str, torch.nn.Module]]:
    """What makes a row each, by name. A module that stands in two places is shown in the first."""
    for name, child in module.named_children():
        children = any(True for _ in child.children())
        large = sum(p.numel() for p in child.parameters()) > MOST * whole
        if children and (type(child) in CONTAINERS or large):
            yield from _parts(child, whole, f"{prefix}{name}.")
        else:
            yield prefix + name, child


def _new_parameters(module: torch.nn.Module, counted: set[int]) -> int:
    new = [parameter for parameter in module.parameters() if id(parameter) not in counted]
    counted.update(id(parameter) for parameter in new)
    return sum(parameter.numel() for parameter in new)


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Statistics stay as they are, and attention runs as the products that it is made of."""
    modes = {module: module.training for module in model.modules()}
    fast = torch.backends.mha.get_fastpath_enabled()
    model.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, training in modes.items():
            module.training = training


def _mega(macs: int) -> str:
    return f"{macs / 1e6:,.2f}"
