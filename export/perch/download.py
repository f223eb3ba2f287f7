"""Published Perch v2 files by name, checked by their SHA-256."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from bce.engine.errors import ExportError

CACHE_VARIABLE = "BCE_CACHE"
"""The environment variable that moves the cache of downloaded files."""


@dataclass(frozen=True)
class Published:
    """A file on the web: where it is, what it must hash to, and its size in bytes."""

    url: str
    sha256: str
    size: int


_PERCH_ONNX = "https://huggingface.co/justinchuby/Perch-onnx/resolve/main/"

PUBLISHED: dict[str, Published] = {
    "perch_v2": Published(
        _PERCH_ONNX + "perch_v2.onnx",
        "bf0c8467a924cb074663970ca4a0ab1e143602121930209657d0dff5d5cefa1f",
        409_148_616,
    ),
    "perch_v2_no_dft": Published(
        _PERCH_ONNX + "perch_v2_no_dft.onnx",
        "4dcf71c18a147198545944bb5149697e89e3ad2e16637fa8f0edf6d13035a017",
        413_350_933,
    ),
}

LABELS: dict[str, Published] = dict.fromkeys(
    ("perch_v2_labels", "labels.csv"),
    Published(
        "https://github.com/tphakala/birda/raw/main/data/labels/perch_v2/labels.csv",
        "e4d5c0397d8fb08bf90c6b13a34810af53504faad927e472fcc567793c9de057",
        312_716,
    ),
)
"""The class names of Perch v2 in the order of its logits, under a name of their own and under the file's."""

_KAGGLE = "google/bird-vocalization-classifier/tensorFlow2/"

KAGGLE: dict[str, str] = {
    "kaggle:perch_v2_cpu": _KAGGLE + "perch_v2_cpu/1",
    "kaggle:perch_v2": _KAGGLE + "perch_v2/2",
}
"""The SavedModels on Kaggle, each at one version. Kaggle publishes no SHA-256 of their files: a bundle records those
that came."""

NAMES = (*PUBLISHED, *KAGGLE)


def cache_folder() -> Path:
    """Where downloaded files are kept: ``$BCE_CACHE``, else the user's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    import pooch

    return Path(pooch.os_cache("bce"))


def fetch(name: str) -> Path:
    """The path of a published file, downloaded to the cache unless it is there already.

    Raises:
        ExportError: no such name, no network, or a file whose SHA-256 is not the published one.
    """
    import pooch

    published = PUBLISHED.get(name) or LABELS.get(name)
    if published is None:
        raise ExportError(f"'{name}' is not a published file: the names are {', '.join(PUBLISHED)}")
    folder = cache_folder()
    file_name = "perch_v2_labels.csv" if name in LABELS else published.url.rsplit("/", 1)[1]
    by_hand = f"download {published.url} elsewhere and pass the file's path instead of '{name}'"
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("WARNING")  # the library's own progress lines are the caller's business
    try:
        return Path(pooch.retrieve(published.url, f"sha256:{published.sha256}", fname=file_name, path=folder))
    except ValueError:
        raise ExportError(f"what came is not the published file, its SHA-256 differs; {by_hand}", name) from None
    except Exception as error:  # requests' errors, urllib3's errors, OSError: all mean that the file did not come
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ExportError(f"cannot be downloaded ({reason}); {by_hand}", name) from None
    finally:
        logger.setLevel(level)


def fetch_kaggle(name: str) -> Path:
    """The folder of a SavedModel from Kaggle, downloaded to kagglehub's cache unless it is there already.

    Raises:
        ExportError: kagglehub is not installed, there is no network, or Kaggle wants credentials.
    """
    handle = KAGGLE[name]
    page, _, version = handle.rpartition("/")
    by_hand = (
        f"download version {version} from https://www.kaggle.com/models/{page} elsewhere, unpack it, and pass the "
        f"folder instead of '{name}'"
    )
    try:
        import kagglehub
    except ImportError:
        raise ExportError(f"needs kagglehub (pip install 'bce[tensorflow]'), or {by_hand}", name) from None
    try:
        return Path(kagglehub.model_download(handle))
    except Exception as error:  # requests' errors, kagglehub's errors, OSError: all mean that the folder did not come
        offline = "Max retries" in str(error) or isinstance(error, ConnectionError)
        text = "no connection to Kaggle" if offline else (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExportError(f"cannot be downloaded ({text}); {by_hand}", name) from None


def resolve(name_or_path: str | Path) -> Path:
    """A source's path: the path itself where it exists, else the published file of that name.

    Raises:
        ExportError: neither; or the download failed.
    """
    path = Path(name_or_path).expanduser()
    if path.exists():
        return path
    if str(name_or_path) in PUBLISHED:
        return fetch(str(name_or_path))
    if str(name_or_path) in KAGGLE:
        return fetch_kaggle(str(name_or_path))
    raise ExportError(f"does not exist, and is none of the published names {', '.join(NAMES)}", name_or_path)


def resolve_labels(name_or_path: str | os.PathLike[str]) -> Path:
    """The path of a list of class names: the path itself where it exists, else the published list of that name.

    Raises:
        ExportError: the download failed.
    """
    path = Path(name_or_path).expanduser()
    return path if path.exists() or str(name_or_path) not in LABELS else fetch(str(name_or_path))


def published_name(digest: str) -> str | None:
    """The name of the published file with a SHA-256; None where it is none of those that are known here."""
    return next((name for name, file in PUBLISHED.items() if file.sha256 == digest), None)
