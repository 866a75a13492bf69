"""The networks of `medjax.models` in plain PyTorch.

Attributes carry the names of the flax modules (`stem_conv`, `Conv_0`): a parameter has one path in both trees.
"""

from __future__ import annotations

import itertools

import torch
from torch import nn
from torch.nn import functional as F

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
CONV_TRANSPOSE = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
BATCH_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
POOL = {2: F.max_pool2d, 3: F.max_pool3d}


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, features: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, features, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(features)
        self.project = stride != 1 or inputs != features
        if self.project:
            self.project_conv = nn.Conv2d(inputs, features, 1, stride, bias=False)
            self.project_norm = nn.BatchNorm2d(features)

    def forward(self, x):
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.norm2(self.conv2(y))
        if self.project:
            x = self.project_norm(self.project_conv(x))
        return F.relu(y.add_(x), inplace=True)


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, features: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, features, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(features)
        self.conv3 = nn.Conv2d(features, 4 * features, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(4 * features)
        self.project = stride != 1 or inputs != 4 * features
        if self.project:
            self.project_conv = nn.Conv2d(inputs, 4 * features, 1, stride, bias=False)
            self.project_norm = nn.BatchNorm2d(4 * features)

    def forward(self, x):
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = F.relu(self.norm2(self.conv2(y)), inplace=True)
        y = self.norm3(self.conv3(y))
        if self.project:
            x = self.project_norm(self.project_conv(x))
        return F.relu(y.add_(x), inplace=True)


class ResNet(nn.Module):
    def __init__(
        self,
        *,
        depth: int,
        small_images: bool,
        channels: int,
        classes: int,
        width: int = 64,
        blocks: tuple[int, ...] | None = None,
    ):
        super().__init__()
        block, published, grow = {18: (BasicBlock, (2, 2, 2, 2), 1), 50: (Bottleneck, (3, 4, 6, 3), 4)}[depth]
        kernel, stride = (3, 1) if small_images else (7, 2)
        self.stem_conv = nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        self.pool = not small_images
        self.blocks: list[nn.Module] = []
        inputs = width
        for stage, count in enumerate(blocks or published):
            for i in range(count):
                features = width * 2**stage
                made = block(inputs, features, 2 if stage > 0 and i == 0 else 1)
                self.add_module(f"stage{stage + 1}_block{i}", made)
                self.blocks.append(made)
                inputs = grow * features
        self.head = nn.Linear(inputs, classes)

    def forward(self, x):
        x = F.relu(self.stem_norm(self.stem_conv(x)), inplace=True)
        if self.pool:
            x = F.max_pool2d(x, 3, 2, 1)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


class ConvBlock(nn.Module):
    def __init__(self, dims: int, inputs: int, features: int):
        super().__init__()
        self.Conv_0 = CONV[dims](inputs, features, 3, padding=1, bias=False)
        self.BatchNorm_0 = BATCH_NORM[dims](features)
        self.Conv_1 = CONV[dims](features, features, 3, padding=1, bias=False)
        self.BatchNorm_1 = BATCH_NORM[dims](features)

    def forward(self, x):
        x = F.relu(self.BatchNorm_0(self.Conv_0(x)), inplace=True)
        return F.relu(self.BatchNorm_1(self.Conv_1(x)), inplace=True)


class UNet(nn.Module):
    def __init__(self, *, dims: int, features: int, depth: int, classes: int):
        super().__init__()
        widths = [features * 2**level for level in range(depth + 1)]
        self.dims, self.depth = dims, depth
        self.blocks, self.ups = [], []
        for inputs, width in itertools.pairwise([1, *widths]):
            self.blocks.append(ConvBlock(dims, inputs, width))
        for width in reversed(widths[:-1]):
            self.ups.append(CONV_TRANSPOSE[dims](2 * width, width, 2, 2))
            self.blocks.append(ConvBlock(dims, 2 * width, width))
        for i, block in enumerate(self.blocks):
            self.add_module(f"ConvBlock_{i}", block)
        for i, up in enumerate(self.ups):
            self.add_module(f"ConvTranspose_{i}", up)
        self.Conv_0 = CONV[dims](features, classes, 1)

    def forward(self, x):
        skips = []
        for block in self.blocks[: self.depth]:
            x = block(x)
            skips.append(x)
            x = POOL[self.dims](x, 2)
        x = self.blocks[self.depth](x)
        for up, block in zip(self.ups, self.blocks[self.depth + 1 :]):
            x = block(torch.cat([skips.pop(), up(x)], 1))
        return self.Conv_0(x)


class Generator(nn.Module):
    def __init__(self, *, latent: int, features: int, channels: int):
        super().__init__()
        self.top = 8 * features
        self.Dense_0 = nn.Linear(latent, 16 * self.top, bias=False)
        for i, width in enumerate((self.top, self.top // 2, self.top // 4, self.top // 8)):
            self.add_module(f"BatchNorm_{i}", nn.BatchNorm2d(width))
        for i, width in enumerate((self.top, self.top // 2, self.top // 4)):
            self.add_module(f"ConvTranspose_{i}", nn.ConvTranspose2d(width, width // 2, 4, 2, 1, bias=False))
        self.ConvTranspose_3 = nn.ConvTranspose2d(features, channels, 4, 2, 1)

    def forward(self, z):
        x = self.Dense_0(z).view(-1, 4, 4, self.top).permute(0, 3, 1, 2)
        x = F.relu(self.BatchNorm_0(x), inplace=True)
        x = F.relu(self.BatchNorm_1(self.ConvTranspose_0(x)), inplace=True)
        x = F.relu(self.BatchNorm_2(self.ConvTranspose_1(x)), inplace=True)
        x = F.relu(self.BatchNorm_3(self.ConvTranspose_2(x)), inplace=True)
        return torch.tanh(self.ConvTranspose_3(x))


class Discriminator(nn.Module):
    def __init__(self, *, features: int, channels: int):
        super().__init__()
        self.Conv_0 = nn.Conv2d(channels, features, 4, 2, 1)
        for i in range(1, 4):
            self.add_module(f"Conv_{i}", nn.Conv2d(features << (i - 1), features << i, 4, 2, 1, bias=False))
            self.add_module(f"BatchNorm_{i - 1}", nn.BatchNorm2d(features << i))
        self.Dense_0 = nn.Linear(16 * 8 * features, 1)

    def forward(self, x):
        x = F.leaky_relu(self.Conv_0(x), 0.2, inplace=True)
        x = F.leaky_relu(self.BatchNorm_0(self.Conv_1(x)), 0.2, inplace=True)
        x = F.leaky_relu(self.BatchNorm_1(self.Conv_2(x)), 0.2, inplace=True)
        x = F.leaky_relu(self.BatchNorm_2(self.Conv_3(x)), 0.2, inplace=True)
        # flax flattens with the channels last, which is how this tensor lies in memory.
        return self.Dense_0(x.permute(0, 2, 3, 1).flatten(1))[:, 0]


class Recurrent(nn.Module):
    def __init__(self, *, cell: str, inputs: int, features: int, classes: int):
        super().__init__()
        kinds = {"lstm": ("LSTM_0", nn.LSTM), "gru": ("GRU_0", nn.GRU), "simple": ("SimpleRNN_0", nn.RNN)}
        self.layer, kind = kinds[cell]
        self.add_module(self.layer, kind(inputs, features, batch_first=True))
        self.Dense_0 = nn.Linear(features, classes)

    def forward(self, x, lengths=None):
        layer = getattr(self, self.layer)
        if lengths is None:
            return self.Dense_0(layer(x)[0][:, -1])
        _, final = layer(nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
        return self.Dense_0((final[0] if isinstance(final, tuple) else final)[-1])
