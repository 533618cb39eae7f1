"""The samplers of rectified flow, all diffusers' own: UniPC, DPM++ (2M) and Euler. They integrate dx/dsigma = v from sigma 1 (noise) to 0 (data).

UniPC: arXiv:2302.04867. DPM++: arXiv:2211.01095. Shift: sigma' = shift sigma / (1 + (shift - 1) sigma), arXiv:2403.03206, eq. 23; Wan's own
values are 5, 3 (480p image-to-video), 16 (VACE) and 12 (A14B). DDIM is not among them: it refuses flow prediction.
"""

from __future__ import annotations

from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from pvtt_model.specs import EditSpec


def flow_scheduler(spec: EditSpec) -> UniPCMultistepScheduler | DPMSolverMultistepScheduler | FlowMatchEulerDiscreteScheduler:
    """The recipe's sampler with its timesteps set: num_steps of them, sigmas one more, the last 0."""
    if spec.scheduler == "flow_euler":
        euler = FlowMatchEulerDiscreteScheduler(shift=spec.shift)
        # Unshifted sigmas given: set_timesteps(N) would shift the low end twice.
        euler.set_timesteps(sigmas=[1 - i / spec.num_steps for i in range(spec.num_steps)])
        return euler
    solver = UniPCMultistepScheduler if spec.scheduler == "unipc" else DPMSolverMultistepScheduler
    scheduler = solver(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=spec.shift)
    scheduler.set_timesteps(spec.num_steps)
    return scheduler
