"""What comes in and goes out: photos, pictures that carry their recipe, videos."""

from featviz.output.photos import Photo, find_photos, read_photo
from featviz.output.pictures import (
    WRITERS,
    check_output,
    read_recipe,
    recipe_text,
    sidecar,
    write_picture,
    write_sidecar,
)
from featviz.output.pil import from_pil, to_pil
from featviz.output.video import VIDEO_SUFFIXES, VIDEO_WRITERS, write_video

__all__ = [
    "VIDEO_SUFFIXES",
    "VIDEO_WRITERS",
    "WRITERS",
    "Photo",
    "check_output",
    "find_photos",
    "from_pil",
    "read_photo",
    "read_recipe",
    "recipe_text",
    "sidecar",
    "to_pil",
    "write_picture",
    "write_sidecar",
    "write_video",
]
