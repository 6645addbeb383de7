"""Search methods: each wraps a seed and exports the network that it found."""

from nasopt.methods.candidates import supernet_candidates, with_candidates
from nasopt.methods.mixed_precision import MixedPrecision
from nasopt.methods.nasb import NASB
from nasopt.methods.pit import PIT
from nasopt.methods.pit_supernet import PITSuperNet
from nasopt.methods.supernet import SuperNet

__all__ = ["NASB", "PIT", "MixedPrecision", "PITSuperNet", "SuperNet", "supernet_candidates", "with_candidates"]
