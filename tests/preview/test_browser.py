"""The page in a real browser: every control, by mouse and by keyboard, judged by its pixels."""

import json
import subprocess
import sys
from dataclasses import replace

import av
import cv2
import numpy as np
import pytest

from tests.browser import browser
from tests.measured import MASK, ShadeMethod, plans_with, small_analysis, with_masks
from tests.mini import SAMPLE, mini, read_clip
from tests.shared_data import shared_path
from vidinvert.analysis import read_analysis
from vidinvert.media import probe
from vidinvert.pipeline import edit_faces
from vidinvert.preview import PreviewPlan, PreviewTargets, write_preview
from vidinvert.training.occluders import hand
from vidinvert.types import Plans

pytestmark = pytest.mark.slow

FACE = (*range(2, 12), *range(15, 40))
HAND = (30, 31, 32)  # frames in which all of the crop is kept


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A page of two faces in 40 grey frames, each a level brighter than the one before."""
    folder = tmp_path_factory.mktemp("browser")
    measured = small_analysis(
        folder / "clip.mp4", frames=40, faces=(FACE, tuple(range(5, 30))), shots=((0, 20), (20, 40))
    )
    ood = np.zeros((len(FACE), 1, MASK, MASK), np.uint8)
    ood[:, :, 4:12, 2:6] = 255
    ood[[FACE.index(frame) for frame in HAND]] = 255
    track = replace(measured.tracks[0], score=np.full(len(FACE), 0.9))
    measured = replace(
        measured,
        tracks=(track, measured.tracks[1]),
        inversions=(with_masks(measured.inversions[0], ood), measured.inversions[1]),
    )
    plans = plans_with(["brighter=2"], composite="residual")
    faces = edit_faces(measured, plans)
    write_preview(
        measured,
        faces,
        method=ShadeMethod(),
        plans=plans,
        targets=PreviewTargets(page=folder / "page.html"),
    )
    return folder / "page.html", faces


@pytest.fixture(scope="module")
def tab(made):
    with browser() as page:
        yield page


@pytest.fixture
def page(tab, made):
    """The page as it is when it was just opened; no error may come of what a test does."""
    tab.troubles.clear()
    tab.dress("light")
    tab.resize(1280, 900)
    tab.open(made[0])
    yield tab
    assert tab.troubles == []
    assert {url.partition(":")[0] for url in tab.requests} <= {"file", "data", "about"}


def at(page, frame):
    page.wait(f"document.body.dataset.frame === '{frame}'")


def layers(page, *shown):
    """Show these layers alone, at full strength."""
    page.evaluate(
        f"(() => {{ const shown = {json.dumps(shown)};"
        " for (const [name, layer] of Object.entries(preview.state.layers)) {"
        " layer.on = shown.includes(name); layer.alpha = 1; } })()"
    )


def go(page, frame):
    page.evaluate(f"preview.show(preview.scene.sampled.indexOf({frame}))")
    at(page, frame)


def stage(page):
    """The stage's pixels (H, W, 4), RGBA."""
    width, height, data = page.evaluate(
        "(() => { const c = document.getElementById('stage');"
        " const copy = document.createElement('canvas');"
        " [copy.width, copy.height] = [c.width, c.height];"
        " const context = copy.getContext('2d', {willReadFrequently: true});"
        " context.drawImage(c, 0, 0);"
        " return [c.width, c.height, [...context.getImageData(0, 0, c.width, c.height).data]]; })()"
    )
    return np.array(data, np.uint8).reshape(height, width, 4)


def test_the_first_frame_is_shown_when_it_opens(page):
    assert page.evaluate("document.body.dataset.frame") == "0"
    picture = stage(page)
    assert picture.shape == (96, 128, 4)
    assert abs(int(np.median(picture[..., 0])) - 90) <= 2
    assert "clip.mp4" in page.evaluate("document.title")
    assert "40 of them shown" in page.evaluate("document.getElementById('facts').textContent")


def test_keys_step_through_the_frames(page):
    for key, shift, frame in (
        ("ArrowRight", False, 1),
        ("ArrowRight", True, 11),
        ("ArrowLeft", False, 10),
        ("End", False, 39),
        ("ArrowRight", False, 39),
        ("ArrowLeft", True, 29),
        ("Home", False, 0),
    ):
        page.press(key, shift=shift)
        at(page, frame)
    layers(page, "source")
    go(page, 35)
    assert abs(int(np.median(stage(page)[..., 0])) - 125) <= 2


def test_the_scrubber_scrubs(page):
    page.click_on("#scrub", across=0.999)
    at(page, 39)
    page.click_on("#scrub", across=0.5)
    page.wait("Math.abs(document.body.dataset.frame - 20) <= 1")
    frame = int(page.evaluate("document.body.dataset.frame"))
    page.press("ArrowRight")
    at(page, frame + 1)
    where = page.evaluate("document.getElementById('where').textContent")
    assert where.startswith(f"Frame {frame + 1} ")


def test_a_click_on_the_timeline_jumps_to_the_frame_there(page):
    for frame in (31, 8, 22):
        x = page.evaluate(
            "(() => { const e = document.getElementById('curves'); e.scrollIntoView();"
            f" return xOf({frame}) / e.getBoundingClientRect().width; }})()"
        )
        page.click_on("#curves", across=x)
        at(page, frame)
    x = page.evaluate("xOf(12) / document.getElementById('film').getBoundingClientRect().width")
    page.click_on("#film", across=x)
    at(page, 12)


def test_the_masks_in_the_browser_are_the_rendered_ones_bit_for_bit(page, made):
    for index in (2, 9, 17, 31, 39):
        shown = page.evaluate(
            f"preview.frame({index}).then(r => r.faces.map(f => [f.face, [...f.mask.values]]))"
        )
        assert shown
        for number, values in shown:
            face = made[1][number]
            position = face.alignment.indices.tolist().index(index)
            expected = face.inversion.mask.ood[position, 0].numpy()
            np.testing.assert_array_equal(np.array(values).reshape(MASK, MASK), expected)


def test_every_layer_paints_what_it_says(page, made):
    page.evaluate("chooseFace('0')")
    go(page, 20)
    inside, corner = (slice(36, 44), slice(58, 66)), (slice(0, 10), slice(0, 10))
    seen = {}
    names = ("source", "composite", "inverted", "edited", "heat", "outline", "flow")
    for name in names:
        layers(page, name)
        go(page, 21)
        seen[name] = stage(page).astype(int)
    assert seen["source"][corner][..., 3].min() == 255
    for name in names[2:]:
        assert seen[name][corner].max() == 0, name
    assert seen["composite"][inside].mean() > seen["source"][inside].mean() + 5
    position = FACE.index(21)
    codes = made[1][0].inversion.latents.w_plus[position, 0, 0]
    for name, code in (("inverted", codes), ("edited", codes + 2)):
        grey = (float(code.tanh()) + 1) * 127.5
        np.testing.assert_allclose(seen[name][inside][..., :3], grey, atol=3)
    marked = seen["heat"][34:46, 37:43]  # the mask is 1 there
    np.testing.assert_allclose(marked[..., :3].mean(axis=(0, 1)), [253, 231, 37], atol=2)
    assert seen["heat"][inside][..., 3].max() == 0  # and 0 there
    line = seen["outline"][30:50, 43:48]  # its right edge is at x = 45
    assert line[..., :3].max() > 230
    assert seen["outline"][inside].max() == 0
    pink = seen["flow"][..., 0] - seen["flow"][..., 1] > 60
    assert pink.sum() > 40


def test_layers_are_switched_and_blended_by_mouse_and_keyboard(page):
    page.evaluate("chooseFace('0')")
    page.press("5")
    page.press("6")
    assert not page.evaluate("document.getElementById('show-heat').checked")
    layers(page, "source")
    go(page, 21)
    plain = stage(page)
    page.evaluate("Object.assign(preview.state.layers.inverted, {on: false})")
    page.click_on("#show-inverted")
    page.wait("preview.state.layers.inverted.on")
    page.click_on("#alpha-inverted", across=0.5)
    page.wait("Math.abs(preview.state.layers.inverted.alpha - .5) < .06")
    go(page, 21)
    page.evaluate("new Promise(done => setTimeout(done, 100))")
    half = stage(page).astype(int)[40, 60, 0]
    page.press("End")  # the slider has the focus: it goes to its end, the frame stays
    page.wait("preview.state.layers.inverted.alpha === 1")
    assert page.evaluate("document.body.dataset.frame") == "21"
    page.evaluate("new Promise(done => setTimeout(done, 100))")
    full = stage(page).astype(int)[40, 60, 0]
    assert abs(half - (int(plain[40, 60, 0]) + full) / 2) < 12
    assert abs(full - int(plain[40, 60, 0])) > 10


def test_a_hand_over_the_face_is_one_key_away(page):
    page.press("f")  # the first face
    page.wait("preview.state.face === 0")
    page.press("n")
    page.wait("document.body.dataset.frame !== '0'")
    places = page.evaluate(
        "[...document.querySelectorAll('#spots button')].map(b => b.textContent)"
    )
    assert any("mean mask" in place and place.startswith("1.2") for place in places)
    page.evaluate(
        "[...document.querySelectorAll('#spots button')]"
        ".find(b => b.textContent.includes('mean mask')).click()"
    )
    page.wait(f"{json.dumps([str(f) for f in HAND])}.includes(document.body.dataset.frame)")
    page.press("p")
    page.press("Home")
    at(page, 0)


def test_cuts_and_gaps_are_marked_and_faces_chosen(page):
    assert page.evaluate("document.querySelectorAll('#curves .cut').length") == 1
    cut, expected = page.evaluate(
        "[+document.querySelector('#curves .cut').getAttribute('x1'), xOf(20)]"
    )
    assert cut == pytest.approx(expected)
    page.evaluate("chooseFace('0')")
    assert page.evaluate("document.querySelectorAll('#curves .gap').length") == 2
    assert page.evaluate("document.querySelectorAll('#curves .curve').length") == 5
    page.press("f")
    page.wait("preview.state.face === 1")
    page.press("f")
    page.wait("preview.state.face === 'all'")
    assert page.evaluate("document.querySelectorAll('#curves .curve').length") == 10
    go(page, 13)
    assert "no face here" in page.evaluate("document.getElementById('where').textContent")


def test_a_close_up_fills_the_stage_with_the_face(page):
    page.evaluate("chooseFace('0')")
    layers(page, "inverted")
    go(page, 21)
    small = (stage(page)[..., 3] > 0).sum()
    page.press("z")
    page.wait("preview.state.zoom")
    go(page, 21)
    page.evaluate("new Promise(done => setTimeout(done, 100))")
    large = (stage(page)[..., 3] > 0).sum()
    assert large / small == pytest.approx((0.9 * 96 / 40) ** 2, rel=0.1)


def test_it_plays_and_pauses(page):
    page.press(" ")
    page.wait("document.body.dataset.frame >= 3")
    page.press(" ")
    page.wait("!preview.state.playing")


def test_the_strip_of_faces_is_filled(page):
    page.wait("document.getElementById('film').dataset.slots > 5")
    filled = page.evaluate(
        "(() => { const c = document.getElementById('film'); const d = c.getContext('2d')"
        ".getImageData(0, 32, c.width, 1).data; let n = 0;"
        " for (let k = 3; k < d.length; k += 4) n += d[k] > 0; return n / c.width; })()"
    )
    assert filled > 0.5


def test_all_controls_are_reached_by_tab(page):
    reached = set()
    for _ in range(40):
        page.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
    wanted = {"first", "back", "play", "forth", "last", "scrub", "face", "zoom", "level"}
    wanted |= {f"show-{name}" for name in ("source", "composite", "inverted", "edited", "heat")}
    assert wanted <= reached


def test_it_is_readable_in_light_and_dark_and_on_a_phone(page):
    for scheme, low, high in (("light", 200, 255), ("dark", 0, 60)):
        page.dress(scheme)
        page.evaluate("new Promise(done => setTimeout(done, 50))")
        shot = page.screenshot()
        assert low <= shot[2:6, 2:200].mean() <= high
        heading = shot[: shot.shape[0] // 12, :400].astype(int)
        assert heading.max() - heading.min() > 180  # black on white, or white on black
    page.resize(390, 800)
    page.evaluate("new Promise(done => setTimeout(done, 50))")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_five_hundred_frames_open_and_answer(tab, tmp_path):
    measured = small_analysis(tmp_path / "long.mp4", frames=500, faces=(tuple(range(500)),))
    plans = plans_with()
    written = write_preview(
        measured,
        edit_faces(measured, plans),
        method=ShadeMethod(),
        plans=plans,
        targets=PreviewTargets(page=tmp_path / "long.html"),
        preview=PreviewPlan(max_megabytes=25),
    )
    assert written["frames"] == 500
    assert written["bytes"] == (tmp_path / "long.html").stat().st_size < 25e6
    tab.troubles.clear()
    tab.open(tmp_path / "long.html")
    tab.press("End")
    at(tab, 499)
    assert tab.troubles == []


CLIPS = (
    ("glasses_512_25fps.mp4", "largest"),
    ("hands_640_sister.mkv", "largest"),
    ("halfbody_480x908.mp4", "largest"),
    ("two_faces_1030x516.mp4", "all"),
    ("talk_720p_30fps.mp4", "largest"),
)


def write_clip(path, frames):
    """Encode pictures (T, H, W, 3) at 25 frames a second, nearly without loss."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"crf": "10", "preset": "veryfast"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for picture in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode())


def check_real_page(tab, folder, source, face):
    """Make a page of a clip by the command, and compare its masks with the renderer's."""
    page, kept = folder / "page.html", folder / "kept.npz"
    command = [sys.executable, "-m", "vidinvert", "preview", str(source), "-o", str(page)]
    options = ["--face", face, "--end", "0.2", "--edit", "smile=2", "--save-analysis", str(kept)]
    subprocess.run([*command, *options, "--every", "2", "--quiet"], check=True)
    info = probe(source)
    analysis = read_analysis(kept, info=info, pack=mini().pack, method="samm", plans=Plans())
    faces = edit_faces(analysis, Plans())
    tab.troubles.clear()
    tab.open(page)
    for place, index in enumerate(tab.evaluate("preview.scene.sampled")):
        shown = tab.evaluate(
            f"preview.frame({place}).then(r => r.faces.map(f => [f.face, [...f.mask.values]]))"
        )
        assert len(shown) == len(faces)
        for number, values in shown:
            expected = faces[number].inversion.mask.ood
            position = faces[number].alignment.indices.tolist().index(index)
            np.testing.assert_array_equal(values, expected[position].flatten().numpy())
    for key in "1234567":
        tab.press(key)
    tab.press("End")
    tab.wait(f"document.body.dataset.frame === '{analysis.frames[-1] // 2 * 2}'")
    assert tab.troubles == []
    return tab.screenshot()


def test_the_sample_makes_a_page_whose_masks_are_the_rendered_ones(tab, tmp_path):
    shot = check_real_page(tab, tmp_path, SAMPLE, "largest")
    assert cv2.cvtColor(shot, cv2.COLOR_RGB2GRAY).std() > 10


def test_a_hand_planted_over_the_sample_is_at_most_two_keys_away(tab, tmp_path):
    frames = read_clip(SAMPLE)[0][:40]
    colours, opacity = hand(200, np.random.default_rng(1))
    covered = range(18, 27)
    window = np.s_[180:380, 150:350]  # the lower face
    for index in covered:
        part = frames[index][window].astype(np.float32)
        part += opacity[..., None] * (colours.clip(0, 255) - part)
        frames[index][window] = np.rint(part)
    write_clip(tmp_path / "hand.mp4", frames)
    page = tmp_path / "page.html"
    command = [sys.executable, "-m", "vidinvert", "preview", str(tmp_path / "hand.mp4")]
    subprocess.run([*command, "-o", str(page), "--quiet"], check=True)
    tab.troubles.clear()
    tab.open(page)
    seen = []
    for _ in range(2):
        tab.press("n")
        tab.evaluate("new Promise(done => setTimeout(done, 300))")
        seen.append(int(tab.evaluate("document.body.dataset.frame")))
    assert set(seen) & set(covered), seen
    assert tab.troubles == []


@pytest.mark.shared
@pytest.mark.parametrize(("name", "face"), CLIPS)
def test_real_clips_make_pages_whose_masks_are_the_rendered_ones(tab, tmp_path, name, face):
    check_real_page(tab, tmp_path, shared_path(f"data/clips/{name}"), face)
