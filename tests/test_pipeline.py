import json
from dataclasses import replace

import numpy as np
import pytest

import vidinvert
from stabilizers import StabilizerPlan
from tests.mini import SAMPLE, SHORT, audio_packets, blank_clip, mini, read_clip
from vidinvert.editing import parse_edits
from vidinvert.errors import EncodeError, NoFaceError, PlanError
from vidinvert.images import write_png
from vidinvert.media import decode, probe
from vidinvert.pipeline import analyse, edit_faces, find_tracks, frame_range
from vidinvert.rendering import render


def quiet(stage, done, total):
    pass


@pytest.fixture(scope="module")
def edited(tmp_path_factory):
    """The sample's first ten frames with a smile: the file and the report."""
    target = tmp_path_factory.mktemp("edited") / "smile.mp4"
    report = vidinvert.edit_video(SAMPLE, target, edits="smile=3", pack=mini(), span=SHORT)
    return target, report


def analysed():
    info = probe(SAMPLE)
    plans = vidinvert.Plans(stabilizer=StabilizerPlan(transforms=None, latents=None, mask=None))
    shots, tracks = find_tracks(info, mini(), plans, frames=range(4), progress=quiet)
    return (
        info,
        plans,
        analyse(info, shots, tracks[:1], mini(), plans, frames=range(4), progress=quiet),
    )


@pytest.fixture(scope="module")
def analysis():
    return analysed()


def frames_after(info, plans, found, *edits):
    plans = replace(plans, edit=parse_edits(edits, mini().directions))
    faces = edit_faces(found, plans)
    batches = render(decode(info, stop=4), faces, mini().method, plans.render)
    return np.concatenate([batch.frames for batch in batches])


def source_frames(info):
    return np.concatenate([batch.frames for batch in decode(info, stop=4)])


@pytest.mark.promise(1)
def test_the_edited_clip_keeps_frames_times_and_size(edited):
    frames, times = read_clip(edited[0])
    source, source_times = read_clip(SAMPLE)
    assert frames.shape == source[:10].shape
    assert times == source_times[:10]


@pytest.mark.promise(3)
@pytest.mark.slow
def test_the_whole_sound_is_copied_when_nothing_is_cut(tmp_path):
    target = tmp_path / "whole.mp4"
    vidinvert.edit_video(SAMPLE, target, pack=mini())  # no edit: faces are left alone
    assert audio_packets(target) == audio_packets(SAMPLE)


def test_the_report_says_what_was_done(edited):
    report = json.loads(json.dumps(edited[1]))
    assert report["edit"] == ["smile=3"]
    assert report["pack"] == {"name": "mini", "sha256": mini().pack.sha256}
    assert [track["frames"] for track in report["tracks"]] == [10]
    assert 0.0 <= report["tracks"][0]["mean_ood"] <= 1.0
    assert set(report["seconds"]) == {"probe", "detect", "invert", "render", "encode", "total"}
    assert report["peak_memory_bytes"] > 1e6


@pytest.mark.promise(5)
def test_strength_zero_gives_the_source_before_encoding(analysis):
    info, plans, found = analysis
    np.testing.assert_array_equal(
        frames_after(info, plans, found, "smile=0", "age=0"), source_frames(info)
    )


@pytest.mark.promise(5)
def test_an_edit_changes_the_face_and_nothing_outside_its_crop(analysis):
    info, plans, found = analysis
    edited_frames, source = frames_after(info, plans, found, "smile=3"), source_frames(info)
    difference = np.abs(edited_frames.astype(int) - source).max(axis=3)  # (4, H, W)
    for frame, quad in zip(difference, found.alignments[0].quads_xy, strict=True):
        left, top = np.floor(quad.min(axis=0)).astype(int)
        right, bottom = np.ceil(quad.max(axis=0)).astype(int)
        outside = frame.copy()
        outside[max(top, 0) : bottom + 1, max(left, 0) : right + 1] = 0
        assert outside.max() == 0
        assert frame.max() > 20


@pytest.mark.promise(18)
def test_the_same_input_gives_the_same_frames(analysis):
    info, plans, found = analysis
    first = frames_after(info, plans, found, "smile=2")
    info, plans, again = analysed()
    np.testing.assert_array_equal(frames_after(info, plans, again, "smile=2"), first)


@pytest.mark.promise(5)
def test_an_edit_for_another_face_leaves_this_one_alone(analysis):
    info, plans, found = analysis
    out = frames_after(info, plans, found, "smile=3:face=5")
    np.testing.assert_array_equal(out, source_frames(info))


def test_masks_are_written_in_frame_geometry_white_outside_the_crop(tmp_path):
    masks = tmp_path / "masks"
    span = vidinvert.Span(end_seconds=0.08)
    target = tmp_path / "a.mp4"
    vidinvert.edit_video(SAMPLE, target, edits="age=1", pack=mini(), span=span, save_masks=masks)
    assert sorted(path.name for path in masks.iterdir()) == ["000000.png", "000001.png"]
    import cv2

    mask = cv2.imread(str(masks / "000001.png"), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (512, 512)
    assert mask.dtype == np.uint8
    assert mask[0].min() == 255
    assert mask[200:300, 200:300].min() < 128


@pytest.mark.promise(6)
def test_a_clip_without_a_face_is_refused_and_leaves_nothing(tmp_path):
    source, target = tmp_path / "bars.mp4", tmp_path / "out.mp4"
    blank_clip(source)
    with pytest.raises(NoFaceError, match=r"No face found in bars.mp4 .* --allow-no-face"):
        vidinvert.edit_video(source, target, edits="smile=1", pack=mini())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bars.mp4"]


@pytest.mark.promise(6)
def test_a_clip_without_a_face_may_be_copied(tmp_path):
    source, target = tmp_path / "bars.mp4", tmp_path / "out.mp4"
    blank_clip(source)
    report = vidinvert.edit_video(source, target, pack=mini(), allow_no_face=True)
    assert report["tracks"] == []
    np.testing.assert_array_equal(read_clip(target)[0], read_clip(source)[0])


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The sample's first ten frames, measured and kept while editing: the clip and the analysis."""
    folder = tmp_path_factory.mktemp("kept")
    analysis, target = folder / "kept.npz", folder / "first.mkv"
    report = vidinvert.edit_video(
        SAMPLE, target, edits="smile=3", pack=mini(), span=SHORT, save_analysis=analysis
    )
    return analysis, target, report


@pytest.mark.promise(18)
def test_editing_from_a_kept_analysis_gives_the_same_clip_without_measuring(kept, tmp_path):
    analysis, first, _ = kept
    target = tmp_path / "again.mkv"
    report = vidinvert.edit_video(SAMPLE, target, edits="smile=3", pack=mini(), analysis=analysis)
    np.testing.assert_array_equal(read_clip(target)[0], read_clip(first)[0])
    assert report["seconds"]["detect"] == report["seconds"]["invert"] == 0.0
    assert report["tracks"] == kept[2]["tracks"]


def test_a_part_of_what_was_measured_can_be_edited(kept, tmp_path):
    target, span = tmp_path / "part.mkv", vidinvert.Span(start_seconds=0.2, end_seconds=0.28)
    vidinvert.edit_video(SAMPLE, target, edits="age=1", pack=mini(), analysis=kept[0], span=span)
    assert len(read_clip(target)[0]) == 2
    other, beyond = tmp_path / "other.mkv", vidinvert.Span(end_seconds=1.0)
    with pytest.raises(PlanError, match=r"Frames 0 to 24 are asked for, .* covers 0 to 9; choose"):
        vidinvert.edit_video(SAMPLE, other, pack=mini(), analysis=kept[0], span=beyond)
    with pytest.raises(PlanError, match="There is no face 4 in the clip; its faces are: 0"):
        vidinvert.edit_video(SAMPLE, other, pack=mini(), analysis=kept[0], face="4")


def test_a_measured_clip_holds_what_was_measured_not_what_is_rendered(kept):
    plain = vidinvert.measure_video(SAMPLE, pack=mini(), analysis=kept[0])
    shaped = replace(vidinvert.Plans(), render=vidinvert.RenderPlan(mask_min=0.3))
    again = vidinvert.measure_video(SAMPLE, pack=mini(), plans=shaped, analysis=kept[0])
    measured, rendered = again.inversions[0].mask.ood, edit_faces(again, shaped)[0].inversion
    np.testing.assert_array_equal(plain.inversions[0].mask.ood, measured)
    assert rendered.mask.ood.float().mean() < 0.9 * measured.float().mean()


def test_a_painted_mask_decides_what_is_edited(kept, tmp_path):
    painted = tmp_path / "painted"
    painted.mkdir()
    write_png(painted / "000001.png", np.full((512, 512), 255, np.uint8))  # keep all
    plans = vidinvert.Plans(render=vidinvert.RenderPlan(mask_override=painted))
    found = vidinvert.measure_video(SAMPLE, pack=mini(), plans=plans, analysis=kept[0])
    info = found.info
    out, source = frames_after(info, plans, found, "smile=3"), source_frames(info)
    np.testing.assert_array_equal(out[1], source[1])
    assert np.any(out[2] != source[2])


def test_what_was_written_as_masks_can_be_given_back_as_override(kept, tmp_path):
    masks = tmp_path / "masks"
    found = vidinvert.measure_video(SAMPLE, pack=mini(), analysis=kept[0])
    target = tmp_path / "a.mkv"
    vidinvert.edit_video(SAMPLE, target, pack=mini(), analysis=kept[0], save_masks=masks)
    plain = edit_faces(found, vidinvert.Plans())[0].inversion.mask.ood.float()
    plans = vidinvert.Plans(render=vidinvert.RenderPlan(mask_override=masks))
    again = edit_faces(found, plans)[0].inversion.mask.ood.float()
    assert (plain - again)[..., 4:-4, 4:-4].abs().mean() < 2.0  # grey levels


def test_painted_masks_and_places_are_checked_before_any_work(tmp_path, kept):
    painted = tmp_path / "9999.png"
    write_png(painted, np.zeros((512, 512), np.uint8))
    plans = vidinvert.Plans(render=vidinvert.RenderPlan(mask_override=painted))
    with pytest.raises(PlanError, match="is for frame 9999"):
        vidinvert.edit_video(SAMPLE, tmp_path / "o.mp4", pack=mini(), plans=plans)
    with pytest.raises(PlanError, match="is for frame 9999"):
        vidinvert.measure_video(SAMPLE, pack=mini(), plans=plans)
    with pytest.raises(EncodeError, match="is not a directory"):
        vidinvert.measure_video(SAMPLE, pack=mini(), save_analysis=tmp_path / "no" / "a.npz")
    with pytest.raises(EncodeError, match="is not an empty folder"):
        vidinvert.edit_video(SAMPLE, tmp_path / "o.mp4", pack=mini(), save_masks=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["9999.png"]


def test_a_clip_without_a_face_is_not_measured(tmp_path):
    source = tmp_path / "bars.mp4"
    blank_clip(source)
    with pytest.raises(NoFaceError, match=r"No face found in bars.mp4"):
        vidinvert.measure_video(source, pack=mini(), save_analysis=tmp_path / "a.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["bars.mp4"]


def test_a_span_chooses_frames_by_their_times():
    info = probe(SAMPLE)
    assert frame_range(info, vidinvert.Span()) == (0, 125)
    assert frame_range(info, vidinvert.Span(start_seconds=1.0, end_seconds=2.0)) == (25, 50)
    with pytest.raises(PlanError, match=r"No frame of talk.mp4 lies between 9 s and the end"):
        frame_range(info, vidinvert.Span(start_seconds=9.0))


def test_an_unknown_precision_is_refused():
    with pytest.raises(PlanError, match="precision 'fp64' is unknown"):
        vidinvert.load_pack("mini", precision="fp64")
