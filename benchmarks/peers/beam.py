"""An encoder-decoder with attention and copying in PyTorch, and the same beam search with tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from .torch import prepare

__all__ = ["Beam", "build", "prepare"]

PADDING, BEGIN, END = 0, 1, 2
NEVER, LEAST = -1e30, 1e-9
Arrays = Mapping[tuple[str, ...], np.ndarray]


def _lstm(values: Arrays, *path: str) -> nn.LSTM:
    """One direction with flax's arrays, whose gates lie in PyTorch's order."""
    w, u, b = (torch.from_numpy(values[(*path, name)]) for name in ("input_kernel", "recurrent_kernel", "bias"))
    made = nn.LSTM(w.shape[0], u.shape[0], batch_first=True)
    with torch.no_grad():
        made.weight_ih_l0.copy_(w.T)
        made.weight_hh_l0.copy_(u.T)
        made.bias_ih_l0.copy_(b)
        made.bias_hh_l0.zero_()
    return made


def _linear(values: Arrays, *path: str) -> nn.Linear:
    w = torch.from_numpy(values[(*path, "kernel")])
    made = nn.Linear(*w.shape, bias=(*path, "bias") in values)
    with torch.no_grad():
        made.weight.copy_(w.T)
        if made.bias is not None:
            made.bias.copy_(torch.from_numpy(values[(*path, "bias")]))
    return made


class Beam:
    """Texts from texts, all of one length.

    Args:
      values: {flax path: array} of a `medjax.models.writer.Writer` of one layer.
      batch: `source` int [n, S].
      width, most, block, power: of the search.
    """

    def __init__(self, values: Arrays, batch: Mapping[str, np.ndarray], *, width: int, most: int, block: int, power: float):
        self.embed = torch.from_numpy(values["embed", "embedding"])
        self.bias = torch.from_numpy(values["bias",])
        self.forward, self.backward = (_lstm(values, "encoder", f"LSTM_{k}") for k in (0, 1))
        self.recurrence = _lstm(values, "recurrence_0")
        self.start, self.ask, self.combine, self.generate = (
            _linear(values, name) for name in ("start_0", "ask", "combine", "generate")
        )
        self.source = torch.from_numpy(batch["source"]).long()
        self.width, self.most, self.block, self.power = width, most, block, power

    def _penalty(self, length: float) -> float:
        return ((5 + length) / 6) ** self.power

    def _step(self, keys: torch.Tensor, states: torch.Tensor, carry: tuple, last: torch.Tensor) -> tuple:
        """States and log-probabilities [n, w, V] after the pieces `last` [n, w]."""
        n, w = last.shape
        y = self.embed[last]
        flat, carry = self.recurrence(y.reshape(n * w, 1, -1), carry)
        h = flat.reshape(n, w, -1)
        weights = (h @ keys.transpose(1, 2)).softmax(-1)
        seen = torch.cat([weights @ states, h], -1)
        p = (torch.tanh(self.combine(seen)) @ self.embed.T + self.bias).softmax(-1)
        share = torch.sigmoid(self.generate(torch.cat([seen, y], -1)))
        places = self.source[:, None].expand(-1, w, -1)
        return carry, torch.log((share * p).scatter_add(2, places, (1 - share) * weights) + LEAST)

    def _forbid(self, log_p: torch.Tensor, texts: torch.Tensor, t: int) -> None:
        """No run of `block` pieces stands twice in a text [n, w, t]."""
        if t < self.block:
            return
        k = self.block - 1
        runs = texts[:, :, :t].unfold(2, self.block, 1)
        same = (runs[..., :k] == texts[:, :, None, t - k : t]).all(-1)
        log_p.scatter_add_(2, runs[..., k], same.float() * NEVER)

    def output(self) -> np.ndarray:
        """The best text of each, int [n, most], PADDING behind its end."""
        with torch.inference_mode():
            return self._search().numpy()

    def _search(self) -> torch.Tensor:
        n, w, most = len(self.source), self.width, self.most
        y = self.embed[self.source]
        states = torch.cat([self.forward(y)[0], self.backward(y.flip(1))[0].flip(1)], -1)
        keys = self.ask(states)
        c, h = torch.tanh(self.start(states.mean(1))).chunk(2, -1)
        carry = tuple(a.repeat_interleave(w, 0)[None].contiguous() for a in (h, c))
        texts, done = torch.zeros(n, w, most, dtype=torch.long), torch.full((n, w), NEVER)
        ended = texts.clone()
        score = torch.full((n, w), NEVER)
        score[:, 0] = 0
        last = torch.full((n, w), BEGIN)
        rows = torch.arange(n)[:, None]
        for t in range(most):
            if not (score.max(1).values / self._penalty(most) > done.min(1).values).any():
                break
            carry, log_p = self._step(keys, states, carry, last)
            log_p[..., [BEGIN, PADDING]] = NEVER
            self._forbid(log_p, texts, t)
            v = log_p.shape[-1]
            best, at = (score[..., None] + log_p).reshape(n, w * v).topk(2 * w, 1)
            parent, piece = at // v, at % v
            longer = texts[rows, parent].clone()
            longer[:, :, t] = piece
            ends = piece == END
            finished = torch.where(ends & (best > NEVER / 2), best / self._penalty(t + 1), NEVER)
            done, chosen = torch.cat([done, finished], 1).topk(w, 1)
            ended = torch.cat([ended, longer], 1)[rows, chosen]
            score, alive = torch.where(ends, NEVER, best).topk(w, 1)
            texts, last = longer[rows, alive], piece[rows, alive]
            origin = (rows * w + parent[rows, alive]).reshape(-1)
            carry = tuple(a[:, origin].contiguous() for a in carry)
        found = torch.where((done[:, :1] > NEVER / 2), ended[:, 0], texts[:, 0])
        after = torch.cumsum((found == END).long(), 1) > 0
        return found.masked_fill(after, PADDING)

    def infer(self, k: int) -> None:
        """k times."""
        for _ in range(k):
            self.output()


def build(
    family: str, sizes: Mapping[str, Any], values: Arrays, batch: Mapping[str, np.ndarray], *, compiled: bool = False
) -> Beam:
    """The peer of `benchmarks.beam`."""
    return Beam(values, batch, **{name: sizes[name] for name in ("width", "most", "block", "power")})
