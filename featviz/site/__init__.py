"""The static web gallery: a list of recipes, made and shown as pages that need no server."""

from featviz.site.building import build
from featviz.site.plan import Plan, plan

__all__ = ["Plan", "build", "plan"]
