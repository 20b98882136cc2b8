"""torch.optim: in order of increasing complexity."""

import core.methods  # Tensor's methods are there, whichever room is entered first
from core.optim import lr_scheduler, swa_utils
from core.optim.adadelta import Adadelta
from core.optim.adafactor import Adafactor
from core.optim.adagrad import Adagrad
from core.optim.adam import Adam, AdamW
from core.optim.adamax import Adamax
from core.optim.asgd import ASGD
from core.optim.kfac import KFAC
from core.optim.lbfgs import LBFGS
from core.optim.muon import Muon
from core.optim.nadam import NAdam
from core.optim.optimizer import Optimizer
from core.optim.radam import RAdam
from core.optim.rmsprop import RMSprop
from core.optim.rprop import Rprop
from core.optim.sgd import SGD
from core.optim.sparse_adam import SparseAdam

__all__ = [
    "SGD", "Rprop", "ASGD", "Adagrad", "RMSprop", "Adadelta", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "Adafactor", "Muon",
    "LBFGS", "KFAC", "SparseAdam", "Optimizer", "lr_scheduler", "swa_utils",
]  # fmt: skip
