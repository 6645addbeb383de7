"""Losses, penalties and optimizers for training small and low-bit networks; ordinary torch tools, with or without a search."""

from nasopt.train.angle import AngleRegularizer, hyperspherical_energy
from nasopt.train.distillation import Distillation, kd_loss
from nasopt.train.scales import ScaledLevels
from nasopt.train.sphere import SphereConstrained

__all__ = ["AngleRegularizer", "Distillation", "ScaledLevels", "SphereConstrained", "hyperspherical_energy", "kd_loss"]
