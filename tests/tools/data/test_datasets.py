"""Labelled data in BirdCLEF layout, read back against what was put there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.sounds import write_sound

from bce.engine.errors import OptionsError, TableError
from bce.tools.data.datasets import read_clips, read_dataset, read_soundscapes
from bce.tools.data.synth import recordings as synth
from bce.tools.data.synth import scenes as synth_scenes
from bce.tools.data.synth.dataset import write_dataset
from bce.tools.data.synth.options import SynthOptions

OPTIONS = SynthOptions(species=6, clips_per_species=2, train_soundscapes=4, test_soundscapes=4, duration_s=10, jobs=1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("datasets") / "data"
    write_dataset(folder, OPTIONS)
    return folder


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def test_a_data_set_reads_as_it_was_made(root: Path) -> None:
    """Against the scenes, made again in memory."""
    data = read_dataset(root)
    world = synth_scenes.make_world(OPTIONS.world, OPTIONS.species)
    assert data.taxonomy.labels == world.labels
    assert data.clips is not None
    assert data.train is not None
    assert data.test is not None
    expected = [(k, synth.focal_clip(OPTIONS, k, i)[1]) for k in range(6) for i in range(2)]
    np.testing.assert_array_equal(data.clips.present(world.labels), np.eye(6, dtype=bool)[[k for k, _ in expected]])
    for row, (k, scene) in zip(data.clips.present(world.labels, secondary=True), expected, strict=True):
        heard = scene.present.any(axis=0)
        heard[k] = True
        np.testing.assert_array_equal(row, heard)
    for soundscapes, split in ((data.train, "Train"), (data.test, "Test")):
        scenes = [synth.soundscape(OPTIONS, split, i)[1] for i in range(4)]  # type: ignore[arg-type]
        np.testing.assert_array_equal(
            soundscapes.windows.present(world.labels), np.concatenate([scene.present for scene in scenes])
        )
        assert soundscapes.recording.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
        assert len(soundscapes.paths) == 4
        assert all(path.is_file() for path in soundscapes.paths)
    assert data.unseen_sites == {world.sites[synth_scenes.SEEN_SITES].name}


def test_parts_that_are_not_there_are_none(tmp_path: Path) -> None:
    write_dataset(tmp_path, SynthOptions(species=4, test_soundscapes=1, duration_s=5, test_only=True, jobs=1))
    data = read_dataset(tmp_path)
    assert data.clips is None
    assert data.train is None
    assert data.test is not None


def test_class_folders_are_clips(tmp_path: Path) -> None:
    for name in (
        "b/2.wav",
        "a/1.OGG",
        "a/notes.txt",
        "a/.hidden.wav",
        "a/._1.OGG",
        ".trash/3.wav",
        "b/deeper/4.wav",
        "loose.wav",
    ):
        touch(tmp_path / name)
    clips = read_clips(tmp_path)
    assert clips.labels == ("a", "b")
    assert [path.name for path in clips.paths] == ["1.OGG", "2.wav"]
    assert clips.classes == ("a", "b")
    assert clips.take([1]).labels == ("b",)
    assert clips.present(["b", "c"]).tolist() == [[False, False], [True, False]]


def test_a_class_folder_may_be_a_link(tmp_path: Path) -> None:
    """The usual way to make a set of some classes of another."""
    deeper, some = tmp_path / "all" / "frog" / "deeper", tmp_path / "some"
    for folder in (deeper, some):
        folder.mkdir(parents=True)
    write_sound(deeper.parent / "1.wav", 1.0, 1)
    write_sound(deeper / "2.wav", 1.0, 2)
    (some / "frog").symlink_to(deeper.parent)
    clips = read_clips(some)
    assert [(path.name, label) for path, label in zip(clips.paths, clips.labels, strict=True)] == [("1.wav", "frog")]


def test_real_clips_have_their_classes(shared: Path) -> None:
    clips = read_clips(shared / "data" / "audio" / "esc10")
    assert len(clips.classes) == 5
    assert [clips.labels.count(name) for name in clips.classes] == [24] * 5


def test_secondary_labels_as_published(tmp_path: Path) -> None:
    touch(tmp_path / "train_audio" / "x" / "1.ogg")
    rows = ["[]", "\"['y', 'z']\"", "['']", ""]
    lines = "".join(f"x,{text},x/1.ogg\n" for text in rows)
    (tmp_path / "train.csv").write_text("primary_label,secondary_labels,filename\n" + lines)
    assert read_clips(tmp_path).secondary == (frozenset(), {"y", "z"}, frozenset(), frozenset())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("primary_label,name\nx,x/1.ogg\n", "no column 'filename'"),
        ("primary_label,filename\n", "has no rows"),
        ("primary_label,filename\nx,x/1.ogg\nx,x/2.ogg\n", "names 1 of 2 recordings that are not there, first .*2.ogg"),
        ("primary_label,filename\n,x/1.ogg\n", "line 2 names no clip"),
        ("primary_label,filename,secondary_labels\nx,x/1.ogg,a b\n", "line 2 has the secondary labels 'a b'"),
    ],
)
def test_bad_clip_tables_are_named(tmp_path: Path, text: str, words: str) -> None:
    touch(tmp_path / "train_audio" / "x" / "1.ogg")
    (tmp_path / "train.csv").write_text(text)
    with pytest.raises(TableError, match=words) as caught:
        read_clips(tmp_path)
    assert caught.value.path == str(tmp_path / "train.csv")


def test_missing_soundscapes_are_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(TableError, match="names 4 of 4 recordings that are not there"):
        read_soundscapes(root / "test_labels.csv", tmp_path)


def test_folders_without_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match="no clips"):
        read_clips(tmp_path)
    with pytest.raises(OptionsError, match="is no folder"):
        read_dataset(tmp_path / "nowhere")
    (tmp_path / "taxonomy.csv").write_text("primary_label,scientific_name\nx,X y\n")
    with pytest.raises(OptionsError, match="nothing is labelled"):
        read_dataset(tmp_path)
