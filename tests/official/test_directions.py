"""Published directions into packs: shapes, levels, scales, and what is refused."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import official_files as made
from vidinvert.checkpoints import load_directions, read_array_file, verify_pack
from vidinvert.errors import CheckpointError, KeyMismatchError, PlanError
from vidinvert.official import DirectionPlan, ImportPlan, import_directions, import_files
from vidinvert.official.directions import name_files
from vidinvert.types import FacePack

L, D = made.STYLE_COUNT, made.STYLE_WIDTH
RANDOM = np.random.default_rng(0)
ROW = RANDOM.standard_normal(D)
GRID = RANDOM.standard_normal((L, D))


@pytest.fixture
def pack(tmp_path) -> FacePack:
    path = made.rosinality(tmp_path / "g.pt")
    plan = ImportPlan(kind="stylegan2", detector=None, license="MIT")
    return import_files([path], tmp_path / "faces", plan)


def add(pack: FacePack, path: Path, **changes) -> tuple[torch.Tensor, FacePack]:
    grown = import_directions({"smile": path}, pack.directory, DirectionPlan(**changes))
    verify_pack(grown)
    return load_directions(grown)["smile"].vector, grown


def save(path: Path, content) -> Path:
    if path.suffix == ".npy":
        np.save(path, content, allow_pickle=True)
    else:
        torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("suffix", "content", "wanted"),
    [
        (".npy", ROW, np.tile(ROW, (L, 1))),
        (".npy", ROW[None], np.tile(ROW, (L, 1))),  # InterFaceGAN: (1, D)
        (".npy", np.tile(ROW, (18, 1)), np.tile(ROW, (L, 1))),  # STIT: equal rows for 18 levels
        (".npy", GRID, GRID),
        (".npy", GRID[None].astype(">f8"), GRID),
        (".npy", GRID.reshape(1, -1), GRID),  # FeatureStyle: one long row
        (".npy", np.asfortranarray(GRID), GRID),
        (".pt", torch.from_numpy(ROW[None]).float(), np.tile(ROW, (L, 1))),
        (".pt", {"direction": torch.from_numpy(GRID)}, GRID),
    ],
)
def test_every_published_shape_becomes_a_vector_a_level(pack, tmp_path, suffix, content, wanted):
    vector, grown = add(pack, save(tmp_path / f"x{suffix}", content))
    torch.testing.assert_close(vector, torch.from_numpy(wanted).float())
    meta = grown.directions["smile"]
    assert meta.layers == tuple(range(L))
    length = np.sqrt((wanted**2).sum() / L)
    assert meta.figures["length in the file"] == pytest.approx(length)
    assert meta.unit.startswith("1.0 = the vector of the file; length ")


def test_boundaries_of_idinvert_bring_their_levels(pack, tmp_path):
    content = {"boundary": GRID[None], "meta_data": {"manipulate_layers": [0, 1, 2]}}
    vector, grown = add(pack, save(tmp_path / "expression.npy", content))
    assert grown.directions["smile"].layers == (0, 1, 2)
    torch.testing.assert_close(vector[:3], torch.from_numpy(GRID[:3]).float())
    assert vector[3:].abs().max() == 0


def test_a_component_is_one_standard_deviation_long(pack, tmp_path):
    components = torch.from_numpy(RANDOM.standard_normal((5, 1, D)))
    content = {"comp": components, "std": torch.arange(5.0) + 2, "mean": torch.zeros(1, D)}
    path = save(tmp_path / "ffhq_pca.pt", content)
    vector, grown = add(pack, path, component=3, layers=(4, 6))
    wanted = components[3].float() * 5
    torch.testing.assert_close(vector[4:6], wanted.expand(2, -1))
    assert vector[:4].abs().max() == vector[6:].abs().max() == 0
    assert "one standard deviation of the component 3" in grown.directions["smile"].unit
    for component in (None, 5, -1):
        with pytest.raises(
            PlanError, match="holds 5 components; say which with --component 0 to 4"
        ):
            add(pack, path, component=component, overwrite=True)


def test_scales_and_units_are_recorded(pack, tmp_path):
    path = save(tmp_path / "x.npy", ROW)
    vector, grown = add(pack, path, scale="unit")
    torch.testing.assert_close(vector.norm(dim=1), torch.ones(L))
    assert "a step of length 1 in every moved style vector" in grown.directions["smile"].unit
    vector, grown = add(pack, path, scale=-0.5, overwrite=True)
    torch.testing.assert_close(vector[0], torch.from_numpy(-0.5 * ROW).float())
    assert "times -0.5" in grown.directions["smile"].unit
    _, grown = add(pack, path, unit="1.0 = ten years", license="X", overwrite=True)
    assert grown.directions["smile"].unit == "1.0 = ten years"
    assert grown.license == "MIT AND unknown: not stated when it was imported AND X"
    source = grown.provenance["sources"]["direction smile"]
    assert (source["file"], source["licence"]) == ("x.npy", "X")


def test_directions_add_up_and_are_replaced_only_when_asked(pack, tmp_path):
    path = save(tmp_path / "x.npy", ROW)
    add(pack, path)
    grown = import_directions({"age": path}, pack.directory, DirectionPlan())
    assert set(load_directions(grown)) == {"smile", "age"}
    with pytest.raises(CheckpointError, match=r"has a direction 'smile' already.*NAME=x\.npy"):
        add(pack, path)


def test_names_come_from_the_files():
    paths = [Path("boundary_Smiling.npy"), Path("Eyeglasses_boundary.npy"), Path("a/mouth-open.pt")]
    assert list(name_files(paths)) == ["smiling", "eyeglasses", "mouth_open"]
    for wrong in ([Path("5_o_clock.npy")], [Path("a.npy"), Path("a.pt")]):
        with pytest.raises(PlanError, match="Give one as NAME="):
            name_files(wrong)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (np.ones((1, 6048)), KeyMismatchError, "table of StyleCLIP's global directions"),
        (np.ones((6048, 512)), KeyMismatchError, "table of StyleCLIP's global directions"),
        (
            np.ones(D - 1),
            KeyMismatchError,
            r"has the shape \(63,\), expected \(64,\) or \(10, 64\)",
        ),
        (RANDOM.standard_normal((18, D)), KeyMismatchError, r"has the shape \(18, 64\)"),
        (np.zeros(D), CheckpointError, "has the length 0.0, expected a vector that moves codes"),
        (np.full(D, np.nan), CheckpointError, "has the length nan"),
        ({"boundary": GRID, "extra": 1}, KeyMismatchError, "holds boundary, extra, expected"),
        ({"boundary": 3}, KeyMismatchError, "holds boundary, expected boundary and meta_data"),
        (
            {"boundary": GRID, "meta_data": {"manipulate_layers": [17]}},
            PlanError,
            r"levels \(17,\)",
        ),
        ([{"a": 1}, {"b": 2}], CheckpointError, r"holds an array of \(2,\) objects"),
    ],
)
def test_what_is_no_direction_of_the_pack_is_refused(pack, tmp_path, content, error, message):
    with pytest.raises(error, match=message):
        add(pack, save(tmp_path / "x.npy", content))
    assert not load_directions(pack)


def test_several_tensors_are_refused(pack, tmp_path):
    with pytest.raises(KeyMismatchError, match=r"holds a, b, expected one vector, or components"):
        add(pack, save(tmp_path / "x.pt", {"a": torch.ones(D), "b": torch.ones(D)}))


class Hostile:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.write_text, (self.target, "ran")


@pytest.mark.parametrize("where", ["alone", "as the boundary"])
def test_arrays_that_call_anything_are_refused_and_not_run(pack, tmp_path, where):
    hostile = Hostile(tmp_path / "ran")
    content = np.array(hostile if where == "alone" else {"boundary": hostile}, dtype=object)
    np.save(tmp_path / "x.npy", content, allow_pickle=True)
    with pytest.raises(
        CheckpointError, match=r"refers to \S+, which no known file of weights needs"
    ):
        add(pack, tmp_path / "x.npy")
    assert not hostile.target.exists()


@pytest.mark.parametrize("protocol", range(2, 6))
def test_dictionaries_of_every_protocol_are_read(tmp_path, protocol):
    content = {
        "boundary": GRID,
        "meta_data": {"n": np.float32(2.5), "name": "x", "list": (1, None)},
    }
    path = tmp_path / "x.npy"
    np.save(path, np.array(content, dtype=object), allow_pickle=True)
    head = path.read_bytes()[: path.read_bytes().index(b"\n") + 1]
    path.write_bytes(head + pickle.dumps(np.array(content, dtype=object), protocol))
    seen = read_array_file(path)
    np.testing.assert_array_equal(seen["boundary"], GRID)
    assert seen["meta_data"] == {"n": 2.5, "name": "x", "list": [1, None]}


def test_files_that_are_no_arrays_are_refused(tmp_path):
    (tmp_path / "x.npy").write_text("<html>")
    with pytest.raises(CheckpointError, match="is not a NumPy file"):
        read_array_file(tmp_path / "x.npy")
