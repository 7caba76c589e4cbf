"""Official files at their own size, imported: the pack gives what the official networks gave."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.networks.parity import official_state, relative_error
from tests.official_files import nest
from tests.shared_data import shared_path
from tests.tolerances import FLOAT32_PARITY
from vidinvert.methods import load_method
from vidinvert.official import ImportPlan, import_files

NAME = "samm_e4e_256"
LIKE = {  # a file that is made -> which names of the whole model it holds, and under which table
    "stylegan2-ffhq-256.pt": {"generator.": "g_ema."},
    "e4e_ffhq_encode.pt": {"encoder.": "state_dict.encoder.", "generator.": "state_dict.decoder."},
    "net_g_410000.pth": {
        prefix: f"params_ema.{prefix}" for prefix in ("feats_conv.", "modulation.")
    },
}


def write_files(folder: Path) -> list[Path]:
    state = official_state(NAME)
    paths = []
    for file, tables in LIKE.items():
        flat = {
            there + name[len(prefix) :]: torch.zeros_like(tensor) if "noises." in name else tensor
            for prefix, there in tables.items()
            for name, tensor in state.items()
            if name.startswith(prefix)
        }
        content = nest(flat, "g_ema", "state_dict", "params_ema")
        if file.startswith("e4e"):
            content["latent_avg"] = state["avg_latent"].expand(14, -1).clone()
            content["opts"] = argparse.Namespace(encoder_type="Encoder4Editing")
        torch.save(content, folder / file)
        paths.append(folder / file)
    return paths


@pytest.mark.shared
@pytest.mark.slow
def test_an_imported_pack_equals_the_official_network(tmp_path):
    recorded = np.load(shared_path(f"parity/{NAME}.npz"))
    pack = import_files(
        write_files(tmp_path), tmp_path / "faces", ImportPlan(kind="samm", detector=None)
    )
    assert (pack.crop_size, pack.style_count, pack.style_width) == (256, 14, 512)
    method = load_method(pack, method="samm")
    crop = torch.from_numpy(recorded["image_uint8"]).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        embedding = method.embed(crop)
        plain = method.generate(embedding.w_plus)
        edited = embedding.w_plus + torch.from_numpy(recorded["direction"])
        errors = {
            "w_plus": relative_error(embedding.w_plus[0], recorded["w_plus"]),
            "generated_plain": relative_error(plain[0], recorded["generated_plain"]),
        }
        for suffix, codes in (("", embedding.w_plus), ("_edited", edited)):
            seen = method.synthesise(embedding, codes)
            blended = seen.ood * crop + (1 - seen.ood) * seen.image
            errors[f"mask{suffix}"] = relative_error(seen.ood[0], recorded[f"mask{suffix}"])
            errors[f"blended{suffix}"] = relative_error(blended[0], recorded[f"blended{suffix}"])
    print(errors)
    assert max(errors.values()) < FLOAT32_PARITY, errors
