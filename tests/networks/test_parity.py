"""Our networks against recorded outputs of the official ones, under the official names."""

import json

import numpy as np
import pytest
import torch

from tests.networks.parity import load_networks, relative_error, run
from tests.shared_data import shared_path
from tests.tolerances import BFLOAT16_PARITY, FLOAT32_PARITY
from vidinvert.checkpoints import rename_keys
from vidinvert.cli.device import bf16_units
from vidinvert.errors import KeyMismatchError
from vidinvert.networks import keymaps

ARRAYS = {
    "w_plus",
    "generated_plain",
    "blended",
    "mask",
    "blended_edited",
    "mask_edited",
    "align_32",
    "align_64",
    "align_128",
    "align_256",
}


def check(name: str, *, dtype: torch.dtype, prepared: bool, tolerance: float) -> None:
    recorded = np.load(shared_path(f"parity/{name}.npz"))
    with torch.no_grad():
        networks = load_networks(name, dtype=dtype, prepared=prepared)
        errors = {
            key: relative_error(seen, recorded[key])
            for key, seen in run(name, networks, dtype=dtype)
        }
    print(name, dtype, "prepared" if prepared else "plain", errors)
    assert set(errors) == ARRAYS
    assert max(errors.values()) < tolerance, errors


@pytest.mark.shared
def test_samm_at_256_equals_the_official_network():
    check("samm_e4e_256", dtype=torch.float32, prepared=True, tolerance=FLOAT32_PARITY)


@pytest.mark.shared
@pytest.mark.slow
def test_samm_at_256_equals_the_official_network_unprepared():
    check("samm_e4e_256", dtype=torch.float32, prepared=False, tolerance=FLOAT32_PARITY)


@pytest.mark.shared
@pytest.mark.slow
def test_samm_at_1024_equals_the_official_network():
    check("samm_e4e_1024", dtype=torch.float32, prepared=True, tolerance=FLOAT32_PARITY)


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.skipif(not bf16_units(), reason="bf16 is emulated on this CPU: ten minutes")
def test_samm_at_256_in_bfloat16_is_near_the_official_network():
    check("samm_e4e_256", dtype=torch.bfloat16, prepared=True, tolerance=BFLOAT16_PARITY)


@pytest.mark.shared
@pytest.mark.parametrize("size", [256, 1024])
def test_every_official_name_is_accounted_for(size):
    names = json.loads(shared_path(f"parity/samm_e4e_{size}.json").read_text())
    keymap = keymaps.samm_whole_model(style_count=2 * int(np.log2(size)) - 2)
    state = {name: torch.zeros(()) for name in names}
    assert len(rename_keys(state, keymap)) == len(keymap.renames)
    assert set(names) == set(keymap.renames) | set(keymap.dropped)
    with pytest.raises(KeyMismatchError, match=r"1 not mentioned: noises\.noise_99"):
        rename_keys(state | {"noises.noise_99": torch.zeros(())}, keymap)
