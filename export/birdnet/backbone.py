"""BirdNET v2.4's network as torch modules: the readable definition. Maps are [batch, channels, mel, time]."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bce.export.birdnet.architecture import BLOCKS, POOL, STEM_PADDING, STEM_STRIDE, Block
from bce.export.birdnet.weights import BlockWeights, Layer, Weights
from bce.export.classes import NO_SIGNAL, ClassMap


class MBConv(nn.Module):
    """One block: expand, swish, depthwise, swish, gate where there is one, project; the input is added at stride 1."""

    def __init__(self, block: Block, weights: BlockWeights) -> None:
        super().__init__()
        self.residual = block.residual
        self.expand = _conv(weights.expand)
        self.depthwise = _conv(weights.depthwise, block.stride, padding=1, groups=block.expanded)
        self.reduce = None if weights.reduce is None else _conv(weights.reduce)
        self.widen = None if weights.widen is None else _conv(weights.widen)
        self.project = _conv(weights.project)

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.depthwise(F.silu(self.expand(x))))
        if self.reduce is not None and self.widen is not None:
            y = y * torch.sigmoid(self.widen(F.silu(self.reduce(F.adaptive_avg_pool2d(y, 1)))))
        y = self.project(y)
        return x + y if self.residual else y


class Backbone(nn.Module):
    """Spectrogram [batch, 2, 96, 511] -> embedding [batch, 1024] and logits [batch, classes].

    Args:
        weights: of the source.
        class_map: which of its classes to give; None for all.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, weights: Weights, class_map: ClassMap | None = None) -> None:
        super().__init__()
        (top, bottom), (left, right) = STEM_PADDING
        self.padding = (left, right, top, bottom)  # torch pads asymmetrically only through F.pad, last axis first
        self.stem = _conv(weights.stem, STEM_STRIDE)
        self.pool = _conv(weights.pool)
        self.blocks = nn.ModuleList(MBConv(*pair) for pair in zip(BLOCKS, weights.blocks, strict=True))
        self.register_buffer("scale", _tensor(weights.scale)[:, None, None])
        self.register_buffer("shift", _tensor(weights.shift)[:, None, None])
        self.head = _conv(weights.head)
        self.dense = _dense(weights.dense, class_map)

    def forward(self, spectrogram: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.stem(F.pad(spectrogram, self.padding)))
        x = self.pool(torch.cat([F.max_pool2d(x, POOL), F.avg_pool2d(x, POOL)], 1))
        for block in self.blocks:
            x = block(x)
        x = F.relu(self.head(F.relu(x * self.scale + self.shift)))
        embedding = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return embedding, self.dense(embedding)


def _conv(layer: Layer, stride: int = 1, padding: int = 0, groups: int = 1) -> nn.Conv2d:
    out, of_group, *kernel = layer.kernel.shape
    conv = nn.Conv2d(of_group * groups, out, (kernel[0], kernel[1]), stride, padding, groups=groups)
    _load(conv, layer.kernel, layer.bias)
    return conv


def _dense(layer: Layer, class_map: ClassMap | None) -> nn.Linear:
    """The rows of a class map's classes; those without signal have weights of 0 and the constant as their bias."""
    matrix, bias = layer.kernel[:, :, 0, 0], layer.bias
    if class_map is not None:
        rows = np.array([members[0] if members else 0 for members in class_map.members])
        matrix = np.where(class_map.silent[:, None], np.float32(0), matrix[rows])
        bias = np.where(class_map.silent, np.float32(NO_SIGNAL), bias[rows])
    dense = nn.Linear(matrix.shape[1], matrix.shape[0])
    _load(dense, matrix, bias)
    return dense


def _load(module: nn.Conv2d | nn.Linear, kernel: np.ndarray, bias: np.ndarray) -> None:
    assert module.bias is not None
    with torch.no_grad():
        module.weight.copy_(_tensor(kernel))
        module.bias.copy_(_tensor(bias))


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
