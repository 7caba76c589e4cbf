"""Packs of small official-format networks with random weights, run on the shipped sample."""

import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

import vidinvert
from tests.mini import SAMPLE, read_clip
from vidinvert.checkpoints import find_pack, write_pack
from vidinvert.types import FacePack, Keymap


def official_names(state: dict[str, torch.Tensor], keymap: Keymap) -> dict[str, torch.Tensor]:
    """Give our parameters the names of the official file, with what it holds besides."""
    named = {theirs: state[ours].clone() for theirs, ours in keymap.renames.items()}
    return named | {name: torch.zeros(1) for name in keymap.dropped if "*" not in name}


def whole_pack(
    directory: Path,
    generator: dict,
    parts: dict[str, dict[str, torch.Tensor]],
    *,
    formats: dict[str, str] | None = None,
    strength: float = 1.0,
) -> FacePack:
    """Write a pack with a detector and one direction, `turn`, over all levels."""
    shutil.copytree(find_pack("mini").files["detector"].path.parent, directory / "detector")
    files = {"detector": "detector/detector.onnx"}
    for part, state in parts.items():
        torch.save(state, directory / f"{part}.pt")
        files[part] = f"{part}.pt"
    shape = (generator["style_count"], generator["style_width"])
    random = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    save_file({"turn": strength * random}, directory / "directions.safetensors")
    meta = {"unit": "1 = a step", "source": "random", "layers": list(range(shape[0]))}
    return write_pack(
        directory,
        name="filled",
        version="1",
        license="CC0-1.0",
        summary="Random weights.",
        generator=generator,
        files=files | {"directions": "directions.safetensors"},
        formats=formats or {},
        directions={"turn": meta},
    )


def check_edit(pack: FacePack, tmp_path: Path, *, method: str) -> dict:
    """Edit the sample: the face changes, what is outside its crop does not, the report says how."""
    models = vidinvert.load_pack(str(pack.directory), method=method)
    target = tmp_path / "edited.mp4"
    span = vidinvert.Span(start_seconds=0.0, end_seconds=0.16)
    report = vidinvert.edit_video(SAMPLE, target, edits="turn=1", pack=models, span=span)
    assert report["method"] == method
    after = read_clip(target)[0]
    before = read_clip(SAMPLE)[0][: len(after)]
    change = np.abs(before.astype(int) - after.astype(int)).mean(axis=(0, 3))
    assert change.max() > 8
    assert np.median(change) < 2
    return report
