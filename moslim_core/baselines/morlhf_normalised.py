"""MORLHF on rewards that are z-scored by their running mean and spread, so that none has more say by its scale alone. (ours)"""

from __future__ import annotations

from moslim_core.baselines import morlhf
from moslim_core.baselines.experts import Standardisation
from moslim_core.registry import baseline


@baseline("morlhf_normalised")
class NormalisedMORLHF(morlhf.MORLHF):
    rows = ("morlhf_normalised",)
    standardisation: Standardisation = "running"
