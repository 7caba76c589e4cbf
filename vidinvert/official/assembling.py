"""From official files to a face pack: read, check, write beside it, move into place."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from vidinvert.checkpoints import find_pack, load_part, read_pack, verify_file, write_pack
from vidinvert.errors import CheckpointError, KeyMismatchError, MissingError
from vidinvert.networks.stylegan2 import Generator, sample_w_mean
from vidinvert.official.fitting import Facts, check_mean, check_parts, check_same_generator
from vidinvert.official.part import Part
from vidinvert.official.parts import read_parts
from vidinvert.official.refused import refuse_kind
from vidinvert.types import FacePack
from vidinvert.version import VERSION

UNKNOWN_LICENCE = "unknown: not stated when it was imported"
PACK_FILE = "pack.toml"
NOT_DESCRIBED = ("samm_levels", "content_bias")  # what the files themselves say
MEAN_SAMPLES = 4096

_WITH_ENCODER = (("encoder",), ("generator", "encoder"))
# Kind -> parts that it must bring, and the parts that must be there in the end.
KINDS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "stylegan2": (("generator",), ("generator",)),
    "stylegan3": ((), ("generator",)),  # and VGG16, to compare pictures with, at once or later
    "e4e": _WITH_ENCODER,
    "psp": _WITH_ENCODER,
    "restyle": _WITH_ENCODER,
    "restyle_e4e": _WITH_ENCODER,
    "restyle_psp": _WITH_ENCODER,
    "featurestyle": _WITH_ENCODER,
    "samm": (("samm",), ("generator", "encoder", "samm")),
    "idinvert": (("generator",), ("generator", "encoder")),  # and VGG16, for optimisation
}
# What a description says of its encoder, forgotten when that is replaced.
ENCODER_FACTS = ("encoder_kind", "trunk_widths", "content_bias", "pyramid_upsampling")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportPlan:
    """What to import, beyond the files.

    Attributes:
        kind: one of `KINDS`.
        license: of the files, as the user states it; None = unknown.
        detector: the pack whose face detector is taken over where there is none; None = none.
        overwrite: replace parts that the pack has already.
    """

    kind: str
    license: str | None = None
    detector: str | None = "mini"
    overwrite: bool = False


def import_files(files: Sequence[Path], target: Path, plan: ImportPlan) -> FacePack:
    """Turn official files into a face pack, or add them to one.

    Args:
        files: in any order; each is recognised by the names in it.
        target: the pack's directory; it is made if it is not there.
        plan: what the files are.

    Returns:
        The pack as it is now.

    Raises:
        KeyMismatchError: a name is unknown, missing or of another shape, or the files do not
            belong together.
        CheckpointError: a file cannot be read safely or is of a kind that is not read, or something
            would be replaced.
        MissingError: a file, or a part that the kind needs, is not there.
    """
    refuse_kind(plan.kind)
    pack = read_pack(target) if (target / PACK_FILE).is_file() else None
    if pack is None and target.exists() and any(target.iterdir()):
        raise CheckpointError(
            f"{target} is a directory without {PACK_FILE}, expected a face pack or nothing. "
            "Choose another name."
        )
    facts = Facts.of_pack(pack)
    if plan.overwrite and "encoder" in KINDS[plan.kind][0]:
        facts.forget(ENCODER_FACTS)
    parts = _collect(files, plan, pack, facts)
    if "samm" in parts and facts.values.get("encoder_kind") == "e4e":
        # SAMM's training code carries a copy of e4e that enlarges its pyramid bicubically.
        facts.add({"pyramid_upsampling": "bicubic"}, str(parts["samm"].path))
    states = check_parts(parts.values(), facts)
    sources = _describe_sources(parts, plan)
    if facts.values["kind"] != "stylegan1":  # which has it in its generator
        origin = _place_means(parts, states, pack, facts)
        if "w_mean" in states:
            sources["w_mean"] = {"file": origin, "network": "mean code"}
    return _write(target, pack, states, sources, facts, plan)


def _collect(
    files: Sequence[Path], plan: ImportPlan, pack: FacePack | None, facts: Facts
) -> dict[str, Part]:
    """Read all files and decide which network becomes which part."""
    parts: dict[str, Part] = {}
    copies: list[Part] = []
    for path in files:
        for index, part in enumerate(read_parts(path, kind=plan.kind)):
            facts.add(part.facts, str(path))
            if index > 0:
                copies.append(replace(part, network=f"{part.network} of the encoder's file"))
            elif part.name in parts:
                raise KeyMismatchError(
                    f"{path} and {parts[part.name].path} both hold a {part.network}, expected one. "
                    "Leave one out."
                )
            else:
                parts[part.name] = part
    for copy in copies:
        _settle_copy(copy, parts, pack)
    brings, needs = KINDS[plan.kind]
    absent = [name for name in brings if name not in parts]
    absent += [name for name in needs if name not in parts and not (pack and name in pack.files)]
    if absent:
        raise MissingError(
            f"No {absent[0]} was found in {', '.join(path.name for path in files)}"
            f"{' nor in the pack' if pack else ''}, expected one for kind {plan.kind}. "
            f"Give its official file as well{'' if pack else ', or name a pack that has it'}."
        )
    taken = (
        []
        if pack is None or plan.overwrite
        else [name for name in parts if name in pack.files and name != "w_mean"]
    )
    if taken and pack is not None:
        raise CheckpointError(
            f"The pack {pack.name!r} has the part {taken[0]!r} already; choose another pack or "
            "replace it with --force."
        )
    return parts


def _settle_copy(copy: Part, parts: dict[str, Part], pack: FacePack | None) -> None:
    """Use the generator in an encoder's file where no other is given; else compare the two."""
    if "generator" in parts:
        given = parts["generator"]
        check_same_generator(copy, given.state["constant"], given.path.name)
    elif pack is not None and "generator" in pack.files:
        constant = load_part(pack, "generator")["constant"]
        check_same_generator(copy, constant, f"that of the pack {pack.name!r}")
    else:
        parts["generator"] = copy


def _place_means(
    parts: dict[str, Part],
    states: dict[str, dict[str, Tensor]],
    pack: FacePack | None,
    facts: Facts,
) -> str:
    """Put the mean code where it is read: beside the encoder, and by itself for later imports.

    It comes from a file of its own, the encoder's file, the generator's, the pack, or else from
    the mean of many mapped samples, in this order.

    Returns:
        Where it is from, for the description.
    """
    given = parts.pop("w_mean", None)
    candidates = [] if given is None else [(given, given.state["w_mean"])]
    for name in ("encoder", "generator"):
        part = parts.get(name)
        if part is not None and part.w_mean is not None:
            candidates.append((part, part.w_mean))
    if candidates:
        part, w_mean = candidates[0]
        w_mean, origin = check_mean(str(part.path), w_mean, facts), part.path.name
    elif pack is not None and "w_mean" in pack.files:
        w_mean, origin = load_part(pack, "w_mean")["w_mean"], "the pack"
    else:
        generator = states.get("generator")
        if generator is None:
            assert pack is not None  # one of the two has a generator, or nothing is imported
            generator = load_part(pack, "generator")
        w_mean = _sample_mean(generator, facts)
        origin = f"the mean of {MEAN_SAMPLES} mapped samples: no file has it"
    if "encoder" in parts:
        states["encoder"]["w_mean"] = w_mean
    elif given is not None and pack is not None and "encoder" in pack.files:
        _check_given_mean(given, w_mean, pack)
    if pack is None or "w_mean" not in pack.files or "generator" in parts:
        states["w_mean"] = {"w_mean": w_mean}
    return origin


def _check_given_mean(given: Part, w_mean: Tensor, pack: FacePack) -> None:
    known = load_part(pack, "encoder")["w_mean"]
    if not bool((known - w_mean).abs().max() <= 1e-4 * known.abs().max()):
        raise KeyMismatchError(
            f"{given.path} is not the mean code of the encoder in the pack {pack.name!r}, expected "
            "the same. Import the encoder together with it, into a new pack."
        )


def _sample_mean(generator: Mapping[str, Tensor], facts: Facts) -> Tensor:
    values = facts.values
    network = Generator(
        size=8,
        style_width=values["style_width"],
        channels={4: 1, 8: 1},
        mapping_layers=values["mapping_layers"],
    )
    mapping = {n[8:]: t for n, t in generator.items() if n.startswith("mapping.")}
    network.mapping.load_state_dict(mapping, strict=True)
    return sample_w_mean(network, samples=MEAN_SAMPLES)[None]


def _describe_sources(parts: Mapping[str, Part], plan: ImportPlan) -> dict[str, dict[str, Any]]:
    """Return what the description shall say of where each part is from."""
    return {
        name: {
            "file": part.path.name,
            "sha256": sha256_of(part.path),
            "network": part.network,
            "licence": plan.license or UNKNOWN_LICENCE,
        }
        for name, part in parts.items()
    }


def _write(
    target: Path,
    pack: FacePack | None,
    states: Mapping[str, Mapping[str, Tensor]],
    sources: dict[str, dict[str, Any]],
    facts: Facts,
    plan: ImportPlan,
) -> FacePack:
    """Write the parts beside the pack, then move them in and describe them."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as folder:
        staging = Path(folder)
        for name, state in states.items():
            save_file(
                {k: t.contiguous() for k, t in state.items()}, staging / f"{name}.safetensors"
            )
        files = {name: f"{name}.safetensors" for name in states}
        licenses = [plan.license or UNKNOWN_LICENCE]
        if plan.detector is not None and not (pack and "detector" in pack.files):
            lender = find_pack(plan.detector)
            files["detector"] = _copy_detector(lender, staging)
            origin = f"detector of the pack {lender.name} {lender.version}"
            sources["detector"] = {"file": origin, "licence": lender.license}
            licenses.append(lender.license)
        move_in(staging, target)
    return describe(target, pack, files=files, sources=sources, licenses=licenses, facts=facts)


def describe(
    target: Path,
    pack: FacePack | None,
    *,
    files: Mapping[str, str],
    sources: Mapping[str, Mapping[str, Any]],
    licenses: Sequence[str],
    facts: Facts,
    directions: Mapping[str, Mapping[str, Any]] | None = None,
) -> FacePack:
    """Write a pack's description anew with what was added to it."""
    kept: dict[str, str] = {}
    formats: dict[str, str] = {}
    known: dict[str, Any] = {}
    imported: dict[str, Any] = {}
    if pack is not None:
        kept = {n: f.path.relative_to(pack.directory).as_posix() for n, f in pack.files.items()}
        formats = {n: f.format for n, f in pack.files.items() if n not in files}
        known = dict(pack.provenance)
        imported = dict(known.get("sources", {}))
    known |= {"imported with": f"vidinvert {VERSION}", "sources": imported | dict(sources)}
    described = {
        name: {"unit": m.unit, "source": m.source, "layers": list(m.layers), "figures": m.figures}
        for name, m in (pack.directions if pack else {}).items()
    }
    values = {k: v for k, v in facts.values.items() if k not in NOT_DESCRIBED}
    return write_pack(
        target,
        name=pack.name if pack else target.name,
        version=pack.version if pack else "1",
        license=_join_licenses([*([pack.license] if pack else []), *licenses]),
        summary=pack.summary if pack else _summarise(values),
        generator=values,
        files=kept | dict(files),
        formats={name: format for name, format in formats.items() if format == "official"},
        directions=(described | dict(directions or {})) or None,
        provenance=known,
        figures=pack.figures if pack and pack.figures else None,
    )


def _summarise(values: Mapping[str, Any]) -> str:
    return f"{values['kind']} of {values['crop_size']} px, imported from official files"


def _join_licenses(licenses: Sequence[str]) -> str:
    joined: list[str] = []
    for license in licenses:
        joined += [part for part in license.split(" AND ") if part not in joined]
    return " AND ".join(joined)


def _copy_detector(lender: FacePack, staging: Path) -> str:
    """Copy a pack's face detector with the manifest that its loader reads; return its place."""
    entry = verify_file(lender, "detector")
    folder = staging / "detector"
    folder.mkdir()
    for path in (entry.path, entry.path.parent / "manifest.json"):
        shutil.copyfile(path, folder / path.name)
    return f"detector/{entry.path.name}"


def move_in(staging: Path, target: Path) -> None:
    """Move finished files into a pack's directory."""
    target.mkdir(exist_ok=True)
    for path in sorted(staging.rglob("*")):
        if path.is_file():
            place = target / path.relative_to(staging)
            place.parent.mkdir(exist_ok=True)
            os.replace(path, place)


def sha256_of(path: Path) -> str:
    """Return the checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
