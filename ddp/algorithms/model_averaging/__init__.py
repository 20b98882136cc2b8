"""Averaging weights now and then, instead of gradients at each step."""

from ddp.algorithms.model_averaging import averagers, utils
