"""The stage `motions`: how landmarks move with expressions, and what reads landmarks from codes."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from vidinvert.training import directions as attributes
from vidinvert.training.data import FaceSet
from vidinvert.training.motions import (
    SERIES_MOTIONS,
    fit_readout,
    landmark_motions,
    series_motion,
)
from vidinvert.training.stages import SERIES_LENGTHS, Helpers, codes_of_faces, find_landmarks

RESULT = "motions/motions.safetensors"


def fit_motions(work: Path, faces: FaceSet, helpers: Helpers) -> dict[str, float]:
    """Write the moves of one standard deviation of `motions.MOTIONS`, and the landmarks' read-out.

    And those of `motions.SERIES_MOTIONS`, where the stage `directions` found series of them.

    Returns:
        The largest move of each, in pixels, and the read-out's mean error on validation faces, as
        a share of the distance between the eyes.
    """
    landmarks, side = find_landmarks(work, faces, helpers), faces.images.shape[1]
    rows = faces.rows("train")
    both = attributes.with_mirrors(landmarks[rows], side=side)
    values = attributes.measure_faces(faces, rows, landmarks[rows])
    held = {name: values[name] for name in (*attributes.LANDMARK_ATTRIBUTES, *attributes.PLACEMENT)}
    moves = landmark_motions(both, held)
    series = work / "directions" / SERIES_LENGTHS
    lengths = json.loads(series.read_text("utf-8")) if series.is_file() else {}
    for name in SERIES_MOTIONS:
        if lengths.get(name, 0.0) > 0.0:
            ends = attributes.series_ends(faces, rows, name)
            ends = np.concatenate([ends, ends + len(rows)])  # and their mirror images
            moves[name] = series_motion(both, held, ends) / lengths[name]
    codes = codes_of_faces(work, faces)
    fitted = np.arange(len(codes)) % len(rows) % 10 != 0  # a picture and its mirror together
    trial = fit_readout(codes[fitted], both[fitted], size=side)
    found = side * trial(torch.from_numpy(codes[~fitted]).float())
    truth = both[~fitted]
    eyes = np.linalg.norm(truth[:, 36:42].mean(axis=1) - truth[:, 42:48].mean(axis=1), axis=1)
    error = np.linalg.norm(found - truth, axis=2).mean(axis=1) / eyes
    readout = fit_readout(codes, both, size=side)
    state = {f"moves.{name}": torch.from_numpy(v / side).float() for name, v in moves.items()}
    state |= {"readout.weight": readout.weight, "readout.mean": readout.mean}
    state["readout.columns"] = torch.tensor(readout.columns)
    (work / RESULT).parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, work / RESULT)
    figures = {f"{name}_pixels": float(np.abs(v).max()) for name, v in moves.items()}
    return {"error_of_eye_distance": float(error.mean()), **figures}
