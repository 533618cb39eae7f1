"""Drafted lines of a folder of videos, and of one folder a sample. See layouts.py."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from pvtt_model.data.listing import Listing, is_mask

ABSENT = "not there"
PROBED = "the file, at ingest"
#: Words of file names that cameras, phones and scripts give; a name of these alone says nothing of the scene.
NO_WORDS = (
    "img", "vid", "mov", "dsc", "dscn", "gopro", "pxl", "video", "clip", "movie", "file", "sample", "final", "copy", "output", "untitled", "export",
)  # fmt: skip


#: Folders of a sample whose pictures are references.
REFERENCE_FOLDERS = ("reference", "references", "ref", "refs", "product", "products", "product_images", "images")


def line_of(
    video: str | None,
    references: list[str],
    mask: str | None,
    prompt: str | None,
    sources: dict[str, str],
    metadata: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A drafted line. sources: field -> what it came from, or why it is null; the video's facts come from the file where nobody gave them."""
    said = {"resolution": None, "fps": None, "num_frames": None} | (metadata or {})
    values = {"reference_image": references or None, "mask_path": mask, "text_prompt": prompt}
    provenance = {name: sources.get(name, ABSENT) for name in values} | {name: sources.get(name, PROBED) for name in said}
    return {"video_path": video, **values, "metadata": said | {"provenance": provenance}}


def draft_videos(listing: Listing) -> Iterator[dict[str, Any]]:
    """A line a video, by path. Beside `dir/name.mp4` belong name.jpg, name_1.png, .. (references), name_mask.mp4 or name_mask/ or
    masks/name/ (mask), name.txt (prompt; else the words of the name); the product is `dir`, where there is one."""
    for folder in listing.folders():
        for video in listing.videos(folder):
            stem = PurePosixPath(video).stem
            sources: dict[str, str] = {}
            pattern = re.compile(re.escape(stem) + r"([-_ ](ref|reference|product))?([-_ ]?\d+)?", re.IGNORECASE)
            references = [p for p in listing.files(folder, "picture") if pattern.fullmatch(PurePosixPath(p).stem) and not is_mask(p)]
            references = [p for p in references if not _of_a_longer_name(p, stem, listing.videos(folder))]
            if references:
                sources["reference_image"] = "pictures of the video's name"
            mask, sources["mask_path"] = _mask(listing, folder, stem)
            prompt, sources["text_prompt"] = _prompt(listing, _beside(folder, stem + ".txt"), stem)
            metadata = {}
            if folder:
                metadata, sources["product_id"] = {"product_id": folder}, "the folder"
            listing.take(video, *references, *([mask] if mask else []), *([_beside(folder, stem + ".txt")]))
            yield line_of(video, references, mask, prompt, sources, metadata)


def _of_a_longer_name(picture: str, stem: str, videos: list[str]) -> bool:
    """mug_2.jpg is mug_2.mp4's, not mug.mp4's, where both are there."""
    own = PurePosixPath(picture).stem
    return own != stem and any(PurePosixPath(v).stem == own for v in videos)


def _mask(listing: Listing, folder: str, stem: str) -> tuple[str | None, str]:
    names = [_beside(folder, f"{stem}{end}") for end in ("_mask", "-mask", "_masks")]
    names += [_beside(folder, f"masks/{stem}"), f"masks/{stem}"]
    places = {PurePosixPath(name).parent.as_posix().removeprefix(".") for name in names}
    files = [f for place in sorted(places) for kind in ("video", "picture") for f in listing.files(place, kind)]
    found = [f for f in files if f.removesuffix(PurePosixPath(f).suffix) in names] + [f for f in dict.fromkeys(names) if f in listing.folders()]
    return _only(found, "the file or folder of the video's name")


def _only(found: list[str], source: str) -> tuple[str | None, str]:
    """(the one found, what it is from); of several none is taken."""
    if len(found) > 1:
        return None, f"several: {', '.join(found)}"
    return (found[0], source) if found else (None, ABSENT)


def is_sample(listing: Listing, folder: str) -> bool:
    """One video, and in the same folder something that goes with it."""
    beside = listing.files(folder, "picture") + listing.files(folder, "text") + [v for v in listing.files(folder, "video") if is_mask(v)]
    below = [f for f in listing.folders() if f.startswith(f"{folder}/")]
    return len(listing.videos(folder)) == 1 and bool(beside or below)


def draft_samples(listing: Listing) -> Iterator[dict[str, Any]]:
    """A line a folder with a video: its mask (mask.*, or a folder mask/ or masks/ of numbered PNGs), every other picture in it (or in
    references/, products/, ..) a reference, its one .txt the prompt.

    The product is the folder above the sample's, where there is one; else clips are told apart by their reference pictures.
    """
    for folder in listing.folders():
        videos = listing.videos(folder)
        below = [f for f in listing.folders() if f.startswith(f"{folder}/") and not listing.videos(f)] if folder else []
        mask_folders = [f for f in below if listing.is_mask_folder(f)]
        masks = [m for kind in ("video", "picture") for m in listing.files(folder, kind) if is_mask(m)] + mask_folders
        pictured = [b for b in below if PurePosixPath(b).name.lower() in REFERENCE_FOLDERS]
        pictures = [p for f in (folder, *pictured) for p in listing.files(f, "picture") if not is_mask(p)]
        texts = listing.files(folder, "text")
        named = [t for t in texts if PurePosixPath(t).stem.lower() in ("prompt", "text_prompt", "caption")]
        text = (named or texts)[0] if len(named or texts) == 1 else None
        for video in videos:
            alone = len(videos) == 1  # of two videos in one folder nobody can say whose the mask and the pictures are
            sources: dict[str, str] = {}
            prompt, sources["text_prompt"] = _prompt(listing, text if alone else None, None)
            mask, sources["mask_path"] = _only(masks if alone else [], "the sample's mask")
            references = pictures if alone else []
            if references:
                sources["reference_image"] = "the sample's pictures"
            metadata = {}
            product = PurePosixPath(folder).parent.as_posix()
            if folder and product != ".":
                metadata, sources["product_id"] = {"product_id": product}, "the folder above the sample's"
            listing.take(video, *references, *([mask] if mask else []), *([text] if text and alone else []))
            yield line_of(video, references, mask, prompt, sources, metadata)


def _prompt(listing: Listing, text: str | None, stem: str | None) -> tuple[str | None, str]:
    """(prompt, what it is from): the text file's, else the words of the file name, where there are two or more that mean something."""
    if text is not None and text in listing.files(PurePosixPath(text).parent.as_posix().removeprefix("."), "text"):
        written = listing.read(text)
        if written is not None:
            return " ".join(written.split()), PurePosixPath(text).name
    words = [w for w in re.split(r"[\W\d_]+", stem or "") if w]
    if sum(len(w) >= 2 and w.lower() not in NO_WORDS for w in words) >= 2:
        return " ".join(words), "the file name"
    return None, ABSENT


def _beside(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
