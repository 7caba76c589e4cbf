import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.methods.test_eigen import write_eigen_pack
from tests.training.tiny import drawn_crop
from vidinvert import images
from vidinvert.checkpoints import write_pack
from vidinvert.errors import CheckpointError
from vidinvert.methods import EditPainter, load_method
from vidinvert.networks.diffcam import latent_diffcam
from vidinvert.networks.eigen_deghost import Deghoster


def write_diffcam_pack(directory, *, classes=("smile", "age")):
    """A pack of kind eigen with random weights, Diff-CAM and two directions among them."""
    pack = write_eigen_pack(directory)
    torch.manual_seed(5)
    smile, age = torch.zeros(4, 8), torch.zeros(4, 8)
    smile[0, :4], age[2, 1:4] = 2.0, 1.5
    deghoster = Deghoster()
    torch.nn.init.normal_(deghoster.to_correction.weight, std=0.01)
    for part, state in (
        ("directions", {"smile": smile, "age": age}),
        ("diffcam", latent_diffcam(2).state_dict()),
        ("deghost", deghoster.state_dict()),
    ):
        save_file(state, directory / f"{part}.safetensors")
    meta = {"unit": "1", "source": "drawn", "layers": [0, 1, 2, 3]}
    return write_pack(
        directory,
        name=pack.name,
        version=pack.version,
        license=pack.license,
        summary=pack.summary,
        generator={
            "kind": "eigen",
            "crop_size": 256,
            "style_count": 4,
            "style_width": 8,
            **pack.settings,
            "diffcam_classes": list(classes),
        },
        files={
            part: f"{part}.safetensors"
            for part in ("autoencoder", "generator", "samm", "directions", "diffcam", "deghost")
        },
        directions={"smile": meta, "age": meta},
    )


@pytest.fixture(scope="module")
def method(tmp_path_factory):
    return load_method(write_diffcam_pack(tmp_path_factory.mktemp("tiny")), method="diffcam")


@pytest.fixture(scope="module")
def crops():
    return images.to_float(np.stack([drawn_crop(0), drawn_crop(1)]))


@pytest.fixture(scope="module")
def embedding(method, crops):
    with torch.inference_mode():
        return method.embed(crops)


def moved(method, codes, **strengths):
    """Codes moved along the directions by name."""
    for row, name in enumerate(("smile", "age")):
        codes = codes + strengths.get(name, 0.0) * method.directions[row]
    return codes


@torch.inference_mode()
def test_without_an_edit_it_gives_the_crop_itself_and_keeps_everything(method, crops, embedding):
    assert isinstance(method, EditPainter)
    synthesis = method.synthesise(embedding, embedding.w_plus)
    assert torch.equal(synthesis.image, crops)
    assert torch.equal(synthesis.ood, torch.ones(2, 1, 256, 256))
    assert torch.equal(method.find_mask(embedding), synthesis.ood)


@torch.inference_mode()
def test_an_edit_is_painted_and_its_mask_needs_the_codes_alone(method, crops, embedding):
    edited = moved(method, embedding.w_plus, smile=2.0)
    synthesis = method.synthesise(embedding, edited)
    assert synthesis.image.isfinite().all()
    assert synthesis.image.abs().max() <= 1.0
    assert not torch.equal(synthesis.image, crops)
    mask = method.find_edit_mask(embedding.w_plus, edited)
    torch.testing.assert_close(mask, synthesis.ood)
    assert mask.shape == (2, 1, 256, 256)
    assert mask.min() == 0.0
    assert mask.max() <= 1.0


@torch.inference_mode()
def test_nothing_is_cleaned_where_nothing_was_painted(method, crops):
    painted = crops.clone()
    painted[0, :, 100:140, 60:90] += 0.3
    lacking = method.clean(crops, painted)
    assert lacking[0, :, 105:135, 65:85].abs().max() > 0
    assert lacking[0, :, :90].abs().max() == 0.0
    assert lacking[1].abs().max() == 0.0


@torch.inference_mode()
def test_frames_without_an_edit_stay_the_source_beside_edited_ones(method, crops, embedding):
    edited = moved(method, embedding.w_plus, smile=2.0)
    edited[0] = embedding.w_plus[0]
    synthesis = method.synthesise(embedding, edited)
    assert torch.equal(synthesis.image[0], crops[0])
    assert torch.equal(synthesis.ood[0], torch.ones(1, 256, 256))
    assert not torch.equal(synthesis.image[1], crops[1])


@torch.inference_mode()
def test_a_mask_does_not_shrink_as_an_edit_fades_in(method, embedding):
    weak = method.find_edit_mask(
        embedding.w_plus, moved(method, embedding.w_plus, smile=0.1, age=0.02)
    )
    strong = method.find_edit_mask(
        embedding.w_plus, moved(method, embedding.w_plus, smile=1.6, age=0.32)
    )
    torch.testing.assert_close(weak, strong, rtol=0, atol=2e-2)


@torch.inference_mode()
def test_the_applied_directions_are_read_off_the_codes(method, embedding):
    for strengths, expected in (
        ({"smile": 1.0}, [True, False]),
        ({"age": -0.5}, [False, True]),
        ({"smile": 0.7, "age": 2.0}, [True, True]),
        ({}, [False, False]),
    ):
        _, applied = method._look(embedding.w_plus, moved(method, embedding.w_plus, **strengths))
        assert applied.tolist() == [expected, expected]


@torch.inference_mode()
def test_of_two_directions_each_acts_where_it_would_alone(method, embedding):
    """The map of both at the same features is the larger of the two at every place."""
    before, after = torch.randn(2, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    maps = [
        method._map(before, after, torch.tensor([classes]))
        for classes in ([True, False], [False, True], [True, True])
    ]
    assert torch.equal(maps[2], torch.maximum(maps[0], maps[1]))


@torch.inference_mode()
def test_codes_moved_otherwise_are_mapped_by_the_class_that_is_named(method, embedding):
    edited = embedding.w_plus.clone()
    edited[:, 3, 0] += 5.0
    _, applied = method._look(embedding.w_plus, edited)
    assert not applied.any()
    mask = method.find_edit_mask(embedding.w_plus, edited)
    assert mask.isfinite().all()
    assert mask.min() < 1.0


@torch.inference_mode()
def test_a_batch_equals_its_members_one_by_one(method, crops, embedding):
    edited = moved(method, embedding.w_plus, age=1.5)
    together = method.find_edit_mask(embedding.w_plus, edited)
    alone = [method.find_edit_mask(embedding.w_plus[n : n + 1], edited[n : n + 1]) for n in (0, 1)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-3)


def test_classes_that_are_no_directions_of_the_pack_are_refused(tmp_path):
    pack = write_diffcam_pack(tmp_path, classes=("smile", "beard"))
    with pytest.raises(CheckpointError, match=r"diffcam_classes \['smile', 'beard'\].*smile, age"):
        load_method(pack, method="diffcam")
