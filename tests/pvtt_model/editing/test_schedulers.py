"""Every sampler integrates dx/dsigma = v: from noise to data, at the timesteps that diffusers' own pipelines take."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler

from pvtt_model.editing.schedulers import flow_scheduler
from pvtt_model.specs import EditSpec

NAMES = ("unipc", "dpmpp", "flow_euler")


def integrate(spec: EditSpec, start: torch.Tensor, velocity) -> torch.Tensor:
    """By the levels themselves: UniPC's and DPM++'s timesteps are these cut to whole thousandths."""
    scheduler, x = flow_scheduler(spec), start
    for timestep, sigma in zip(scheduler.timesteps, scheduler.sigmas.double(), strict=False):
        x = scheduler.step(velocity(x, sigma), timestep, x, return_dict=False)[0]
    return x


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("shift", "steps"), [(1.0, 7), (16.0, 50)])
def test_the_exact_velocity_of_one_data_point_leads_to_it(name, shift, steps):
    """x = (1 - s) data + s noise has the velocity (x - data) / s, which is noise - data all along: a straight path."""
    g = torch.Generator().manual_seed(0)
    data, noise = (torch.randn(1, 4, 2, 3, 3, generator=g, dtype=torch.float64) for _ in range(2))
    found = integrate(EditSpec(scheduler=name, num_steps=steps, shift=shift), noise, lambda x, s: (x - data) / s)
    torch.testing.assert_close(found, data, rtol=0, atol=5e-3)  # the first sigma of UniPC and DPM++ is 0.999 unshifted


@pytest.mark.parametrize(("name", "most"), [("flow_euler", 0.08), ("unipc", 0.01), ("dpmpp", 0.01)])
def test_gaussian_data_of_any_scale_is_reached(name, most):
    """Data N(0, a^2): v(x, s) = x (s - (1 - s) a^2) / ((1 - s)^2 a^2 + s^2), a linear ODE whose flow takes x(1) to a x(1)."""
    a, start = 0.5, torch.linspace(-2, 2, 9, dtype=torch.float64).view(1, 1, 1, 1, 9)

    def velocity(x, s):
        return x * (s - (1 - s) * a * a) / ((1 - s) ** 2 * a * a + s * s)

    found = integrate(EditSpec(scheduler=name, num_steps=40, shift=1.0), start, velocity)
    assert (found - a * start).abs().max() < most


@pytest.mark.parametrize("name", NAMES)
def test_sigmas_fall_to_zero_and_timesteps_are_theirs(name):
    scheduler = flow_scheduler(EditSpec(scheduler=name, num_steps=12, shift=5.0))
    assert len(scheduler.timesteps) == 12 and len(scheduler.sigmas) == 13 and scheduler.sigmas[-1] == 0
    assert (scheduler.sigmas[1:] < scheduler.sigmas[:-1]).all()
    assert ((scheduler.timesteps.double() - 1000 * scheduler.sigmas[:-1].double()).abs() <= 1).all(), "UniPC and DPM++ cut to whole timesteps"


@pytest.mark.parametrize(("name", "kind"), [("unipc", UniPCMultistepScheduler), ("dpmpp", DPMSolverMultistepScheduler)])
def test_timesteps_are_those_of_diffusers_pipelines(name, kind):
    """Wan's published scheduler_config.json, with another flow_shift and class by from_config, as diffusers' documentation does it."""
    published = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0, "num_train_timesteps": 1000, "solver_order": 2}
    theirs = kind.from_config(UniPCMultistepScheduler(**published).config, flow_shift=8.0)
    theirs.set_timesteps(20)
    ours = flow_scheduler(EditSpec(scheduler=name, num_steps=20, shift=8.0))
    assert torch.equal(ours.timesteps, theirs.timesteps) and torch.equal(ours.sigmas, theirs.sigmas)


def test_euler_shifts_once():
    sigmas = flow_scheduler(EditSpec(scheduler="flow_euler", num_steps=4, shift=3.0)).sigmas
    assert sigmas.tolist() == pytest.approx([3 * s / (1 + 2 * s) for s in (1.0, 0.75, 0.5, 0.25, 0.0)])
    assert math.isclose(float(sigmas[2]), 0.75)
