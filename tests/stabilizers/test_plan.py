import dataclasses

import pytest

from stabilizers import FlowFilter, StabilizerPlan, TemporalFilter


def test_everything_that_is_measured_is_steadied_by_default():
    plan = StabilizerPlan()
    assert isinstance(plan.transforms, TemporalFilter)
    assert isinstance(plan.latents, TemporalFilter)
    assert isinstance(plan.mask, FlowFilter)
    assert isinstance(plan.change, FlowFilter)


def test_a_plan_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        StabilizerPlan().mask = None


def test_plans_are_compared_by_value():
    assert StabilizerPlan() == StabilizerPlan()
    assert StabilizerPlan(mask=None) != StabilizerPlan()
