"""Downloads: resumed, checked, never half-used."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from benchmarks_mlperf_tiny.data.cache import RemoteFile, cache_folder, fetch
from benchmarks_mlperf_tiny.errors import DataError

CONTENT = bytes(range(256)) * 40
SHA = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT: /whole ignores ranges, /ranges honours them, /broken stops early, /other is something else."""

    requests: list[tuple[str, str | None]] = []  # noqa: RUF012

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.requests.append((self.path, wanted))
        start = 0
        if wanted and self.path in ("/ranges", "/broken"):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(CONTENT):
            self.send_error(416)
            return
        body = b"something else" if self.path == "/other" else CONTENT[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.path == "/broken" else body)

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Handler.requests.clear()
    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def get(url: str, folder: Path, sha: str = SHA) -> Path:
    return fetch(RemoteFile(url, "file.bin", sha), folder, quiet=True)


def test_a_file_is_downloaded_once(server: str, tmp_path: Path) -> None:
    assert get(server + "/whole", tmp_path).read_bytes() == CONTENT
    assert get(server + "/whole", tmp_path).read_bytes() == CONTENT
    assert Handler.requests == [("/whole", None)]


@pytest.mark.parametrize("way", ["/ranges", "/whole"])
def test_an_interrupted_download_goes_on_or_starts_over(server: str, tmp_path: Path, way: str) -> None:
    with pytest.raises(DataError, match=r"5120 of 10240 bytes.*continued next time.*--data-dir"):
        get(server + "/broken", tmp_path)
    assert not (tmp_path / "file.bin").exists()
    assert get(server + way, tmp_path).read_bytes() == CONTENT
    assert Handler.requests[-1] == (way, "bytes=5120-")
    assert not (tmp_path / "file.bin.part").exists()


def test_a_complete_part_needs_only_its_checksum(server: str, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    assert get(server + "/ranges", tmp_path).read_bytes() == CONTENT


def test_wrong_contents_are_discarded(server: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"expected was {SHA}.*discarded"):
        get(server + "/other", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_damaged_file_in_the_cache_is_named(server: str, tmp_path: Path) -> None:
    get(server + "/whole", tmp_path).write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(DataError, match=r"file\.bin does not have the checksum.*Delete it"):
        get(server + "/whole", tmp_path)


def test_no_network_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"could not be downloaded.*Without a network.*--data-dir.*embedded"):
        get("http://127.0.0.1:9/none", tmp_path)


def test_the_cache_folder_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NASOPT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("NASOPT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "nasopt"
