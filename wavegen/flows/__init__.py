"""Flows: invertible maps with exact densities, to be chained, turned round and nested."""

from wavegen.flows.autoregressive import Autoregressive
from wavegen.flows.base import Beyond, Chain, Inverse, Transform
from wavegen.flows.channels import ActNorm, Invertible1x1, Permutation, Squeeze, flip
from wavegen.flows.coupling import Coupling, MaskedCoupling, checkerboard, glow_step
from wavegen.flows.models import IAF, MADE, MAF, NICE, Flow, Glow, RealNVP

__all__ = ["IAF", "MADE", "MAF", "NICE", "ActNorm", "Autoregressive", "Beyond", "Chain", "Coupling", "Flow", "Glow",
           "Inverse", "Invertible1x1", "MaskedCoupling", "Permutation", "RealNVP", "Squeeze", "Transform",
           "checkerboard", "flip", "glow_step"]  # fmt: skip
