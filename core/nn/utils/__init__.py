"""torch.nn.utils: gradients clipped, parameters as one vector, reparametrised or pruned, sequences packed."""

from core.nn.utils import rnn

__all__ = ["rnn"]
