"""Why a network decided as it did: maps over a photo, one method a name.

A method is `method(model, image, objectives, *, settings…)`: an image `(1, 3, h, w)` in [0, 1], and one
`Attribution` for each objective, all from one forward where the method allows it.
"""

from __future__ import annotations

from collections.abc import Callable

from featviz.attribution.cams import (
    cam,
    eigen_cam,
    grad_cam,
    grad_cam_pp,
    guided_cam,
    guided_grad_cam,
    layer_cam,
    percentile_cam,
    score_cam,
)
from featviz.attribution.gradients import (
    deconvnet,
    gradient,
    guided_backprop,
    input_x_gradient,
    integrated_gradients,
    smoothgrad,
)
from featviz.attribution.occlusion import occlusion
from featviz.attribution.rise import rise
from featviz.types import Attribution

METHODS: dict[str, Callable[..., list[Attribution]]] = {
    "gradient": gradient,
    "input-x-gradient": input_x_gradient,
    "deconvnet": deconvnet,
    "guided-backprop": guided_backprop,
    "integrated-gradients": integrated_gradients,
    "smoothgrad": smoothgrad,
    "cam": cam,
    "grad-cam": grad_cam,
    "percentile-cam": percentile_cam,
    "guided-cam": guided_cam,
    "grad-cam++": grad_cam_pp,
    "layer-cam": layer_cam,
    "score-cam": score_cam,
    "eigen-cam": eigen_cam,
    "guided-grad-cam": guided_grad_cam,
    "occlusion": occlusion,
    "rise": rise,
}
"""Name on the command line -> the method."""
