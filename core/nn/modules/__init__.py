"""The layers, each family in its own file, under torch's paths."""

from core.nn.modules.activation import LogSoftmax, ReLU, Sigmoid, Softmax, Tanh
from core.nn.modules.container import ModuleDict, ModuleList, ParameterDict, ParameterList, Sequential
from core.nn.modules.conv import Conv1d, Conv2d, Conv3d
from core.nn.modules.dropout import Dropout
from core.nn.modules.flatten import Flatten
from core.nn.modules.linear import Identity, Linear
from core.nn.modules.loss import CrossEntropyLoss, L1Loss, MSELoss, NLLLoss
from core.nn.modules.module import Module
from core.nn.modules.pooling import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
)

__all__ = [name for name in globals() if name[0].isupper()]
