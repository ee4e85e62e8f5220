"""Source distributions from an index that lies on the disk: what is taken, and what is refused with nothing kept."""

from __future__ import annotations

import http.server
import json
import tarfile
import threading
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from email.message import Message
from pathlib import Path

import pytest
from swe_packages import archive, offer

from milepost.envs.swe import sources, test_tools
from milepost.envs.swe.packages import PACKAGES, Package, package, packages
from milepost.envs.swe.sources import source, unpack
from milepost.sandbox.core import MachineError


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """A package of two files, on an index of one package."""
    return offer(tmp_path, monkeypatch)


def left(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.glob("sources/*"))


def test_a_source_is_unpacked_once_without_metadata_or_history(tiny: Package, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with ThreadPoolExecutor(4) as pool:
        (tree,) = set(pool.map(lambda _: source(tiny, cache), range(4)))
    assert sorted(path.name for path in tree.iterdir()) == ["setup.py", "test_tiny.py", "tiny.py"]
    assert left(cache) == [tree.name]
    (tmp_path / "index" / "tiny" / "tiny-1.0.tar.gz").unlink()
    assert source(tiny, cache) == tree


def test_an_index_that_answers_in_json_is_read(tiny: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = (tmp_path / "index" / "tiny" / tiny.archive).read_bytes()
    page = "https://index.test/simple/tiny/"
    answers = {
        page: (json.dumps({"files": [{"filename": tiny.archive, "url": "../../f.gz"}]}).encode(), sources.JSON),
        "https://index.test/f.gz": (data, ""),
    }
    monkeypatch.setattr(sources, "_pip_settings", lambda: {"index-url": "https://index.test/simple"})
    monkeypatch.setattr(sources, "_get", lambda url: answers[url])
    assert (source(tiny, tmp_path / "cache") / "tiny.py").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "0" * 64}, "^tiny-1.0.tar.gz: expected sha256 0000.*, got .* from file://"),
        ({"tests": ("tests",)}, "^tiny-1.0.tar.gz: the source distribution has no tests at tests$"),
        ({"tests": ()}, "^tiny-1.0.tar.gz: the source distribution has no tests at .$"),
        ({"modules": ("src/*.py",)}, "^tiny-1.0.tar.gz: the source distribution has no src/"),
        ({"version": "2.0"}, "^tiny-2.0.tar.gz: no package index has it; looked at file://"),
        ({"name": "huge"}, "^huge-1.0.tar.gz: no package index has it; looked at file://"),
    ],
)
def test_what_is_not_the_pinned_package_is_refused_and_not_kept(
    tiny: Package, tmp_path: Path, change: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        source(replace(tiny, **change), tmp_path / "cache")  # type: ignore[arg-type]
    assert left(tmp_path / "cache") == []


def test_an_index_that_cannot_be_reached_is_the_machine_s_error(
    tiny: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_pip_settings", lambda: {"index-url": "http://127.0.0.1:9/simple"})
    with pytest.raises(MachineError, match=r"^tiny-1.0.tar.gz: the package index does not answer \(http://127"):
        source(tiny, tmp_path / "cache")
    assert left(tmp_path / "cache") == []


def test_an_archive_that_does_not_come_is_the_machine_s_error(
    tiny: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = "https://index.test/simple/tiny/"
    listed = json.dumps({"files": [{"filename": tiny.archive, "url": "../../f.gz"}]}).encode()

    def get(url: str) -> tuple[bytes, str]:
        if url == page:
            return listed, sources.JSON
        raise urllib.error.HTTPError(url, 404, "Not Found", Message(), None)

    monkeypatch.setattr(sources, "_pip_settings", lambda: {"index-url": "https://index.test/simple"})
    monkeypatch.setattr(sources, "_get", get)
    with pytest.raises(MachineError, match=r"does not answer \(https://index.test/f.gz: 404 Not Found\)"):
        source(tiny, tmp_path / "cache")


def test_an_archive_of_which_a_part_came_is_the_machine_s_error(
    tiny: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cut(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            whole = b'<a href="/tiny-1.0.tar.gz">tiny-1.0.tar.gz</a>' if self.path.endswith("/") else bytes(4000)
            self.send_response(200)
            self.send_header("Content-Length", str(len(whole)))
            self.end_headers()
            self.wfile.write(whole[:1000])

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Cut) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()  # also where what follows fails
        index = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(sources, "_pip_settings", lambda: {"index-url": index})
        with pytest.raises(
            MachineError, match=r"does not answer \(.*/tiny-1.0.tar.gz: the answer ended after 1000 of 4000"
        ):
            source(tiny, tmp_path / "cache")
        server.shutdown()
    assert left(tmp_path / "cache") == []


def test_tools_that_pip_cannot_install_are_the_machine_s_error_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(test_tools, "PINS", ("milepost-has-no-such-tool==1.0",))
    with pytest.raises(MachineError, match=r"^test tools: -m pip install failed: ERROR: .*milepost-has-no-such-tool"):
        test_tools.tools(tmp_path)
    assert list((tmp_path / "tools").iterdir()) == []


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (archive({"x-1/../../evil": "x"}), "a path in it leads out"),
        (archive({"/etc/evil": "x"}), "a path in it leads out"),
        (archive({}, special("x-1/a", tarfile.SYMTYPE, "/etc/passwd")), "got a link or device"),
        (archive({}, special("x-1/a", tarfile.LNKTYPE, "../b")), "got a link or device"),
        (archive({}, special("x-1/a", tarfile.FIFOTYPE)), "got a link or device"),
        (b"not a tar", "expected a gzipped tar"),
        (archive({"x-1/a": "0" * 9999})[:60], "expected a gzipped tar"),
    ],
    # An archive has the time in it, of which pytest would make another name in each of its processes.
    ids=["a path up", "a path from the root", "a link", "a hard link", "a pipe", "no archive", "half an archive"],
)
def test_an_archive_that_leads_out_of_its_folder_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    with pytest.raises(ValueError, match=message):
        unpack(data, inner, "x.tar.gz")
    assert list(tmp_path.iterdir()) == [inner]


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="expected at most 1000 bytes in it"):
        unpack(archive({"x-1/a": "0" * 600, "x-1/b": "0" * 600}), tmp_path, "x.tar.gz")


def test_a_package_is_in_one_split_and_an_unknown_one_is_asked_back() -> None:
    assert sum(len(packages(split=split)) for split in ("train", "valid", "test")) == len(PACKAGES) >= 14
    with pytest.raises(ValueError, match=r"^no package 'inflexion' \(did you mean 'inflection'\?\); there are"):
        package("inflexion")
    with pytest.raises(ValueError, match=r"^SWE split: expected one of train, valid, test, got 'dev'$"):
        packages(split="dev")
