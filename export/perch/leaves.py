"""The order of the variables in the published SavedModels: the leaves of a Flax tree without their names, numbered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from bce.export.perch.architecture import PROTOTYPES_PER_CLASS, Architecture, architecture, candidate_widths

LeafPath = tuple[str, ...]
Shape = tuple[int, ...]


def leaves(table: Architecture, classes: int | None) -> list[tuple[LeafPath, Shape]]:
    """The leaves of the published Flax tree in their order: (path, shape) by number.

    JAX flattens a tree of dictionaries with the keys of each sorted as text: ``batch_stats`` before ``params``,
    capitals before small letters (``Stem_0`` before ``head``), and ``MBConv_10`` before ``MBConv_2``. Tuples of names
    sort in the same way. Leaves of one shape that stand beside each other (a BatchNorm's mean and variance, its bias
    and scale, equal blocks of a stage) are told apart by this order only.

    Args:
        table: the network.
        classes: of the ProtoPNet classifier; None where there is none.
    """
    return sorted(_tree(table, classes))


def _tree(table: Architecture, classes: int | None) -> Iterator[tuple[LeafPath, Shape]]:
    def conv(module: str, name: str, norm: str, kernel: Shape) -> Iterator[tuple[LeafPath, Shape]]:
        channels = kernel[-1:]
        yield ("batch_stats", "embedding_model", module, norm, "mean"), channels
        yield ("batch_stats", "embedding_model", module, norm, "var"), channels
        yield ("params", "embedding_model", module, norm, "bias"), channels
        yield ("params", "embedding_model", module, norm, "scale"), channels
        yield ("params", "embedding_model", module, name, "kernel"), kernel

    yield from conv("Stem_0", "Conv_0", "BatchNorm_0", (3, 3, 1, table.stem_channels))
    for block in table.blocks:
        module, wide = f"MBConv_{block.index}", block.expanded
        if block.expand_ratio > 1:
            yield from conv(module, "ExpandConv", "ExpandBatchNorm", (1, 1, block.in_channels, wide))
        yield from conv(module, "DepthwiseConv", "DepthwiseBatchNorm", (block.kernel, block.kernel, 1, wide))
        yield from conv(module, "ProjectConv", "ProjectBatchNorm", (1, 1, wide, block.out_channels))
        for name, sizes in (("Reduce", (wide, block.squeezed)), ("Expand", (block.squeezed, wide))):
            gate = ("params", "embedding_model", module, "SqueezeAndExcitation_0", name)
            yield (*gate, "bias"), sizes[1:]
            yield (*gate, "kernel"), sizes
    yield from conv("Head_0", "Conv_0", "BatchNorm_0", (1, 1, table.blocks[-1].out_channels, table.head_channels))
    if classes is not None:
        yield ("params", "head", "bias"), (classes,)
        yield ("params", "head", "protop_kernel"), (classes, PROTOTYPES_PER_CLASS)
        yield ("params", "head", "prototypes"), (classes, table.head_channels, PROTOTYPES_PER_CLASS)


def end(path: LeafPath) -> LeafPath:
    """The part of a leaf's path that other exporters keep."""
    return path[2:] if path[1] == "embedding_model" else path[1:]


def agreement(found: dict[int, Shape], expected: Sequence[tuple[LeafPath, Shape]]) -> int:
    return sum(found.get(number) == shape for number, (_, shape) in enumerate(expected))


def best_table(
    shapes: Sequence[Shape], agreement: Callable[[list[tuple[LeafPath, Shape]]], int]
) -> tuple[Architecture, int | None]:
    """The width of the network and the number of classes that most shapes agree with."""
    prototypes = [s for s in shapes if len(s) == 3 and s[2] == PROTOTYPES_PER_CLASS]
    classes = prototypes[0][0] if prototypes else None
    present = set(shapes)
    tables = [architecture(width) for width in candidate_widths()]
    # the stem's kernel alone rules out most widths
    likely = [table for table in tables if (3, 3, 1, table.stem_channels) in present]
    return max(likely or tables[:1], key=lambda table: agreement(leaves(table, classes))), classes
