"""Files made to harm: refused at once, in one sentence, without a packet or a gigabyte."""

import json
import os
import socket
import struct
import subprocess
import sys
import time
import zlib

import pytest

from tests.clips import MATRIX
from tests.listener import Listener
from tests.mini import SAMPLE
from vidinvert.cli import main
from vidinvert.errors import MediaError, OpenError
from vidinvert.images import read_mask, read_picture
from vidinvert.media import probe

pytestmark = pytest.mark.promise(11)


@pytest.fixture
def listener():
    server = Listener()
    yield server
    server.close()


def lures(port):
    """Files that make a careless reader fetch http://127.0.0.1:port."""
    url = f"http://127.0.0.1:{port}/a.ts"
    playlist = f"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n"
    return {
        "list.m3u8": playlist,
        "list.mp4": playlist,
        "list.mkv": playlist,
        "cat.txt": f"ffconcat version 1.0\nfile '{url}'\n",
        "cat.mp4": f"ffconcat version 1.0\nfile '{url}'\n",
        "call.sdp": f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        f"m=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "dash.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" '
        'type="static" profiles="x"><Period><AdaptationSet mimeType="video/mp4">'
        f'<Representation id="1" bandwidth="1"><BaseURL>{url}</BaseURL></Representation>'
        "</AdaptationSet></Period></MPD>",
        "smil.asx": f'<asx version="3.0"><entry><ref href="{url}"/></entry></asx>',
        "image%03d.png": f"{url}",
        "index.rtf": f"{{\\rtf1 {url}}}",
        "page.html": f"<html><video src='{url}'></html>",
    }


@pytest.mark.promise(13)
@pytest.mark.parametrize("name", lures(0))
def test_a_file_that_points_elsewhere_is_refused_without_a_visit(tmp_path, listener, name):
    path = tmp_path / name
    path.write_text(lures(listener.port)[name])
    started = time.monotonic()
    with pytest.raises(OpenError, match="cannot be read as a video"):
        probe(path)
    assert time.monotonic() - started < 2
    time.sleep(0.05)
    assert listener.visits == 0


@pytest.mark.promise(13)
@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{port}/a.mp4", "rtsp://127.0.0.1:{port}/a", "tcp://127.0.0.1:{port}"]
)
def test_an_address_is_refused_without_a_visit(listener, url):
    with pytest.raises(OpenError, match="is a URL, expected the path of a file"):
        probe(url.format(port=listener.port))
    assert listener.visits == 0


@pytest.mark.promise(13)
def test_the_guard_of_the_tests_refuses_other_machines(network_guard):
    with (
        socket.socket() as other,
        pytest.raises(OSError, match=r"network guard: .* is another machine"),
    ):
        other.connect(("192.0.2.1", 80))
    assert network_guard.pop() == "('192.0.2.1', 80)"


@pytest.mark.promise(13)
def test_a_playlist_may_not_name_another_local_file_either(clip_file, tmp_path):
    os.link(clip_file(MATRIX["cfr_25"]), tmp_path / "clip.mp4")
    for name, text in {
        "a.m3u8": "#EXTM3U\n#EXTINF:1,\nclip.mp4\n#EXT-X-ENDLIST\n",
        "b.mp4": "#EXTM3U\n#EXTINF:1,\nclip.mp4\n#EXT-X-ENDLIST\n",
        "c.ffconcat": "ffconcat version 1.0\nfile clip.mp4\n",
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(OpenError, match="cannot be read as a video"):
            probe(tmp_path / name)


def test_links_that_lead_in_a_circle_or_to_a_device_are_refused(tmp_path):
    (tmp_path / "a.mp4").symlink_to(tmp_path / "b.mp4")
    (tmp_path / "b.mp4").symlink_to(tmp_path / "a.mp4")
    with pytest.raises(OpenError, match="cannot be looked up"):
        probe(tmp_path / "a.mp4")
    (tmp_path / "zero.mp4").symlink_to("/dev/zero")
    with pytest.raises(OpenError, match="is a device, expected a regular video file"):
        probe(tmp_path / "zero.mp4")


def absurd(clip_file, directory):
    """Files whose headers claim far more than they hold; yields them."""
    plain = bytearray(clip_file(MATRIX["cfr_25"]).read_bytes())
    count = plain.index(b"stsz") + 12
    claims = {
        "samples": (count, struct.pack(">I", 200_000_000)),
        "years": (plain.index(b"mvhd") + 20, struct.pack(">I", 0xFFFFFFFF)),
        "length": (plain.index(b"mdat") - 4, struct.pack(">I", 0xFFFFFFF0)),
        "times": (plain.index(b"stts") + 8, struct.pack(">I", 0xFFFFFFF)),
        "chunks": (plain.index(b"stco") + 8, struct.pack(">I", 0xFFFFFFF)),
    }
    for name, (place, value) in claims.items():
        content = bytearray(plain)
        content[place : place + len(value)] = value
        path = directory / f"{name}.mp4"
        path.write_bytes(content)
        yield path
    nested = b"".join(struct.pack(">I4s", 8 * (20_000 - n), b"moov") for n in range(20_000))
    (directory / "nested.mp4").write_bytes(struct.pack(">I4s8x", 16, b"ftyp") + nested)
    yield directory / "nested.mp4"
    huge = b"\x1a\x45\xdf\xa3\x84\x42\x82\x81w\x18\x53\x80\x67\x01" + b"\xff" * 6 + b"\xfe"
    (directory / "huge.mkv").write_bytes(huge + b"\x16\x54\xae\x6b\x08\xff\xff\xff\xff" * 50)
    yield directory / "huge.mkv"


MEASURE = """
import json, sys
from vidinvert.errors import MediaError
from vidinvert.media import decode, probe
seen = []
for path in sys.argv[1:]:
    try:
        seen.append(sum(len(batch.indices) for batch in decode(probe(path))))
    except MediaError as error:
        seen.append(str(error))
lines = open("/proc/self/status").read().splitlines()
peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
print(json.dumps({"seen": seen, "peak_kb": peak}))
"""


@pytest.mark.promise(12)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_headers_that_claim_the_world_cost_little_time_and_memory(clip_file, tmp_path):
    paths = list(absurd(clip_file, tmp_path))
    paths.append(tmp_path / "bomb.gif")  # 16000x16000 pixels in 40 bytes
    head = b"GIF89a" + struct.pack("<HHBBB", 16000, 16000, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    picture = b"," + struct.pack("<HHHHB", 0, 0, 16000, 16000, 0) + b"\x02\x02\x44\x01\x00;"
    paths[-1].write_bytes(head + picture)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    result = json.loads(done.stdout)
    for path, seen in zip(paths, result["seen"], strict=True):
        assert seen == 24 or isinstance(seen, str), (path.name, seen)
    assert isinstance(result["seen"][-1], str)
    assert result["peak_kb"] < 1_500_000


def write_empty_png(path, side):
    """Write a black picture whose lines compress to next to nothing."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    lines, packer = bytes(side + 1), zlib.compressobj(9)
    body = b"".join(packer.compress(lines) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


READ = """
import sys
from vidinvert.cli import main
status = main(sys.argv[1:])
from vidinvert.pipeline import peak_memory_bytes
print(peak_memory_bytes(), file=sys.stderr)
sys.exit(status)
"""


@pytest.mark.promise(12)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_a_picture_of_a_hundred_kilobytes_and_gigabytes_of_pixels_is_refused(tmp_path):
    bomb = tmp_path / "bomb.png"
    write_empty_png(bomb, 16_000)
    assert bomb.stat().st_size < 300_000
    command = [sys.executable, "-c", READ, "image", "interpolate", str(bomb), str(bomb)]
    command += ["-o", str(tmp_path / "out.png"), "--quiet", "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    said, peak = done.stderr.splitlines()
    assert done.returncode == 1
    assert "claims more pixels than are read" in said
    assert int(peak) < 1_500_000_000


@pytest.mark.promise(12)
def test_a_picture_that_claims_more_than_opencv_reads_is_refused_in_one_sentence(tmp_path):
    bomb = tmp_path / "bomb.png"
    write_empty_png(bomb, 1)
    content = bytearray(bomb.read_bytes())
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    bomb.write_bytes(content)
    for read in (read_picture, read_mask):
        with pytest.raises(OpenError, match="claims more pixels than are read, expected"):
            read(bomb)


@pytest.mark.promise(15)
def test_odd_names_are_edited_or_refused_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    content = SAMPLE.read_bytes()[:5000]
    for name in ("./-dash.mp4", "a\nb.mp4", "http:x.mp4", "caf\udce9.mp4", "'; rm -rf x.mp4"):
        with open(name, "wb") as file:
            file.write(content)
        status = main(["edit", name, "-o", "out.mp4", "--quiet"])
        error = capsys.readouterr().err
        assert (status, error.count("\n")) == (1, 1)
        assert "cannot be read as a video" in error
    assert not os.path.exists("out.mp4")


@pytest.mark.promise(16)
def test_every_refusal_names_a_way_out(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"\0" * 100)
    with pytest.raises(MediaError, match=r"expected .*; \w+"):
        probe(tmp_path / "a.mp4")
