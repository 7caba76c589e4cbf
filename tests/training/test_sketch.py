"""The stage `sketch`: what reads small pictures off a decoder."""

import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from tests.methods.test_eigen import write_eigen_pack
from tests.training.tiny import face_set
from vidinvert.checkpoints import read_pack
from vidinvert.methods import load_method
from vidinvert.training import sketch, stages
from vidinvert.training.pack import write_mini


def test_what_is_fitted_reads_small_pictures_and_goes_with_its_autoencoder(tmp_path, monkeypatch):
    monkeypatch.setattr(sketch, "PICTURES", 4)
    (tmp_path / "pack").mkdir()
    pack, faces, seen = write_eigen_pack(tmp_path / "pack"), face_set(train=5, val=3), []
    work = tmp_path / "work"
    figures = sketch.fit_sketch(
        work, faces, start=pack, progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1] == (8, 8)
    made = write_mini(work, faces, start=pack)
    assert made.files["sketch"].path.name == "sketch.safetensors"
    assert made.figures["sketch_psnr"] == round(figures["psnr"], 4)
    method, codes = load_method(made, method="samm"), torch.zeros(1, 4, 8)
    with torch.inference_mode():
        wanted = F.avg_pool2d(method.generate(codes), 2)
        error = (method.sketch(codes) - wanted).square().mean()
    assert error < 0.05 * wanted.var()  # a decoder of random weights is not as linear as a trained

    again = tmp_path / "again"  # another autoencoder: what was fitted holds no more
    (again / "autoencoder").mkdir(parents=True)
    stages.write_weights(
        load_file(made.directory / "autoencoder.safetensors"), again / "autoencoder"
    )
    torch.save({"images": 1, "seconds": 1.0}, again / "autoencoder" / "checkpoint.pt")
    later = write_mini(again, faces, start=made)
    assert "sketch" not in later.files
    assert not (later.directory / "sketch.safetensors").exists()
    assert read_pack(later.directory).files.keys() == pack.files.keys()
