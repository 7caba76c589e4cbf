from dataclasses import replace

import pytest
import torch

from vidinvert.methods.optimisation import LOSSES, OptimisationPlan, optimise_codes

# A linear generator of 2 x 3 codes and its exact encoder: pictures of 3 x 4 x 4.
MATRIX = torch.linalg.qr(torch.randn(48, 48, generator=torch.Generator().manual_seed(0))).Q[:, :6]


def generate(codes):
    return (codes.flatten(1) @ MATRIX.T).view(-1, 3, 4, 4)


def find_codes(images):
    return (images.flatten(1) @ MATRIX).view(-1, 2, 3)


def problem():
    wanted = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(1))
    return generate(wanted), wanted, wanted + 0.3


def test_codes_get_to_those_of_the_picture():
    crops, wanted, start = problem()
    done = optimise_codes(crops, start, generate=generate, plan=OptimisationPlan(steps=300))
    assert (done.w_plus - wanted).abs().max() < 0.01
    assert done.losses.shape == (300, 2, len(LOSSES))
    assert (done.losses[-1, :, -1] < 1e-3 * done.losses[0, :, -1]).all()


def test_losses_are_those_before_each_step_and_the_total_is_weighted():
    crops, wanted, start = problem()
    plan = OptimisationPlan(steps=1, feature_weight=0.5, code_weight=3.0, temporal_weight=7.0)
    done = optimise_codes(
        crops,
        start,
        generate=generate,
        find_codes=lambda images: find_codes(images) + 1,
        find_features=lambda images: (images * 2, images[:, :1]),
        plan=plan,
        previous=wanted,
    )
    pixel = (generate(start) - crops).square().flatten(1).mean(1)
    first = (generate(start) - crops)[:, :1].square().flatten(1).mean(1)
    wanted_losses = torch.stack(
        [pixel, 4 * pixel + first, torch.ones(2), torch.full((2,), 0.09)], dim=1
    )
    torch.testing.assert_close(done.losses[0, :, :4], wanted_losses)
    weights = torch.tensor([1.0, 0.5, 3.0, 7.0])
    torch.testing.assert_close(done.losses[0, :, 4], (wanted_losses * weights).sum(1))
    # Adam's first step has the length of its rate, against the gradient.
    torch.testing.assert_close((done.w_plus - start).abs(), torch.full((2, 2, 3), 0.01))


def test_a_batch_equals_its_parts():
    crops, _, start = problem()
    whole = optimise_codes(crops, start, generate=generate, find_codes=find_codes)
    for index in (0, 1):
        one = optimise_codes(
            crops[index : index + 1],
            start[index : index + 1],
            generate=generate,
            find_codes=find_codes,
        )
        torch.testing.assert_close(one.w_plus[0], whole.w_plus[index])


def test_it_works_in_inference_mode_and_changes_nothing_given():
    crops, _, start = problem()
    kept = start.clone()
    with torch.inference_mode():
        inside = start.clone()  # an inference tensor
        seen = optimise_codes(crops.clone(), inside, generate=generate, previous=inside[:1])
        assert torch.equal(inside, kept)
    wanted = optimise_codes(crops, start, generate=generate)
    assert torch.equal(start, kept)
    torch.testing.assert_close(seen.w_plus, wanted.w_plus)
    assert not seen.w_plus.requires_grad


def test_the_temporal_term_holds_codes_near_the_frame_before():
    crops, _, start = problem()
    away = []
    for weight in (0.0, 1.0, 100.0):
        plan = OptimisationPlan(steps=300, temporal_weight=weight)
        done = optimise_codes(crops, start, generate=generate, plan=plan, previous=start)
        away.append(float((done.w_plus - start).norm()))
    assert away[0] > 2 * away[1] > 4 * away[2]


def test_pixels_outside_the_region_do_not_count():
    crops, _, start = problem()
    region = torch.zeros(1, 1, 4, 4)
    region[..., :2] = 1.0
    spoilt = crops.clone()
    spoilt[..., 2:] = 9.0
    clean = optimise_codes(crops, start, generate=generate, region=region)
    other = optimise_codes(spoilt, start, generate=generate, region=region)
    assert torch.equal(clean.w_plus, other.w_plus)
    pixel = (generate(start) - crops)[..., :2].square().flatten(1).mean(1)
    torch.testing.assert_close(clean.losses[0, :, 0], pixel)


def test_the_rate_falls_along_a_half_cosine():
    plan = OptimisationPlan(steps=5, rate=2.0, last_rate=0.25)
    assert [plan.rate_at(step) for step in (0, 2, 4)] == pytest.approx([2.0, 1.25, 0.5])
    assert OptimisationPlan(steps=5, rate=2.0).rate_at(3) == 2.0
    assert OptimisationPlan(steps=1, rate=2.0, last_rate=0.5).rate_at(0) == 2.0
    crops, _, start = problem()
    two = OptimisationPlan(steps=2, rate=0.2, last_rate=0.0)  # the second step has no length
    codes = [
        optimise_codes(crops, start, generate=generate, plan=plan).w_plus
        for plan in (two, replace(two, steps=1), replace(two, last_rate=1.0))
    ]
    assert torch.equal(codes[0], codes[1])
    assert not torch.equal(codes[0], codes[2])


def test_no_steps_leave_the_codes():
    crops, _, start = problem()
    done = optimise_codes(crops, start, generate=generate, plan=OptimisationPlan(steps=0))
    assert torch.equal(done.w_plus, start)
    assert done.losses.shape == (0, 2, len(LOSSES))


def test_wrong_plans_and_numbers_are_refused():
    crops, _, start = problem()
    with pytest.raises(ValueError, match="there are 2 crops and 1 codes"):
        optimise_codes(crops, start[:1], generate=generate)
    with pytest.raises(ValueError, match="steps is -1"):
        OptimisationPlan(steps=-1)
    with pytest.raises(ValueError, match="rate is 0"):
        OptimisationPlan(rate=0)
    with pytest.raises(ValueError, match="last_rate is 2, expected a share from 0 to 1"):
        OptimisationPlan(last_rate=2)
    with pytest.raises(ValueError, match="temporal_weight is -1"):
        OptimisationPlan(temporal_weight=-1)
