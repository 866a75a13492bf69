"""PyTorch on the CPU at its best: channels last, fused Adam, no denormals; parameters, losses and steps as medjax's."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .torch_networks import Discriminator, Generator, Recurrent, ResNet, UNet

RATE = 1e-3
LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def prepare() -> None:
    """One thread for each CPU that this process may use, and denormals taken for zero, as XLA does."""
    # Denormals make a recurrent network's backward pass several times slower. Threads begun later inherit the setting.
    torch.set_flush_denormal(True)
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


class Leaf(NamedTuple):
    """Where a flax array lives in a torch module.

    Attributes:
      path: as in a flax tree.
      tensor: the parameter or statistic; its gradient lies in the same form.
      to_torch, to_flax: between flax's form and the tensor's, or the part of it.
      part: rows of the tensor, where it holds more than this array.
    """

    path: tuple[str, ...]
    tensor: torch.Tensor
    to_torch: Callable[[np.ndarray], np.ndarray]
    to_flax: Callable[[np.ndarray], np.ndarray]
    part: slice = slice(None)


def leaves(module: nn.Module) -> Iterator[Leaf]:
    """Parameters and statistics of a module by their flax paths."""
    for name, layer in module.named_modules():
        path = tuple(name.split("."))
        if isinstance(layer, (nn.Conv2d, nn.Conv3d)):
            yield Leaf((*path, "kernel"), layer.weight, _conv_to_torch, _conv_to_flax)
        elif isinstance(layer, (nn.ConvTranspose2d, nn.ConvTranspose3d)):
            yield Leaf((*path, "kernel"), layer.weight, _flipped_to_torch, _flipped_to_flax)
        elif isinstance(layer, nn.Linear):
            yield Leaf((*path, "kernel"), layer.weight, np.transpose, np.transpose)
        elif isinstance(layer, (nn.BatchNorm2d, nn.BatchNorm3d)):
            named = (("scale", layer.weight), ("bias", layer.bias), ("mean", layer.running_mean), ("var", layer.running_var))
            yield from (Leaf((*path, key), tensor, _same, _same) for key, tensor in named)
            continue
        elif isinstance(layer, nn.RNNBase):
            yield Leaf((*path, "input_kernel"), layer.weight_ih_l0, np.transpose, np.transpose)
            yield Leaf((*path, "recurrent_kernel"), layer.weight_hh_l0, np.transpose, np.transpose)
            yield Leaf((*path, "bias"), layer.bias_ih_l0, _same, _same)
            if isinstance(layer, nn.GRU):
                # The other two gates add the hidden bias to the input's; flax has their sum.
                yield Leaf((*path, "candidate_bias"), layer.bias_hh_l0, _same, _same, slice(2 * layer.hidden_size, None))
            continue
        else:
            continue
        if layer.bias is not None:
            yield Leaf((*path, "bias"), layer.bias, _same, _same)


def _same(x: np.ndarray) -> np.ndarray:
    return x


def _conv_to_torch(x: np.ndarray) -> np.ndarray:  # [..., in, out] -> [out, in, ...]
    return np.moveaxis(x, (-1, -2), (0, 1))


def _conv_to_flax(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, (0, 1), (-1, -2))


def _flipped_to_torch(x: np.ndarray) -> np.ndarray:  # [..., in, out] -> [in, out, ...], mirrored in space
    return np.moveaxis(np.flip(x, range(x.ndim - 2)), (-2, -1), (0, 1))


def _flipped_to_flax(x: np.ndarray) -> np.ndarray:
    return np.flip(np.moveaxis(x, (0, 1), (-2, -1)), range(x.ndim - 2))


def fill(module: nn.Module, values: Mapping[tuple[str, ...], np.ndarray]) -> None:
    """Copy flax arrays, by path, into a module; hidden biases that flax does not have become zero.

    Raises:
      KeyError: the module has a parameter that flax has not.
      ValueError: the other way round.
    """
    found = list(leaves(module))
    missing = set(values) - {leaf.path for leaf in found}
    if missing:
        raise ValueError(f"the peer has no {sorted(missing)[0]}")
    with torch.no_grad():
        for recurrence in (m for m in module.modules() if isinstance(m, nn.RNNBase)):
            recurrence.bias_hh_l0.zero_()
        for leaf in found:
            leaf.tensor[leaf.part].copy_(torch.from_numpy(np.array(leaf.to_torch(np.asarray(values[leaf.path])))))


def _channels_last(x: np.ndarray) -> torch.Tensor:
    """[n, ..., C] as torch has it, [n, C, ...], in the same memory; sequences and vectors stay as they are."""
    tensor = torch.from_numpy(np.array(x))
    return tensor.movedim(-1, 1) if tensor.ndim > 3 else tensor


def _to_numpy(x: torch.Tensor) -> np.ndarray:
    x = x.detach()
    return (x.movedim(1, -1) if x.ndim > 3 else x).numpy().copy()


def _placed(module: nn.Module, dims: int) -> nn.Module:
    return module.to(memory_format=LAST[dims + 2]) if dims + 2 in LAST else module


def _adam(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(module.parameters(), lr=RATE, fused=True)


def _step_if_finite(optimizers: list[torch.optim.Optimizer]) -> None:
    """What medjax's step does besides: the gradient's norm, and no update where it is not finite."""
    grads = [p.grad for o in optimizers for group in o.param_groups for p in group["params"] if p.grad is not None]
    if torch.isfinite(nn.utils.get_total_norm(grads, foreach=True)):
        for optimizer in optimizers:
            optimizer.step()


class Supervised:
    """A network with a softmax cross-entropy: the peer of `tasks.supervised`.

    Args:
      network: takes `batch["x"]`, and `batch["lengths"]` where there are any.
      values: {flax path: array} of parameters and statistics.
      batch: as the medjax side has it.
      compiled: through torch.compile.
    """

    def __init__(self, network: nn.Module, values: Mapping, batch: Mapping[str, np.ndarray], *, compiled: bool):
        fill(network, values)
        self.network = _placed(network, batch["x"].ndim - 2)
        self.call = torch.compile(network) if compiled else network
        self.label = torch.from_numpy(np.array(batch["label"], np.int64))
        self.given = [_channels_last(batch["x"])]
        if "lengths" in batch:
            self.given.append(torch.from_numpy(np.array(batch["lengths"], np.int64)))
        self.optimizer = _adam(network)

    def output(self) -> np.ndarray:
        """What the network says in evaluation, in flax's layout."""
        self.network.eval()
        with torch.inference_mode():
            return _to_numpy(self.call(*self.given))

    def infer(self, k: int) -> None:
        """k forward passes."""
        self.network.eval()
        with torch.inference_mode():
            for _ in range(k):
                self.call(*self.given)

    def _backward(self) -> torch.Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(self.call(*self.given), self.label)
        loss.backward()
        return loss

    def gradients(self, latents: np.ndarray | None) -> tuple[float, dict[tuple[str, ...], np.ndarray]]:
        """Loss and {flax path: gradient} of a step that is not taken."""
        self.network.train()
        return self._backward().item(), _gradients(self.network)

    def train(self, k: int) -> None:
        """k steps: forward, backward, norm of the gradient, Adam."""
        self.network.train()
        for _ in range(k):
            self._backward()
            _step_if_finite([self.optimizer])


class Adversarial:
    """Generator and discriminator, one simultaneous step of each: the peer of `tasks.adversarial`.

    The generator runs once a step and the discriminator's kernels get no gradient from the generator's loss, as a careful
    PyTorch loop has it.
    """

    def __init__(self, networks: dict[str, nn.Module], values: Mapping, batch: Mapping[str, np.ndarray], *, compiled: bool):
        for name, network in networks.items():
            fill(network, {path[1:]: v for path, v in values.items() if path[0] == name})
            _placed(network, 2)
        self.networks = networks
        self.generate, self.judge = (
            torch.compile(networks[n]) if compiled else networks[n] for n in ("generator", "discriminator")
        )
        self.x, self.z = _channels_last(batch["x"]), torch.from_numpy(np.array(batch["latent"]))
        self.optimizers = [_adam(network) for network in networks.values()]

    def _mode(self, train: bool) -> None:
        for network in self.networks.values():
            network.train(train)

    def output(self) -> np.ndarray:
        """Images from `batch["latent"]`, in flax's layout."""
        self._mode(False)
        with torch.inference_mode():
            return _to_numpy(self.generate(self.z))

    def infer(self, k: int) -> None:
        """k times a batch of images."""
        self._mode(False)
        with torch.inference_mode():
            for _ in range(k):
                self.generate(self.z)

    def _backward(self, z: torch.Tensor) -> torch.Tensor:
        fake = self.generate(z)
        loss_d = (F.softplus(-self.judge(self.x)) + F.softplus(self.judge(fake.detach()))).mean()
        loss_g = F.softplus(-self.judge(fake)).mean()
        for name, loss in (("discriminator", loss_d), ("generator", loss_g)):
            params = list(self.networks[name].parameters())
            for parameter, gradient in zip(params, torch.autograd.grad(loss, params)):
                parameter.grad = gradient
        return loss_d + loss_g

    def gradients(self, latents: np.ndarray | None) -> tuple[float, dict[tuple[str, ...], np.ndarray]]:
        """Loss (the sum of both) and {flax path: gradient} of a step that is not taken."""
        self._mode(True)
        loss = self._backward(torch.from_numpy(np.array(latents))).item()
        return loss, {(name, *path): g for name, net in self.networks.items() for path, g in _gradients(net).items()}

    def train(self, k: int) -> None:
        """k steps of both, each from latents of its own."""
        self._mode(True)
        for _ in range(k):
            self._backward(torch.randn(self.z.shape))
            _step_if_finite(self.optimizers)


def _gradients(network: nn.Module) -> dict[tuple[str, ...], np.ndarray]:
    trained = (leaf for leaf in leaves(network) if leaf.tensor.grad is not None)
    return {leaf.path: np.array(leaf.to_flax(_raw(leaf.tensor.grad[leaf.part]))) for leaf in trained}


def _raw(x: torch.Tensor) -> np.ndarray:
    return x.detach().numpy()


def build(
    family: str, sizes: Mapping[str, Any], values: Mapping, batch: Mapping[str, np.ndarray], *, compiled: bool = False
) -> Supervised | Adversarial:
    """The peer of a case.

    Args:
      family, sizes: of the case.
      values: {flax path: array} of parameters and statistics together.
      batch: NumPy arrays as the medjax side has them.
      compiled: through torch.compile.
    """
    s = {name: value for name, value in sizes.items() if name != "batch"}
    if family == "dcgan":
        networks = {
            "generator": Generator(**s),
            "discriminator": Discriminator(features=s["features"], channels=s["channels"]),
        }
        return Adversarial(networks, values, batch, compiled=compiled)
    if family == "resnet":
        del s["side"]
        network: nn.Module = ResNet(**s)
    elif family == "unet":
        network = UNet(dims=len(s.pop("shape")), **s)
    else:
        for name in ("steps", "shortest"):
            s.pop(name, None)
        network = Recurrent(**s)
    return Supervised(network, values, batch, compiled=compiled)
