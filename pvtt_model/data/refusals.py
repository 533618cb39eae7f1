"""Why a line of a manifest is not used. Each kind is a stable slug; a report counts by it."""

from __future__ import annotations

from typing import NamedTuple

KINDS: dict[str, str] = {
    # of the text
    "not_json": "the line is not one JSON value in UTF-8",
    "not_object": "the line is JSON, but no object",
    "unknown_field": "a field that the format does not have",
    "missing_field": "a field that the format needs is absent",
    "wrong_type": "a field holds another type",
    "bad_value": "a field holds a value out of its range",
    "bad_prompt": "the prompt is empty",
    "bad_caption": "a caption without text or source, or one that claims a model without its revision",
    "no_prompt": "no prompt is given, and none could be drafted",
    "no_reference": "no reference picture is given, and none was found",
    "split_conflict": "the product is in one split by one line and in another by another",
    # of the files, without decoding
    "path_trick": "a path leaves the manifest's folder, or is of another scheme",
    "missing_video": "no such video file",
    "missing_reference": "no such reference picture",
    "missing_mask": "no such mask file or folder",
    "empty_file": "a file of 0 bytes",
    "mask_numbering": "a folder of masks is not 00000.png, 00001.png and so on",
    "duplicate": "the same video bytes as an earlier line",
    # of the content
    "changed": "a file changed after it was hashed",
    "unreadable_video": "the video does not decode",
    "decode_timeout": "the video does not decode in time",
    "no_times": "frames are to be taken by their times, and the file holds none",
    "variable_rate": "the frame rate varies, and frames are to be taken by their number",
    "too_short": "fewer frames than the model sees, or fewer seconds",
    "too_small": "a side below the least one",
    "size_mismatch": "the metadata's resolution is not the video's",
    "fps_mismatch": "the metadata's fps is not the video's",
    "frame_count_mismatch": "the metadata's num_frames is not the video's",
    "shot_cut": "the frames that the model sees hold a cut",
    "leaks_evaluation": "a clip for training is a near-duplicate of one that is held out",
    "unreadable_mask": "the mask does not decode",
    "mask_frame_count": "the mask has another number of frames than the video",
    "mask_size": "the mask has another size than the video",
    "unreadable_reference": "the reference picture does not open, or is a decompression bomb",
}


#: Which say nothing lasting of the line: it is probed again where it is met again.
PASSING = ("changed", "decode_timeout")


class Refusal(NamedTuple):
    line: int  # of the manifest, from 1
    kind: str  # a key of KINDS
    reason: str  # what, got, cure
    source: str  # video_path as given; '' where the line has none


class Refused(Exception):
    """Raised inside the checks of one line; never leaves them."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(f"{kind}: {reason}")
        if kind not in KINDS:
            raise KeyError(f"no refusal kind '{kind}'; there are {list(KINDS)}")
        self.kind, self.reason = kind, reason
