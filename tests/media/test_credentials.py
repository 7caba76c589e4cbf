"""Signed manifests: they say what was done, hold, and change nothing else of the clip."""

import io
import json
import os
import signal
import sys
import time
from dataclasses import replace

import pytest

c2pa = pytest.importorskip("c2pa", reason="c2pa-python, of the extra vidinvert[c2pa], is missing")

from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa  # noqa: E402

from tests.certificates import new_authority, write_credentials  # noqa: E402
from tests.clips import (  # noqa: E402
    B_FRAMES,
    MATRIX,
    Clip,
    Sound,
    read_numbers,
    sound_packets,
    video_packets,
    write_clip,
)
from tests.listener import Listener  # noqa: E402
from vidinvert.errors import EncodeError, PlanError  # noqa: E402
from vidinvert.media import (  # noqa: E402
    ManifestSigner,
    SegmentedWriter,
    VideoWriter,
    copy_clip,
    credentials,
    decode,
    probe,
)
from vidinvert.types import EncodeSettings  # noqa: E402

pytestmark = pytest.mark.promise(20)
FAST = EncodeSettings(preset="ultrafast", threads=1)
CLIP = Clip(frame_count=12, options=B_FRAMES, sounds=(Sound(),))
COMPOSITE = "compositeWithTrainedAlgorithmicMedia"


@pytest.fixture(scope="module")
def authority():
    return new_authority()


@pytest.fixture
def pair(tmp_path, authority):
    return write_credentials(tmp_path, authority)


def write(target, info, *, signer=None, **options):
    writer = (SegmentedWriter if "directory" in options else VideoWriter)(
        target, like=info, settings=FAST, signer=signer, **options
    )
    with writer:
        for batch in decode(info):
            writer.write(batch)


def read(path, authority=None):
    """The state of a signed clip and its manifests, read with an authority to trust or none."""
    settings: dict = {
        "verify": {"verify_trust": authority is not None, "remote_manifest_fetch": False},
    }
    if authority is not None:
        settings["trust"] = {"user_anchors": authority.anchor}
    with (
        path.open("rb") as stream,
        c2pa.Reader("video/mp4", stream, context=c2pa.Context.from_dict(settings)) as reader,
    ):
        return reader.get_validation_state(), json.loads(reader.json())


def active(manifests):
    return manifests["manifests"][manifests["active_manifest"]]


@pytest.mark.parametrize("suffix", [".mp4", ".m4v", ".mov"])
def test_a_manifest_says_what_was_done_and_leaves_every_packet_as_it_was(
    tmp_path, pair, authority, suffix
):
    info = probe(write_clip(tmp_path, CLIP, name="talk"))
    plain, signed = tmp_path / f"plain{suffix}", tmp_path / f"signed{suffix}"
    write(plain, info)
    write(signed, info, signer=ManifestSigner(pair, source=info, edits=("smile=2", "age=-1")))
    state, manifests = read(signed, authority)
    assert state == "Trusted"
    claimed = active(manifests)
    assert claimed["claim_generator_info"][0]["name"] == "vidinvert"
    (parent,) = claimed["ingredients"]
    assert (parent["title"], parent["relationship"]) == ("talk.mp4", "parentOf")
    actions = next(a for a in claimed["assertions"] if a["label"].startswith("c2pa.actions"))
    opened, edited = actions["data"]["actions"]
    assert (opened["action"], edited["action"]) == ("c2pa.opened", "c2pa.edited")
    assert edited["digitalSourceType"].endswith(f"/{COMPOSITE}")
    assert edited["description"] == "smile=2, age=-1"
    assert video_packets(signed) == video_packets(plain)
    assert sound_packets(signed) == sound_packets(plain)
    again = probe(signed)
    assert again.pts.tolist() == probe(plain).pts.tolist()
    assert read_numbers([f for b in decode(again) for f in b.frames]) == [*range(12)]


def test_segments_that_were_joined_are_signed_as_one(tmp_path, pair, authority):
    info = probe(write_clip(tmp_path, CLIP))
    signer = ManifestSigner(pair, source=info, edits=("smile=2",))
    segments = tmp_path / "segments"
    write(tmp_path / "out.mp4", info, signer=signer, directory=segments, segment_frames=8)
    assert read(tmp_path / "out.mp4", authority)[0] == "Trusted"
    for segment in segments.iterdir():
        with pytest.raises(c2pa.C2paError, match="ManifestNotFound"):
            read(segment)


def test_faces_left_as_they_are_claim_no_trained_media(tmp_path, pair):
    info = probe(write_clip(tmp_path, CLIP))
    signer = ManifestSigner(pair, source=info, action="c2pa.transcoded")
    write(tmp_path / "out.mp4", info, signer=signer)
    _, manifests = read(tmp_path / "out.mp4")
    assert "c2pa.transcoded" in json.dumps(active(manifests))
    assert COMPOSITE not in json.dumps(manifests)


def test_a_flipped_bit_breaks_the_manifest(tmp_path, pair):
    info = probe(write_clip(tmp_path, CLIP))
    target = tmp_path / "out.mp4"
    write(target, info, signer=ManifestSigner(pair, source=info))
    content = bytearray(target.read_bytes())
    content[content.index(b"mdat") + 50] ^= 1
    target.write_bytes(content)
    assert read(target)[0] == "Invalid"


def test_the_manifest_of_a_source_is_kept_beside_the_new_one(tmp_path, pair):
    info = probe(write_clip(tmp_path, CLIP))
    first, second = tmp_path / "first.mp4", tmp_path / "second.mp4"
    write(first, info, signer=ManifestSigner(pair, source=info, edits=("age=1",)))
    once = probe(first)
    write(second, once, signer=ManifestSigner(pair, source=once, edits=("smile=2",)))
    state, manifests = read(second)
    assert (state, len(manifests["manifests"])) == ("Valid", 2)
    assert "age=1" in json.dumps(manifests)


def test_an_output_that_is_not_signed_says_that_it_loses_the_sources_manifest(tmp_path, pair):
    plain = probe(write_clip(tmp_path, CLIP))
    write(tmp_path / "signed.mp4", plain, signer=ManifestSigner(pair, source=plain))
    signed = probe(tmp_path / "signed.mp4")
    lost = "the source's C2PA manifest, which a signed output would keep"
    for info, signer, expected in (
        (plain, None, ()),
        (signed, None, (lost,)),
        (signed, ManifestSigner(pair, source=signed), ()),
    ):
        writer = VideoWriter(tmp_path / "out.mp4", like=info, settings=FAST, signer=signer)
        assert writer.left_out == expected
    assert copy_clip(signed, tmp_path / "copy.mp4") == (lost,)
    assert copy_clip(plain, tmp_path / "other.mp4") == ()
    assert not credentials.carries_manifest(replace(signed, container="matroska,webm"))
    signed.path.write_bytes(b"\0\0\0\1ftyp" + bytes(20))
    assert not credentials.carries_manifest(signed)


@pytest.mark.parametrize("suffix", [".mkv", ".avi"])
def test_a_source_in_another_container_is_named_all_the_same(tmp_path, pair, suffix):
    kept = {".avi": {"codec": "mpeg4"}}.get(suffix, {})
    info = probe(write_clip(tmp_path, Clip(frame_count=6, suffix=suffix, **kept), name="talk"))
    write(tmp_path / "out.mp4", info, signer=ManifestSigner(pair, source=info))
    state, manifests = read(tmp_path / "out.mp4")
    assert (state, active(manifests)["ingredients"][0]["title"]) == ("Valid", f"talk{suffix}")


def test_a_source_whose_boxes_c2pa_cannot_follow_is_named_all_the_same(tmp_path, pair):
    path = write_clip(tmp_path, CLIP, name="talk")
    path.write_bytes(path.read_bytes() + b"\0\0\0\3free")  # a box shorter than its own header
    info = probe(write_clip(tmp_path, CLIP, name="other"))
    info = replace(info, path=path)
    write(tmp_path / "out.mp4", info, signer=ManifestSigner(pair, source=info))
    state, manifests = read(tmp_path / "out.mp4")
    assert (state, active(manifests)["ingredients"][0]["title"]) == ("Valid", "talk.mp4")


@pytest.mark.promise(13)
def test_a_manifest_that_lies_elsewhere_is_not_fetched(tmp_path, pair):
    source, lure = write_clip(tmp_path, CLIP), tmp_path / "lure.mp4"
    chain, key = pair.certificates.read_bytes(), pair.key.read_bytes()
    signer = ManifestSigner(pair, source=probe(source))
    key = signer._key
    visited = Listener()
    builder = c2pa.Builder({"claim_generator_info": [{"name": "lure"}]})
    builder.set_intent(c2pa.C2paBuilderIntent.EDIT)
    builder.set_no_embed()
    builder.set_remote_url(f"http://127.0.0.1:{visited.port}/a.c2pa")
    with source.open("rb") as plain, lure.open("w+b") as out:
        who = c2pa.Signer.from_info(c2pa.C2paSignerInfo("es256", chain, key, None))
        builder.sign(who, "video/mp4", plain, out)
    info = probe(lure)
    write(tmp_path / "out.mp4", info, signer=ManifestSigner(pair, source=info))
    visited.close()
    assert visited.visits == 0
    assert read(tmp_path / "out.mp4")[0] == "Valid"


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (ec.generate_private_key(ec.SECP384R1()), "es384"),
        (ec.generate_private_key(ec.SECP521R1()), "es512"),
        (rsa.generate_private_key(65537, 2048), "ps256"),
        (ed25519.Ed25519PrivateKey.generate(), "ed25519"),
    ],
    ids=["P-384", "P-521", "RSA", "Ed25519"],
)
def test_every_kind_of_key_signs(tmp_path, authority, key, algorithm):
    info = probe(write_clip(tmp_path, CLIP))
    signer = ManifestSigner(write_credentials(tmp_path, authority, key=key), source=info)
    write(tmp_path / "out.mp4", info, signer=signer)
    assert read(tmp_path / "out.mp4", authority)[0] == "Trusted"
    assert signer.describe() == {
        "action": "c2pa.edited",
        "signed_by": "O=Tests,CN=Signer",
        "algorithm": algorithm,
    }


def bad_files(directory, authority):
    """Ways to get it wrong: a name, the files, and what is said."""
    good = write_credentials(directory, authority)
    text, large, pipe = (directory / name for name in ("text.pem", "large.pem", "pipe.pem"))
    text.write_text("hello")
    large.write_bytes(b"x" * (2**20 + 1))
    os.mkfifo(pipe)

    def other(name, **options):
        (directory / name).mkdir()
        return write_credentials(directory / name, authority, **options)

    own = other("own", key=authority.key)
    return {
        "no certificates": (replace(good, certificates=text), "holds no certificates"),
        "no key": (replace(good, key=text), "holds no private key"),
        "a certificate as key": (replace(good, key=good.certificates), "holds no private key"),
        "missing": (replace(good, key=directory / "none.pem"), "none.pem does not exist"),
        "a directory": (replace(good, key=directory), "is a directory, expected a PEM file"),
        "a pipe": (replace(good, key=pipe), "is a named pipe, expected a PEM file"),
        "large": (replace(good, certificates=large), "larger than 1 MiB"),
        "another's key": (replace(good, key=other("b").key), "not the key of the first cert"),
        "locked": (other("c", password=b"secret"), "locked with a passphrase"),
        "expired": (other("d", days=-1), "do not sign .*, expected a certificate for C2PA"),
        "unknown curve": (
            other("e", key=ec.generate_private_key(ec.SECP256K1())),
            "a key that C2PA does not know",
        ),
        "unknown kind": (other("f", key=dsa.generate_private_key(2048)), "does not know"),
        "vouches for itself": (own, "do not sign .*the certificate"),
    }


def test_files_that_do_not_sign_are_refused_before_any_work(tmp_path, authority):
    info = probe(write_clip(tmp_path, MATRIX["cfr_25"]))
    for name, (files, message) in bad_files(tmp_path, authority).items():
        with pytest.raises(PlanError, match=message) as caught:
            ManifestSigner(files, source=info)
        assert "\n" not in str(caught.value), name


def test_containers_without_a_place_for_a_manifest_are_refused(tmp_path, pair):
    info = probe(write_clip(tmp_path, CLIP))
    signer = ManifestSigner(pair, source=info)
    for suffix in (".mkv", ".webm"):
        with pytest.raises(PlanError, match=r"cannot hold a C2PA manifest, expected .*\.mov"):
            VideoWriter(tmp_path / f"out{suffix}", like=info, settings=FAST, signer=signer)


def test_without_the_library_one_sentence_says_how_to_get_it(tmp_path, pair, monkeypatch):
    info = probe(write_clip(tmp_path, CLIP))
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(PlanError, match=r"pip install 'vidinvert\[c2pa\]'"):
        ManifestSigner(pair, source=info)


@pytest.mark.promise(7)
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full device here")
def test_a_disc_that_fills_while_signing_leaves_the_old_file(tmp_path, pair, monkeypatch):
    info = probe(write_clip(tmp_path, CLIP))
    target = tmp_path / "out.mp4"
    target.write_bytes(b"old")
    full = type("Full", (), {**vars(os), "open": lambda *_: os.open("/dev/full", os.O_RDWR)})
    monkeypatch.setattr(credentials, "os", full)
    with pytest.raises(EncodeError, match=r"could not be written \(No space left"):
        write(target, info, signer=ManifestSigner(pair, source=info), overwrite=True)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.glob(".vidinvert-*")) == []


@pytest.mark.promise(7)
def test_without_room_for_temporary_files_nothing_is_written(tmp_path, pair, monkeypatch):
    info = probe(write_clip(tmp_path, replace(CLIP, size_hw=(480, 640), frame_count=30)))
    signer = ManifestSigner(pair, source=info)
    low = {**credentials.SETTINGS["core"], "backing_store_memory_threshold_in_mb": 0}
    monkeypatch.setitem(credentials.SETTINGS, "core", low)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nothing"))
    with pytest.raises(EncodeError, match=r"could not be signed .*free some space"):
        write(tmp_path / "out.mp4", info, signer=signer)
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".mp4", ".pem", ".pem"]


@pytest.mark.promise(7)
def test_what_reads_back_wrong_is_not_given_the_name(tmp_path, pair, monkeypatch):
    info = probe(write_clip(tmp_path, CLIP))
    signer = ManifestSigner(pair, source=info)
    monkeypatch.setattr(credentials, "_read_back", lambda *_: ("Invalid", ["a hash differs"]))
    with pytest.raises(EncodeError, match=r"reads back as Invalid \(a hash differs\)"):
        write(tmp_path / "out.mp4", info, signer=signer)
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".mp4", ".pem", ".pem"]


@pytest.mark.promise(17)
def test_an_interruption_while_signing_ends_it_and_leaves_nothing(tmp_path, pair, monkeypatch):
    info = probe(write_clip(tmp_path, CLIP))
    sign_into, stopped = ManifestSigner._sign_into, []

    def interrupted(self, written, staged, kind):
        os.kill(os.getpid(), signal.SIGTERM)
        until = time.monotonic() + 5
        while not written.stopped and time.monotonic() < until:
            time.sleep(0.01)
        try:
            return sign_into(self, written, staged, kind)
        except EncodeError as error:
            stopped.append(error)
            raise

    monkeypatch.setattr(ManifestSigner, "_sign_into", interrupted)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    started = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "out.mp4", info, signer=ManifestSigner(pair, source=info))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert time.monotonic() - started < 2
    assert len(stopped) == 1  # the library gave up at the first byte
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".mp4", ".pem", ".pem"]


def test_a_picture_of_one_pixel_is_a_picture():
    import cv2
    import numpy as np

    picture = np.frombuffer(io.BytesIO(credentials._one_pixel()).getvalue(), np.uint8)
    assert cv2.imdecode(picture, cv2.IMREAD_GRAYSCALE).tolist() == [[0]]
