"""The page as a file: what is in it, how large it is, and what is refused."""

import base64
import json
import re
import tomllib
from dataclasses import replace
from pathlib import PurePath

import cv2
import numpy as np
import pytest

from tests.clips import X264, Clip, write_clip
from tests.measured import ShadeMethod, plans_with, small_analysis
from tests.shared_data import REPOSITORY
from vidinvert.errors import EncodeError, PlanError
from vidinvert.media import probe
from vidinvert.pipeline import edit_faces
from vidinvert.preview import PreviewPlan, PreviewTargets, sample_frames, write_preview

FRAME = re.compile(r'<script type="application/json" class="frame">(.*?)</script>')


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "clip <b>&.mp4"
    return small_analysis(path, faces=((0, 1, 2, 3, 6, 7), (1, 2, 3, 4)), shots=((0, 5), (5, 8)))


def write(measured, target, edits=(), **preview):
    plans = plans_with(edits)
    faces = edit_faces(measured, plans)
    written = write_preview(
        measured,
        faces,
        method=ShadeMethod(),
        plans=plans,
        targets=PreviewTargets(page=target),
        preview=PreviewPlan(**preview),
    )
    text = target.read_text(encoding="utf-8")
    return faces, written, text, [json.loads(part) for part in FRAME.findall(text)]


def picture(uri):
    data = np.frombuffer(base64.b64decode(uri.partition(",")[2]), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_UNCHANGED)


def test_the_masks_in_the_page_are_the_ones_that_are_rendered(measured, tmp_path):
    faces, written, text, records = write(measured, tmp_path / "p.html")
    assert [record["i"] for record in records] == list(range(8))
    assert written == {"frames": 8, "bytes": len(text.encode())}
    seen = 0
    for record in records:
        for entry in record["faces"]:
            face = faces[entry["face"]]
            position = face.alignment.indices.tolist().index(record["i"])
            mask = face.inversion.mask.ood[position, 0].numpy()
            np.testing.assert_array_equal(picture(entry["mask"]), mask)
            seen += 1
    assert seen == 6 + 4


def test_the_crop_lands_where_it_was_cut(measured, tmp_path):
    _, _, _, records = write(measured, tmp_path / "p.html")
    a, b, c, d, e, f = records[0]["faces"][0]["matrix"]
    assert (e, f) == (30.0, 20.0)  # the crop's corner, counted from the frame's corner
    assert (a, d) == (40 / 32, 40 / 32)
    assert (b, c) == (0.0, 0.0)


def test_edited_pictures_are_there_with_an_edit_alone(measured, tmp_path):
    _, _, _, plain = write(measured, tmp_path / "a.html")
    _, _, _, edited = write(measured, tmp_path / "b.html", ["brighter=2"])
    assert "composite" not in plain[1]
    assert "edited" not in plain[1]["faces"][0]
    left, top, width, height = edited[1]["window"]
    assert picture(edited[1]["composite"]).shape == (height, width, 3)
    assert left <= 30
    assert top <= 20
    assert left + width >= 76  # the second face's crop ends there
    assert (
        picture(edited[1]["faces"][1]["edited"]).mean()
        > picture(edited[1]["faces"][1]["inverted"]).mean()
    )
    assert "composite" not in edited[5]  # nobody is in frame 5


@pytest.mark.promise(19)
@pytest.mark.promise(15)
def test_nothing_is_fetched_and_no_name_breaks_the_page(measured, tmp_path):
    _, _, text, _ = write(measured, tmp_path / "p.html")
    assert not re.findall(r"(?:src|href)=[\"'](?!data:)", text)
    assert "default-src 'none'" in text
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert "clip <b>" not in text
    assert "clip \\u003cb>&.mp4" in text


@pytest.mark.promise(19)
def test_the_page_stays_within_its_size_and_says_when_it_cannot(measured, tmp_path):
    path = write_clip(tmp_path, Clip(frame_count=8, size_hw=(96, 128), options=X264))
    measured = replace(measured, info=probe(path))  # pictures that are not flat
    text = write(measured, tmp_path / "p.html")[2]
    room, empty = len(text.encode()), len(FRAME.sub("", text).encode())
    small = (empty + 0.95 * (room - empty)) / 1e6
    _, written, _, _ = write(measured, tmp_path / "small.html", max_megabytes=small)
    assert written["bytes"] <= small * 1e6
    assert written["bytes"] < room
    with pytest.raises(PlanError, match=r"8 frames do not fit into .* MB, .* lower --frames or"):
        write(measured, tmp_path / "none.html", max_megabytes=empty / 1e6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "p.html", "small.html"]


def test_frames_are_sampled_evenly_with_both_ends():
    assert sample_frames(range(10), every=1, at_most=500) == list(range(10))
    assert sample_frames(range(5, 25), every=4, at_most=500) == [5, 9, 13, 17, 21]
    assert sample_frames(range(1000), every=1, at_most=4) == [0, 333, 666, 999]
    assert sample_frames(range(7), every=1, at_most=1) == [0]


def test_a_sampled_page_shows_these_frames_and_all_curves(measured, tmp_path):
    _, written, text, records = write(measured, tmp_path / "p.html", every=3)
    assert [record["i"] for record in records] == [0, 3, 6]
    assert written["frames"] == 3
    scene = json.loads(re.search(r"const scene = (\{.*\});", text).group(1))
    assert scene["sampled"] == [0, 3, 6]
    assert scene["cuts"] == [5]
    assert scene["faces"][0]["gaps"] == [[4, 6]]
    assert len(scene["seconds"]) == 8
    assert [len(face["values"]["mask"]) for face in scene["faces"]] == [6, 4]


@pytest.mark.promise(19)
def test_the_template_is_part_of_the_package():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["vidinvert"]
    assert any(PurePath("preview/page.html").match(pattern) for pattern in patterns)


def test_an_existing_page_is_kept_unless_it_may_be_replaced(measured, tmp_path):
    (tmp_path / "p.html").write_text("precious")
    with pytest.raises(EncodeError, match=r"exists already"):
        write(measured, tmp_path / "p.html")
    assert (tmp_path / "p.html").read_text() == "precious"
