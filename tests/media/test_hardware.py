"""Decoding by a GPU: refused where there is none; with a stand-in, always what the CPU gives."""

import re
from dataclasses import replace

import numpy as np
import pytest
from av.video.frame import VideoFrame

import vidinvert
from tests.clips import MATRIX, Clip, damaged, write_clip
from tests.media.pretended_gpu import PretendedGpu, interleave
from tests.media.test_decode import UNUSUAL
from tests.mini import SAMPLE, mini, read_clip
from vidinvert.cli import main
from vidinvert.errors import PlanError
from vidinvert.media import HardwareDecoder, check_hardware, decode, probe
from vidinvert.media.hardware import HardwareError, separate_planes
from vidinvert.media.planes import view_planes


def reachable():
    try:
        check_hardware("cuda")
    except PlanError:
        return False
    return True


needs_none = pytest.mark.skipif(reachable(), reason="a GPU decodes here")
CLIPS = {
    **{name: MATRIX[name] for name in ("cfr_25", "vfr", "b_frames", "full_range", "rotated_90")},
    **{name: UNUSUAL[name] for name in ("many segments", "hevc", "open groups", "ten bits")},
    "tagged": MATRIX["bt709"],
}


def batches(info, hardware, **options):
    return list(decode(info, batch_size=8, stored=True, hardware=hardware, **options))


def check_equal(seen, wanted):
    assert [b.indices.tolist() for b in seen] == [b.indices.tolist() for b in wanted]
    for ours, theirs in zip(seen, wanted, strict=True):
        np.testing.assert_array_equal(ours.frames, theirs.frames)
        for one, other in zip(ours.stored, theirs.stored, strict=True):
            assert one.pixel_format == other.pixel_format
            np.testing.assert_array_equal(one.picture, other.picture)
            for plane, expected in zip(one.planes, other.planes, strict=True):
                np.testing.assert_array_equal(plane, expected)


@pytest.mark.parametrize("size_hw", [(64, 96), (49, 67), (2, 130)])
@pytest.mark.parametrize(
    ("pixel_format", "given"),
    [("yuv420p", "nv12"), ("yuvj420p", "nv12"), ("yuv420p10le", "p010le")],
)
def test_interleaved_planes_are_separated_sample_by_sample(size_hw, pixel_format, given):
    frame = VideoFrame(size_hw[1], size_hw[0], pixel_format)
    random = np.random.default_rng(1)
    for plane in view_planes(frame):
        plane[...] = random.integers(0, 1024 if given == "p010le" else 256, plane.shape)
    by_hand = interleave(frame)
    assert by_hand.format.name == given
    # FFmpeg's own conversion is the other witness, where it is exact.
    exact = pixel_format == "yuv420p" or (given == "p010le" and size_hw[1] % 2 == 0)
    for packed in (by_hand, frame.reformat(format=given)) if exact else (by_hand,):
        plain = separate_planes(packed, pixel_format)
        assert plain.format.name == pixel_format
        for seen, wanted in zip(view_planes(plain), view_planes(frame), strict=True):
            np.testing.assert_array_equal(seen, wanted)


def test_layouts_of_other_samples_are_not_separated():
    with pytest.raises(HardwareError, match="its frames are nv12, expected those of yuv420p10le"):
        separate_planes(VideoFrame(16, 16, "nv12"), "yuv420p10le")
    with pytest.raises(HardwareError, match="its frames are yuv420p, expected those of yuv420p"):
        separate_planes(VideoFrame(16, 16, "yuv420p"), "yuv420p")


@pytest.mark.parametrize("name", CLIPS)
def test_passes_after_the_first_are_decoded_by_the_gpu_and_are_the_same(
    clip_file, monkeypatch, name
):
    gpu = PretendedGpu().install(monkeypatch)
    info = probe(clip_file(CLIPS[name]))
    wanted = batches(info, None)
    hardware = HardwareDecoder("cuda", info)
    check_equal(batches(info, hardware), wanted)
    assert (gpu.decoded, hardware.describe()["frames"]) == (0, 0)
    check_equal(batches(info, hardware), wanted)
    check_equal(batches(info, hardware, start=5, stop=17), batches(info, None, start=5, stop=17))
    frames = info.frame_count + 12
    assert hardware.describe() == {"kind": "cuda", "frames": frames, "reason": None}
    assert gpu.decoded == info.frame_count + 17


def test_frames_that_no_pass_before_has_decoded_are_left_to_the_cpu(clip_file, monkeypatch):
    gpu = PretendedGpu().install(monkeypatch)
    info = probe(clip_file(UNUSUAL["many segments"]))
    hardware = HardwareDecoder("cuda", replace(info, reader="pyav"))
    batches(replace(info, reader="pyav"), hardware, start=10, stop=20)
    batches(replace(info, reader="pyav"), hardware, start=9, stop=20)
    assert gpu.decoded == 0
    batches(replace(info, reader="pyav"), hardware, start=10, stop=20)
    assert gpu.decoded == 20


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        ({"wrong": 13}, "frame 13 differs from the CPU's"),
        ({"wrong": 0}, "frame 0 differs from the CPU's"),
        ({"ends": 20}, "it gave no frame 20"),
        ({"fails": 11}, "about frame 11: .*Generic error in an external library"),
    ],
)
@pytest.mark.parametrize("reader", ["decord", "pyav"])
def test_where_the_gpu_fails_the_cpu_goes_on_with_the_frame_that_is_due(
    clip_file, monkeypatch, failure, reason, reader
):
    gpu = PretendedGpu(**failure).install(monkeypatch)
    info = replace(probe(clip_file(UNUSUAL["many segments"])), reader=reader)
    wanted, hardware = batches(info, None), HardwareDecoder("cuda", info)
    for _ in range(3):
        check_equal(batches(info, hardware), wanted)
    described, at = hardware.describe(), max(failure.values())
    assert described["frames"] == at
    assert re.search(reason, described["reason"])
    assert gpu.decoded <= at + 1  # it is not asked again


@pytest.mark.parametrize(("name", "reason"), [("ten bits", "looks other"), ("tagged", None)])
def test_frames_that_lost_their_tags_are_taken_only_where_they_look_the_same(
    clip_file, monkeypatch, name, reason
):
    PretendedGpu(bare=True).install(monkeypatch)
    info = probe(clip_file(CLIPS[name]))
    wanted, hardware = batches(info, None), HardwareDecoder("cuda", info)
    for _ in range(2):
        check_equal(batches(info, hardware), wanted)
    found = hardware.describe()
    assert (reason or "None") in str(found["reason"])
    assert found["frames"] == (0 if reason else info.frame_count)


def test_frames_of_another_size_are_not_taken(clip_file, monkeypatch):
    PretendedGpu().install(monkeypatch)
    info = probe(clip_file(MATRIX["cfr_25"]))
    hardware = HardwareDecoder("cuda", replace(info, coded_size_hw=(48, 80)))
    batches(info, hardware)
    with pytest.raises(HardwareError, match="frame 0 is 64x48"):
        next(hardware.read(0, 24))
    assert hardware.describe()["reason"] == "frame 0 is 64x48"


def test_damaged_clips_and_other_layouts_are_left_to_the_cpu(tmp_path, clip_file, monkeypatch):
    gpu = PretendedGpu().install(monkeypatch)
    info = probe(clip_file(MATRIX["odd_size"]))
    hardware = HardwareDecoder("cuda", info)
    for _ in range(2):
        check_equal(batches(info, hardware), batches(info, None))
    assert hardware.describe()["reason"] == "its pixel format is yuv444p"
    broken = damaged(write_clip(tmp_path, UNUSUAL["many segments"]), packet=40)
    info = probe(broken, salvage=True)
    assert info.salvage is not None
    hardware = HardwareDecoder("cuda", info)
    for _ in range(2):
        check_equal(batches(info, hardware), batches(info, None))
    assert hardware.describe()["reason"] == "the clip is damaged"
    assert gpu.decoded == 0


def test_an_early_end_closes_the_file(clip_file, monkeypatch):
    PretendedGpu().install(monkeypatch)
    info = probe(clip_file(MATRIX["cfr_25"]))
    hardware = HardwareDecoder("cuda", info)
    batches(info, hardware)
    some = decode(info, batch_size=2, hardware=hardware)
    assert next(some).indices.tolist() == [0, 1]
    some.close()
    assert hardware.describe()["reason"] is None
    check_equal(batches(info, hardware), batches(info, None))


@needs_none
def test_without_a_gpu_it_is_refused_in_one_sentence(tmp_path, capsys):
    sentence = "'cuda' does not decode here .*, expected an NVIDIA GPU and its driver"
    with pytest.raises(PlanError, match=sentence):
        check_hardware("cuda")
    with pytest.raises(PlanError, match=sentence):
        check_hardware("cuda", device="1")
    target = tmp_path / "out.mp4"
    plans = vidinvert.Plans(hwaccel="cuda")
    with pytest.raises(PlanError, match=sentence):
        vidinvert.edit_video(SAMPLE, target, edits="smile=1", pack=mini(), plans=plans)
    asked = ("--hwaccel", "cuda", "--edit", "smile=1", "--dry-run")
    for command in ("edit", "batch"):
        assert main([command, str(SAMPLE), "-o", str(target), *asked]) == 2
        assert "leave --hwaccel out" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_clip_edited_with_a_gpus_frames_is_the_same_clip(tmp_path, monkeypatch, capsys):
    span, kept = vidinvert.Span(end_seconds=0.12), tmp_path / "kept.npz"
    vidinvert.edit_video(SAMPLE, tmp_path / "cpu.mp4", edits="smile=2", pack=mini(), span=span)
    gpu = PretendedGpu(wrong=5).install(monkeypatch)
    plans = vidinvert.Plans(hwaccel="cuda")
    report = vidinvert.edit_video(
        SAMPLE,
        tmp_path / "gpu.mp4",
        edits="smile=2",
        pack=mini(),
        plans=plans,
        span=span,
        save_analysis=kept,
    )
    assert report["hwaccel"] == {"kind": "cuda", "frames": 6, "reason": None}  # three, twice
    assert gpu.decoded == 6
    np.testing.assert_array_equal(*(read_clip(tmp_path / f"{n}.mp4")[0] for n in ("cpu", "gpu")))
    arguments = ["edit", SAMPLE, "-o", tmp_path / "again.mp4", "--edit", "smile=2", "--quiet"]
    monkeypatch.setattr("vidinvert.media.check_hardware", lambda kind: None)
    status = main([*map(str, arguments), "--analysis", str(kept), "--hwaccel", "cuda"])
    assert status == 0
    assert "the CPU decoded, for no pass before decoded what" in capsys.readouterr().err
    assert gpu.decoded == 6


@pytest.mark.needs_cuda
@pytest.mark.skipif(not reachable(), reason="no GPU decodes here")
@pytest.mark.parametrize("name", ["cfr_25", "b_frames", "many segments", "hevc"])
def test_a_gpu_gives_the_cpus_frames(tmp_path, name):
    large = Clip(
        frame_count=40,
        size_hw=(256, 320),
        codec=CLIPS[name].codec,
        options=CLIPS[name].options,
    )
    info = probe(write_clip(tmp_path, large))
    hardware = HardwareDecoder("cuda", info)
    wanted = batches(info, hardware)
    check_equal(batches(info, hardware), wanted)
    assert hardware.describe() == {"kind": "cuda", "frames": 40, "reason": None}
