"""The worst edits, a card each: videos side by side that play as one, the reference picture, prompt, scores, and why the edit is here."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from pvtt_model.evaluation.edit_scores import EditScores
from pvtt_model.evaluation.report import Metric
from pvtt_model.evaluation.report_page.beside import Seen, Video
from pvtt_model.evaluation.report_page.worst_first import Case
from pvtt_model.page import marked

BUDGET_BYTES = 48_000_000  # of the videos and pictures inside the page, in base64: what a browser still opens at once
MOST_CARDS = 64
KEYS = "Keys: j and k go to the next and previous edit; in one, space plays and stops, left and right go a frame, Home and End to the ends."


class Cards(NamedTuple):
    html: str
    left_out: int  # edits that have videos, and none of them on the page


def cards_html(cases: Sequence[Case], seen: Mapping[tuple[str, str], Seen], metrics: Sequence[Metric], get: str, budget: int = BUDGET_BYTES) -> Cards:
    """The first cases, worst first; their videos until the next edit's would go over `budget` bytes.

    get: the command that copies all videos out of the store; where videos were left out, a sentence names their number and the command.
    """
    used, shown, cards = 0, 0, []
    full = False
    for place, case in enumerate(cases[:MOST_CARDS], 1):
        its = seen.get((case.edit.clip_key, case.edit.reference_key))
        size = 0 if its is None else its.bytes * 4 // 3
        full = full or used + size > budget
        if its is not None and not full:
            used, shown = used + size, shown + 1
        cards.append(_card(place, case, None if full else its, metrics))
    with_videos = sum((c.edit.clip_key, c.edit.reference_key) in seen for c in cases)
    done = sum(case.edit.status == "done" for case in cases)
    left = max(done, with_videos) - shown
    return Cards(f"{_said(shown, left, budget, get)}<p class='pale'>{KEYS}</p><div class='cards'>{''.join(cards)}</div>", left)


def _said(shown: int, left: int, budget: int, get: str) -> str:
    how = f" All edits' videos: <code>{escape(get)}</code>" if get else ""
    if not left:
        return f"<p>The videos of all {shown} edits are in this page, made smaller to 640 px at most.{how}</p>" if shown else ""
    if not shown:
        return f"<p>The videos of {left} edits are not in this page.{how}</p>"
    limit = f"{budget / 1e6:.3g} MB and {MOST_CARDS} edits are the most"
    return f"<p>The videos of the {shown} worst edits are in this page, those of {left} edits were left out ({limit}).{how}</p>"


def _card(place: int, case: Case, seen: Seen | None, metrics: Sequence[Metric]) -> str:
    edit = case.edit
    facts = f" data-fps='{seen.fps:g}' data-frames='{seen.frames}'" if seen else ""
    label = escape(f"edit {place}, {edit.clip_key}", quote=True)
    chips = "".join(f"<span class='chip'>{escape(name)}: {escape(value)}</span>" for name, value in edit.groups.items())
    head = f"<h3>{place}. <code>{escape(edit.clip_key)}</code> {marked(edit.status == 'done', edit.status)}{chips}</h3>"
    why = f"<p class='why'>{escape(case.why)}</p>"
    prompt = f"<p class='prompt'>{escape(edit.prompt)}</p>" if edit.prompt else ""
    body = _media(seen) if seen else ""
    start = f"<article class='card' id='edit-{place}' tabindex='0' aria-label='{label}'{facts}>"
    return f"{start}{head}{why}{prompt}{body}{_scores(edit, metrics)}</article>"


def _media(seen: Seen) -> str:
    reference = ""
    if seen.reference is not None:
        kind = "png" if seen.reference.read_bytes()[:4] == b"\x89PNG" else "jpeg"
        reference = (
            f"<figure><img alt='reference picture' src='{data_link(seen.reference, f'image/{kind}')}'><figcaption>reference</figcaption></figure>"
        )
    videos = "".join(_video(video) for video in seen.videos)
    controls = (
        "<div class='controls' hidden>"
        "<button type='button' class='play' aria-label='play or stop'>play</button>"
        "<button type='button' class='back' aria-label='one frame back'>&minus;1</button>"
        "<button type='button' class='next' aria-label='one frame on'>+1</button>"
        f"<input type='range' min='0' max='{max(0, seen.frames - 1)}' step='1' value='0' aria-label='frame'>"
        f"<output>frame 1 of {seen.frames}</output>"
        "<label>speed <select><option value='1'>1</option><option value='0.5'>1/2</option><option value='0.25'>1/4</option></select></label>"
        "<label><input type='checkbox' class='again' checked> loop</label></div>"
    )
    return f"<div class='media'>{reference}{videos}</div>{controls}"


def _video(video: Video) -> str:
    label = escape(video.label, quote=True)
    poster, source = data_link(video.poster, "image/jpeg"), data_link(video.mp4, "video/mp4")
    links = f"poster='{poster}' src='{source}'"
    video_tag = f"<video muted playsinline controls loop preload='none' aria-label='{label}' {links}></video>"
    return f"<figure>{video_tag}<figcaption>{label}</figcaption></figure>"


def _scores(edit: EditScores, metrics: Sequence[Metric]) -> str:
    found = []
    for metric in metrics:
        score = edit.scores.get(metric.name)
        if score is not None:
            value = "not measured" if score.value is None else f"{score.value:.4g}"
            found.append(f"<div><dt><code>{escape(metric.name)}</code></dt><dd>{value} <span class='pale'>mean {metric.value:.4g}</span></dd></div>")
    return f"<dl class='scores'>{''.join(found)}</dl>" if found else ""


def data_link(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
