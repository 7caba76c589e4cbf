"""A method on several devices: here copies on the CPU, which must give what one gives."""

import threading

import numpy as np
import pytest
import torch

import vidinvert
from tests.mini import SAMPLE, SHORT, mini, read_clip
from vidinvert.errors import PlanError
from vidinvert.methods import DividedMethod, EditPainter


class Named:
    """Says by the first value of its pictures which copy drew them."""

    crop_size, style_count, style_width = 8, 1, 2

    def __init__(self, name):
        self.name = name

    def generate(self, w_plus):
        return torch.full((len(w_plus), 3, 8, 8), float(self.name))


def named(count):
    methods = tuple(Named(number) for number in range(count))
    return DividedMethod(methods=methods, devices=(torch.device("cpu"),) * count)


def test_sketches_are_the_copies_own_or_else_whole_pictures():
    divided = named(1)
    assert divided.sketch(torch.zeros(2, 1, 2)).shape == (2, 3, 8, 8)
    divided.methods[0].sketch = lambda w_plus: torch.ones(len(w_plus), 3, 4, 4)
    assert divided.sketch(torch.zeros(2, 1, 2)).shape == (2, 3, 4, 4)


def test_threads_take_the_copies_in_turn_and_keep_theirs():
    divided, drawn = named(2), []

    def draw():
        pictures = [divided.generate(torch.zeros(1, 1, 2)) for _ in range(3)]
        drawn.append({float(picture[0, 0, 0, 0]) for picture in pictures})

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
        thread.join()
    assert sorted(tuple(copies) for copies in drawn) == [(0.0,), (0.0,), (1.0,), (1.0,)]


def test_a_copy_without_a_device_is_refused():
    with pytest.raises(ValueError, match="1 methods for 2 devices"):
        DividedMethod(methods=(Named(0),), devices=(torch.device("cpu"),) * 2)


def test_two_copies_give_what_one_gives():
    one, two = mini(), vidinvert.load_pack("mini", device="cpu,cpu")
    assert isinstance(two.method, DividedMethod)
    assert (two.workers, two.device, two.devices) == (2, "cpu", ("cpu", "cpu"))
    crops = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        seen, wanted = (pack.method.embed(crops) for pack in (two, one))
        assert torch.equal(seen.w_plus, wanted.w_plus)
        assert torch.equal(two.method.find_mask(seen), one.method.find_mask(wanted))
        pictures = [
            pack.method.synthesise(found, found.w_plus + 0.1)
            for pack, found in ((two, seen), (one, wanted))
        ]
        assert torch.equal(pictures[0].image, pictures[1].image)
        assert torch.equal(pictures[0].ood, pictures[1].ood)


def test_a_clip_edited_by_two_copies_is_the_same_clip(tmp_path):
    one, two = mini(), vidinvert.load_pack("mini", device="cpu,cpu")
    for name, pack in (("one", one), ("two", two)):
        report = vidinvert.edit_video(
            SAMPLE, tmp_path / f"{name}.mp4", edits="smile=2", pack=pack, span=SHORT
        )
        assert report["device"] == ",".join(pack.devices)
    np.testing.assert_array_equal(*(read_clip(tmp_path / f"{n}.mp4")[0] for n in ("one", "two")))


def test_a_method_that_paints_is_not_divided():
    assert isinstance(vidinvert.load_pack("mini", method="diffcam").method, EditPainter)
    with pytest.raises(PlanError, match="'diffcam' cannot be divided between 2 devices"):
        vidinvert.load_pack("mini", method="diffcam", device="cpu,cpu")


@pytest.mark.needs_cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
@pytest.mark.parametrize(("precision", "least"), [("fp32", 50.0), ("bf16", 30.0)])
def test_cuda_gives_what_the_cpu_gives(precision, least):
    """PSNR of pictures on a range of 2; features of 8 bits lose what the CPU's bf16 loses too."""
    one, other = mini(), vidinvert.load_pack("mini", device="cuda:0", precision=precision)
    crops = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        wanted = one.method.embed(crops)
        seen = other.method.embed(crops.to("cuda:0"))
        codes = wanted.w_plus
        picture = one.method.generate(codes)
        error = (other.method.generate(codes.to("cuda:0")).float().cpu() - picture).square().mean()
        mask = (other.method.find_mask(seen).float().cpu() - one.method.find_mask(wanted)).abs()
    assert 10 * torch.log10(4.0 / error) > least
    assert mask.mean() < 0.05
