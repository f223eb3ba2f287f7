"""Perch v2's backbone and classifier as torch modules: the readable definition.

The modules have BatchNorm apart, so that the tools can train them; :func:`build` loads the weights of a source into
them, and :func:`folded` joins each BatchNorm with its convolution, which is what is exported.
Layout is NCHW with H = time and W = mel.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bce.export.perch.architecture import NORM_EPSILON, Architecture, Block
from bce.export.perch.weights import BlockWeights, ConvNorm, Prototypes, SqueezeExcite, Weights

COSINE_EPSILON = 1e-5
"""Added to the length of a feature vector before division (chirp ``heads.ProtoPNetHead``)."""


class ConvNormAct(nn.Module):
    """Zero padding, a convolution without bias, BatchNorm and, unless told otherwise, swish."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0)),
        act: bool = True,
    ) -> None:
        super().__init__()
        (top, bottom), (left, right) = padding
        symmetric = top == bottom and left == right
        # torch pads asymmetrically only through F.pad, whose order is last axis first
        self.pad = None if symmetric else (left, right, top, bottom)
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel,
            stride,
            padding=(top, left) if symmetric else 0,
            groups=groups,
            bias=False,
        )
        self.norm: nn.Module = nn.BatchNorm2d(out_channels, eps=NORM_EPSILON)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        if self.pad is not None:
            x = F.pad(x, self.pad)
        x = self.norm(self.conv(x))
        return F.silu(x) if self.act else x


class Gate(nn.Module):
    """Squeeze and excitation: mean over time and mel, two 1x1 layers, sigmoid, scale."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.expand(F.silu(self.reduce(pooled))))


class MBConv(nn.Module):
    """One block: expand, depthwise, gate, project; the input is added where the shape allows."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.residual = block.residual
        self.expand = ConvNormAct(block.in_channels, block.expanded, 1) if block.expand_ratio > 1 else None
        self.depthwise = ConvNormAct(
            block.expanded, block.expanded, block.kernel, block.stride, block.expanded, block.padding
        )
        self.gate = Gate(block.expanded, block.squeezed)
        self.project = ConvNormAct(block.expanded, block.out_channels, 1, act=False)

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.gate(self.depthwise(y)))
        return x + y if self.residual else y


class Backbone(nn.Module):
    """log-mel [batch, 500, 128] -> the feature maps of the network."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.stem = ConvNormAct(1, architecture.stem_channels, 3, 2)
        self.blocks = nn.ModuleList(MBConv(block) for block in architecture.blocks)
        self.head = ConvNormAct(architecture.blocks[-1].out_channels, architecture.head_channels, 1)

    def block_maps(self, log_mel: Tensor, last: int | None = None) -> list[Tensor]:
        """The output map of each block, after its residual add, up to block ``last`` (default: all)."""
        x = self.stem(log_mel.unsqueeze(1))
        maps = []
        for block in self.blocks[: None if last is None else last + 1]:
            x = block(x)
            maps.append(x)
        return maps

    def forward(self, log_mel: Tensor) -> Tensor:
        """The spatial embedding [batch, 1536, 16, 4], after swish."""
        return self.head(self.block_maps(log_mel)[-1])


def pooled(feature_map: Tensor) -> Tensor:
    """Mean over time and mel: [batch, channels, time, mel] -> [batch, channels]."""
    return F.adaptive_avg_pool2d(feature_map, 1).flatten(1)


class ProtoClassifier(nn.Module):
    """The ProtoPNet head: spatial embedding [batch, channels, time, mel] -> logits [batch, classes].

    At every position the feature vector is divided by its length; each prototype's logit is its largest cosine
    over all positions, weighted and summed over the prototypes of a class, plus a bias (chirp ``heads.py``).
    """

    def __init__(self, prototypes: Prototypes) -> None:
        super().__init__()
        channels, classes, per_class = prototypes.vectors.shape
        self.shape = (classes, per_class)
        self.register_buffer("vectors", _tensor(prototypes.vectors.reshape(channels, -1)))
        self.register_buffer("strength", _tensor(prototypes.strength))
        self.register_buffer("bias", _tensor(prototypes.bias))

    def forward(self, spatial: Tensor) -> Tensor:
        unit = spatial / (torch.linalg.vector_norm(spatial, dim=1, keepdim=True) + COSINE_EPSILON)
        cosines = unit.flatten(2).transpose(1, 2) @ self.vectors
        best = cosines.amax(dim=1).unflatten(1, self.shape)
        return (best * self.strength).sum(dim=2) + self.bias


def build(weights: Weights) -> Backbone:
    """A backbone in evaluation mode with the weights of a source, BatchNorm still apart."""
    backbone = Backbone(weights.architecture)
    _load_conv(backbone.stem, weights.stem)
    for module, block in zip(backbone.blocks, weights.blocks, strict=True):
        _load_block(module, block)
    _load_conv(backbone.head, weights.head)
    return backbone.eval()


def extract(backbone: Backbone, prototypes: Prototypes | None = None) -> Weights:
    """The weights of a backbone: the inverse of :func:`build`, for models trained here."""
    blocks = tuple(_block_weights(module) for module in backbone.blocks)
    return Weights(
        backbone.architecture, _conv_weights(backbone.stem), blocks, _conv_weights(backbone.head), prototypes
    )


def folded(backbone: Backbone) -> Backbone:
    """A copy for inference whose convolutions contain their BatchNorm."""
    backbone = copy.deepcopy(backbone).eval()
    for module in backbone.modules():
        if isinstance(module, ConvNormAct):
            kernel, bias = _conv_weights(module).folded()
            module.conv.weight = nn.Parameter(_tensor(kernel), requires_grad=False)
            module.conv.bias = nn.Parameter(_tensor(bias), requires_grad=False)
            module.norm = nn.Identity()
    return backbone


def _tensor(array: np.ndarray) -> Tensor:
    """A tensor that shares the array's memory where it may: torch wants it writable, a mapped file is not."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy().astype(np.float32)


def _conv_weights(module: ConvNormAct) -> ConvNorm:
    norm = module.norm
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return ConvNorm.from_batch_norm(
        _array(module.conv.weight),
        _array(norm.weight),
        _array(norm.bias),
        _array(norm.running_mean),
        _array(norm.running_var),
    )


def _block_weights(module: nn.Module) -> BlockWeights:
    assert isinstance(module, MBConv)
    reduce, expand = module.gate.reduce, module.gate.expand
    assert reduce.bias is not None
    assert expand.bias is not None
    return BlockWeights(
        expand=None if module.expand is None else _conv_weights(module.expand),
        depthwise=_conv_weights(module.depthwise),
        gate=SqueezeExcite(
            _array(reduce.weight.flatten(1)),
            _array(reduce.bias),
            _array(expand.weight.flatten(1)),
            _array(expand.bias),
        ),
        project=_conv_weights(module.project),
    )


def _load_conv(module: ConvNormAct, weights: ConvNorm) -> None:
    norm = module.norm
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        module.conv.weight.copy_(_tensor(weights.kernel))
        norm.weight.copy_(_tensor(weights.scale))
        norm.bias.copy_(_tensor(weights.shift))
        norm.running_mean.zero_()
        norm.running_var.fill_(1.0 - NORM_EPSILON)


def _load_block(module: nn.Module, weights: BlockWeights) -> None:
    assert isinstance(module, MBConv)
    if module.expand is not None and weights.expand is not None:
        _load_conv(module.expand, weights.expand)
    _load_conv(module.depthwise, weights.depthwise)
    _load_conv(module.project, weights.project)
    gate = weights.gate
    with torch.no_grad():
        for layer, kernel, bias in (
            (module.gate.reduce, gate.reduce_kernel, gate.reduce_bias),
            (module.gate.expand, gate.expand_kernel, gate.expand_bias),
        ):
            assert layer.bias is not None
            layer.weight.copy_(_tensor(kernel)[:, :, None, None])
            layer.bias.copy_(_tensor(bias))
