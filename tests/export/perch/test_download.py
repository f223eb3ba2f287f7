"""Published files come by name, are checked, are kept, and a failure says what to do by hand."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bce.engine.errors import ExportError
from bce.engine.files import sha256
from bce.export.classes import read_perch_labels
from bce.export.perch import download
from bce.export.perch.download import (
    LABELS,
    PUBLISHED,
    Published,
    fetch,
    published_name,
    resolve,
    resolve_labels,
)

CONTENT = b"a published file" * 100


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A folder with one file, served on this machine, and an empty cache."""
    folder = tmp_path / "web"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(CONTENT)
    monkeypatch.setenv("BCE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/model.onnx"
    server.shutdown()
    server.server_close()
    thread.join()


def _publish(monkeypatch: pytest.MonkeyPatch, url: str, digest: str | None = None) -> None:
    digest = digest or hashlib.sha256(CONTENT).hexdigest()
    monkeypatch.setitem(PUBLISHED, "small", Published(url, digest, len(CONTENT)))


def test_a_name_is_downloaded_once(web: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _publish(monkeypatch, web)
    path = fetch("small")
    assert path.read_bytes() == CONTENT
    assert path.parent == tmp_path / "cache"
    (tmp_path / "web" / "model.onnx").unlink()
    assert resolve("small") == path


def test_a_damaged_cache_is_mended(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _publish(monkeypatch, web)
    path = fetch("small")
    path.write_bytes(CONTENT[:-1])
    assert fetch("small").read_bytes() == CONTENT


def test_another_content_is_refused(web: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _publish(monkeypatch, web, digest="0" * 64)
    with pytest.raises(ExportError, match=r"SHA-256 differs.*download http.*pass the file's path") as error:
        fetch("small")
    assert "\n" not in str(error.value)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize("reason", ["no such file", "no network"])
def test_a_failure_says_what_to_do(reason: str, web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = web.replace("model", "other") if reason == "no such file" else "http://127.0.0.1:9/model.onnx"
    _publish(monkeypatch, url)
    with pytest.raises(ExportError, match=r"cannot be downloaded .*pass the file's path") as error:
        resolve("small")
    assert "\n" not in str(error.value)
    assert url in str(error.value)


def test_an_existing_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("perch_v2").touch()
    assert resolve("perch_v2") == Path("perch_v2")


def test_neither_path_nor_name() -> None:
    with pytest.raises(ExportError, match=r"nowhere\.onnx: does not exist.*perch_v2, perch_v2_no_dft"):
        resolve("nowhere.onnx")
    with pytest.raises(ExportError, match="'nowhere' is not a published file"):
        fetch("nowhere")


def test_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCE_CACHE", str(tmp_path))
    assert download.cache_folder() == tmp_path
    monkeypatch.delenv("BCE_CACHE")
    assert download.cache_folder().name == "bce"


def test_labels_come_by_name_unless_there_is_such_a_file(
    web: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    published = Published(web, hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))
    for name in LABELS:
        monkeypatch.setitem(LABELS, name, published)
    monkeypatch.chdir(tmp_path)
    for name in ("labels.csv", "perch_v2_labels"):
        assert resolve_labels(Path(name)) == tmp_path / "cache" / "perch_v2_labels.csv"
        assert resolve_labels(name).read_bytes() == CONTENT
    (tmp_path / "labels.csv").write_text("mine")
    assert resolve_labels("labels.csv") == Path("labels.csv")
    assert resolve_labels("other.csv") == Path("other.csv")  # who reads it says that it is not there


def test_the_published_labels_are_those_of_the_model(shared: Path) -> None:
    file = shared / "data" / "perch_v2_labels" / "labels.csv"
    assert {(entry.sha256, entry.size) for entry in LABELS.values()} == {(sha256(file), file.stat().st_size)}
    assert len(read_perch_labels(file, 14_795)) == 14_795


def test_a_published_file_is_known_by_its_digest() -> None:
    assert published_name(PUBLISHED["perch_v2"].sha256) == "perch_v2"
    assert published_name("0" * 64) is None
