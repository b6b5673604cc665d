"""Options that several verbs have."""

from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

__all__ = ["LATENT", "VOICE", "Count", "Seed", "Strength"]

VOICE = "kathleen-wavenet"
LATENT = "speakers"

Count = Annotated[int, Parameter(validator=Number(gte=1))]
Strength = Annotated[float, Parameter(validator=Number(gte=0))]
Seed = Annotated[int, Parameter(validator=Number(gte=0, lt=1 << 63))]
