"""The stages of a pack in their order, each reading what the ones before left in a work folder.

| stage | reads | writes |
| --- | --- | --- |
| autoencoder | faces, teacher | autoencoder/ |
| codes | autoencoder/ | codes/latents.npy, codes/basis.safetensors |
| directions | codes/, ratings, landmark network | directions/ (vectors, .json, attributes.npz) |
| generator | codes/, directions/ | generator/ |
| samm | all of these | samm/ |

Networks are written as `weights.safetensors` (the moving average) beside their checkpoint.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vidinvert import images as pictures
from vidinvert.checkpoints import load_part, select
from vidinvert.errors import MissingError, PlanError
from vidinvert.faces.landmarks import LandmarkNetwork
from vidinvert.networks.autoencoder import FaceDecoder, FaceEncoder
from vidinvert.networks.eigen import EigenBasis, EigenGenerator, restore_bases
from vidinvert.training import directions as attributes
from vidinvert.training import ranks
from vidinvert.training.autoencoder import (
    AutoencoderRecipe,
    AutoencoderSettings,
    TeacherLatents,
    encode_with_own,
    encode_with_teacher,
    freeze,
    load_perceptual,
    summarise_latents,
)
from vidinvert.training.codes import COMPONENTS, encode_copies, fit_basis
from vidinvert.training.critic import AttributeCritic, standardise, train_critic
from vidinvert.training.data import FaceSet
from vidinvert.training.generator import GeneratorRecipe
from vidinvert.training.loop import Progress, Schedule, train
from vidinvert.training.motions import MOTIONS, landmark_motions, motion_directions
from vidinvert.types import FacePack

LOCAL_DIRECTIONS = (
    "smile",
    "mouth_open",
    "eyes_open",
    "yaw",
    "pitch",
    "age",
    "weight",
    "skin_warmth",
)
CRITIC_STEPS = 2_500
MOVED_FACES = 256  # that are warped for a direction
STYLE_WIDTH = 1024
CONTINUED_RATE = 8e-4  # the autoencoder's learning rate when it goes on from a pack
EARLIER = "earlier.json"  # in a stage's folder: the pack and the training that it goes on from
MIN_CORRELATION = 0.6  # a direction whose attribute is read out worse on held-out faces is left out


@dataclass(frozen=True, slots=True, kw_only=True)
class Helpers:
    """Small networks of others that training looks at and the pack does not contain.

    Attributes:
        perceptual: SqueezeNet's weights, `.npz`.
        teacher: TAEF2's encoder, `.pth`.
        landmarks: PFLD with 68 points, `.onnx`.
        labeller: YuNet, `.onnx`, which labels the detector's faces.
    """

    perceptual: Path
    teacher: Path
    landmarks: Path
    labeller: Path

    @classmethod
    def in_directory(cls, directory: Path) -> "Helpers":
        """Find the helpers in a folder laid out as `perceptual/`, `taef2/`, `landmarks/`, `yunet/`.

        Raises:
            MissingError: one is not there.
        """
        found: dict[str, Path] = {}
        for name, pattern in (
            ("perceptual", "perceptual/squeezenet*.npz"),
            ("teacher", "taef2/*encoder.pth"),
            ("landmarks", "landmarks/*68*.onnx"),
            ("labeller", "yunet/*dynamic.onnx"),
        ):
            matches = sorted(directory.glob(pattern))
            if not matches:
                raise MissingError(
                    f"{directory} holds no {pattern}, which the recipes look at; "
                    "put the helper networks there and name the folder with --helpers"
                )
            found[name] = matches[0]
        return cls(**found)


def train_autoencoder(
    work: Path,
    faces: FaceSet,
    helpers: Helpers,
    schedule: Schedule,
    *,
    start: FacePack | None = None,
    device: str = "cpu",
    progress: Progress,
) -> dict[str, float]:
    """Distil the autoencoder, or go on with that of a pack; returns its figures."""
    perceptual = load_perceptual(helpers.perceptual)
    if start is None:
        teacher = _teacher_latents(work, faces, helpers, device)
        recipe = AutoencoderRecipe(faces, teacher, perceptual, seed=schedule.seed, device=device)
    else:
        networks = _split_autoencoder(load_part(start, "autoencoder"))
        recipe = AutoencoderRecipe(
            faces,
            encode_with_own(networks[0].to(device), faces),
            perceptual,
            start=networks,
            settings=AutoencoderSettings(learning_rate=CONTINUED_RATE, teacher_until=0.0),
            seed=schedule.seed,
            device=device,
        )
    if start is not None:
        write_earlier(start, "autoencoder", work / "autoencoder")
    train(recipe, schedule, work / "autoencoder", progress=progress)
    state: dict[str, Tensor] = {}
    for name, module in recipe.averaged.items():
        state |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
    write_weights(state, work / "autoencoder")
    return write_figures(recipe.evaluate(), work / "autoencoder")


def write_earlier(pack: FacePack, stage: str, directory: Path) -> None:
    """Note which pack a stage goes on from, and how long that was trained in all."""
    directory.mkdir(parents=True, exist_ok=True)
    known: dict[str, str | int] = {"pack": f"{pack.name} {pack.version}", "sha256": pack.sha256}
    for name in ("images_seen", "seconds"):
        parts = [pack.provenance.get(f"{stage}_{when}{name}") for when in ("", "earlier_")]
        if any(part is not None for part in parts):
            known[name] = sum(int(part) for part in parts if part is not None)
    (directory / EARLIER).write_text(json.dumps(known, indent=2), encoding="utf-8")


def _teacher_latents(work: Path, faces: FaceSet, helpers: Helpers, device: str) -> TeacherLatents:
    with ranks.first_goes_first():
        return _cached_teacher_latents(work / "teacher.npy", faces, helpers, device)


def _cached_teacher_latents(
    cached: Path, faces: FaceSet, helpers: Helpers, device: str
) -> TeacherLatents:
    if cached.is_file():
        return summarise_latents(np.load(cached, mmap_mode="r"))
    state = torch.load(helpers.teacher, map_location="cpu", weights_only=True)
    teacher = encode_with_teacher(faces, state, device=device)
    cached.parent.mkdir(parents=True, exist_ok=True)
    np.save(cached, teacher.latents)
    return teacher


def unpack(pack: FacePack, work: Path) -> None:
    """Put the autoencoder and the code basis of a pack into a work folder that has none."""
    if not (work / "autoencoder" / "weights.safetensors").is_file():
        (work / "autoencoder").mkdir(parents=True, exist_ok=True)
        write_weights(load_part(pack, "autoencoder"), work / "autoencoder")
    if not (work / "codes" / "basis.safetensors").is_file():
        (work / "codes").mkdir(parents=True, exist_ok=True)
        state = select(restore_bases(load_part(pack, "generator")), "basis.")
        save_file(
            {name: value.float().contiguous() for name, value in state.items()},
            work / "codes" / "basis.safetensors",
        )


def fit_codes(
    work: Path,
    faces: FaceSet,
    *,
    copies: int = 1,
    device: str = "cpu",
    progress: Callable[[int, int], None],
) -> EigenBasis:
    """Encode all training faces, their mirrors and jittered copies, and fit the code basis."""
    encoder = load_autoencoder(work)[0].to(device)
    target = work / "codes"
    target.mkdir(parents=True, exist_ok=True)
    latents = encode_copies(encoder, faces, faces.rows("train"), copies=copies, progress=progress)
    stored = open_memmap(target / "latents.npy", mode="w+", dtype=np.float16, shape=latents.shape)
    stored[:] = latents
    stored.flush()
    basis = fit_basis(latents, components=COMPONENTS)
    save_file(_contiguous(basis.state_dict()), target / "basis.safetensors")
    return basis


SERIES_LENGTHS = "series.json"  # in the directions' folder: what `motions` measures series by


def fit_edit_directions(
    work: Path, faces: FaceSet, data: Path, helpers: Helpers
) -> dict[str, attributes.FittedDirection]:
    """Measure and rate the faces, and regress their codes on that.

    Directions that are motions (`motions.MOTIONS`) are taken from warped faces instead.
    """
    rows = faces.rows("train")
    basis, encoder = load_basis(work), load_autoencoder(work)[0]
    codes = codes_of_faces(work, faces)
    landmarks = find_landmarks(work, faces, helpers)
    values = attributes.measure_faces(faces, rows, landmarks[rows])
    for name, measured in attributes.COLOUR_ATTRIBUTES.items():
        values[name] = values.pop(measured)
    ratings = attributes.read_ratings(data / "omi_ratings.csv", tuple(attributes.RATED_ATTRIBUTES))
    flat = codes.reshape(len(codes), -1)
    held_out: dict[str, float] = {}
    for name in attributes.RATED_ATTRIBUTES:
        if all(name in rated for rated in ratings.values()):
            spread, held_out[name] = attributes.predict_ratings(flat, faces, rows, ratings, name)
            values[name] = spread
    known = [
        *attributes.LANDMARK_ATTRIBUTES,
        *attributes.COLOUR_ATTRIBUTES,
        *(name for name, correlation in held_out.items() if correlation >= MIN_CORRELATION),
    ]
    plain = [name for name in known if name not in attributes.COMPOUND_ATTRIBUTES]
    groups = [([], plain)]
    for name, without in attributes.COMPOUND_ATTRIBUTES.items():
        if name in known:
            groups.append(([*without], [name]))
    fitted: dict[str, attributes.FittedDirection] = {}
    for without, names in groups:
        others = {*attributes.COMPOUND_ATTRIBUTES, *without} - {*names}
        fitted |= attributes.fit_directions(
            flat,
            {name: value for name, value in values.items() if name not in others},
            names,
            shape=(codes.shape[1], codes.shape[2]),
            source="joint least squares of the codes on landmark measures and mean human ratings",
            groups=np.tile(np.arange(len(rows)), 2),
        )
    # Ratings were predicted from the codes: what counts is how well on rated faces held out.
    fitted |= {
        name: replace(fitted[name], correlation=value)
        for name, value in held_out.items()
        if name in fitted
    }
    fitted = {name: f for name, f in fitted.items() if f.correlation >= MIN_CORRELATION}
    fitted |= attributes.follow_series(
        fitted,
        flat,
        faces,
        rows,
        values,
        shape=(codes.shape[1], codes.shape[2]),
        correlations=held_out,
    )
    fitted |= _move(fitted, faces, landmarks, values, basis, encoder)
    write_directions(fitted, work / "directions")
    lengths = {
        name: attributes.series_length(
            faces, rows, name, (values[name] - values[name].mean()) / values[name].std()
        )
        for name in attributes.SERIES_ATTRIBUTES
        if name in fitted
    }
    write_figures(lengths, work / "directions", name=SERIES_LENGTHS)
    judged = [name for name in plain if name in fitted]
    judged += [name for name in values if name not in {*judged, *attributes.COMPOUND_ATTRIBUTES}]
    np.savez(
        work / "directions" / "attributes.npz",
        names=np.array(judged),
        values=standardise({name: values[name] for name in judged}),
    )
    return fitted


def _move(
    fitted: Mapping[str, attributes.FittedDirection],
    faces: FaceSet,
    landmarks: np.ndarray,
    values: Mapping[str, np.ndarray],
    basis: EigenBasis,
    encoder: FaceEncoder,
) -> dict[str, attributes.FittedDirection]:
    """Return the fitted directions that are motions with vectors from warped training faces."""
    rows = faces.rows("train")
    names = [name for name in MOTIONS if name in fitted]
    held = {name: values[name] for name in (*attributes.LANDMARK_ATTRIBUTES, *attributes.PLACEMENT)}
    both = attributes.with_mirrors(landmarks[rows], side=faces.images.shape[1])
    chosen = rows[:: max(1, len(rows) // MOVED_FACES)][:MOVED_FACES]

    def embed(crops: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return basis.codes(encoder(pictures.to_float(crops)).latents).double().numpy()

    moved = motion_directions(
        faces.images[chosen], landmarks[chosen], landmark_motions(both, held, names), embed
    )
    return {
        name: replace(
            fitted[name],
            direction=replace(
                fitted[name].direction,
                vector=torch.from_numpy(attributes.shrink(*found).astype(np.float32)),
                source="mean change of the codes of faces warped as the attribute moves landmarks",
            ),
        )
        for name, found in moved.items()
    }


def find_landmarks(work: Path, faces: FaceSet, helpers: Helpers) -> np.ndarray:
    """Return landmarks of every picture, found once and kept in the work folder."""
    cached = work / "landmarks.npy"
    if not cached.is_file():
        network = LandmarkNetwork(helpers.landmarks, threads=torch.get_num_threads())
        np.save(cached, attributes.find_landmarks(faces, np.arange(len(faces.images)), network))
    return np.load(cached)


def codes_of_faces(work: Path, faces: FaceSet) -> np.ndarray:
    """Return the codes (2 M, L, D) of the M training faces, then of their mirror images."""
    rows = faces.rows("train")
    if not (work / "codes" / "latents.npy").is_file():  # the basis is a pack's
        encoder = load_autoencoder(work)[0]
        np.save(work / "codes" / "latents.npy", encode_copies(encoder, faces, rows, copies=0))
    latents = np.load(work / "codes" / "latents.npy", mmap_mode="r")
    return _codes_of(load_basis(work), latents[: 2 * len(rows)])


def _codes_of(basis: EigenBasis, latents: np.ndarray) -> np.ndarray:
    parts = []
    for start in range(0, len(latents), 256):
        part = torch.from_numpy(latents[start : start + 256].astype(np.float32))
        with torch.inference_mode():
            parts.append(basis.codes(part).double().numpy())
    return np.concatenate(parts)


def write_directions(fitted: Mapping[str, attributes.FittedDirection], target: Path) -> None:
    """Write fitted directions: their vectors, and in `directions.json` what a pack says of them."""
    target.mkdir(parents=True, exist_ok=True)
    vectors = {name: item.direction.vector for name, item in fitted.items()}
    save_file(_contiguous(vectors), target / "directions.safetensors")
    described = {
        name: {
            "unit": item.direction.unit,
            "source": item.direction.source,
            "layers": list(item.direction.layers),
            "figures": {"correlation": round(item.correlation, 3)},
        }
        for name, item in fitted.items()
    }
    (target / "directions.json").write_text(json.dumps(described, indent=2), encoding="utf-8")


def train_generator(
    work: Path,
    faces: FaceSet,
    helpers: Helpers,
    schedule: Schedule,
    *,
    device: str = "cpu",
    progress: Progress,
) -> dict[str, float]:
    """Train the refiner; returns its figures on validation faces."""
    encoder, decoder = load_autoencoder(work)
    rows = faces.rows("val")[::3][:48]
    validation = np.concatenate(
        [
            encoder(pictures.to_float(faces.images[rows[i : i + 8]])).latents.numpy()
            for i in range(0, len(rows), 8)
        ]
    )
    latents = np.load(work / "codes" / "latents.npy", mmap_mode="r")
    vectors = load_file(work / "directions" / "directions.safetensors")
    with np.load(work / "directions" / "attributes.npz", allow_pickle=False) as archive:
        judged, values = [str(name) for name in archive["names"]], archive["values"]
    names = [name for name in judged if name in vectors]
    if not names:
        raise PlanError(
            f"{work / 'directions'} holds no direction to train edits with, expected at least one "
            f"whose attribute is read out with a correlation of {MIN_CORRELATION}; give more faces"
        )
    with ranks.first_goes_first():
        critic = _judge(work, latents, judged, values, schedule, device)
    recipe = GeneratorRecipe(
        latents,
        load_basis(work),
        decoder,
        load_perceptual(helpers.perceptual),
        {name: vectors[name] for name in names},
        local=[name in LOCAL_DIRECTIONS for name in names],
        critic=critic,
        validation=validation.astype(np.float16),
        seed=schedule.seed,
        device=device,
    )
    train(recipe, schedule, work / "generator", progress=progress)
    write_weights(recipe.averaged["generator"].state_dict(), work / "generator")
    return write_figures(recipe.evaluate(), work / "generator")


def _judge(
    work: Path,
    latents: np.ndarray,
    judged: Sequence[str],
    values: np.ndarray,
    schedule: Schedule,
    device: str,
) -> AttributeCritic:
    """Load the judge of attributes, or train and keep it."""
    critic = _load_critic(work / "generator", len(judged))
    if critic is None:
        critic, found = train_critic(
            latents[: len(values)],
            values,
            steps=CRITIC_STEPS,
            autocast=schedule.autocast,
            seed=schedule.seed,
            device=device,
        )
        (work / "generator").mkdir(parents=True, exist_ok=True)
        save_file(_contiguous(critic.state_dict()), work / "generator" / "critic.safetensors")
        write_figures(
            dict(zip(judged, found.tolist(), strict=True)), work / "generator", name="critic.json"
        )
    return critic


def _load_critic(directory: Path, attributes_judged: int) -> AttributeCritic | None:
    path = directory / "critic.safetensors"
    if not path.is_file():
        return None
    critic = AttributeCritic(attributes_judged)
    critic.load_state_dict(load_file(path))
    return freeze(critic)


def load_autoencoder(work: Path) -> tuple[FaceEncoder, FaceDecoder]:
    """Load the trained autoencoder of a work folder, frozen."""
    return _split_autoencoder(read_weights(work / "autoencoder"))


def _split_autoencoder(state: Mapping[str, Tensor]) -> tuple[FaceEncoder, FaceDecoder]:
    encoder, decoder = FaceEncoder(), FaceDecoder()
    for name, module in (("encoder.", encoder), ("decoder.", decoder)):
        module.load_state_dict(
            {
                key[len(name) :]: value.float()
                for key, value in state.items()
                if key.startswith(name)
            }
        )
        freeze(module)
    return encoder, decoder


def load_basis(work: Path) -> EigenBasis:
    """Load the fitted code basis of a work folder."""
    state = load_file(work / "codes" / "basis.safetensors")
    components = [len(state[f"sigma_{level}"]) for level in range(4)]
    basis = EigenBasis(components, style_width=STYLE_WIDTH)
    basis.load_state_dict(state)
    return basis


def load_generator(work: Path) -> EigenGenerator:
    """Load the trained generator of a work folder, frozen."""
    basis = load_basis(work)
    generator = EigenGenerator(basis.components, style_width=STYLE_WIDTH)
    generator.load_state_dict(read_weights(work / "generator"))
    return freeze(generator)


def shortened(schedule: Schedule, seconds: float) -> Schedule:
    """Return the schedule with a limit on its wall time; 0 leaves it as it is."""
    return replace(schedule, max_seconds=seconds) if seconds > 0 else schedule


def _contiguous(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}


def write_weights(state: Mapping[str, Tensor], directory: Path) -> None:
    """Write a stage's result, which the stages after it and `assemble` read."""
    if ranks.number() == 0:
        save_file(_contiguous(state), directory / "weights.safetensors")


def read_weights(directory: Path) -> dict[str, Tensor]:
    """Read a stage's result.

    Raises:
        MissingError: the stage has not been run.
    """
    path = directory / "weights.safetensors"
    if not path.is_file():
        raise MissingError(
            f"{path} is not there, expected the stage {directory.name!r} to be done; "
            f"run `vidinvert train {directory.name}` first"
        )
    return load_file(path)


def write_figures(
    figures: dict[str, float], directory: Path, *, name: str = "figures.json"
) -> dict[str, float]:
    """Write what was measured of a stage, for the pack's description, and return it."""
    text = json.dumps({key: round(value, 4) for key, value in figures.items()}, indent=2)
    if ranks.number() == 0:
        (directory / name).write_text(text, encoding="utf-8")
    return figures


def parameters(module: nn.Module) -> int:
    """Count a network's trained numbers."""
    return sum(parameter.numel() for parameter in module.parameters())
