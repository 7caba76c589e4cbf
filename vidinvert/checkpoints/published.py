"""What others have published, and where: addresses, licences, and what imports them.

Data alone. An address is given where the authors name a stable one for the file itself; where
they link to a page for people (Google Drive), that page is given and the file is fetched by hand.
None of these authors publishes checksums: the first download's is recorded and later compared.
"""

from dataclasses import dataclass

NGC = "https://api.ngc.nvidia.com/v2/models/nvidia/research/{}/versions/1/files"
STIT = (
    "https://raw.githubusercontent.com/rotemtzaban/STIT/"
    "5d6c472bca3c5cc1751dc6932ebdd01ff37f36c2/editings/w_directions"
)
NVIDIA_LICENCE = "Nvidia Source Code License (non-commercial: research and evaluation)"
NVIDIA_TERMS = "https://github.com/NVlabs/stylegan3/blob/main/LICENSE.txt"
STIT_DIRECTIONS = (
    *("age", "gender", "smile", "yaw", "pitch", "roll", "eyes_open", "mouth_open"),
    *("mouth_ratio", "lip_ratio", "eye_ratio", "eye_distance", "eye_eyebrow_distance"),
    *("nose_ratio", "nose_tip", "nose_mouth_distance"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedFile:
    """One file.

    Attributes:
        name: as it is kept.
        url: its stable address; None = only `page` is known.
        page: where a person fetches it.
        sha256: as its authors publish it; None = they do not.
    """

    name: str
    url: str | None = None
    page: str | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """Files that are fetched together.

    Attributes:
        name: as users ask for it.
        summary: what it is.
        kind: as what `vidinvert models import` takes it.
        license: of the files, as their authors state it.
        terms: where the licence can be read.
        home: the authors' page.
        files: what it consists of.
    """

    name: str
    summary: str
    kind: str
    license: str
    terms: str
    home: str
    files: tuple[PublishedFile, ...]


def _nvidia(size: int) -> Publication:
    name = f"stylegan2-ffhq-{size}x{size}.pkl"
    return Publication(
        name=f"stylegan2-ffhq-{size}",
        summary=f"StyleGAN2 of FFHQ's faces at {size} px, by NVIDIA",
        kind="stylegan2",
        license=NVIDIA_LICENCE,
        terms=NVIDIA_TERMS,
        home="https://github.com/NVlabs/stylegan3",
        files=(PublishedFile(name=name, url=f"{NGC.format('stylegan2')}/{name}"),),
    )


def _stylegan3(config: str, faces: str, size: int) -> Publication:
    name = f"stylegan3-{config}-{faces}-{size}x{size}.pkl"
    framing = "" if faces == "ffhq" else ", not aligned,"
    return Publication(
        name=f"stylegan3-{config}-{faces}-{size}",
        summary=f"StyleGAN3-{config.upper()} of FFHQ's faces{framing} at {size} px, by NVIDIA",
        kind="stylegan3",
        license=NVIDIA_LICENCE,
        terms=NVIDIA_TERMS,
        home="https://github.com/NVlabs/stylegan3",
        files=(PublishedFile(name=name, url=f"{NGC.format('stylegan3')}/{name}"),),
    )


def _drive(
    name: str, summary: str, kind: str, home: str, license: str, *files: tuple[str, str]
) -> Publication:
    """Describe files that only have a page on Google Drive; `files` are (name, id)."""
    return Publication(
        name=name,
        summary=summary,
        kind=kind,
        license=license,
        terms=home,
        home=home,
        files=tuple(
            PublishedFile(name=file, page=f"https://drive.google.com/file/d/{identity}/view")
            for file, identity in files
        ),
    )


PUBLICATIONS = (
    _nvidia(1024),
    _nvidia(512),
    _nvidia(256),
    _stylegan3("t", "ffhq", 1024),
    _stylegan3("r", "ffhq", 1024),
    _stylegan3("t", "ffhqu", 256),
    _stylegan3("r", "ffhqu", 256),
    Publication(
        name="stylegan2-ada-ffhq",
        summary="StyleGAN2 of FFHQ's faces at 1024 px, from the release of StyleGAN2-ADA",
        kind="stylegan2",
        license=NVIDIA_LICENCE,
        terms="https://github.com/NVlabs/stylegan2-ada-pytorch",
        home="https://github.com/NVlabs/stylegan2-ada-pytorch",
        files=(
            PublishedFile(
                name="ffhq.pkl",
                url="https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/ffhq.pkl",
            ),
        ),
    ),
    Publication(
        name="stit-directions",
        summary="16 directions for StyleGAN2 of FFHQ at 1024 px: smile, age, yaw, eyes, mouth, ...",
        kind="directions",
        license="MIT",
        terms="https://github.com/rotemtzaban/STIT/blob/main/LICENSE",
        home="https://github.com/rotemtzaban/STIT",
        files=tuple(
            PublishedFile(name=f"{name}.npy", url=f"{STIT}/{name}.npy") for name in STIT_DIRECTIONS
        ),
    ),
    _drive(
        "stylegan2-ffhq-rosinality",
        "StyleGAN2 of FFHQ's faces at 1024 px, converted for PyTorch",
        "stylegan2",
        "https://github.com/omertov/encoder4editing",
        NVIDIA_LICENCE,
        ("stylegan2-ffhq-config-f.pt", "1EM87UquaoQmk17Q8d5kYIAHqu0dkYqdT"),
    ),
    _drive(
        "e4e-ffhq",
        "e4e for faces, with its generator of 1024 px",
        "e4e",
        "https://github.com/omertov/encoder4editing",
        "MIT",
        ("e4e_ffhq_encode.pt", "1cUv_reLE6k3604or78EranS7XzuVMWeO"),
    ),
    _drive(
        "psp-ffhq",
        "pSp for faces, with its generator of 1024 px",
        "psp",
        "https://github.com/eladrich/pixel2style2pixel",
        "MIT",
        ("psp_ffhq_encode.pt", "1bMTNWkh5LArlaWSc_wa8VKyq2V42T2z0"),
    ),
    _drive(
        "restyle-e4e-ffhq",
        "ReStyle on e4e for faces, with its generator of 1024 px",
        "restyle",
        "https://github.com/yuval-alaluf/restyle-encoder",
        "MIT",
        ("restyle_e4e_ffhq_encode.pt", "1e2oXVeBPXMQoUoC_4TNwAWpOPpSEhE_e"),
    ),
    _drive(
        "restyle-psp-ffhq",
        "ReStyle on pSp for faces, with its generator of 1024 px",
        "restyle",
        "https://github.com/yuval-alaluf/restyle-encoder",
        "MIT",
        ("restyle_psp_ffhq_encode.pt", "1sw6I2lRIB0MpuJkpc8F5BJiSZrc0hjfE"),
    ),
    _drive(
        "featurestyle-ffhq",
        "FeatureStyle's encoder for faces; import a generator of FFHQ first",
        "featurestyle",
        "https://github.com/InterDigitalInc/FeatureStyleEncoder",
        "InterDigital's licence: research only",
        ("143_enc.pth", "1RnnBL77j_Can0dY1KOiXHvG224MxjvzC"),
    ),
    _drive(
        "idinvert-ffhq256",
        "In-Domain inversion for faces at 256 px: generator, encoder, VGG16",
        "idinvert",
        "https://github.com/genforce/idinvert_pytorch",
        "MIT",
        ("styleganinv_ffhq256_generator.pth", "1SjWD4slw612z2cXa3-n38JwKZXqDUerG"),
        ("styleganinv_ffhq256_encoder.pth", "1gij7xy05crnyA-tUTQ2F3yYlAlu6p9bO"),
        ("vgg16.pth", "1qQ-r7MYZ8ZcjQQFe17eQfJbOAuE3eS0y"),
    ),
)
