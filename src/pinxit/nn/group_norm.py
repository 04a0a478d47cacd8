"""Group norms that train as fast in bfloat16 as in float32 on a CPU."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """PyTorch's, in float32 at the least.

    Over bfloat16 in channels-last order PyTorch's own takes three to six times as long on a CPU as over float32, the
    way there and back included: a third of all the time that a small U-Net takes to train.
    """

    def forward(self, x: Tensor) -> Tensor:
        """b c ... -> the same, in the type of x."""
        if x.dtype.itemsize >= 4 or x.device.type != "cpu":
            return super().forward(x)
        weight, bias = (None if value is None else value.float() for value in (self.weight, self.bias))
        return F.group_norm(x.float(), self.num_groups, weight, bias, self.eps).to(x.dtype)
