"""Downloads against a server on this machine that breaks off, lies and changes its mind."""

import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from vidinvert.checkpoints import PUBLICATIONS, PublishedFile, downloads, fetch, find_publication
from vidinvert.cli import main
from vidinvert.cli.model_files import KINDS
from vidinvert.errors import CheckpointError, ChecksumError, MissingError

CONTENT = bytes(range(256)) * 3000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Behaviour:
    """What the server does, and what it was asked."""

    content: bytes = CONTENT
    etag: str | None = '"one"'
    content_type: str = "application/octet-stream"
    ranges: bool = True
    cut_after: list[int] = field(default_factory=list)  # bytes, one entry an answer
    statuses: list[int] = field(default_factory=list)
    redirect: str | None = None
    asked: list[tuple[str | None, str | None]] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    behaviour: Behaviour

    def log_message(self, *arguments) -> None:
        pass

    def do_GET(self) -> None:
        b = self.behaviour
        wanted, condition = self.headers.get("Range"), self.headers.get("If-Range")
        b.asked.append((wanted, condition))
        if b.statuses:
            self.send_error(b.statuses.pop(0))
            return
        if b.redirect is not None:
            self.send_response(302)
            self.send_header("Location", b.redirect)
            self.end_headers()
            return
        start = 0
        if wanted and b.ranges and condition in (None, b.etag):
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
        if start >= len(b.content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        size = len(b.content)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Content-Length", str(size - start))
        self.send_header("Content-Type", b.content_type)
        if b.etag:
            self.send_header("ETag", b.etag)
        self.end_headers()
        body = b.content[start:]
        if b.cut_after:
            body = body[: b.cut_after.pop(0)]
        self.wfile.write(body)


@pytest.fixture
def server(monkeypatch) -> Iterator[tuple[Behaviour, str]]:
    monkeypatch.setattr(downloads, "PAUSE_SECONDS", 0.0)
    behaviour = Behaviour()
    handler = type("Bound", (Handler,), {"behaviour": behaviour})
    instance = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=instance.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield behaviour, f"http://127.0.0.1:{instance.server_port}/weights.bin"
    instance.shutdown()
    instance.server_close()
    thread.join()


def entry(url: str | None, **changes) -> PublishedFile:
    return PublishedFile(**({"name": "weights.bin", "url": url} | changes))


def test_a_file_is_fetched_checked_and_kept(server, tmp_path):
    behaviour, url = server
    seen = []
    fetched = fetch(entry(url, sha256=SHA256), tmp_path, progress=lambda *a: seen.append(a))
    assert fetched.path.read_bytes() == CONTENT
    assert (fetched.sha256, fetched.checked) == (SHA256, "published")
    assert seen[-1] == ("weights.bin", len(CONTENT), len(CONTENT))
    assert fetch(entry(url, sha256=SHA256), tmp_path).checked == "published"
    assert len(behaviour.asked) == 1  # the second time nothing is fetched
    assert [path.name for path in tmp_path.iterdir()] == ["weights.bin"]


def test_without_a_published_checksum_the_first_one_is_recorded(server, tmp_path):
    behaviour, url = server
    assert fetch(entry(url), tmp_path).checked == "first"
    assert (tmp_path / "SHA256SUMS").read_text() == f"{SHA256}  weights.bin\n"
    assert fetch(entry(url), tmp_path).checked == "recorded"
    (tmp_path / "weights.bin").unlink()
    behaviour.content = CONTENT[::-1]
    with pytest.raises(ChecksumError, match=r"expected \w+ as recorded.*authors have replaced it"):
        fetch(entry(url), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["SHA256SUMS"]


def test_a_cut_connection_is_taken_up_where_it_ended(server, tmp_path):
    behaviour, url = server
    behaviour.cut_after = [100_000, 200_000]
    assert fetch(entry(url, sha256=SHA256), tmp_path).path.read_bytes() == CONTENT
    assert behaviour.asked == [
        (None, None),
        ("bytes=100000-", '"one"'),
        ("bytes=300000-", '"one"'),
    ]


def test_a_download_that_is_given_up_goes_on_at_the_next_call(server, tmp_path):
    behaviour, url = server
    behaviour.cut_after = [100_000] * 4
    with pytest.raises(MissingError, match=r"ended after 400000 of 768000.*400000 bytes are kept"):
        fetch(entry(url, sha256=SHA256), tmp_path)
    assert (tmp_path / "weights.bin.part").stat().st_size == 400_000
    assert fetch(entry(url, sha256=SHA256), tmp_path).path.read_bytes() == CONTENT
    assert behaviour.asked[-1] == ("bytes=400000-", '"one"')


@pytest.mark.parametrize("change", ["etag", "length alone", "no ranges"])
def test_a_file_that_changed_meanwhile_is_fetched_anew(server, tmp_path, change):
    behaviour, url = server
    if change == "length alone":
        behaviour.etag = None
    behaviour.cut_after = [100_000] * 4
    with pytest.raises(MissingError):
        fetch(entry(url), tmp_path)
    behaviour.content = CONTENT[::-1] + b"more"
    behaviour.etag = None if change == "length alone" else '"two"'
    behaviour.ranges = change != "no ranges"
    assert fetch(entry(url), tmp_path).path.read_bytes() == behaviour.content


def test_a_part_of_another_address_or_beyond_the_end_is_not_taken_up(server, tmp_path):
    behaviour, url = server
    (tmp_path / "weights.bin.part").write_bytes(b"something else")
    assert fetch(entry(url, sha256=SHA256), tmp_path).path.read_bytes() == CONTENT
    (tmp_path / "weights.bin").unlink()
    behaviour.cut_after = [100_000] * 4
    with pytest.raises(MissingError):
        fetch(entry(url, sha256=SHA256), tmp_path)
    with (tmp_path / "weights.bin.part").open("ab") as part:
        part.write(bytes(len(CONTENT)))
    assert fetch(entry(url, sha256=SHA256), tmp_path).path.read_bytes() == CONTENT


@pytest.mark.promise(14)
def test_a_wrong_checksum_is_refused_and_nothing_is_kept(server, tmp_path):
    _, url = server
    with pytest.raises(ChecksumError, match=rf"has sha256 {SHA256}, expected {'0' * 64}"):
        fetch(entry(url, sha256="0" * 64), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_web_page_instead_of_the_file_is_refused(server, tmp_path, content_type):
    behaviour, url = server
    behaviour.content, behaviour.content_type = (
        b"\n<!DOCTYPE html><html>log in</html>",
        content_type,
    )
    with pytest.raises(CheckpointError, match=r"answers with a web page, expected the file"):
        fetch(entry(url), tmp_path)
    assert not (tmp_path / "weights.bin").exists()


def test_errors_of_the_server_are_said_or_tried_again(server, tmp_path):
    behaviour, url = server
    behaviour.statuses = [404]
    with pytest.raises(CheckpointError, match="answers 404 Not Found, expected the file"):
        fetch(entry(url), tmp_path)
    behaviour.statuses = [503, 500]
    assert fetch(entry(url), tmp_path).path.read_bytes() == CONTENT


def test_redirects_leave_encryption_nowhere(server, tmp_path):
    behaviour, url = server
    behaviour.redirect = "http://example.org/weights.bin"
    with pytest.raises(CheckpointError, match="is not an address with https"):
        fetch(entry(url), tmp_path)
    for address in ("http://example.org/x", "file:///etc/hosts", "ftp://example.org/x"):
        with pytest.raises(CheckpointError, match="is not an address with https"):
            fetch(entry(address), tmp_path)


@pytest.mark.promise(13)
def test_without_a_network_it_is_said_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(downloads, "PAUSE_SECONDS", 0.0)
    address = "http://127.0.0.1:9/weights.bin"  # the discard port: nobody listens
    with pytest.raises(
        MissingError, match=r"could not be fetched .*put it into .* as weights\.bin"
    ):
        fetch(entry(address), tmp_path)


def test_every_publication_can_be_asked_for():
    names = [publication.name for publication in PUBLICATIONS]
    assert len(set(names)) == len(names)
    for publication in PUBLICATIONS:
        assert find_publication(publication.name) is publication
        assert publication.license
        for file in publication.files:
            assert (file.url is None) != (file.page is None)
            assert (file.url or file.page).startswith("https://")
            assert re.fullmatch(r"[\w.-]+", file.name)
    with pytest.raises(MissingError, match=r"Nothing called 'x' can be pulled.*e4e-ffhq"):
        find_publication("x")


def run(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_pull_lists_what_there_is(capsys):
    status, out, _ = run(capsys, "models", "pull")
    assert status == 0
    assert len(out.splitlines()) == len(PUBLICATIONS)
    assert "e4e-ffhq" in out


def test_pull_shows_the_licence_first_and_fetches_once_it_is_accepted(
    server, tmp_path, capsys, monkeypatch
):
    behaviour, url = server
    published = find_publication("stylegan2-ffhq-256")
    (file,) = published.files
    here = type(published)(
        **{name: getattr(published, name) for name in type(published).__slots__}
        | {"files": (PublishedFile(name=file.name, url=url),)}
    )
    monkeypatch.setattr(downloads, "PUBLICATIONS", (here,))
    monkeypatch.setenv("VIDINVERT_PACKS", str(tmp_path / "packs"))
    status, out, err = run(capsys, "models", "pull", "stylegan2-ffhq-256")
    assert (status, out) == (2, "")
    assert "accept it with --accept-licence" in err
    assert behaviour.asked == []
    status, out, err = run(capsys, "models", "pull", "stylegan2-ffhq-256", "--accept-licence")
    folder = tmp_path / "packs" / "downloads" / "stylegan2-ffhq-256"
    assert (status, out) == (0, f"{folder / file.name}\n")
    assert "recorded now: its authors publish none to compare with" in err
    assert f"vidinvert models import stylegan2 {folder / file.name} -o PACK" in err
    assert run(capsys, "models", "pull", "stylegan2-ffhq-256", "--yes", "--quiet")[2] == ""


def test_pull_says_what_to_fetch_by_hand_and_where_to_put_it(tmp_path, capsys):
    arguments = ("models", "pull", "e4e-ffhq", "--yes", "-o", tmp_path)
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (1, "")
    assert "https://drive.google.com/file/d/" in err
    assert f"{tmp_path / 'e4e_ffhq_encode.pt'}" in err
    (tmp_path / "e4e_ffhq_encode.pt").write_bytes(b"weights")
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (0, f"{tmp_path / 'e4e_ffhq_encode.pt'}\n")
    assert "models import e4e" in err


def test_kinds_of_the_command_are_those_of_the_room():
    from vidinvert import official

    assert set(KINDS) == {*official.KINDS, "directions"}
