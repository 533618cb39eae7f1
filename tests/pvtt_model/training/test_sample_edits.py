"""The strip of an edit: which frame of which video stands where."""

from __future__ import annotations

import io

from PIL import Image

from pvtt_model.training.sample_edits import BACKGROUND, strip_png


def png(value: int, size: tuple[int, int] = (10, 6), mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, value if mode == "L" else (value, 0, 0)).save(out, "PNG")
    return out.getvalue()


def test_panels_and_frames():
    row = {
        "source": [png(i) for i in range(5)],
        "mask": [png(200 + i, mode="L") for i in range(5)],
        "composited": [png(100 + i) for i in range(5)],
        "reference": png(77, (40, 40)),
    }
    strip = Image.open(io.BytesIO(strip_png(row)))
    assert strip.size == (4 * 14 - 4, 3 * 10 - 4)
    at = [[strip.getpixel((14 * x + 2, 10 * y + 2)) for x in range(4)] for y in range(3)]
    assert at[0] == [(0, 0, 0), (200, 200, 200), (100, 0, 0), (77, 0, 0)]
    assert at[1] == [(2, 0, 0), (202, 202, 202), (102, 0, 0), BACKGROUND]
    assert at[2] == [(4, 0, 0), (204, 204, 204), (104, 0, 0), BACKGROUND], "the first, the middle and the last frame"
