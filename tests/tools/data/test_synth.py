"""Synthetic data: schema, reproducibility, and whether labels and habits are what they claim to be."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from scipy import signal, stats
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from bce.engine.audio.recordings import find_recordings
from bce.engine.errors import OptionsError
from bce.engine.geometry import ChunkGrid
from bce.engine.taxonomy import Taxonomy
from bce.tools.commands.tools import main
from bce.tools.data.synth import dataset as synth_dataset
from bce.tools.data.synth import recordings as synth
from bce.tools.data.synth import scenes as synth_scenes
from bce.tools.data.synth import voices as synth_voices
from bce.tools.data.synth.dataset import write_dataset
from bce.tools.data.synth.options import MAX_SPECIES, SynthOptions
from bce.tools.data.synth.vorbis import encode_vorbis

SMALL = SynthOptions(species=8, clips_per_species=2, train_soundscapes=10, test_soundscapes=8, duration_s=10, jobs=1)
RATE = 32_000


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synth") / "data"
    write_dataset(root, SMALL)
    return root


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def header(path: Path) -> list[str]:
    with open(path, newline="") as stream:
        return next(csv.reader(stream))


# --- layout


def test_schemas_are_the_real_ones(dataset: Path, shared: Path) -> None:
    real = shared / "data" / "official_csv"
    assert header(dataset / "taxonomy.csv") == header(real / "taxonomy.csv")
    for name in ("train_soundscapes_labels.csv", "test_labels.csv"):
        assert header(dataset / name) == header(real / "train_soundscapes_labels.csv")
    real_columns, real_classes = header(real / "sample_submission.csv"), rows(real / "taxonomy.csv")
    columns, classes = header(dataset / "sample_submission.csv"), rows(dataset / "taxonomy.csv")
    assert real_columns == ["row_id", *(row["primary_label"] for row in real_classes)]
    assert columns == ["row_id", *(row["primary_label"] for row in classes)]
    real_times = {len(row[key]) for row in rows(real / "train_soundscapes_labels.csv") for key in ("start", "end")}
    assert {len(row[key]) for row in rows(dataset / "test_labels.csv") for key in ("start", "end")} == real_times


def test_tables_name_what_is_there(dataset: Path) -> None:
    labels = set(Taxonomy.read(dataset / "taxonomy.csv").labels)
    assert len(labels) == SMALL.species
    for folder, table, number in (
        ("train_soundscapes", "train_soundscapes_labels.csv", SMALL.train_soundscapes),
        ("test_soundscapes", "test_labels.csv", SMALL.test_soundscapes),
    ):
        on_disk = {path.name for path in (dataset / folder).iterdir()}
        table_rows = rows(dataset / table)
        assert on_disk == {row["filename"] for row in table_rows}
        assert len(on_disk) == number
        assert len(table_rows) == number * SMALL.duration_s // 5
        assert {label for row in table_rows for label in row["primary_label"].split(";")} <= labels | {""}
    clips = rows(dataset / "train.csv")
    on_disk = {path.relative_to(dataset / "train_audio").as_posix() for path in (dataset / "train_audio").glob("*/*")}
    assert {row["filename"] for row in clips} == on_disk
    assert all(row["filename"].startswith(row["primary_label"] + "/") for row in clips)
    assert len(clips) == SMALL.species * SMALL.clips_per_species
    ids = {f"{Path(r['filename']).stem}_{sum(int(n) * 60**i for i, n in enumerate(reversed(r['end'].split(':'))))}"
           for r in rows(dataset / "test_labels.csv")}  # fmt: skip
    submission = rows(dataset / "sample_submission.csv")
    assert {row["row_id"] for row in submission} == ids
    assert all(float(value) == 1 / SMALL.species for row in submission for key, value in row.items() if key != "row_id")


def test_audio_is_what_birdclef_has(dataset: Path) -> None:
    for path in dataset.glob("*_soundscapes/*.ogg"):
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (RATE, 1, "VORBIS")
        assert info.frames == SMALL.duration_s * RATE
    lengths = [soundfile.info(path).duration for path in dataset.glob("train_audio/*/*.ogg")]
    assert min(lengths) >= 5
    assert max(lengths) <= 30


def test_names_tell_site_and_time(dataset: Path) -> None:
    found = find_recordings([dataset / "test_soundscapes"])
    assert [recording.file_id for recording in found] == list(range(1, SMALL.test_soundscapes + 1))
    assert all(recording.site and recording.start_time for recording in found)


def test_unseen_sites_are_not_in_the_training_data(dataset: Path) -> None:
    train, test = (
        {recording.site for recording in find_recordings([dataset / folder])}
        for folder in ("train_soundscapes", "test_soundscapes")
    )
    unseen = set(json.loads((dataset / "synth.json").read_text())["unseen_sites"])
    assert not unseen & train
    assert test - train == unseen & test
    assert len(unseen & test) == 2
    assert test & train


# --- reproducibility


def test_same_options_give_same_bytes(dataset: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "again", SMALL)
    first, again = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (dataset, tmp_path / "again")
    )
    assert first == again


def test_a_file_does_not_depend_on_the_others(dataset: Path, tmp_path: Path) -> None:
    options = SynthOptions(species=8, test_soundscapes=3, duration_s=10, test_only=True, jobs=2)
    write_dataset(tmp_path / "few", options)
    assert not (tmp_path / "few" / "train_audio").exists()
    files = list((tmp_path / "few" / "test_soundscapes").iterdir())
    assert len(files) == 3
    for path in files:
        assert path.read_bytes() == (dataset / "test_soundscapes" / path.name).read_bytes()


def test_seeds_change_recordings_and_worlds_change_species() -> None:
    same_world = [synth.soundscape(SynthOptions(seed=seed, species=8, duration_s=5), "Test", 0)[1] for seed in (0, 1)]
    assert not np.array_equal(same_world[0].samples, same_world[1].samples)
    worlds = [synth_scenes.make_world(seed, 8) for seed in (0, 1)]
    assert worlds[0].labels == worlds[1].labels
    assert not np.allclose(worlds[0].activity, worlds[1].activity)
    assert worlds[0].species[0].voice != worlds[1].species[0].voice


def test_splits_do_not_share_recordings() -> None:
    train, test = (synth.soundscape(SynthOptions(species=8, duration_s=5), split, 0)[1] for split in ("Train", "Test"))
    assert abs(np.corrcoef(train.samples, test.samples)[0, 1]) < 0.5


def test_ogg_pages_have_valid_checksums() -> None:
    """Against the bitwise definition of RFC 3533: polynomial 0x04c11db7, no reflection, no inversion."""
    stream = encode_vorbis(np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32))
    at = pages = 0
    while at < len(stream):
        assert stream[at : at + 4] == b"OggS"
        segments = stream[at + 26]
        end = at + 27 + segments + sum(stream[at + 27 : at + 27 + segments])
        page = stream[at : at + 22] + bytes(4) + stream[at + 26 : end]
        crc = 0
        for byte in page:
            crc ^= byte << 24
            for _ in range(8):
                crc = (crc << 1 ^ 0x04C11DB7 if crc & 0x80000000 else crc << 1) & 0xFFFFFFFF
        assert int.from_bytes(stream[at + 22 : at + 26], "little") == crc
        at, pages = end, pages + 1
    assert pages >= 3
    decoded, rate = soundfile.read(io.BytesIO(stream))
    assert (len(decoded), rate) == (8000, RATE)


# --- labels and habits


def in_band_levels(samples: NDArray[np.float32], band: tuple[float, float]) -> NDArray[np.float64]:
    """Power in a band, per sample: an independent measure by a Butterworth filter in the time domain."""
    sos = signal.butter(6, band, "bandpass", fs=RATE, output="sos")
    return np.square(signal.sosfilt(sos, samples.astype(np.float64)))


def test_labels_agree_with_energy() -> None:
    """Labels against in-band power measured another way; cases within 2 dB of the threshold may fall either way."""
    checked = {True: 0, False: 0}
    options = SynthOptions(species=24, duration_s=20)
    world = synth_scenes.make_world(0, 24)
    for index in range(3, 9):
        _, scene = synth.soundscape(options, "Train", index)
        silent = [k for k in range(24) if k not in scene.tracks]
        assert not scene.present[:, silent].any()
        for k, track in scene.tracks.items():
            band = world.species[k].voice.band_hz
            noise = in_band_levels(scene.background, band).reshape(4, -1).mean(axis=1)
            frames = in_band_levels(track, band).reshape(4, 50, -1).mean(axis=2)
            surely = (frames > noise[:, None] * 10**0.5).sum(axis=1) >= 4
            hardly = (frames > noise[:, None] * 10**0.1).sum(axis=1) <= 2
            assert scene.present[surely, k].all()
            assert not scene.present[hardly, k].any()
            checked[True] += surely.sum()
            checked[False] += hardly.sum()
    assert min(checked.values()) > 15


def test_a_mix_is_its_parts() -> None:
    _, scene = synth.soundscape(SynthOptions(duration_s=10), "Train", 3)
    parts = scene.gain * (scene.background + sum(scene.tracks.values()))
    np.testing.assert_allclose(scene.samples, np.clip(parts, -1, 1), atol=1e-6)


def test_chunks_are_those_of_the_engine() -> None:
    """Focal clips have any length; a tail under 1 s makes no chunk, a longer one does."""
    world = synth_scenes.make_world(0, 4)
    for duration_s in (5.99, 6.0, 10.0, 10.03):
        rng = np.random.default_rng(0)
        singers = synth_scenes.draw_focal_singers(world, 0, duration_s, rng)
        scene = synth_scenes.render(world, world.sites[0], 0, singers, duration_s, rng)
        assert len(scene.present) == ChunkGrid(5).chunks(duration_s)


def test_bands_hold_the_songs() -> None:
    rng = np.random.default_rng(1)
    for species in synth_voices.make_species(MAX_SPECIES):
        bout = synth_voices.sing(species.voice, synth_voices.draw_individual(rng), rng)
        power = np.square(np.abs(np.fft.rfft(bout)))
        frequency = np.fft.rfftfreq(len(bout), 1 / RATE)
        low, high = species.voice.band_hz
        inside = power[(frequency >= low) & (frequency <= high)].sum() / power.sum()
        assert inside > 0.85, species.scientific_name
        assert high < RATE / 2


def test_activity_follows_the_table() -> None:
    """Singers drawn over sites and hours: counts within what the binomial allows (chi-square over species)."""
    world = synth_scenes.make_world(0, 24)
    rng = np.random.default_rng(2)
    expected, variance, counted = np.zeros(24), np.zeros(24), np.zeros(24)
    for site in range(len(world.sites)):
        for hour in range(0, 24, 2):
            chance = world.activity[:, site, hour]
            for _ in range(3):
                here = {singer.species for singer in synth_scenes.draw_singers(world, site, hour, 60, rng)}
                counted[list(here)] += 1
                expected += chance
                variance += chance * (1 - chance)
    chi2 = np.sum((counted - expected) ** 2 / variance)
    assert 0.001 < stats.chi2.sf(chi2, 24) < 0.999
    # and the table says something: hours and sites differ
    assert (world.activity.max(axis=(1, 2)) > 5 * world.activity.min(axis=(1, 2))).all()


def test_labels_follow_site_and_hour() -> None:
    """In rendered recordings, the chance of the table ranks the species that are there above those that are not."""
    options = SynthOptions(species=24, duration_s=5)
    world = synth_scenes.make_world(0, 24)
    truth, chance = [], []
    for index in range(40):
        made, scene = synth.soundscape(options, "Train", index)
        _, _, _, site, _, time = made.filename.removesuffix(".ogg").split("_")
        truth.append(scene.present.any(axis=0))
        chance.append(world.activity[:, int(site[1:]) - 1, int(time[:2])])
    assert roc_auc_score(np.ravel(truth), np.ravel(chance)) > 0.75


def test_levels_go_from_quiet_to_clipping() -> None:
    scenes = [synth.soundscape(SynthOptions(duration_s=10), "Test", index)[1].samples for index in range(16)]
    levels = [20 * np.log10(np.std(samples)) for samples in scenes]
    assert min(levels) < -40
    assert max(levels) > -28
    assert all(np.isfinite(samples).all() and np.abs(samples).max() <= 1 for samples in scenes)


def plain_features(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean, maximum and deviation over time of a coarse log spectrum."""
    _, _, power = signal.spectrogram(samples, RATE, nperseg=1024, noverlap=512)
    edges = np.unique(np.geomspace(4, 480, 41).astype(int))
    bands = np.log(np.add.reduceat(power, edges, axis=0)[:-1] + 1e-14)
    bands -= np.median(bands)
    return np.concatenate([bands.mean(axis=1), bands.max(axis=1), bands.std(axis=1)])


def test_species_can_be_told_apart_and_shuffled_ones_cannot() -> None:
    """Focal clips to five nearest neighbours: held-out accuracy far above chance, at chance with shuffled labels."""
    options = SynthOptions(species=6)
    clips = [(k, synth.focal_clip(options, k, i)[1].samples[: 5 * RATE]) for k in range(6) for i in range(15)]
    classes = np.array([k for k, _ in clips])
    features = np.stack([plain_features(samples) for _, samples in clips])
    held_out = np.arange(len(classes)) % 15 >= 10

    def accuracy(labels: NDArray[np.int64]) -> float:
        scaler = StandardScaler().fit(features[~held_out])
        model = KNeighborsClassifier(5).fit(scaler.transform(features[~held_out]), labels[~held_out])
        return float(model.score(scaler.transform(features[held_out]), labels[held_out]))

    assert accuracy(classes) > 0.7
    assert accuracy(np.random.default_rng(0).permutation(classes)) < 0.45


@pytest.mark.parametrize("number", [4, 7, 24, 48])
def test_any_number_of_species_has_four_classes(number: int) -> None:
    species = synth_voices.make_species(number)
    assert len({s.primary_label for s in species}) == len({s.scientific_name for s in species}) == number
    assert {s.class_name for s in species} == {"Aves", "Amphibia", "Insecta", "Mammalia"}
    genera = [s.scientific_name.split()[0] for s in species]
    if number >= 24:
        assert min(genera.count(genus) for genus in genera) >= 2
    assert [s.primary_label for s in species] == sorted(s.primary_label for s in species)


# --- wrong use and interrupts


def test_a_folder_with_other_things_is_never_written_to(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for force in (False, True):
        with pytest.raises(OptionsError, match="other things"):
            write_dataset(tmp_path, SMALL, force=force)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_force_replaces_an_earlier_data_set(tmp_path: Path) -> None:
    tiny = SynthOptions(species=4, test_soundscapes=3, duration_s=5, test_only=True, jobs=1)
    write_dataset(tmp_path, tiny)
    with pytest.raises(OptionsError, match="--force"):
        write_dataset(tmp_path, tiny)
    write_dataset(
        tmp_path, SynthOptions(species=4, test_soundscapes=1, duration_s=5, test_only=True, jobs=1), force=True
    )
    assert len(list((tmp_path / "test_soundscapes").iterdir())) == len(rows(tmp_path / "test_labels.csv")) == 1


def test_an_interrupt_leaves_whole_files_and_true_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., bytes] = synth_dataset.encode_vorbis
    calls = 0

    def interrupted(samples: NDArray[np.float32]) -> bytes:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return real(samples)

    monkeypatch.setattr(synth_dataset, "encode_vorbis", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path, SynthOptions(species=4, test_soundscapes=9, duration_s=5, test_only=True, jobs=1))
    names = {path.name for path in (tmp_path / "test_soundscapes").iterdir()}
    assert len(names) == 2
    assert names == {row["filename"] for row in rows(tmp_path / "test_labels.csv")}
    assert len(rows(tmp_path / "sample_submission.csv")) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"species": 3}, "species is 3, it must be 4 to 48"),
        ({"duration_s": 12}, "multiple of 5"),
        ({"jobs": 0}, "jobs is 0, it must be 1 to"),
        ({"test_soundscapes": -1}, "test soundscapes is -1"),
    ],
)
def test_options_out_of_range_are_named(change: dict[str, int], words: str) -> None:
    with pytest.raises(OptionsError, match=words):
        SynthOptions(**change)  # type: ignore[arg-type]


def test_command(tmp_path: Path) -> None:
    line = f"synth --out {tmp_path / 'd'} --species 4 --test-soundscapes 1 --duration 5 --test-only --jobs 1 --quiet"
    assert main(line.split()) == 0
    assert len(rows(tmp_path / "d" / "test_labels.csv")) == 1
