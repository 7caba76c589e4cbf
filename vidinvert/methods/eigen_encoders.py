"""e4e, ReStyle, In-Domain and Force-in-domain on packs of kind eigen.

Each is a learned encoder before the pack's generator; training/encoders.py says what sets the four
apart. They invert the whole crop, so nothing is out of domain and no mask keeps parts of the
source.

In-Domain and Force-in-domain can optimise their encoder's codes (methods/optimisation.py): the
pixels and features compared are the autoencoder's latents, which costs a tenth of pictures. Along a
clip every frame starts from its own encoder's codes, ten steps, and all crops of a batch at once.
Starting from the frame before was tried and is worse: README, Methods.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vidinvert.checkpoints import load_part, select
from vidinvert.methods.eigen import fill_part, load_networks
from vidinvert.methods.optimisation import OptimisationPlan, optimise_codes
from vidinvert.networks.autoencoder import FaceDecoder, FaceEncoder
from vidinvert.networks.eigen import EigenGenerator
from vidinvert.networks.eigen_encoder import LatentEncoder, encode, refine_from_average
from vidinvert.types import Embedding, FacePack, Synthesis

RESTYLE_STEPS = 5
INDOMAIN_STEPS = 10  # of optimisation; Force-in-domain takes none unless asked to
# Latents and whitened codes have other scales than pixels and StyleGAN's w: theirs are rate 0.01
# and weight 2. The figures that chose these are in the README.
OPTIMISATION = OptimisationPlan(
    steps=INDOMAIN_STEPS, rate=0.1, pixel_weight=1.0, feature_weight=0.0, code_weight=0.05
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EigenEncoders:
    """See the module; implements `vidinvert.methods.Method`.

    `steps`: 0 finds codes in one pass, from 1 on by as many steps of ReStyle. `optimisation`: what
    is done to the codes then; None = nothing.
    """

    crop_size: int
    style_count: int
    style_width: int
    encoder: FaceEncoder
    decoder: FaceDecoder
    generator: EigenGenerator
    inverter: LatentEncoder
    steps: int
    optimisation: OptimisationPlan | None
    dtype: torch.dtype

    def embed(self, crops: Tensor) -> Embedding:
        """Find the codes of crops (N, 3, R, R)."""
        crops = crops.to(self.dtype).contiguous(memory_format=torch.channels_last)
        latents = self.encoder(crops).latents.float()
        w_plus = self.encode(latents)
        if self.optimisation is not None:
            w_plus = optimise_codes(
                latents,
                w_plus,
                generate=lambda codes: self.generator(codes).latents,
                find_codes=self.encode,
                plan=self.optimisation,
            ).w_plus
        return Embedding(w_plus=w_plus)

    def encode(self, latents: Tensor) -> Tensor:
        """Find the encoder's codes (N, L, D) of latents (N, 32, 32, 32)."""
        if self.steps:
            return refine_from_average(self.inverter, self.generator, latents, steps=self.steps)
        return encode(self.inverter, self.generator.basis, latents)

    def find_mask(self, embedding: Embedding) -> Tensor:
        """Return the mask of the embedded codes, (N, 1, R, R): 0, nothing is kept."""
        return embedding.w_plus.new_zeros(len(embedding.w_plus), 1, self.crop_size, self.crop_size)

    def synthesise(self, embedding: Embedding, w_plus: Tensor) -> Synthesis:
        """Render codes (N, L, D); the crops they came from play no part."""
        image = self.generate(w_plus)
        return Synthesis(image=image, ood=torch.zeros_like(image[:, :1]))

    def generate(self, w_plus: Tensor) -> Tensor:
        """Render codes (N, L, D)."""
        return self.decoder(self.generator(w_plus).latents.to(self.dtype)).float()

    def sketch(self, w_plus: Tensor) -> Tensor:
        """Render codes (N, L, D) at half the size, nearly as `generate`."""
        return self.decoder.sketch(self.generator(w_plus).latents.to(self.dtype)).float()


def load_e4e(pack: FacePack, device: torch.device, dtype: torch.dtype) -> EigenEncoders:
    """Load e4e: files `autoencoder`, `generator` and `e4e`."""
    return _load(pack, device, dtype, part="e4e")


def load_restyle(pack: FacePack, device: torch.device, dtype: torch.dtype) -> EigenEncoders:
    """Load ReStyle: files `autoencoder`, `generator` and `restyle`."""
    return _load(pack, device, dtype, part="restyle", steps=RESTYLE_STEPS)


def load_indomain(pack: FacePack, device: torch.device, dtype: torch.dtype) -> EigenEncoders:
    """Load In-Domain: files `autoencoder`, `generator` and `indomain`.

    The setting `invert_steps` says how many steps of optimisation follow the encoder.
    """
    chosen = int(pack.settings.get("invert_steps", INDOMAIN_STEPS))
    return _load(pack, device, dtype, part="indomain", optimised=chosen)


def load_force_indomain(pack: FacePack, device: torch.device, dtype: torch.dtype) -> EigenEncoders:
    """Load Force-in-domain: files `autoencoder`, `generator` and `force-indomain`.

    `invert_steps` as for In-Domain; without it there is the encoder alone.
    """
    chosen = int(pack.settings.get("invert_steps", 0))
    return _load(pack, device, dtype, part="force-indomain", optimised=chosen)


def _load(
    pack: FacePack,
    device: torch.device,
    dtype: torch.dtype,
    *,
    part: str,
    steps: int = 0,
    optimised: int = 0,
) -> EigenEncoders:
    state = select(load_part(pack, part), "encoder.")
    inverter = LatentEncoder(maps=2 if steps else 1, style_width=pack.style_width)
    fill_part(inverter, state, pack, part, device, dtype)
    encoder, decoder, generator = load_networks(pack, device, dtype)
    return EigenEncoders(
        crop_size=pack.crop_size,
        style_count=pack.style_count,
        style_width=pack.style_width,
        encoder=encoder,
        decoder=decoder,
        generator=generator,
        inverter=inverter,
        steps=steps,
        optimisation=replace(OPTIMISATION, steps=optimised) if optimised else None,
        dtype=dtype,
    )
