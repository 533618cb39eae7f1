"""Editing: a trained teacher puts a product into a video. In Python:

editor = load_editor(EditorSpec.of(recipe_by_name("nano-wide")), join_trainable(lora, adapter))
report = edit_video(editor, EditRequest(Path("v.mp4"), (Path("product.png"),), "A red mug on a desk.", Path("mask.mp4")), "out")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pvtt_model.editing.editor import Editor, load_editor
    from pvtt_model.editing.first_frame import edit_from_first_frame
    from pvtt_model.editing.request import EditRequest
    from pvtt_model.editing.video_edit import edit_video

__all__ = ["EditRequest", "Editor", "edit_from_first_frame", "edit_video", "load_editor"]

_WHERE = {"Editor": "editor", "load_editor": "editor", "EditRequest": "request", "edit_video": "video_edit", "edit_from_first_frame": "first_frame"}


def __getattr__(name: str) -> Any:  # a worker that samples need not load every encoder's library
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
