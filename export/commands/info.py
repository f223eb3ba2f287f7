"""What ``bce-export --info`` says of a bundle and its proof."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from bce.engine.errors import BundleError
from bce.engine.network.bundle import PARITY, Bundle
from bce.engine.network.manifest import Manifest
from bce.engine.taxonomy import Taxonomy
from bce.export.birdnet.classes import SOURCE_CLASS, SOURCE_WHY
from bce.export.birdnet.published import published_name as birdnet
from bce.export.perch.download import published_name as perch
from bce.export.proof.comparison import INT8_FORMS

_REDISTRIBUTION = {
    True: "the bundle may be passed on",
    False: "the bundle must not be passed on",
    None: "whether the bundle may be passed on is not known",
}


def published_line(family: str, digest: str) -> str:
    """Whether a source is one of the files whose SHA-256 is published."""
    published = {"birdnet": ("BirdNET", birdnet), "perch": ("Perch", perch)}
    if family not in published:
        return "where its weights come from is not known"
    whose, names = published[family]
    name = names(digest)
    if name is None:
        return f"the SHA-256 is none of those that are published: that these are {whose}'s weights is not known"
    return f"the SHA-256 is that of the published {name}"


def info_lines(bundle: Bundle) -> Iterator[str]:
    """A bundle and its proof, for reading."""
    manifest = bundle.manifest
    source, window = manifest.source, manifest.window
    yield f"{manifest.name} ({bundle.path})"
    if manifest.notice:
        yield f"  notice       {manifest.notice}"
    yield f"  source       {source.file}, {source.form}, licence {source.licence}"
    yield f"               {_REDISTRIBUTION[source.may_redistribute]}"
    yield f"               SHA-256 {source.sha256}"
    yield f"               {published_line(manifest.family, source.sha256)}"
    yield f"  family       {manifest.family}"
    yield f"  window       {window.window_s:g} s at {window.sample_rate} Hz"
    yield f"  frontend     {_frontend(manifest)}"
    yield f"  input        {manifest.input.name} [{', '.join(map(str, manifest.input.shape))}]"
    for place, output in enumerate(manifest.outputs):
        width = "?" if output.width is None else output.width
        yield f"  {'' if place else 'outputs':<12} {output.name} [{width}], {output.kind}"
    yield f"  head         {_head(manifest)}"
    if bundle.classes:
        yield f"  classes      {len(bundle.classes)}: {', '.join(bundle.classes[:3])}, ..."
        yield from _source_classes(bundle.taxonomy)
    yield f"  score        {_score(manifest)}"
    shifts = ", ".join(f"{shift:g}" for shift in manifest.placing.shifts_s)
    placing = manifest.placing
    apart = window.window_s if placing.step_s is None else placing.step_s
    yield f"  placing      shifts {shifts} s; of a longer chunk the {placing.reduce} of windows up to {apart:g} s apart"
    for name in manifest.files:
        yield f"  file         {name}, {(bundle.path / name).stat().st_size / 1e6:.2f} MB"
    yield f"  precisions   {', '.join(bundle.precisions)}"
    yield f"  made with    {', '.join(f'{name} {version}' for name, version in manifest.versions.items())}"
    yield f"  identity     {manifest.identity}"
    yield from _parity_lines(bundle)


def _source_classes(taxonomy: Taxonomy) -> Iterator[str]:
    """Which of the source's classes the bundle's are, where the class table says so."""
    columns = taxonomy.columns
    if SOURCE_CLASS not in columns or SOURCE_WHY not in columns:
        return
    found, why = columns[SOURCE_CLASS], columns[SOURCE_WHY]
    other = [place for place, reason in enumerate(why) if reason]
    named = sum(map(bool, found)) - len(other)
    yield f"  names        {named} by scientific name, {len(other)} by another, {found.count('')} that the source lacks"
    for place in other:
        yield f"               {taxonomy.scientific_names[place]}: {found[place]} ({why[place]})"


def _frontend(manifest: Manifest) -> str:
    settings = (f"{name} {value}" for name, value in manifest.frontend.settings.items())
    return ", ".join((manifest.frontend.kind, *settings))


def _head(manifest: Manifest) -> str:
    head = manifest.head
    if head.trained:
        return f"{head.kind}, {head.folds} folds, {head.parameters:,} parameters"
    return "none: features only" if head.kind == "none" else f"own: the classifier of {manifest.family} itself"


def _score(manifest: Manifest) -> str:
    score = manifest.score
    if score is None:
        return "none"
    spaces = {"logit": "logits", "probability": "probabilities"}
    unknown = len(score.unknown)
    constant = f"; {unknown} of the classes cannot be heard, their scores are constant" if unknown else ""
    return f"{score.output}, {spaces[score.space]}{constant}"


def _parity_lines(bundle: Bundle) -> list[str]:
    path = bundle.file(PARITY)
    if path is None:
        return []
    try:
        return list(_described_parity(json.loads(path.read_text(encoding="utf-8"))))
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        raise BundleError("is no report of a proof: export the bundle again", path) from None


def _described_parity(parity: Any) -> Iterator[str]:
    yield f"  parity       {parity['status']}, {len(parity['comparisons'])} comparisons"
    yield from _parity_table(parity["comparisons"])
    if (int8 := parity.get("int8")) is not None:
        yield from _described_int8(int8)


def _described_int8(int8: Any) -> Iterator[str]:
    """Both forms: what they change, and which products are what and why."""
    yield (
        f"  int8         made on {int8['calibrated_on']} windows of {int8['recordings']} recordings, judged on "
        f"{int8['windows']} others"
    )
    for note in int8["notes"]:
        yield f"               {note}"
    for form in INT8_FORMS:
        if (made := int8[form]) is None:
            yield f"    {form}: none that keeps the limits"
            continue
        quality = made["quality"]
        yield f"    {form}, {made['judged_by']}: worst window {quality['worst']:.3f}" + _scores(quality["scores"])
        for output, distance in quality["outputs"].items():
            yield f"      {output:<12} relative L2 {distance['typical']:.3f}, all windows {distance['pooled']:.3f}"
        for element, names in _by_element(made["products"]).items():
            yield f"      {element:<5} {', '.join(names)}"


def _scores(scores: Any) -> str:
    if scores is None:
        return ""
    loud = "" if scores["top1_loud"] is None else f", best class of {scores['loud']} loud {scores['top1_loud']:.1%}"
    return (
        f", rank correlation {scores['rank_correlation']:.4f}{loud}, probabilities within "
        f"{scores['largest_change']:.3f}"
    )


def _by_element(products: Sequence[Any]) -> dict[str, list[str]]:
    """Names of products by what they are; of those that are not int8 with their relative L2 if they were."""
    found: dict[str, list[str]] = {}
    for product in products:
        alone = product["relative_l2"].get("i8")
        why = f" ({alone:.3f})" if product["element"] != "i8" and alone is not None else ""
        found.setdefault(product["element"], []).append(product["name"] + why)
    return found


def _parity_table(comparisons: Sequence[dict[str, object]]) -> Iterator[str]:
    """The worst of each measure and output, on natural audio and on extremes."""
    worst: dict[tuple[object, object], dict[bool, float]] = {}
    for row in comparisons:
        value = row["max_abs" if row["measure"] == "spectrogram" else "relative_l2"]
        if not isinstance(value, float):
            raise TypeError(value)
        cell = worst.setdefault((row["measure"], row["output"]), {})
        natural = bool(row["natural"])
        cell[natural] = max(cell.get(natural, 0.0), value)
    if worst:
        yield f"    {'measure':<12} {'output':<12} {'natural':>9} {'extremes':>9}"
    for (measure, output), cell in worst.items():
        shown = [f"{cell[kind]:.1e}" if kind in cell else "-" for kind in (True, False)]
        yield f"    {measure!s:<12} {output!s:<12} {shown[0]:>9} {shown[1]:>9}"
