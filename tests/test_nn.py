"""Every layer and every function of `core.nn`, by two tables.

A row is the call as a user writes it, evaluated in the namespace of `core.nn` or of `torch.nn` (`tests.test_oracle_nn`
runs the same rows there), the shape of its result, and recipes for its inputs (see `tests.cases`). A class or function
that is exported without a row fails here.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import core
from core import nn
from core.autograd import gradcheck, gradgradcheck
from core.nn import functional
from tests.cases import Recipe, a, d, i, k, n, u

Shape = Any  # of the first result; None for a shape that hangs on the data


@dataclass(frozen=True)
class Layer:
    """A constructor call, and what to call the module with."""

    make: str
    shape: Shape
    inputs: tuple[Any, ...]
    named: dict[str, Any]
    random: bool = False  # its output is random while training
    twice: bool = True  # its gradient has a gradient
    eval_shape: Shape = None
    warns: bool = False

    @property
    def name(self) -> str:
        return self.make.partition("(")[0]


def layer(make: str, shape: Shape, *inputs: Any, random: bool = False, twice: bool = True, warns: bool = False,
        **named: Any) -> Layer:
    return Layer(make, shape, inputs, named, random, twice, warns=warns)


def _pairs(*rows: str) -> list[Layer]:
    """Losses of two tensors: "call: x, y" with the recipes' names below."""
    known = {
        "x": n(3, 4), "y": k(n(3, 4)), "p": u(0.1, 0.9, 3, 4), "q": k(u(0.1, 0.9, 3, 4)), "s": k(a(np.array([[1.0, -1,
        1, -1]] * 3))),
        "c": i(4, 3), "m": k(a(np.array([[0.0, 1, 1, 0]] * 3))), "l": u(-3, -1, 3, 4), "t": a([[3, 0, -1, 1], [1, -1, 0,
        2], [0, 1, 2, 3]]),
    }  # fmt: skip
    made = []
    for text in rows:
        call, _, names = text.rpartition(": ")
        shape = () if "none" not in call and "reduce=False" not in call else (3,) if re.match("Multi|NLLLoss",
            call) else (3, 4)
        made.append(layer(call, (3,) if names == "x, c" and shape else shape,
        *(known[name] for name in names.split(", "))))
    return made


def _spatial(make: str, *dims: int, size: int = 5, **params: Any) -> list[Layer]:
    """The 1-, 2- and 3-dimensional kinds of a layer that keeps no size: their shapes are held against PyTorch's."""
    return [layer(make.replace("#", str(m)), None, n(2, 4, *(size, size + 1, size + 2)[:m]),
        **params) for m in dims or (1, 2, 3)]


REDUCTIONS = ("mean", "sum", "none")

ACTIVATIONS = [
    *(layer(call, (3, 4), n(3, 4)) for call in """
        ReLU() ReLU(inplace=True) ReLU6() LeakyReLU() LeakyReLU(0.2,inplace=True) LeakyReLU(-0.3) PReLU() PReLU(4)
        PReLU(4,init=0.1) ELU() ELU(0.5)
        ELU(alpha=2.0,inplace=True) SELU() SELU(inplace=True) CELU() CELU(0.7) GELU() GELU('tanh') SiLU()
        SiLU(inplace=True) Mish() Hardtanh()
        Hardtanh(-0.5,0.2) Hardtanh(inplace=True) Hardswish() Hardsigmoid() Softplus() Softplus(2,0.5) Softsign()
        Softmin(dim=1) Softmin(0) Softshrink()
        Softshrink(0.1) Hardshrink() Hardshrink(0.1) Tanhshrink() LogSigmoid() Threshold(0.1,20)
        Threshold(0.1,-20.0,True) Sigmoid() Tanh() Softmax(dim=1)
        LogSoftmax(-1) Identity(1,b=2)
    """.split()),
    layer("Identity()", (3, 4), n(3, 4)),
    layer("GLU()", (3, 2), n(3, 4)),
    layer("GLU(0)", (2, 3), n(4, 3)),
    layer("Softmax2d()", (2, 3, 2, 2), n(2, 3, 2, 2)),
    layer("Softmax2d()", (3, 2, 2), n(3, 2, 2)),
    layer("PReLU(3)", (2, 3, 4), n(2, 3, 4)),
    layer("RReLU()", (3, 4), n(3, 4), random=True),
    layer("RReLU(0.1, 0.2, inplace=True)", (3, 4), n(3, 4), random=True),
]  # fmt: skip

NORMS = [
    *(layer(f"BatchNorm1d({args})", (6, 4), n(6, 4)) for args in (
        "4", "4, affine=False", "4, eps=1e-3, momentum=None", "4, track_running_stats=False",
        "4, momentum=0.3, bias=False")),
    layer("BatchNorm1d(4)", (3, 4, 5), n(3, 4, 5)),
    layer("BatchNorm2d(4)", (3, 4, 2, 3), n(3, 4, 2, 3)),
    layer("BatchNorm3d(4)", (2, 4, 2, 3, 2), n(2, 4, 2, 3, 2)),
    layer("LayerNorm(4)", (3, 4), n(3, 4)),
    layer("LayerNorm((3, 4), eps=1e-3)", (2, 3, 4), n(2, 3, 4)),
    layer("LayerNorm([4], elementwise_affine=False)", (2, 4), n(2, 4)),
    layer("LayerNorm(4, bias=False)", (3, 4), n(3, 4)),
    layer("GroupNorm(2, 4)", (3, 4, 2, 3), n(3, 4, 2, 3)),
    layer("GroupNorm(4, 4, affine=False)", (3, 4, 5), n(3, 4, 5)),
    layer("GroupNorm(1, 4)", (3, 4), n(3, 4)),
    layer("InstanceNorm1d(4)", (2, 4, 5), n(2, 4, 5)),
    layer("InstanceNorm1d(4)", (4, 5), n(4, 5)),
    layer("InstanceNorm2d(4, affine=True)", (2, 4, 3, 3), n(2, 4, 3, 3)),
    layer("InstanceNorm2d(4, track_running_stats=True)", (2, 4, 3, 3), n(2, 4, 3, 3)),
    layer("InstanceNorm3d(4)", (2, 4, 2, 2, 3), n(2, 4, 2, 2, 3)),
    layer("RMSNorm(4)", (3, 4), n(3, 4)),
    layer("RMSNorm((3, 4), eps=1e-3)", (2, 3, 4), n(2, 3, 4)),
    layer("RMSNorm(4, elementwise_affine=False)", (3, 4), n(3, 4)),
    layer("LocalResponseNorm(2)", (2, 5, 3), n(2, 5, 3)),
    layer("LocalResponseNorm(3, alpha=0.1, beta=0.5, k=2.0)", (2, 5, 3, 2), n(2, 5, 3, 2)),
    layer("LazyBatchNorm1d()", (6, 4), n(6, 4)),
    layer("LazyBatchNorm2d(affine=False)", (3, 4, 2, 3), n(3, 4, 2, 3)),
    layer("LazyBatchNorm3d()", (2, 4, 2, 3, 2), n(2, 4, 2, 3, 2)),
    layer("LazyInstanceNorm1d()", (2, 4, 5), n(2, 4, 5)),
    layer("LazyInstanceNorm2d()", (2, 4, 3, 3), n(2, 4, 3, 3)),
    layer("LazyInstanceNorm3d()", (2, 4, 2, 2, 3), n(2, 4, 2, 2, 3)),
]  # fmt: skip

MAPS = [
    layer("Linear(4, 3)", (2, 3), n(2, 4)),
    layer("Linear(4, 3, bias=False)", (2, 5, 3), n(2, 5, 4)),
    layer("Bilinear(4, 3, 2)", (5, 2), n(5, 4), n(5, 3)),
    layer("Bilinear(4, 3, 2, bias=False)", (2, 5, 2), n(2, 5, 4), n(2, 5, 3)),
    layer("LazyLinear(3)", (2, 3), n(2, 4)),
    layer("Flatten()", (2, 12), n(2, 3, 4)),
    layer("Flatten(0, 1)", (6, 4), n(2, 3, 4)),
    layer("Unflatten(1, (2, -1))", (3, 2, 2), n(3, 4)),
    layer("Embedding(5, 3)", (2, 4, 3), i(5, 2, 4)),
    layer("Embedding(5, 3, padding_idx=1)", (2, 4, 3), i(5, 2, 4)),
    layer("Embedding(5, 3, padding_idx=-1, scale_grad_by_freq=True)", (9, 3), i(5, 9), twice=False),
    layer("Embedding(5, 3, max_norm=1.0)", (4, 3), i(5, 4), twice=False),
    layer("Embedding.from_pretrained(T([[1.0, 2.0], [3.0, 4.0]]), freeze=False)", (3, 2), i(2, 3)),
    *(layer(f"EmbeddingBag(6, 3, mode='{mode}')", (2, 3), i(6, 2, 4)) for mode in ("sum", "mean", "max")),
    *(layer(f"EmbeddingBag(6, 3, mode='{mode}', padding_idx=2)", (4, 3), i(6, 9), a([0, 2, 2, 5])) for mode in ("sum",
        "mean", "max")),
    layer("EmbeddingBag(6, 3, mode='sum', include_last_offset=True)", (3, 3), i(6, 9), a([0, 2, 5, 9]), n(9)),
    layer("EmbeddingBag.from_pretrained(T([[1.0, 2.0], [3.0, 4.0]]), freeze=False)", (3, 2), i(2, 3, 2)),
    layer("PixelShuffle(2)", (1, 2, 4, 6), n(1, 8, 2, 3)),
    layer("PixelUnshuffle(2)", (1, 8, 2, 3), n(1, 2, 4, 6)),
    layer("ChannelShuffle(2)", (2, 6, 3), n(2, 6, 3)),
    layer("Unfold((2, 3), padding=1, stride=2, dilation=1)", (2, 12, 9), n(2, 2, 5, 6)),
    layer("Fold((5, 6), (2, 3), padding=1, stride=2)", (2, 2, 5, 6), n(2, 12, 9)),
    layer("CosineSimilarity()", (3,), n(3, 4), n(3, 4)),
    layer("CosineSimilarity(dim=0, eps=1e-6)", (4,), n(3, 4), n(3, 4)),
    layer("PairwiseDistance()", (3,), n(3, 4), n(3, 4)),
    layer("PairwiseDistance(p=1.0, keepdim=True)", (3, 1), n(3, 4), n(3, 4)),
]  # fmt: skip

CONVOLUTIONS = [
    *_spatial("Conv#d(4, 6, 3)"),
    *_spatial("Conv#d(4, 6, 3, stride=2, padding=1, groups=2)"),
    *_spatial("Conv#d(4, 3, 2, dilation=2, bias=False)", 1, 2),
    *(row for mode in ("reflect", "replicate", "circular") for row in _spatial(
        f"Conv#d(4, 2, 3, padding=1, padding_mode='{mode}')", 1, 2)),
    *_spatial("Conv#d(4, 2, 3, padding=1, padding_mode='circular')", 3, size=3),
    *_spatial("Conv#d(4, 2, 4, padding='same')", 1, 2),
    *_spatial("Conv#d(4, 2, 3, padding='same', padding_mode='reflect', dilation=2)", 2),
    *_spatial("Conv#d(4, 2, 2, padding='valid')", 2),
    *_spatial("ConvTranspose#d(4, 6, 3)"),
    *_spatial("ConvTranspose#d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2)", size=3),
    *_spatial("ConvTranspose#d(4, 3, 2, dilation=3, output_padding=2, bias=False)", 1, 2),
    *_spatial("LazyConv#d(6, 3)"),
    *_spatial("LazyConv#d(6, 3, padding=1, bias=False)", 2),
    *_spatial("LazyConvTranspose#d(6, 3)", size=3),
]

SHAPES = [
    *(row for kind in ("ReflectionPad#d", "ReplicationPad#d", "CircularPad#d",
        "ZeroPad#d") for row in _spatial(kind + "(1)", size=3)),
    *_spatial("ConstantPad#d(1, 3.5)", size=3),
    layer("ReflectionPad2d((1, 2, 0, 3))", (2, 4, 8, 9), n(2, 4, 5, 6)),
    layer("ReplicationPad1d((3, 1))", (4, 9), n(4, 5)),
    layer("CircularPad1d((2, 0))", (1, 4, 7), n(1, 4, 5)),
    layer("ConstantPad2d((1, 0, 2, 1), 0.5)", (2, 4, 8, 7), n(2, 4, 5, 6)),
    layer("ZeroPad2d((1, -1, 0, 2))", (2, 4, 7, 6), n(2, 4, 5, 6)),
    layer("Upsample(scale_factor=2)", (1, 2, 6, 8), n(1, 2, 3, 4)),
    layer("Upsample(size=(5, 7), mode='nearest')", (1, 2, 5, 7), n(1, 2, 3, 4)),
    layer("Upsample(scale_factor=1.7, mode='linear')", (1, 2, 8), n(1, 2, 5)),
    layer("Upsample(scale_factor=(2.0, 1.5), mode='bilinear')", (1, 2, 6, 6), n(1, 2, 3, 4)),
    layer("Upsample(size=(6, 9), mode='bilinear', align_corners=True)", (1, 2, 6, 9), n(1, 2, 3, 4)),
    layer("Upsample(size=(7, 3), mode='bicubic', align_corners=False)", (1, 2, 7, 3), n(1, 2, 5, 6)),
    layer("Upsample(scale_factor=2, mode='trilinear')", (1, 1, 4, 6, 4), n(1, 1, 2, 3, 2)),
    layer("UpsamplingNearest2d(scale_factor=3)", (1, 2, 6, 9), n(1, 2, 2, 3)),
    layer("UpsamplingBilinear2d(size=(5, 5))", (1, 2, 5, 5), n(1, 2, 2, 3)),
]  # fmt: skip

POOLS = [
    *(layer(f"MaxPool{m}d({args})", None, d(2, 3, *(6, 7, 8)[:m])) for m in (1, 2, 3) for args in ("2",
        "3, stride=2, padding=1", "2, stride=1, dilation=2",
        "2, ceil_mode=True, return_indices=True")),
    *(layer(f"AvgPool{m}d({args})", None, n(2, 3, *(6, 7, 8)[:m])) for m in (1, 2, 3) for args in ("2",
        "3, stride=2, padding=1, count_include_pad=False")),
    layer("AvgPool2d((2, 3), divisor_override=5)", (1, 2, 2, 2), n(1, 2, 5, 6)),
    *(layer(f"AdaptiveAvgPool{m}d({out})", None, n(2, 3, *(6, 5, 4)[:m])) for m in (1, 2, 3) for out in (2, 3)),
    *(layer(f"AdaptiveMaxPool{m}d({out})", None, d(2, 3, *(6, 5, 4)[:m])) for m in (1, 2, 3) for out in ("2",
        "3, return_indices=True")),
    layer("AdaptiveMaxPool2d((None, 1))", (3, 4, 1), d(3, 4, 6)),
    layer("AdaptiveMaxPool2d((2, 3))", (2, 2, 3), d(2, 4, 6)),
    *(layer(f"LPPool{m}d({args})", None, u(0.5, 2, 2, 3, *(6, 7, 4)[:m])) for m in (1, 2, 3) for args in ("2, 2",
        "3, 2, stride=1, ceil_mode=True")),
    *(layer(f"MaxUnpool{m}d(2)", None, n(1, 2, *(2,) * m), a(np.stack([np.arange(2**m) * 2] * 2).reshape(1, 2, *(2,
        ) * m))) for m in (1, 2, 3)),
    layer("MaxUnpool2d(2, stride=2)", (1, 1, 5, 5), n(1, 1, 2, 2), a([[[[0, 3], [12, 24]]]]), output_size=(5, 5)),
    layer("FractionalMaxPool2d(2, output_size=(3, 2), _random_samples=T([[[0.3, 0.7]] * 2]))", (1, 2, 3, 2), d(1, 2, 6,
        5)),
    layer("FractionalMaxPool2d((2, 3), output_ratio=0.5)", (1, 2, 3, 3), d(1, 2, 7, 6), random=True),
    layer("FractionalMaxPool3d(2, output_size=2, _random_samples=T([[[0.3, 0.7, 0.1]] * 2]))", (1, 2, 2, 2, 2), d(1, 2,
        4, 5, 4)),
]  # fmt: skip

_seq, _lens = n(5, 2, 3), (2, 2, 3)
RECURRENT = [
    *(layer(f"{kind}(3, 4{args})", shape, n(5, 2, 3)) for kind in ("RNN", "LSTM", "GRU") for args, shape in (
        ("", (5, 2, 4)), (", 2", (5, 2, 4)), (", num_layers=2, bidirectional=True", (5, 2, 8)), (", bias=False", (5, 2,
        4)))),
    *(layer(f"{kind}(3, 4, batch_first=True)", (2, 5, 4), n(2, 5, 3)) for kind in ("RNN", "LSTM", "GRU")),
    *(layer(f"{kind}(3, 4)", (5, 4), n(5, 3)) for kind in ("RNN", "LSTM", "GRU")),
    *(layer(f"{kind}(3, 4, 2, dropout=0.5)", (5, 2, 4), n(5, 2, 3), random=True) for kind in ("RNN", "LSTM", "GRU")),
    layer("RNN(3, 4, nonlinearity='relu')", (5, 2, 4), n(5, 2, 3), n(1, 2, 4)),
    layer("GRU(3, 4)", (5, 2, 4), n(5, 2, 3), n(1, 2, 4)),
    layer("LSTM(3, 4)", (5, 2, 4), n(5, 2, 3), (n(1, 2, 4), n(1, 2, 4))),
    layer("LSTM(3, 4, 2, bidirectional=True, proj_size=2)", (5, 2, 4), n(5, 2, 3)),
    *(layer(f"{kind}(3, 4)", (2, 4), n(2, 3)) for kind in ("RNNCell", "LSTMCell", "GRUCell")),
    layer("RNNCell(3, 4, nonlinearity='relu')", (2, 4), n(2, 3), n(2, 4)),
    layer("RNNCell(3, 4, bias=False)", (4,), n(3), n(4)),
    layer("LSTMCell(3, 4)", (2, 4), n(2, 3), (n(2, 4), n(2, 4))),
    layer("GRUCell(3, 4, bias=False)", (2, 4), n(2, 3), n(2, 4)),
]  # fmt: skip

_causal = a(np.triu(np.ones((3, 3), dtype=bool), 1))
ATTENTION = [
    layer("MultiheadAttention(4, 2)", (3, 2, 4), n(3, 2, 4), n(5, 2, 4), n(5, 2, 4)),
    layer("MultiheadAttention(4, 2, batch_first=True)", (2, 3, 4), n(2, 3, 4), n(2, 5, 4), n(2, 5, 4),
        average_attn_weights=False),
    layer("MultiheadAttention(4, 2, kdim=3, vdim=5)", (3, 2, 4), n(3, 2, 4), n(5, 2, 3), n(5, 2, 5)),
    layer("MultiheadAttention(4, 2, bias=False, add_bias_kv=True)", (3, 2, 4), n(3, 2, 4), n(5, 2, 4), n(5, 2, 4),
        need_weights=False),
    layer("MultiheadAttention(4, 1, add_zero_attn=True)", (3, 4), n(3, 4), n(5, 4), n(5, 4)),
    layer("MultiheadAttention(4, 2)", (3, 2, 4), n(3, 2, 4), n(3, 2, 4), n(3, 2, 4), attn_mask=_causal,
        need_weights=False),
    layer("MultiheadAttention(4, 2)", (3, 2, 4), n(3, 2, 4), n(3, 2, 4), n(3, 2, 4), attn_mask=k(n(4, 3, 3)),
          key_padding_mask=a([[False, True, False], [False, False, False]])),
    layer("MultiheadAttention(4, 2, dropout=0.5)", (3, 2, 4), n(3, 2, 4), n(3, 2, 4), n(3, 2, 4), random=True),
    layer("TransformerEncoderLayer(4, 2, 8, dropout=0.0)", (3, 2, 4), n(3, 2, 4)),
    layer("TransformerEncoderLayer(4, 2, 8, 0.0, 'gelu', batch_first=True, norm_first=True)", (2, 3, 4), n(2, 3, 4),
        src_mask=_causal),
    layer("TransformerEncoderLayer(4, 2, 8)", (3, 2, 4), n(3, 2, 4), random=True),
    layer("TransformerDecoderLayer(4, 2, 8, dropout=0.0)", (3, 2, 4), n(3, 2, 4), n(5, 2, 4), tgt_mask=_causal),
    layer("TransformerDecoderLayer(4, 2, 8, 0.0, norm_first=True, bias=False)", (3, 2, 4), n(3, 2, 4), n(5, 2, 4)),
    layer("TransformerEncoder(TransformerEncoderLayer(4, 2, 8, 0.0), 2, enable_nested_tensor=False)", (3, 2, 4), n(3, 2,
        4),
          src_key_padding_mask=a([[False, True, False], [False, False, False]])),
    layer(
        "TransformerEncoder(TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True, norm_first=True), 1, LayerNorm(4))",
        (2, 3, 4), n(2, 3, 4), mask=_causal),
    layer("TransformerDecoder(TransformerDecoderLayer(4, 2, 8, 0.0), 2, LayerNorm(4))", (3, 2, 4), n(3, 2, 4), n(5, 2,
        4)),
    layer("Transformer(4, 2, 1, 1, 8, 0.0)", (3, 2, 4), n(5, 2, 4), n(3, 2, 4), tgt_mask=_causal),
    layer("Transformer(4, 2, 1, 1, 8, 0.0, batch_first=True, activation='gelu', norm_first=True)", (2, 3, 4), n(2, 5,
        4), n(2, 3, 4)),
]  # fmt: skip

LOSSES = [
    *_pairs(*(f"{loss.replace(')', sep + f'reduction={r!r})')}: {args}" for r in REDUCTIONS for loss, args in (
        ("L1Loss()", "x, y"), ("MSELoss()", "x, y"), ("SmoothL1Loss()", "x, y"), ("SmoothL1Loss(beta=0.3)", "x, y"),
        ("HuberLoss(delta=0.5)", "x, y"),
        ("PoissonNLLLoss()", "x, q"), ("PoissonNLLLoss(log_input=False, full=True)", "p, q"), ("BCELoss()", "p, q"),
        ("BCEWithLogitsLoss()", "x, q"),
        ("SoftMarginLoss()", "x, s"), ("HingeEmbeddingLoss(margin=0.5)", "x, s"), ("MultiLabelMarginLoss()", "x, t"),
        ("MultiMarginLoss()", "x, c"),
        ("MultiMarginLoss(p=2, margin=0.5)", "x, c"), ("MultiLabelSoftMarginLoss()", "x, m"), ("NLLLoss()", "l, c"),
        ("NLLLoss2d()", "l, c"),
        ("CrossEntropyLoss()", "x, c"), ("CrossEntropyLoss(label_smoothing=0.1)", "x, c"),
        ("KLDivLoss(log_target=True)", "l, y"),
    ) for sep in [", " if "=" in loss else ""])),
    *_pairs("L1Loss(size_average=False): x, y", "MSELoss(reduce=False): x, y", "SmoothL1Loss(size_average=True): x, y",
    "KLDivLoss(reduction='batchmean'): l, q",
            "KLDivLoss(reduction='sum'): l, q", "SmoothL1Loss(beta=0.0): x, y",
                "BCEWithLogitsLoss(pos_weight=T([1.0, 2.0, 0.5, 3.0])): x, q",
            "BCEWithLogitsLoss(weight=T([1.0, 2.0, 0.5, 3.0])): x, q", "BCELoss(weight=T([1.0, 2.0, 0.5, 3.0])): p, q",
            "CrossEntropyLoss(weight=T([1.0, 2.0, 0.5, 3.0])): x, c",
                "NLLLoss(weight=T([1.0, 2.0, 0.5, 3.0]), ignore_index=0): l, c",
            "MultiMarginLoss(weight=T([1.0, 2.0, 0.5, 3.0])): x, c",
                "MultiLabelSoftMarginLoss(weight=T([1.0, 2.0, 0.5, 3.0])): x, m"),
    layer("CrossEntropyLoss()", (), n(2, 3, 2, 2), i(3, 2, 2, 2)),
    layer("CrossEntropyLoss(label_smoothing=0.1)", (), n(3, 4), u(0, 1, 3, 4)),
    layer("KLDivLoss()", (), u(-3, -1, 3, 4), k(u(0.1, 0.9, 3, 4)), warns=True),
    *(layer(f"MarginRankingLoss(0.1, reduction={r!r})", (3,) if r == "none" else (), n(3), n(3), k(a([1.0, -1.0,
        1.0]))) for r in REDUCTIONS),
    *(layer(f"CosineEmbeddingLoss(0.1, reduction={r!r})", (3,) if r == "none" else (), n(3, 4), n(3, 4), k(a([1.0, -1.0,
        -1.0]))) for r in REDUCTIONS),
    *(layer(f"TripletMarginLoss(reduction={r!r})", (3,) if r == "none" else (), n(3, 4), n(3, 4), n(3,
        4)) for r in REDUCTIONS),
    layer("TripletMarginLoss(0.5, p=1, swap=True)", (), n(3, 4), n(3, 4), n(3, 4)),
    layer("TripletMarginWithDistanceLoss(margin=0.5, swap=True)", (), n(3, 4), n(3, 4), n(3, 4)),
    *(layer(f"GaussianNLLLoss(reduction={r!r})", (3, 4) if r == "none" else (), n(3, 4), k(n(3, 4)), u(0.5, 2, 3,
        4)) for r in REDUCTIONS),
    layer("GaussianNLLLoss(full=True, eps=0.1)", (), n(3, 4), k(n(3, 4)), u(0.5, 2, 3, 1)),
    *(layer(f"CTCLoss(reduction={r!r})", (2,) if r == "none" else (), n(6, 2, 4), a([[1, 2, 2], [3, 1, 0]]), a([6, 5]),
        a([3, 2]), twice=False) for r in REDUCTIONS),
    layer("CTCLoss(blank=3, zero_infinity=True)", (), n(5, 2, 4), a([1, 2, 2, 2, 0, 1]), (5, 1), (3, 3), twice=False),
    layer("AdaptiveLogSoftmaxWithLoss(8, 10, [3, 6], div_value=2.0)", (4,), n(4, 8), i(10, 4)),
    layer("AdaptiveLogSoftmaxWithLoss(8, 10, [4], head_bias=True)", (4,), n(4, 8), i(10, 4)),
]  # fmt: skip

DROPOUTS = [
    layer("Dropout()", (3, 4), n(3, 4), random=True),
    layer("Dropout(0.2, inplace=True)", (3, 4), n(3, 4), random=True),
    layer("Dropout(0.0)", (3, 4), n(3, 4)),
    layer("Dropout(1.0)", (3, 4), n(3, 4)),
    layer("Dropout1d()", (3, 4, 2), n(3, 4, 2), random=True),
    layer("Dropout2d(0.3)", (3, 4, 2, 2), n(3, 4, 2, 2), random=True),
    layer("Dropout3d()", (2, 4, 2, 2, 2), n(2, 4, 2, 2, 2), random=True),
    layer("AlphaDropout()", (3, 4), n(3, 4), random=True),
    layer("FeatureAlphaDropout()", (3, 4, 2), n(3, 4, 2), random=True),
]

LAYERS = [*ACTIVATIONS, *NORMS, *MAPS, *CONVOLUTIONS, *SHAPES, *POOLS, *RECURRENT, *ATTENTION, *LOSSES, *DROPOUTS]

# Classes that are no layers with an output: where they are tested
CLASSES_ELSEWHERE = {"Module", "Sequential", "ModuleList", "ModuleDict", "ParameterList", "ParameterDict", "RNNBase",
"RNNCellBase"}


@dataclass(frozen=True)
class Function:
    """A call of a function of `nn.functional`; its inputs have the names of the recipes."""

    call: str
    inputs: dict[str, Any]
    random: bool = False
    twice: bool = True

    @property
    def name(self) -> str:
        return self.call.partition("(")[0]


def function(call: str, random: bool = False, twice: bool = True, **inputs: Any) -> Function:
    return Function(call, inputs, random, twice)


_q, _k, _v = n(2, 4, 3, 6), n(2, 4, 5, 6), n(2, 4, 5, 2)
_image, _grid = n(2, 3, 4, 5), u(-1.3, 1.3, 2, 3, 2, 2)
FUNCTIONS = [
    *(function(f"{call}(x)", x=n(3, 4)) for call in """
        relu relu_ relu6 leaky_relu leaky_relu_ elu elu_ selu selu_ celu celu_ gelu silu mish hardtanh hardtanh_
        hardswish hardsigmoid softplus softsign
        tanhshrink softshrink hardshrink logsigmoid sigmoid tanh glu rrelu rrelu_ normalize
    """.split()),
    *(function(call, x=n(3, 4)) for call in (
        "relu(x, inplace=True)", "leaky_relu(x, 0.3)", "leaky_relu(x, -0.3)", "leaky_relu(x, 0.2, inplace=True)",
        "elu(x, alpha=0.3)", "celu(x, alpha=2.0)", "selu(x, inplace=True)",
        "gelu(x, approximate='tanh')", "silu(x, inplace=True)", "mish(x, True)", "hardtanh(x, -0.3, 0.8)",
        "hardswish(x, True)", "softplus(x, beta=3, threshold=1)",
        "softshrink(x, 0.2)", "hardshrink(x, 0.2)", "threshold(x, 0.1, 5.0)", "threshold_(x, 0.1, 5.0)",
        "softmax(x, dim=0)", "softmax(x, -1, dtype=float64)",
        "log_softmax(x, dim=1)", "softmin(x, dim=1)", "glu(x, dim=1)", "normalize(x, p=1, dim=0)",
        "normalize(x, dim=-1, eps=1.0)", "hardsigmoid(x, inplace=True)",
        "layer_norm(x, (4,))", "rms_norm(x, (4,))", "rms_norm(x, [4], eps=0.1)",
            "batch_norm(x, None, None, training=True)", "group_norm(x, 2)", "pdist(x)", "pdist(x, p=1.0)",
        "pad(x, (1, 2))", "pad(x, (1, 0, 0, 2), value=3.0)", "pad(x, (1, 2), mode='reflect')",
        "pad(x, (2, 1), mode='replicate')", "pad(x, (1, 2), mode='circular')",
        "pad(x, (-1, 1), mode='constant')", "dropout(x, 0.5, False)", "alpha_dropout(x)", "feature_alpha_dropout(x)",
        "dropout(x, p=1.0)")),
    function("prelu(x, w)", x=n(3, 4), w=n(4)),
    function("rrelu(x, training=True)", random=True, x=n(3, 4)),
    function("gumbel_softmax(x, tau=0.5)", random=True, x=n(3, 4)),
    function("gumbel_softmax(x, hard=True, dim=0)", random=True, twice=False, x=n(3, 4)),
    function("dropout(x)", random=True, x=n(3, 4)),
    function("dropout1d(x)", random=True, x=n(3, 4, 2)),
    function("dropout2d(x)", random=True, x=n(3, 4, 2, 2)),
    function("dropout3d(x)", random=True, x=n(2, 4, 2, 2, 2)),
    function("linear(x, w, b)", x=n(2, 4), w=n(3, 4), b=n(3)),
    function("bilinear(x, y, w, b)", x=n(5, 2), y=n(5, 3), w=n(4, 2, 3), b=n(4)),
    function("batch_norm(x, m, v, w, b)", x=n(3, 4, 2), m=k(n(4)), v=k(u(0.5, 2, 4)), w=n(4), b=n(4)),
    function("batch_norm(x, m, v, w, b, training=True, momentum=0.3)", x=n(3, 4, 2), m=k(n(4)), v=k(u(0.5, 2, 4)),
        w=n(4), b=n(4)),
    function("instance_norm(x, weight=w, bias=b)", x=n(3, 4, 3), w=n(4), b=n(4)),
    function("instance_norm(x, m, v, use_input_stats=False)", x=n(3, 4, 3), m=k(n(4)), v=k(u(0.5, 2, 4))),
    function("layer_norm(x, (3, 4), w, b, 1e-3)", x=n(2, 3, 4), w=n(3, 4), b=n(3, 4)),
    function("group_norm(x, 2, w, b)", x=n(2, 4, 3), w=n(4), b=n(4)),
    function("local_response_norm(x, 3)", x=n(2, 5, 3)),
    function("cosine_similarity(x, y)", x=n(3, 4), y=n(3, 4)),
    function("cosine_similarity(x, y, dim=-1)", x=n(2, 3, 4), y=n(3, 4)),
    function("pairwise_distance(x, y, p=3.0)", x=n(3, 4), y=n(3, 4)),
    *(function(f"conv{m}d(x, w, b, padding=1)", x=n(1, 2, *(4, 3, 3)[:m]), w=n(3, 2, *(2,) * m), b=n(3)) for m in (1, 2,
        3)),
    *(function(f"conv_transpose{m}d(x, w, b, stride=2, padding=1, output_padding=1)", x=n(1, 2, *(4, 3, 3)[:m]), w=n(2,
        3, *(3,) * m), b=n(3)) for m in (1, 2, 3)),
    *(function(f"{kind}{m}d(x, 2)", x=d(1, 2, *(4, 6, 4)[:m])) for kind in ("max_pool", "avg_pool", "adaptive_avg_pool",
        "adaptive_max_pool") for m in (1, 2, 3)),
    *(function(f"max_pool{m}d_with_indices(x, 2)", x=d(1, 2, *(4, 6, 4)[:m])) for m in (1, 2, 3)),
    *(function(f"lp_pool{m}d(x, 3, 2)", x=u(0.5, 2, 1, 2, *(4, 6, 4)[:m])) for m in (1, 2, 3)),
    *(function(f"max_unpool{m}d(x, i, 2)", x=n(1, 1, *(2,) * m), i=a((np.arange(2**m) * 2).reshape(1, 1, *(2,
        ) * m))) for m in (1, 2, 3)),
    *(function(f"fractional_max_pool{m}d(x, 2, output_size=2)", random=True, x=d(1, 2, *(5, 5, 5)[:m])) for m in (2,
        3)),
    function("embedding(i, w)", i=i(5, 3), w=n(5, 2)),
    function("embedding(i, w, padding_idx=1)", i=i(5, 3), w=n(5, 2)),
    function("embedding_bag(i, w, o)", i=i(5, 6), w=n(5, 2), o=a([0, 2, 4])),
    function("embedding_bag(i, w, o, mode='sum', per_sample_weights=s)", i=i(5, 6), w=n(5, 2), o=a([0, 0, 4]), s=n(6)),
    function("embedding_bag(i, w, mode='max')", i=i(5, 3, 4), w=n(5, 2)),
    function("one_hot(i)", i=i(5, 2, 3)),
    function("one_hot(i, num_classes=7)", i=i(5, 3)),
    function("scaled_dot_product_attention(q, k, v)", q=_q, k=_k, v=_v),
    function("scaled_dot_product_attention(q, k, v, attn_mask=m)", q=_q, k=_k, v=_v, m=a(np.tri(3, 5, 1, dtype=bool))),
    function("scaled_dot_product_attention(q, k, v, m, scale=0.3)", q=_q, k=_k, v=_v, m=n(3, 5)),
    function("scaled_dot_product_attention(q, k, v, is_causal=True)", q=_q, k=_k, v=_v),
    function("scaled_dot_product_attention(q, k, v, enable_gqa=True)", q=_q, k=n(2, 2, 5, 6), v=n(2, 2, 5, 2)),
    function("scaled_dot_product_attention(q, k, v)", q=n(3, 6), k=n(5, 6), v=n(5, 2)),
    function("scaled_dot_product_attention(q, k, v, dropout_p=0.3)", random=True, q=_q, k=_k, v=_v),
    function("multi_head_attention_forward(x, x, x, 4, 2, w, b, None, None, False, 0.0, o, p)", x=n(3, 2, 4), w=n(12,
        4), b=n(12), o=n(4, 4), p=n(4)),
    *(function(f"interpolate(x, {args})", x=n(1, 2, 5, 6)) for args in (
        "scale_factor=2", "size=3", "size=(10, 12)", "scale_factor=(0.5, 1.5)", "size=(7, 4), mode='nearest-exact'",
        "scale_factor=1.5, mode='bilinear'",
        "size=(3, 9), mode='bilinear', align_corners=True",
            "scale_factor=1.3, mode='bilinear', recompute_scale_factor=True", "size=(3, 9), mode='bicubic'",
        "scale_factor=2, mode='bicubic', align_corners=True", "size=(2, 3), mode='area'",
        "size=(3, 2), mode='bilinear', antialias=True",
        "size=(3, 2), mode='bicubic', antialias=True", "size=(8, 9), mode='bicubic', antialias=True")),
    function("interpolate(x, scale_factor=2.5, mode='linear')", x=n(1, 2, 5)),
    function("interpolate(x, size=4, mode='trilinear', align_corners=True)", x=n(1, 1, 2, 3, 2)),
    function("interpolate(x, scale_factor=2)", x=n(1, 1, 2, 3, 2)),
    function("upsample(x, scale_factor=2, mode='bilinear')", x=n(1, 2, 3, 3)),
    function("upsample_nearest(x, scale_factor=2)", x=n(1, 2, 3, 3)),
    function("upsample_bilinear(x, size=(4, 5))", x=n(1, 2, 3, 3)),
    *(function(f"grid_sample(x, g, mode='{mode}', padding_mode='{padding}', align_corners={corners})", x=_image,
        g=_grid, twice=mode != "bicubic")
      for mode in ("bilinear", "nearest", "bicubic") for padding in ("zeros", "border",
              "reflection") for corners in (False, True)),
    function("grid_sample(x, g, align_corners=False)", x=n(1, 2, 3, 4, 3), g=u(-1.2, 1.2, 1, 2, 2, 2, 3)),
    function("affine_grid(t, (2, 1, 3, 4), align_corners=False)", t=n(2, 2, 3)),
    function("affine_grid(t, (2, 1, 3, 4), align_corners=True)", t=n(2, 2, 3)),
    function("affine_grid(t, (1, 1, 2, 3, 4), align_corners=False)", t=n(1, 3, 4)),
    function("pixel_shuffle(x, 2)", x=n(1, 8, 2, 3)),
    function("pixel_unshuffle(x, 2)", x=n(1, 2, 4, 6)),
    function("channel_shuffle(x, 3)", x=n(2, 6, 3, 2)),
    function("unfold(x, 2, stride=2)", x=n(1, 2, 4, 4)),
    function("unfold(x, (2, 3), dilation=(1, 2), padding=(1, 0))", x=n(1, 2, 4, 6)),
    function("fold(x, (4, 5), 2)", x=n(1, 8, 12)),
    function("pad(x, (1, 2, 2, 0), mode='reflect')", x=n(1, 2, 4, 4)),
    function("pad(x, (1, 2, 2, 0, 1, 1), mode='replicate')", x=n(1, 2, 3, 4, 4)),
    *(function(f"{call}", x=n(3, 4), y=k(n(3, 4))) for call in (
        "mse_loss(x, y)", "mse_loss(x, y, reduction='sum')", "mse_loss(x, y, reduce=False)",
        "mse_loss(x, y, weight=y.abs())", "l1_loss(x, y)", "l1_loss(x, y, size_average=False)",
        "smooth_l1_loss(x, y, beta=0.5)", "huber_loss(x, y, delta=0.5)", "huber_loss(x, y, weight=y.abs())",
        "poisson_nll_loss(x, y.abs(), full=True)",
        "gaussian_nll_loss(x, y, 0.5)", "gaussian_nll_loss(x, y, y.abs() + 0.1, full=True)",
            "soft_margin_loss(x, y.sign())", "hinge_embedding_loss(x, y.sign())",
        "kl_div(x, y.softmax(1), reduction='batchmean')", "kl_div(x, y, log_target=True, reduction='sum')",
        "binary_cross_entropy(x.sigmoid(), y.sigmoid())",
        "binary_cross_entropy(x.sigmoid(), y.sigmoid(), weight=y.abs(), reduction='none')",
        "binary_cross_entropy_with_logits(x, y.sigmoid())",
        "binary_cross_entropy_with_logits(x, y.sigmoid(), pos_weight=y[0].abs(), reduction='sum')",
        "multilabel_soft_margin_loss(x, (y > 0).to(x.dtype))",
        "triplet_margin_loss(x, y, y.flip(0))", "triplet_margin_with_distance_loss(x, y, y.flip(0), margin=2.0)",
        "cosine_embedding_loss(x, y, y[:, 0].sign())",
        "margin_ranking_loss(x, y, y.sign(), margin=0.5)", "cross_entropy(x, y.softmax(1))")),
    *(function(f"{call}", x=n(3, 4), y=i(4, 3)) for call in (
        "cross_entropy(x, y)", "cross_entropy(x, y, label_smoothing=0.2, reduction='sum')",
        "nll_loss(x, y, reduction='none')", "cross_entropy(x, y, ignore_index=1)",
        "multi_margin_loss(x, y)", "multi_margin_loss(x, y, p=2, reduction='sum')")),
    function("multilabel_margin_loss(x, y)", x=n(3, 4), y=a([[3, 0, -1, 1], [1, -1, 0, 2], [0, 1, 2, 3]])),
    function("multilabel_margin_loss(x, y)", x=n(4), y=a([3, 0, -1, 1])),
    function("multi_margin_loss(x, y)", x=n(4), y=a(2)),
    function("ctc_loss(x.log_softmax(2), y, (5, 4), (2, 1))", twice=False, x=n(5, 2, 4), y=a([[1, 2], [3, 0]])),
    function("ctc_loss(x.log_softmax(1), y, l, t)", twice=False, x=n(5, 4), y=a([1, 1]), l=a(5), t=a(2)),
]  # fmt: skip


# -- running a row -----------------------------------------------------------------------------------------------------


def drawn(x: Any, rng: np.random.Generator) -> Any:
    if isinstance(x, Recipe):
        return x.draw(rng)
    return tuple(drawn(y, rng) for y in x) if isinstance(x, tuple) else x


def tensors(x: Any, to: Callable[[np.ndarray], Any], floating: Any, recipe: Any = None,
        leaves: list[Any] | None = None) -> Any:
    """Arrays as tensors; those of floats, which are no constants, are the leaves."""
    if isinstance(x, tuple):
        recipes = recipe if isinstance(recipe, tuple) else (None,) * len(x)
        return tuple(tensors(y, to, floating, r, leaves) for y, r in zip(x, recipes))
    if not isinstance(x, np.ndarray):
        return x
    t = to(np.array(x))
    if x.dtype.kind != "f":
        return t
    t = t.to(floating)
    if leaves is not None and not (isinstance(recipe, Recipe) and recipe.constant):
        leaves.append(t.requires_grad_())
    return t


def made(row: Layer, lib: Any, seed: int = 0) -> Any:
    """The module, in `core` or in torch."""
    lib.manual_seed(seed)
    return eval(row.make, {**vars(lib.nn), "T": lib.tensor})


def inputs_of(row: Layer, lib: Any, dtype: Any) -> tuple[tuple[Any, ...], dict[str, Any], list[Any]]:
    rng = np.random.default_rng(3)
    leaves: list[Any] = []
    args = tensors(drawn(row.inputs, rng), lib.from_numpy, dtype, row.inputs, leaves)
    named = {key: tensors(drawn(v, rng), lib.from_numpy, dtype, v) for key, v in row.named.items()}
    if row.name == "CTCLoss":
        args = (args[0].log_softmax(2), *args[1:])
    return args, named, leaves


def run(module: Any, row: Layer, args: Any, named: Any, lib: Any) -> list[Any]:
    """The results, as a flat list. In-place layers get a copy."""
    lib.manual_seed(1)
    if getattr(module, "inplace", False):
        args = tuple(x.clone() if isinstance(x, lib.Tensor) else x for x in args)
    return flat(module(*args, **named))


def flat(y: Any) -> list[Any]:
    return [t for x in y for t in flat(x)] if isinstance(y, (tuple, list)) else [] if y is None else [y]


ids = [row.make for row in LAYERS]
every_layer = pytest.mark.parametrize("row", LAYERS, ids=ids)
every_function = pytest.mark.parametrize("row", FUNCTIONS, ids=[row.call for row in FUNCTIONS])
quiet = pytest.mark.filterwarnings("ignore:reduction. 'mean' divides", "ignore:Lazy modules")


def test_every_layer_has_a_row() -> None:
    found = {row.name.partition(".")[0] for row in LAYERS}
    assert set(nn.modules.__all__) - CLASSES_ELSEWHERE - found == set(), "no row in tests/test_nn.py"
    assert found <= set(nn.modules.__all__)


def test_every_function_has_a_row() -> None:
    found = {row.name for row in FUNCTIONS}
    assert set(functional.__all__) - found == set(), "no row in tests/test_nn.py"
    assert found <= set(functional.__all__)


@quiet
@every_layer
def test_shape_and_modes(row: Layer) -> None:
    module = made(row, core)
    args, named, _ = inputs_of(row, core, core.float32)
    y = run(module, row, args, named, core)
    if row.shape is not None:
        assert y[0].shape == row.shape
    assert all(t.dtype == core.float32 for t in y if t.is_floating_point())
    assert module.eval() is module and not any(m.training for m in module.modules())
    z = run(module, row, args, named, core)
    again = run(module, row, args, named, core)
    for t, s, r in zip(y, z, again):
        assert t.shape == s.shape
        np.testing.assert_array_equal(s.detach().numpy(), r.detach().numpy(), err_msg="evaluation is not random")


@quiet
@every_layer
def test_state_and_copies(row: Layer) -> None:
    """What a module has learned goes into another by its state_dict, and into a copy."""
    module, other = made(row, core), made(row, core, seed=5)
    args, named, _ = inputs_of(row, core, core.float32)
    run(module, row, args, named, core)
    missing, unexpected = other.load_state_dict(module.state_dict())
    assert not missing and not unexpected
    twin = copy.deepcopy(module)
    assert repr(twin) == repr(module)
    for m in (module, other, twin):
        m.eval()
    y, z, w = (run(m, row, args, named, core) for m in (module, other, twin))
    for t, s, r in zip(y, z, w):
        np.testing.assert_array_equal(t.detach().numpy(), s.detach().numpy())
        np.testing.assert_array_equal(t.detach().numpy(), r.detach().numpy())
    for p, q in zip(module.parameters(), twin.parameters()):
        assert p is not q and p.data_ptr() != q.data_ptr()


@quiet
@every_layer
def test_gradients(row: Layer) -> None:
    module = made(row, core)
    args, named, leaves = inputs_of(row, core, core.float64)
    run(module.double(), row, args, named, core)  # lazy ones learn their sizes
    leaves += [p for p in module.parameters() if p.requires_grad]

    def f(*_: Any) -> Any:
        args = fresh(leaves)
        return tuple(run(module, row, args, named, core))

    def fresh(_: Any) -> Any:  # what is computed from the leaves, computed again
        return inputs[0] if row.name != "CTCLoss" else (raw[0].log_softmax(2), *inputs[0][1:])

    raw, inputs = leaves, (args, named)
    if not leaves or not any(y.requires_grad for y in f()):
        pytest.skip("nothing to differentiate")
    if re.search("padding_idx|scale_grad|max_norm", row.make):
        pytest.skip("a gradient that is none, on purpose; tests.test_oracle_nn")
    assert gradcheck(f, leaves)
    if row.twice:
        assert gradgradcheck(f, leaves)


def evaluated(row: Function, lib: Any, values: dict[str, Any]) -> list[Any]:
    lib.manual_seed(1)
    names = {key: v.clone() if "_(" in row.call or "inplace" in row.call or "True)" in row.call[-6:] else v for key,
        v in values.items()}
    return flat(eval(row.call, {**vars(lib.nn.functional), **names, "float64": lib.float64}))


def function_inputs(row: Function, lib: Any, dtype: Any) -> tuple[dict[str, Any], list[Any]]:
    rng = np.random.default_rng(3)
    leaves: list[Any] = []
    return {key: tensors(drawn(v, rng), lib.from_numpy, dtype, v, leaves) for key, v in row.inputs.items()}, leaves


@every_function
def test_function_gradients(row: Function) -> None:
    values, leaves = function_inputs(row, core, core.float64)

    def f(*_: Any) -> Any:
        return tuple(evaluated(row, core, values))

    if not leaves or not any(y.requires_grad for y in f()):
        pytest.skip("nothing to differentiate")
    if "hard=True" in row.call or "running" in row.call:
        pytest.skip("a gradient that is none, on purpose")
    assert gradcheck(f, leaves)
    if row.twice:
        assert gradgradcheck(f, leaves)


