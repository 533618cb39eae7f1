"""Whether a mask's figures predict that the edit will fail: judged where it is shown, by the recipe's thresholds of then.

Failures follow geometry: teams that ran VACE on a benchmark got usable video at 18 % of the frame and 10 px of jitter, and noise at 37 % and
30 px (of 480 px height). The thresholds of MaskSpec lie between. Shards and tables hold the figures alone. No torch in here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pvtt_model.specs import MaskSpec

Row = Mapping[str, Any]


def risks_of(figures: Row, height: int, spec: MaskSpec) -> dict[str, str]:
    """Why an edit of this clip is likely to fail: the figure's name -> the reason with figure and threshold. Empty where nothing says so.

    figures: of mask_quality.measure(), and 'agreement' where a second provider ran. height: of the frame, pixels, for jitter's share of it.
    """
    jitter, agreement = figures["jitter_px"] / height, figures.get("agreement")
    reasons = {}
    if figures["area"] > spec.risky_area:
        reasons["area"] = f"area {figures['area']:.1%} above {spec.risky_area:.1%}"
    if jitter > spec.risky_jitter:
        reasons["jitter"] = f"jitter {figures['jitter_px']:.0f} px, {jitter:.1%} of the height, above {spec.risky_jitter:.1%}"
    if figures["temporal_iou"] < spec.risky_temporal_iou:
        reasons["temporal IoU"] = f"temporal IoU {figures['temporal_iou']:.2f} below {spec.risky_temporal_iou:.2f}"
    if agreement is not None and agreement < spec.risky_agreement:
        reasons["agreement"] = f"two providers agree by {agreement:.2f}, below {spec.risky_agreement:.2f}"
    return reasons


def judged(masks: Sequence[Row], facts: Sequence[Row], spec: MaskSpec) -> list[dict[str, Any]]:
    """The masks' table, each row with `risks`, as risks_of() has them; none where the mask is unusable.

    facts: the clips' table, for the height. A clip that is not in it (it leaked, and was refused after its shard was written) is not at risk.
    """
    heights = {fact["clip_key"]: fact["height"] for fact in facts}
    return [{**row, "risks": risks_of(row, heights[row["clip_key"]], spec) if row["usable"] and row["clip_key"] in heights else {}} for row in masks]
