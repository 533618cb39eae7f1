"""The manifest: JSON Lines, one clip a line, in the survey's format (10.6).

    {"video_path": "v.mp4", "reference_image": "p.jpg" or ["p.jpg", ..], "mask_path": "m.mp4" or "folder", "text_prompt": "..",
     "metadata": {"resolution": [w, h], "fps": 16, "num_frames": 81, "product_id": "..", "split": "train", "validation" or "eval",
                  "product_words": "what the prompt calls the product", "look_alikes": "name of a group of similar products",
                  "captions": [{"text": "..", "source": "qwen2.5-vl-7b@..", "fallback": false}, ..] (captions.py),
                  "benchmark_task": "name of one of several edits asked of the same video",
                  "truth": {"product_id": "..", "video_path": "..", "mask_path": ".."}, ..}}

mask_path and all of metadata but resolution, fps and num_frames may be absent; these three may be null: as the file says. A null
reference_image or text_prompt stands in drafts (layouts.py), and is refused. `truth` is the right edit of the clip: the same video with
another product, and where that is. Paths are relative to the manifest, absolute, or s3://. Everything that can be
known without decoding is checked here; pvtt_model.data.ingest looks inside the files.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pvtt_model.artifacts import canonical_json, digest, sha256_of_file
from pvtt_model.data.captions import check_captions
from pvtt_model.data.checked_line import CheckedLine, Truth, content_of
from pvtt_model.data.lines import Brief, Kept, Lines, brief_of
from pvtt_model.data.locate import Fetch, Root, mask_frames
from pvtt_model.data.refusals import Refusal, Refused
from pvtt_model.data.scan_memory import Known, ScanMemory
from pvtt_model.specs import ClipSpec

FIELDS = ("video_path", "reference_image", "mask_path", "text_prompt", "metadata")
OPTIONAL = ("mask_path",)
TRUTH = ("product_id", "video_path", "mask_path")
SPLITS = ("train", "validation", "eval")


@dataclass(frozen=True)
class ManifestScan:
    lines: Lines
    contents: tuple[str, ...]  # of each line, by which it is known again: checked_line.content_of
    refusals: tuple[Refusal, ...]
    fingerprint: str  # digest of all texts and contents; neither dates nor absolute paths enter
    draft: Path | None = None  # the manifest, where none was given and it was drafted
    passed_over: tuple[tuple[str, str], ...] = ()  # (file, why it is in no line of the draft)


def read_manifest(
    manifest_path: str | Path, manifest_uri: str, spec: ClipSpec, fetch: Fetch, root: Path | None = None, memory: Path | None = None
) -> ManifestScan:
    """Check every line of the manifest at `manifest_path`, a local copy of `manifest_uri` (the same path, or s3://bucket/key).

    `fetch(uri)` gives the local path of an s3:// object, or of a folder where the uri ends in '/'; FileNotFoundError or KeyError mean
    that there is none, and anything else it raises goes through, so that a network fault never refuses a clip. root: the local folder that
    paths are relative to and held inside, where it is not the manifest's own. memory: a file to remember hashes in (scan_memory.py). Raises
    FileNotFoundError where the manifest is missing.
    """
    path = Path(manifest_path)
    if not path.is_file():
        raise FileNotFoundError(f"no manifest at {manifest_path}. Give the path of a JSON Lines file, one clip a line.")
    scan = _Scan(Root(root / path.name if root else path, manifest_uri, spec.allow_outside_root, fetch), memory)
    for number, raw, known in scan.memory.recall(_numbered(path.read_bytes())):
        scan.take(number, raw, known)
    scan.memory.keep()
    return scan.result()


class _Scan:
    """Lines taken one after the other, with what later ones are held against."""

    def __init__(self, root: Root, memory: Path | None) -> None:
        self.root = root
        self.memory = ScanMemory(None if root.prefix is not None else memory, [str(root.folder), root.allow_outside])
        self.lines = Lines(self.memory.read)
        self.refusals: list[Refusal] = []
        self.contents: list[str] = []
        self.said = hashlib.sha256(b'["manifest",[')  # canonical JSON of all texts, as it grows: nothing of it is held
        self.between = b""
        self.seen: dict[tuple[str, str | None], int] = {}  # video's SHA-256, task -> line
        self.split_of: dict[str, tuple[str, int]] = {}  # product -> split, line

    def take(self, number: int, raw: bytes, known: Known | None) -> None:
        """known: where the memory has it."""
        source = ""
        try:
            its: CheckedLine | Kept
            if known is not None:
                brief, text, content, its = known
            else:
                values = parse_line(raw)
                source = values["video_path"] if isinstance(values.get("video_path"), str) else ""
                check_fields(values)
                began_ns = time.time_ns()
                its = line = self._files(number, values)
                brief, text = brief_of(line), line.text()
                content = content_of(text)
                self.memory.remember(raw, line, text, content, self._named(values), began_ns)
            source = brief.source
            self._beside_the_others(brief)
        except Refused as refused:
            self.refusals.append(Refusal(number, refused.kind, refused.reason, source))
            self._say(canonical_json([number, refused.kind, digest(raw.decode("utf-8", "backslashreplace"))]))
            return
        self.lines.add(brief, its)
        self.contents.append(content)
        self._say(b"[%d,%b" % (number, text[1:]))  # the list that the text is, its number in front

    def _say(self, text: bytes) -> None:
        self.said.update(self.between + text)
        self.between = b","

    def _files(self, number: int, values: dict[str, Any]) -> CheckedLine:
        video = str(self.root.file(values["video_path"], "video"))
        references = tuple(str(self.root.file(p, "reference")) for p in _listed(values["reference_image"]))
        mask_format, masks = self._masks(values["mask_path"]) if values.get("mask_path") is not None else ("none", ())
        sha = sha256_of_file(video)
        reference_sha = tuple(sha256_of_file(p) for p in references)
        metadata = values["metadata"]
        product = metadata.get("product_id") or "ref-" + reference_sha[0][:12]
        mask_sha = tuple(sha256_of_file(p) for p in masks)
        truth = self._truth(metadata["truth"]) if metadata.get("truth") is not None else None
        prompt = values["text_prompt"]
        return CheckedLine(
            number, values["video_path"], video, sha, references, reference_sha, mask_format, masks, mask_sha, prompt, metadata, product, truth
        )

    def _named(self, values: dict[str, Any]) -> list[str]:
        """The paths as the line names them: a link that is led elsewhere then shows."""
        truth = values["metadata"].get("truth") or {}
        given = [values["video_path"], *_listed(values["reference_image"]), values.get("mask_path"), truth.get("video_path"), truth.get("mask_path")]
        return [str(self.root.folder / path) if "://" not in path else path for path in given if path is not None]

    def _beside_the_others(self, line: Brief) -> None:
        """Raises Refused for the bytes of a line before, or a product in two splits."""
        file = (line.video_sha256, line.task)
        if file in self.seen:
            raise Refused("duplicate", f"'{line.source}' has the same bytes as line {self.seen[file]}. Remove one of the two lines.")
        self._one_split(line.line, line.product_id, line.split)
        self.seen[file] = line.line

    def _masks(self, given: str) -> tuple[str, tuple[str, ...]]:
        place = self.root.file_or_folder(given, "mask")
        return ("png", tuple(map(str, mask_frames(place, given)))) if place.is_dir() else ("video", (str(place),))

    def _truth(self, given: dict[str, str]) -> Truth:
        video = str(self.root.file(given["video_path"], "video"))
        mask_format, masks = self._masks(given["mask_path"])
        return Truth(given["product_id"], video, sha256_of_file(video), mask_format, masks, tuple(sha256_of_file(p) for p in masks))

    def _one_split(self, number: int, product: str, split: str | None) -> None:
        if split is None:
            return
        before, line = self.split_of.setdefault(product, (split, number))
        if before != split:
            cure = "A product that is trained on cannot be judged. Choose one."
            raise Refused("split_conflict", f"product '{product}' is '{split}' here and '{before}' in line {line}. {cure}")

    def result(self) -> ManifestScan:
        said = self.said.copy()
        said.update(b"]]")
        return ManifestScan(self.lines, tuple(self.contents), tuple(self.refusals), said.hexdigest()[:20])


def _numbered(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers from 1; blank ones are passed over, and a byte-order mark."""
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if raw.strip():
            yield number, raw.strip()


def parse_line(raw: bytes) -> dict[str, Any]:
    """The line's JSON object. Raises Refused (not_json, not_object)."""
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
        canonical_json(value)  # infinite numbers and lone surrogates cannot be kept
    except (ValueError, RecursionError) as error:
        raise Refused("not_json", f"line is not valid JSON: {str(error)[:160]}. Write one JSON object a line, in UTF-8.") from None
    if not isinstance(value, dict):
        raise Refused("not_object", f"line is a JSON {type(value).__name__}; an object with {list(FIELDS)} is wanted.")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key appears twice in one object")
    return values


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def check_fields(values: dict[str, Any]) -> None:
    """Names, types and ranges of the line's fields. Raises Refused."""
    unknown = sorted(set(values) - set(FIELDS))
    if unknown:
        raise Refused("unknown_field", f"unknown field {unknown}. Valid: {list(FIELDS)}; put what is your own under 'metadata'.")
    missing = [name for name in FIELDS if name not in values and name not in OPTIONAL]
    if missing:
        raise Refused("missing_field", f"no field {missing}. Add it; only {list(OPTIONAL)} may be absent.")
    _typed("video_path", values["video_path"], isinstance(values["video_path"], str), "a string")
    if values["reference_image"] is None:
        raise Refused("no_reference", "no reference picture is given. Put a picture of the product beside the video, or name it in reference_image.")
    references = _listed(values["reference_image"])
    all_text = bool(references) and all(isinstance(p, str) for p in references)
    _typed("reference_image", values["reference_image"], all_text, "a string or a list of them")
    _typed("mask_path", values.get("mask_path"), isinstance(values.get("mask_path", ""), (str, type(None))), "a string (or leave it out)")
    if values["text_prompt"] is None:
        raise Refused("no_prompt", "no prompt is given. Describe the product and the scene in a sentence, in text_prompt or a .txt beside the video.")
    _typed("text_prompt", values["text_prompt"], isinstance(values["text_prompt"], str), "a string")
    if not values["text_prompt"].strip():
        raise Refused("bad_prompt", "text_prompt is empty. Describe the product and the scene in a sentence.")
    _typed("metadata", values["metadata"], isinstance(values["metadata"], dict), "an object")
    _check_metadata(values["metadata"])
    _check_product(values["metadata"], values["text_prompt"])
    check_captions(values["metadata"].get("captions"))


def _check_metadata(metadata: dict[str, Any]) -> None:
    missing = [name for name in ("resolution", "fps", "num_frames") if name not in metadata]
    if missing:
        raise Refused("missing_field", f"metadata has no {missing}. Add resolution [width, height], fps and num_frames.")
    size, fps, count = metadata["resolution"], metadata["fps"], metadata["num_frames"]
    _typed("metadata.resolution", size, size is None or _two_whole(size), "[width, height] in pixels")
    _typed("metadata.fps", fps, fps is None or (isinstance(fps, (int, float)) and not isinstance(fps, bool)), "a number")
    _typed("metadata.num_frames", count, count is None or _whole(count), "a whole number")
    if any(n is not None and n <= 0 for n in (*(size or ()), fps, count)):
        raise Refused("bad_value", f"metadata has resolution {size}, fps {fps}, num_frames {count}; all must be above 0. Write the video's own.")
    product = metadata.get("product_id")
    if product is not None:
        _typed("metadata.product_id", product, isinstance(product, str), "a string")
        if not product.strip():
            raise Refused("bad_value", "metadata.product_id is empty. Name the product, or leave the field out.")
    split = metadata.get("split")
    if split is not None and split not in SPLITS:
        raise Refused("bad_value", f"metadata.split is {split!r}. Use 'train', 'validation' or 'eval', or leave it out.")
    task = metadata.get("benchmark_task")
    _typed("metadata.benchmark_task", task, task is None or (isinstance(task, str) and bool(task.strip())), "a string that is not empty")
    if task is not None and split != "eval":
        raise Refused("bad_value", f"metadata.benchmark_task is {task[:80]!r} and split {split!r}. It is an edit to be judged: set split to 'eval'.")


def _check_product(metadata: dict[str, Any], prompt: str) -> None:
    """What is said of the product beside its name, and of the right edit."""
    words, group, truth = (metadata.get(name) for name in ("product_words", "look_alikes", "truth"))
    for name, value in (("product_words", words), ("look_alikes", group)):
        _typed(f"metadata.{name}", value, value is None or isinstance(value, str), "a string")
        if value is not None and not value.strip():
            raise Refused("bad_value", f"metadata.{name} is empty. Fill it, or leave the field out.")
    if words is not None and words not in prompt:
        raise Refused("bad_value", f"metadata.product_words {words[:80]!r} do not occur in text_prompt. Copy them from it, letter by letter.")
    if truth is None:
        return
    _typed("metadata.truth", truth, isinstance(truth, dict), f"an object with {list(TRUTH)}")
    if set(truth) != set(TRUTH):
        raise Refused("bad_value", f"metadata.truth has the fields {sorted(truth)}; it needs {list(TRUTH)}, no others. Correct it, or leave it out.")
    for name in TRUTH:
        _typed(f"metadata.truth.{name}", truth[name], isinstance(truth[name], str), "a string")
    if not truth["product_id"].strip():
        raise Refused("bad_value", "metadata.truth.product_id is empty. Name the product that the right edit shows.")


def _two_whole(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(_whole(n) for n in value)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _typed(name: str, value: Any, right: bool, wanted: str) -> None:
    if not right:
        raise Refused("wrong_type", f"{name} is {json.dumps(value)[:80]}; it must be {wanted}.")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
