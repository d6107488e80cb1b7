"""What changes the gradient on its way back: the rules at activation functions."""

from featviz.backward.rules import RULES, ReluRule, relu_rule

__all__ = ["RULES", "ReluRule", "relu_rule"]
