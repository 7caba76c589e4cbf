"""What was measured in a clip, kept in a file: edit again without detecting or inverting again.

The file is a NumPy archive without pickles: a header in JSON with a schema number, the sha256 of
the clip and of the face pack and the settings that shaped the measurements, and per face the arrays
of its track, crops, codes and masks. Codes and masks are kept as they were measured; they are
steadied and shaped anew each time, so those settings may differ from run to run. The generator's
pictures of the steadied codes are kept too, as every edit starts from them; they are drawn anew
where the codes are steadied otherwise.
"""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stabilizers import Interval
from vidinvert.errors import AnalysisError, PlanError
from vidinvert.geometry import quad_from_crop
from vidinvert.media import PendingFile
from vidinvert.types import (
    Alignment,
    FacePack,
    FaceTrack,
    Inversion,
    InvertibilityMask,
    KeptPictures,
    Latents,
    Plans,
    SteadiedMasks,
    VideoInfo,
)

SCHEMA = 2
SUFFIX = ".npz"
LARGEST_HEAD, LARGEST_FRAME = 64 << 20, 8 << 20  # bytes unpacked; sixteen faces of 512 px a frame

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Analysis:
    """What was measured in a clip before anything is edited: steadied crops, codes and masks.

    Codes and masks are as measured; `frames` is the part of the clip that was looked at.
    `unedited`: per track sketches of its steadied codes, None = not drawn.
    """

    info: VideoInfo
    frames: range
    shots: tuple[Interval, ...]
    tracks: tuple[FaceTrack, ...]
    alignments: tuple[Alignment, ...]
    inversions: tuple[Inversion, ...]
    unedited: tuple[KeptPictures | None, ...]


def check_analysis_target(path: Path, *, info: VideoInfo, overwrite: bool = False) -> None:
    """Check that an analysis of the clip `info` could be written to `path`, and write nothing.

    Raises:
        EncodeError: the suffix is not .npz, or the file cannot be created there.
    """
    PendingFile(path, source=info.path, overwrite=overwrite, suffixes=(SUFFIX,))


def write_analysis(
    path: Path, analysis: Analysis, *, pack: FacePack, plans: Plans, overwrite: bool = False
) -> None:
    """Keep an analysis; the file appears under its name when it is whole.

    Args:
        path: ends in .npz.
        analysis: from `pipeline.analyse`.
        pack: the face pack that made it.
        plans: the plans that it was made with.
        overwrite: replace an existing file.

    Raises:
        EncodeError: the file cannot be written.
    """
    header = {
        "schema": SCHEMA,
        "source": {"name": analysis.info.path.name, "sha256": sha256_of(analysis.info.path)},
        "pack": {"name": pack.name, "sha256": pack.sha256},
        "method": analysis.inversions[0].method,
        "crop_size": analysis.alignments[0].crop_size,
        "settings": _settings(plans),
        "frames": [analysis.frames.start, analysis.frames.stop],
        "faces": [track.track_id for track in analysis.tracks],
    }
    arrays: dict[str, NDArray[Any]] = {
        "header": np.array(json.dumps(header)),
        "shots": np.array([[s.start, s.stop] for s in analysis.shots], np.int64).reshape(-1, 2),
    }
    faces = zip(
        analysis.tracks, analysis.alignments, analysis.inversions, analysis.unedited, strict=True
    )
    for number, (track, alignment, inversion, unedited) in enumerate(faces):
        for name, array in _face_arrays(track, alignment, inversion, unedited).items():
            arrays[f"face{number}_{name}"] = array
    pending = PendingFile(path, source=analysis.info.path, overwrite=overwrite, suffixes=(SUFFIX,))
    pending.create()
    try:
        with pending.path.open("wb") as file:
            np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]
        pending.commit()
    finally:
        pending.discard()


def _face_arrays(
    track: FaceTrack, alignment: Alignment, inversion: Inversion, unedited: KeptPictures | None
) -> Arrays:
    arrays: dict[str, NDArray[Any]] = {
        "indices": track.indices,  # (T,)
        "landmarks_xy": track.landmarks_xy,  # (T, 5, 2)
        "boxes_xyxy": track.boxes_xyxy,  # (T, 4)
        "score": track.score,  # (T,)
        "crop_from_frame": alignment.crop_from_frame,  # (T, 2, 3)
        "w_plus": inversion.latents.w_plus.numpy(),  # (T, L, D)
        "ood": inversion.mask.ood.numpy(),  # (T, 1, h, w)
    }
    if inversion.mask.guide is not None:
        arrays["guide"] = inversion.mask.guide.numpy()  # (T, 1, h, w)
    if inversion.mask.measured is not None:
        arrays["measured"] = inversion.mask.measured  # (T,)
    if inversion.mask.steadied is not None:
        arrays["steadied"] = inversion.mask.steadied.ood.numpy()  # (T, 1, h, w)
        arrays["steadied_filter"] = np.array(inversion.mask.steadied.filter_text)
    if track.identity is not None:
        arrays["identity"] = track.identity  # (512,)
    if unedited is not None:
        arrays["unedited"] = np.frombuffer(b"".join(unedited.encoded), np.uint8)  # PNG files
        arrays["unedited_sizes"] = np.array([len(one) for one in unedited.encoded], np.int64)
        arrays["unedited_codes"] = np.array(unedited.codes_sha256)
    return arrays


def read_analysis(
    path: Path, *, info: VideoInfo, pack: FacePack, method: str, plans: Plans
) -> Analysis:
    """Read an analysis back, and refuse one that does not fit.

    Args:
        path: from `write_analysis`.
        info: the clip to edit.
        pack: the face pack that will render.
        method: how faces are inverted, as `samm`.
        plans: what is asked for now. Settings that shaped the measurements (how faces are found,
            how crops are steadied) may be left at their defaults; others must be the file's.

    Raises:
        AnalysisError: the file is missing, damaged, of another schema, or of another clip, pack or
            method.
        PlanError: the plans ask for measurements that were made differently.
    """
    arrays, header = _load(path, info.frame_count)
    _check_fit(path, header, info=info, pack=pack, method=method, plans=plans)
    try:
        start, stop = header["frames"]
        faces = [
            _read_face(arrays, number, track_id, header)
            for number, track_id in enumerate(header["faces"])
        ]
        if not faces or not 0 <= start < stop <= info.frame_count:
            raise ValueError(f"it holds {len(faces)} faces in the frames [{start}, {stop})")
        return Analysis(
            info=info,
            frames=range(start, stop),
            shots=tuple(Interval(int(a), int(b)) for a, b in arrays["shots"]),
            tracks=tuple(face[0] for face in faces),
            alignments=tuple(face[1] for face in faces),
            inversions=tuple(face[2] for face in faces),
            unedited=tuple(face[3] for face in faces),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise _damaged(path, error) from error


# What numpy and zipfile raise for a file that is no archive, a damaged, encrypted or huge one.
_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    MemoryError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


def _check_size(path: Path, frames: int) -> None:
    """Refuse an archive that unpacks to more than an analysis of so many frames can hold.

    Raises:
        ValueError: it does; a file of a megabyte can unpack to a thousand.
    """
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    bound = LARGEST_HEAD + frames * LARGEST_FRAME
    if unpacked > bound:
        raise ValueError(f"it unpacks to {unpacked >> 20} MiB, expected at most {bound >> 20}")


def _load(path: Path, frames: int) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    if not path.is_file():
        raise AnalysisError(
            f"{path} is not a file, expected an analysis; write one with --save-analysis first."
        )
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is no .npz archive, or was cut short")
        _check_size(path, frames)
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = json.loads(str(arrays["header"]))
        schema = header["schema"]
    except _UNREADABLE as error:
        raise _damaged(path, error) from error
    if schema != SCHEMA:
        raise AnalysisError(
            f"{path} has schema {schema!r}, expected {SCHEMA}; analyse the clip again with "
            "--save-analysis."
        )
    return arrays, header


def _damaged(path: Path, error: Exception) -> AnalysisError:
    return AnalysisError(
        f"{path} cannot be read as an analysis ({error}), expected a file from --save-analysis; "
        "analyse the clip again."
    )


def _check_fit(
    path: Path,
    header: Mapping[str, Any],
    *,
    info: VideoInfo,
    pack: FacePack,
    method: str,
    plans: Plans,
) -> None:
    try:
        source, made_by, made_how = header["source"], header["pack"], header["method"]
        expected, kept = (made_by["name"], made_by["sha256"]), dict(header["settings"])
        same_clip = source["sha256"] == sha256_of(info.path)
        clip = source["name"]
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error
    again = "analyse the clip again with --save-analysis."
    if not same_clip:
        raise AnalysisError(
            f"{path} was made from another clip ({clip}), expected one of {info.path.name} with "
            f"the same content; {again}"
        )
    if expected != (pack.name, pack.sha256):
        raise AnalysisError(
            f"{path} was made by the pack {expected[0]!r} ({expected[1][:12]}), expected "
            f"{pack.name!r} ({pack.sha256[:12]}); choose that --pack, or {again}"
        )
    if made_how != method:
        raise AnalysisError(
            f"{path} was made with --method {made_how}, expected {method}; choose that method, "
            f"or {again}"
        )
    defaults = _settings(Plans())
    for name, value in _settings(plans).items():
        if value not in (kept.get(name), defaults[name]):
            raise PlanError(
                f"{path} was made with {name.replace('_', ' ')} {kept.get(name)}, but {value} is "
                f"asked for; leave that option out, or {again}"
            )


def _settings(plans: Plans) -> dict[str, Any]:
    """What shapes the measurements, ready for JSON."""
    return {
        **asdict(plans.tracking),
        "align_smoothing": repr(plans.stabilizer.transforms),
    }


def _read_face(
    arrays: Arrays, number: int, track_id: int, header: Mapping[str, Any]
) -> tuple[FaceTrack, Alignment, Inversion, KeptPictures | None]:
    def array(name: str) -> NDArray[Any]:
        return arrays[f"face{number}_{name}"]

    indices, transforms = array("indices"), array("crop_from_frame")
    size = int(header["crop_size"])
    track = FaceTrack(
        track_id=track_id,
        indices=indices,
        landmarks_xy=array("landmarks_xy"),
        boxes_xyxy=array("boxes_xyxy"),
        score=array("score"),
        identity=arrays.get(f"face{number}_identity"),
    )
    alignment = Alignment(
        crop_from_frame=transforms,
        crop_size=size,
        indices=indices,
        quads_xy=np.stack([quad_from_crop(matrix, size) for matrix in transforms]),
    )
    guide = arrays.get(f"face{number}_guide")
    steadied = arrays.get(f"face{number}_steadied")
    inversion = Inversion(
        latents=Latents(w_plus=torch.from_numpy(array("w_plus")), indices=indices),
        mask=InvertibilityMask(
            ood=torch.from_numpy(array("ood")),
            indices=indices,
            guide=None if guide is None else torch.from_numpy(guide),
            measured=arrays.get(f"face{number}_measured"),
            steadied=None
            if steadied is None
            else SteadiedMasks(
                ood=torch.from_numpy(steadied), filter_text=str(array("steadied_filter"))
            ),
        ),
        pack_sha256=header["pack"]["sha256"],
        method=header["method"],
    )
    return track, alignment, inversion, _read_unedited(arrays, number, len(indices))


def _read_unedited(arrays: Arrays, number: int, frames: int) -> KeptPictures | None:
    files = arrays.get(f"face{number}_unedited")
    if files is None:
        return None
    ends = np.cumsum(arrays[f"face{number}_unedited_sizes"])
    if len(ends) != frames or (frames and ends[-1] != len(files)):
        raise ValueError(f"it holds {len(ends)} pictures of {len(files)} bytes for {frames} frames")
    return KeptPictures(
        encoded=tuple(part.tobytes() for part in np.split(files, ends[:-1])),
        codes_sha256=str(arrays[f"face{number}_unedited_codes"]),
    )


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
