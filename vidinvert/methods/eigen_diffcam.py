"""Diff-CAM editing on packs of kind eigen: edits painted on the source, where Diff-CAM finds them.

Song et al. (ECCV 2022) show the edited inversion through Diff-CAM's map of the edit and clean what
shows through of both pictures. Here the edited picture is the source redrawn: what the edit changes
in the generator's latents is added to the source's own, and its pixels are moved as it moves the
decoded picture. So detail survives, and an edit of strength 0 is the source, bit for bit. Along a
clip the pixels are moved by the steadied change that all methods share, and the deghosting network
mends what comes out: a mouth that the generator hardly knows, pursed or covered, keeps its corners.

The map is of the directions that are applied. Their strengths are read off the codes: what an edit
adds to them is a sum of the pack's directions, whose weights are its least squares. Of several
directions the largest map counts at every place: each may act where it would act alone. Codes that
are moved otherwise are mapped by the class that the classifier names. The map does not depend on
how strong an edit is: a weak one is looked at as if it had `LOOKED_AT`, since the features of a
vanishing edit say nothing of its place.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vidinvert.checkpoints import load_directions, load_part
from vidinvert.errors import CheckpointError
from vidinvert.methods.eigen import fill_part, load_networks
from vidinvert.networks.diffcam import DiffCam, latent_diffcam, normalise_map
from vidinvert.networks.eigen_deghost import Bank, Deghoster, correctable, fuse, redraw
from vidinvert.types import Embedding, FacePack, Synthesis

LOOKED_AT = 2.0  # strength in all at which a weaker edit is mapped
APPLIED = 1e-3  # strength from which a direction counts as applied
UNEXPLAINED = 0.1  # share of a change of codes from which it is more than the pack's directions
FAINT, FULL = 0.1, 0.5  # of a map's range: below the first it is 0, above the second 1
CELLS = 64  # side at which a map is dilated
DILATION = 2  # cells


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EigenDiffCam:
    """See the module; implements `vidinvert.methods.EditPainter`.

    `directions` (K, L, D) float32 in the order of the classifier's classes, and `readout`
    (L * D, K), their pseudo-inverse.
    """

    crop_size: int
    style_count: int
    style_width: int
    bank: Bank
    diffcam: DiffCam
    deghoster: Deghoster
    directions: Tensor
    readout: Tensor
    dtype: torch.dtype

    def embed(self, crops: Tensor) -> Embedding:
        """Find the codes of crops (N, 3, R, R); features are the latents, and the crops."""
        given = crops.to(self.dtype).contiguous(memory_format=torch.channels_last)
        latents = self.bank.encoder(given).latents
        codes = self.bank.generator.basis.codes(latents)
        return Embedding(w_plus=codes, features=(latents, crops.float()))

    def find_mask(self, embedding: Embedding) -> Tensor:
        """Return the mask of the unedited codes, (N, 1, R, R): 1, everything is kept."""
        return embedding.w_plus.new_ones(len(embedding.w_plus), 1, self.crop_size, self.crop_size)

    def find_edit_mask(self, w_plus: Tensor, edited: Tensor) -> Tensor:
        """Return what an edit leaves alone, (N, 1, R, R): 1 less the dilated map."""
        looked_at, applied = self._look(w_plus, edited)
        before, after = self.bank.generator(torch.cat([w_plus, looked_at])).latents.chunk(2)
        return self._keep(self._map(before, after, applied))

    def synthesise(self, embedding: Embedding, w_plus: Tensor) -> Synthesis:
        """Paint the edit from the embedding's codes to `w_plus` (N, L, D) on the embedded crops."""
        codes, (own, crops) = embedding.w_plus, embedding.features
        looked_at, applied = self._look(codes, w_plus)
        together = torch.cat([codes, w_plus, looked_at])
        before, after, seen = self.bank.generator(together).latents.chunk(3)
        cam = self._map(before, seen, applied)
        edited = redraw(crops, own, after - before, self.bank.decoder)
        fused = fuse(crops, edited, self._enlarge(cam))
        image = (fused + correctable(crops, edited) * self._correct(fused)).clamp(-1.0, 1.0)
        changed = (w_plus != codes).flatten(1).any(dim=1)[:, None, None, None]
        return Synthesis(image=torch.where(changed, image, crops), ood=self._keep(cam))

    def clean(self, crops: Tensor, painted: Tensor) -> Tensor:
        """Return the deghosting network's correction of edited crops (N, 3, R, R)."""
        return correctable(crops, painted) * self._correct(painted)

    def _correct(self, ghosted: Tensor) -> Tensor:
        given = ghosted.to(self.dtype).contiguous(memory_format=torch.channels_last)
        return self.deghoster(given, self.bank).float()

    def generate(self, w_plus: Tensor) -> Tensor:
        """Render codes (N, L, D) without a source."""
        latents = self.bank.generator(w_plus).latents
        return self.bank.decoder(latents.to(self.dtype)).float()

    def sketch(self, w_plus: Tensor) -> Tensor:
        """Render codes (N, L, D) at half the size, nearly as `generate`."""
        latents = self.bank.generator(w_plus).latents
        return self.bank.decoder.sketch(latents.to(self.dtype)).float()

    def _look(self, w_plus: Tensor, edited: Tensor) -> tuple[Tensor, Tensor]:
        """Return the edited codes as they are mapped, and which classes are applied: (N, K) bool.

        Rows that are changed beyond the directions have a `True` for none of them; see `_map`.
        """
        move = (edited - w_plus).float()
        strengths = move.flatten(1) @ self.readout  # (N, K)
        applied = strengths.abs() > APPLIED
        rest = move - torch.einsum("nk,kld->nld", strengths, self.directions)
        unknown = rest.flatten(1).norm(dim=1) > UNEXPLAINED * move.flatten(1).norm(dim=1)
        total = strengths.abs().sum(dim=1).clamp_min(APPLIED)
        gain = torch.where(unknown, 1.0, (LOOKED_AT / total).clamp_min(1.0))
        return w_plus + gain[:, None, None] * move, applied & ~unknown[:, None]

    def _map(self, before: Tensor, after: Tensor, applied: Tensor) -> Tensor:
        """Return the map of the applied classes, (N, 1, h, w) in [0, 1]; nothing is 0 everywhere.

        Args:
            before: latents (N, 32, h, w) of the unedited codes.
            after: those of the edited ones.
            applied: (N, K); without one, and with a change, it is the class that is named.
        """
        activations = self.diffcam.activations(before.to(self.dtype), after.to(self.dtype))
        changed = (before != after).flatten(1).any(dim=1)
        named = F.one_hot(self.diffcam.logits(activations).argmax(dim=1), applied.shape[1]).bool()
        nameless = changed & ~applied.any(dim=1)
        shown = torch.where(nameless[:, None], named, applied) & changed[:, None]
        maps = normalise_map(self.diffcam.maps(activations)) * shown[:, :, None, None]
        largest = maps.amax(dim=1, keepdim=True)
        return ((largest - FAINT) / (FULL - FAINT)).clamp(0.0, 1.0)

    def _enlarge(self, cam: Tensor) -> Tensor:
        size = (self.crop_size, self.crop_size)
        return F.interpolate(cam, size=size, mode="bilinear", align_corners=False)

    def _keep(self, cam: Tensor) -> Tensor:
        fine = F.interpolate(cam, size=(CELLS, CELLS), mode="bilinear", align_corners=False)
        grown = F.max_pool2d(fine, 2 * DILATION + 1, stride=1, padding=DILATION)
        return 1.0 - self._enlarge(grown)


def load(pack: FacePack, device: torch.device, dtype: torch.dtype) -> EigenDiffCam:
    """Load Diff-CAM: files `autoencoder`, `generator`, `diffcam`, `deghost` and `directions`.

    Raises:
        CheckpointError: the classes that `[generator]` names are not the pack's directions.
    """
    states = {part: load_part(pack, part) for part in ("diffcam", "deghost")}
    classes = [str(name) for name in pack.settings.get("diffcam_classes", ())]
    directions = load_directions(pack)
    unknown = [name for name in classes if name not in directions]
    if unknown or not classes:
        raise CheckpointError(
            f"The pack {pack.name!r} has diffcam_classes {classes}, expected some of its "
            f"directions ({', '.join(directions) or 'none'}). Correct its description."
        )
    diffcam, deghoster = latent_diffcam(len(classes)), Deghoster()
    fill_part(diffcam, states["diffcam"], pack, "diffcam", device, dtype)
    fill_part(deghoster, states["deghost"], pack, "deghost", device, dtype)
    encoder, decoder, generator = load_networks(pack, device, dtype)
    vectors = torch.stack([directions[name].vector for name in classes])  # (K, L, D)
    return EigenDiffCam(
        crop_size=pack.crop_size,
        style_count=pack.style_count,
        style_width=pack.style_width,
        bank=Bank(encoder, generator, decoder),
        diffcam=diffcam,
        deghoster=deghoster,
        directions=vectors.to(device),
        readout=torch.linalg.pinv(vectors.flatten(1)).to(device),
        dtype=dtype,
    )
