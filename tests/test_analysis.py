"""Analyses are kept exactly, and refused where they do not fit."""

import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from stabilizers import StabilizerPlan
from tests.measured import small_analysis
from tests.mini import blank_clip
from vidinvert.analysis import check_analysis_target, read_analysis, sha256_of, write_analysis
from vidinvert.checkpoints import find_pack
from vidinvert.errors import AnalysisError, EncodeError, PlanError
from vidinvert.media import probe
from vidinvert.types import KeptPictures, Plans, SteadiedMasks, TrackingPlan


@pytest.fixture(scope="module")
def pack():
    return find_pack("mini")


@pytest.fixture
def kept(tmp_path, pack):
    """A kept analysis of two faces: its path, and what was written."""
    analysis = small_analysis(
        tmp_path / "clip.mp4", faces=((0, 1, 2), (1, 2, 5)), shots=((0, 4), (4, 8))
    )
    tracks = (analysis.tracks[0], replace(analysis.tracks[1], identity=np.ones(512, np.float32)))
    pictures = KeptPictures(encoded=(b"one", b"", b"three"), codes_sha256="ab" * 32)
    masks = analysis.inversions[1].mask
    steadied = SteadiedMasks(ood=masks.ood // 2, filter_text="of another kind")
    inversions = (
        replace(
            analysis.inversions[0],
            mask=replace(analysis.inversions[0].mask, measured=np.array([True, False, True])),
        ),
        replace(analysis.inversions[1], mask=replace(masks, steadied=steadied)),
    )
    analysis = replace(
        analysis,
        tracks=tracks,
        frames=range(7),
        unedited=(None, pictures),
        inversions=inversions,
    )
    write_analysis(tmp_path / "kept.npz", analysis, pack=pack, plans=Plans())
    return tmp_path / "kept.npz", analysis


def read(path, info, pack, *, method="samm", plans=None):
    return read_analysis(path, info=info, pack=pack, method=method, plans=plans or Plans())


def rewrite(path, **changes):
    """Write the file again with other entries in its header; None takes one away."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    header = {**json.loads(str(arrays["header"])), **changes}
    header = {name: value for name, value in header.items() if value is not None}
    arrays["header"] = np.array(json.dumps(header))
    np.savez(path, **arrays)


def test_what_was_measured_comes_back_exactly(kept, pack):
    path, analysis = kept
    again = read(path, analysis.info, pack)
    assert (again.frames, again.shots) == (analysis.frames, analysis.shots)
    for before, after in zip(analysis.tracks, again.tracks, strict=True):
        assert before.track_id == after.track_id
        for name in ("indices", "landmarks_xy", "boxes_xyxy", "score"):
            np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
    assert again.tracks[0].identity is None
    np.testing.assert_array_equal(again.tracks[1].identity, analysis.tracks[1].identity)
    for before, after in zip(analysis.alignments, again.alignments, strict=True):
        np.testing.assert_array_equal(before.crop_from_frame, after.crop_from_frame)
        np.testing.assert_array_equal(before.quads_xy, after.quads_xy)
    for before, after in zip(analysis.inversions, again.inversions, strict=True):
        np.testing.assert_array_equal(before.latents.w_plus, after.latents.w_plus)
        np.testing.assert_array_equal(before.mask.guide, after.mask.guide)
        np.testing.assert_array_equal(before.mask.ood, after.mask.ood)
        np.testing.assert_array_equal(before.mask.measured, after.mask.measured)
        assert after.method == "samm"
    assert again.unedited[0] is None
    assert again.unedited[1] == analysis.unedited[1]
    assert again.inversions[0].mask.steadied is None
    steadied, wanted = (one.inversions[1].mask.steadied for one in (again, analysis))
    assert steadied.filter_text == wanted.filter_text
    np.testing.assert_array_equal(steadied.ood, wanted.ood)


def test_another_clip_pack_or_method_is_refused_with_the_reason(kept, pack, tmp_path):
    path, analysis = kept
    blank_clip(tmp_path / "other.mp4", frames=9)
    with pytest.raises(AnalysisError, match=r"made from another clip \(clip.mp4\), expected one"):
        read(path, probe(tmp_path / "other.mp4"), pack)
    other = replace(pack, sha256="f" * 64)
    with pytest.raises(AnalysisError, match=r"made by the pack 'mini' \(.*expected 'mini' \(ffff"):
        read(path, analysis.info, other)
    with pytest.raises(AnalysisError, match="made with --method samm, expected e4e"):
        read(path, analysis.info, pack, method="e4e")


def test_a_renamed_clip_is_the_same_clip(kept, pack, tmp_path):
    path, analysis = kept
    moved = analysis.info.path.rename(tmp_path / "moved.mp4")
    assert len(read(path, probe(moved), pack).tracks) == 2


def test_another_schema_is_refused(kept, pack):
    path, analysis = kept
    rewrite(path, schema=99)
    with pytest.raises(AnalysisError, match=r"has schema 99, expected 2; analyse the clip again"):
        read(path, analysis.info, pack)


def test_settings_that_shaped_the_measurements_must_be_the_same(kept, pack):
    path, analysis = kept
    steadier = Plans(stabilizer=StabilizerPlan(transforms=None))
    with pytest.raises(PlanError, match=r"made with align smoothing .*, but None is asked for"):
        read(path, analysis.info, pack, plans=steadier)
    with pytest.raises(PlanError, match=r"made with min score 0.5, but 0.3 is asked for"):
        read(path, analysis.info, pack, plans=Plans(tracking=TrackingPlan(min_score=0.3)))
    softer = Plans(stabilizer=StabilizerPlan(latents=None, mask=None))
    assert len(read(path, analysis.info, pack, plans=softer).tracks) == 2


def test_settings_left_at_their_defaults_are_those_of_the_file(kept, pack):
    path, analysis = kept
    unusual = Plans(tracking=TrackingPlan(min_size=50.0))
    write_analysis(path, analysis, pack=pack, plans=unusual, overwrite=True)
    assert len(read(path, analysis.info, pack).tracks) == 2
    assert len(read(path, analysis.info, pack, plans=unusual).tracks) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"frames": [0, 99]},
        {"frames": "x"},
        {"faces": []},
        {"faces": [0, 1, 2]},
        {"source": None},
        {"settings": None},
        {"settings": "x"},
        {"crop_size": "big"},
        {"schema": None},
    ],
)
def test_a_header_that_makes_no_sense_is_refused(kept, pack, changes):
    path, analysis = kept
    rewrite(path, **changes)
    with pytest.raises(AnalysisError, match=r"cannot be read as an analysis .* --save-analysis"):
        read(path, analysis.info, pack)


def test_pictures_that_are_not_one_a_frame_are_refused(kept, pack):
    path, analysis = kept
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    for sizes in ([3, 0], [3, 0, 9]):
        np.savez(path, **{**arrays, "face1_unedited_sizes": np.array(sizes)})
        with pytest.raises(AnalysisError, match=r"pictures of 8 bytes for 3 frames"):
            read(path, analysis.info, pack)


def test_what_is_no_analysis_is_refused(kept, pack, tmp_path):
    path, analysis = kept
    whole = path.read_bytes()
    text, short, plain = tmp_path / "text.npz", tmp_path / "short.npz", tmp_path / "plain.npz"
    text.write_text("not an archive")
    short.write_bytes(whole[: len(whole) // 2])
    np.savez(plain, a=np.zeros(3))
    for wrong in (text, short, plain):
        with pytest.raises(AnalysisError, match="cannot be read as an analysis"):
            read(wrong, analysis.info, pack)
    with pytest.raises(AnalysisError, match="is not a file, expected an analysis"):
        read(tmp_path / "missing.npz", analysis.info, pack)


@pytest.mark.promise(12)
def test_an_archive_that_unpacks_to_gigabytes_is_refused_unread(kept, pack, tmp_path):
    _, analysis = kept
    bomb = tmp_path / "bomb.npz"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        block = bytes(1 << 20)
        with archive.open("header.npy", "w", force_zip64=True) as member:
            for _ in range(100 + 8 * analysis.info.frame_count):
                member.write(block)
    assert bomb.stat().st_size < 2 << 20
    with pytest.raises(AnalysisError, match=r"unpacks to \d+ MiB, expected at most"):
        read(bomb, analysis.info, pack)


@pytest.mark.promise(7)
def test_an_analysis_is_written_whole_and_replaces_nothing_unasked(kept, pack, tmp_path):
    path, analysis = kept
    with pytest.raises(EncodeError, match=r"kept.npz exists already"):
        write_analysis(path, analysis, pack=pack, plans=Plans())
    with pytest.raises(EncodeError, match=r"ends in '.txt', expected one of .npz"):
        check_analysis_target(tmp_path / "a.txt", info=analysis.info)
    broken = replace(analysis, inversions=analysis.inversions[:1])
    with pytest.raises(ValueError, match="zip"):
        write_analysis(tmp_path / "new.npz", broken, pack=pack, plans=Plans())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.mp4", "kept.npz"]


def test_the_checksum_is_that_of_the_content(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of(tmp_path / "abc").startswith("ba7816bf8f01cfea")


def test_a_damaged_picture_of_an_analysis_is_refused_and_not_a_crash(kept, pack):
    """Found by fuzzing: a wrong byte within what is compressed is an error of zlib's own."""
    path, analysis = kept
    content = bytearray(path.read_bytes())
    place = len(content) // 2
    content[place : place + 64] = b"\xff" * 64
    path.write_bytes(content)
    with pytest.raises(AnalysisError, match="cannot be read as an analysis"):
        read_analysis(path, info=analysis.info, pack=pack, method="samm", plans=Plans())
