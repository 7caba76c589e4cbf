"""What each figure of a report is, for the report: formula, source, range, and what is good."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """One metric, in words that stand in the report."""

    formula: str
    source: str
    range: str
    good: str


_SSIM = "Wang, Bovik, Sheikh, Simoncelli, IEEE TIP 2004"
_MS_SSIM = "Wang, Simoncelli, Bovik, Asilomar 2003"
_STIT = "STIT (Tzaban et al., SIGGRAPH Asia 2022), the authors' snippet"

DEFINITIONS: dict[str, Definition] = {
    "psnr_face": Definition(
        formula="10 log10(255^2 / MSE) over the three channels of the aligned crops of all frames",
        source="standard",
        range="dB; null = identical",
        good="says how much was changed, not how well",
    ),
    "ssim_face": Definition(
        formula="mean over the crop's luma of the SSIM index, 11 px Gaussian of 1.5 px",
        source=_SSIM,
        range="-1 to 1",
        good="near 1 = little was changed",
    ),
    "ms_ssim_face": Definition(
        formula="product of the contrast-structure terms of five scales and the last luminance",
        source=_MS_SSIM,
        range="0 to 1",
        good="near 1 = little was changed",
    ),
    "lpips_face": Definition(
        formula="weighted squared distance of unit features of AlexNet or VGG (`backbone`)",
        source="Zhang et al., CVPR 2018, version 0.1",
        range="0 and up; backbones do not compare",
        good="low = little was changed",
    ),
    "psnr_outside": Definition(
        formula="as psnr_face, over the pixels outside all crops",
        source="outside-mask fidelity: an edit must leave these pixels alone",
        range="dB; null = identical",
        good="the codec's own loss: 40 and up at usual quality; before encoding null (identical)",
    ),
    "ssim_outside": Definition(
        formula="SSIM of the luma outside all crops, on every tenth frame",
        source=_SSIM,
        range="-1 to 1",
        good="above 0.97; what is missing is the codec's",
    ),
    "ms_ssim_outside": Definition(
        formula="MS-SSIM of the luma outside all crops, on every tenth frame",
        source=_MS_SSIM,
        range="0 to 1",
        good="above 0.98; what is missing is the codec's",
    ),
    "warping_error": Definition(
        formula="mean over pairs of sum m |Y_t - W(Y_t+1)|^2 / sum m in the face's window, pixels "
        "in [0, 1]; W follows the source's flow, m = forward-backward consistent",
        source="Lai et al., ECCV 2018",
        range="0 and up; `ratio` = edited / source",
        good="ratio at most 1.05; above, the edit added flicker, or moved what the source's flow "
        "leads elsewhere",
    ),
    "warping_error_own_flow": Definition(
        formula="the same of the edited clip along its own flow; of the source along the source's",
        source="Lai et al., ECCV 2018, for edits that change shapes",
        range="0 and up; `ratio` = edited / source",
        good="ratio at most 1.05; above, the edit added flicker",
    ),
    "landmark_jitter": Definition(
        formula="mean |p_t+1 - 2 p_t + p_t-1| over points and frames, in distances of the eyes",
        source="second difference; standard in landmark tracking",
        range="0 and up; `ratio` = edited / source",
        good="ratio at most 1.05",
    ),
    "mask_flicker": Definition(
        formula="mean |m_t - W(m_t+1)| in the face's window, along the source's flow",
        source="temporal consistency of soft masks",
        range="0 to 1",
        good="below 0.02",
    ),
    "mask_temporal_iou": Definition(
        formula="|A and B| / |A or B| of each mask with the next one along the flow, cut at 0.5",
        source="standard",
        range="0 to 1",
        good="above 0.95",
    ),
    "tl_id": Definition(
        formula="mean R[t, t+1] of R = (Ey Ey^T) / (Ex Ex^T), identities as rows",
        source=_STIT,
        range="about 0 to 1, may exceed 1",
        good="near 1; below, identity flickers from frame to frame",
    ),
    "tg_id": Definition(
        formula="mean of R[i, j] over all i != j",
        source=_STIT,
        range="about 0 to 1, may exceed 1",
        good="near 1; below, identity drifts over the clip",
    ),
    "identity_similarity": Definition(
        formula="mean cosine of the identities of source and edited frame (`model`)",
        source="as in the evaluation of e4e and HyperStyle",
        range="-1 to 1; models do not compare",
        good="above 0.5 for most models = the same person",
    ),
    "attributes": Definition(
        formula="mean over frames of the measure on the edited less that on the source, on 68 "
        "landmarks, in distances of the eyes (eyes_open: over the eye's width)",
        source="vidinvert.faces.landmarks.expression_measures",
        range="smile, mouth_open, eyes_open, yaw",
        good="the edited attribute moves, the others stay",
    ),
    "mouth_correlation": Definition(
        formula="Pearson correlation over time of the gap between the lips, edited with source",
        source="standard",
        range="-1 to 1",
        good="0.95 and up: speech was kept; null where mouth_movement is below 0.01, which is as "
        "little as the landmarks' own error",
    ),
    "mouth_movement": Definition(
        formula="standard deviation over time of the gap between the source's lips, in distances "
        "of the eyes",
        source="standard",
        range="0 and up",
        good="0.01 and up for speech; below, its correlation says nothing",
    ),
    "sound": Definition(
        formula="share of the source's sound packets that are in the edit byte for byte, and how "
        "far one moved against the pictures at most",
        source="packet by packet; lip sync by networks (LSE-D, LSE-C) is not measured",
        range="share 0 to 1; shift in seconds",
        good="1 and 0 s; share 1 is not possible where the sound was encoded anew",
    ),
    "timing": Definition(
        formula="frames of both, and the largest difference of their times from the first frame",
        source="presentation times of both files",
        range="frames; seconds",
        good="equal, and 0 to a tick of the coarser time base",
    ),
}
