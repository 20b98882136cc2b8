"""What is measured. A row takes the engine's module under the name `torch`, builds everything, and returns the function to be timed,
or the work that such functions are made of.

Contract: the same body runs on both engines, the same shapes, seeds and dtypes; whatever is not the work itself happens before the
function is returned. A row whose layers an engine has not got ends in AttributeError, which the report shows as missing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise
from typing import Any, NamedTuple

Step = Callable[[], Any]
Row = Callable[[Any], Step]

TRAIN: dict[str, Callable[[Any], Work]] = {}
OPS: dict[str, Row] = {}


def train(name: str) -> Callable[[Callable[[Any], Work]], Callable[[Any], Work]]:
    return lambda row: TRAIN.setdefault(name, row)


class Work(NamedTuple):
    """A model with its data: what is trained, or asked."""

    model: Any
    optimizer: Any
    forward: Callable[[Any], Any]  # of a model, so that it may be wrapped
    criterion: Callable[[Any], Any]

    def training(self, torch: Any, dtype: str) -> Step:
        """zero_grad, forward, loss, backward, step; forward and loss under autocast unless `dtype` is float32."""
        block = _autocast(torch, dtype)

        def step() -> Any:
            self.optimizer.zero_grad()
            with block():
                y = self.criterion(self.forward(self.model))
            y.backward()
            self.optimizer.step()
            return y

        return step

    def inference(self, torch: Any, dtype: str) -> Step:
        """Forward alone, without a graph."""
        block, _ = _autocast(torch, dtype), self.model.eval()

        def step() -> Any:
            with torch.no_grad(), block():
                return self.forward(self.model)

        return step


def _autocast(torch: Any, dtype: str) -> Callable[[], Any]:
    if dtype == "float32":
        return nullcontext
    return lambda: torch.autocast("cpu", dtype=getattr(torch, dtype))


# -- training ------------------------------------------------------------------------------------------------------------


def _classifier(torch: Any, sizes: list[int], batch: int) -> Work:
    nn = torch.nn
    layers: list[Any] = []
    for i, o in pairwise(sizes):
        layers += [nn.Linear(i, o), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    x, t = torch.randn(batch, sizes[0]), torch.randint(0, sizes[-1], (batch,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    criterion = nn.CrossEntropyLoss()
    return Work(model, optimizer, lambda model: model(x), lambda y: criterion(y, t))


@train("MLP 32-64-64-10, batch 4, SGD")
def tiny_mlp(torch: Any) -> Work:
    return _classifier(torch, [32, 64, 64, 10], 4)


@train("MLP 784-512-512-10, batch 64, SGD")
def mlp(torch: Any) -> Work:
    return _classifier(torch, [784, 512, 512, 10], 64)


@train("LeNet 28×28, batch 64, Adam")
def lenet(torch: Any) -> Work:
    nn = torch.nn
    model = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip
    x, t = torch.randn(64, 1, 28, 28), torch.randint(0, 10, (64,))
    optimizer, criterion = torch.optim.Adam(model.parameters()), nn.CrossEntropyLoss()
    return Work(model, optimizer, lambda model: model(x), lambda y: criterion(y, t))


@train("ResNet-18 32×32, batch 16, SGD momentum")
def resnet18(torch: Any, batch: int = 16) -> Work:
    nn = torch.nn

    class Block(torch.nn.Module):
        def __init__(self, i: int, o: int, stride: int):
            super().__init__()
            self.one = nn.Sequential(nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o))
            self.two = nn.Sequential(nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o))
            same = stride == 1 and i == o
            self.short = (
                nn.Identity() if same else nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))
            )

        def forward(self, x: Any) -> Any:
            y = self.two(torch.relu(self.one(x)))
            return torch.relu(y + self.short(x))

    layers = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    i = 64
    for o, stride in [(64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)]:
        layers.append(Block(i, o, stride))
        i = o
    model = nn.Sequential(*layers, nn.AvgPool2d(4), nn.Flatten(), nn.Linear(512, 10))
    x, t = torch.randn(batch, 3, 32, 32), torch.randint(0, 10, (batch,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    criterion = nn.CrossEntropyLoss()
    return Work(model, optimizer, lambda model: model(x), lambda y: criterion(y, t))


def _gpt(torch: Any, layers: int, heads: int, width: int, block: int, batch: int, vocabulary: int = 65) -> Work:
    nn, F = torch.nn, torch.nn.functional

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

        def forward(self, x: Any) -> Any:
            n, t, c = x.shape
            q, k, v = (a.view(n, t, heads, c // heads).transpose(1, 2) for a in self.qkv(self.norm1(x)).split(c, dim=2))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(y.transpose(1, 2).reshape(n, t, c))
            return x + self.mlp(self.norm2(x))

    class GPT(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.position = nn.Embedding(vocabulary, width), nn.Embedding(block, width)
            self.blocks = nn.Sequential(*(Block() for _ in range(layers)))
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

        def forward(self, tokens: Any) -> Any:
            x = self.token(tokens) + self.position(torch.arange(tokens.shape[1]))
            return self.head(self.norm(self.blocks(x)))

    model = GPT()
    tokens = torch.randint(0, vocabulary, (batch, block + 1))
    x, t = tokens[:, :-1], tokens[:, 1:].reshape(-1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    return Work(model, optimizer, lambda model: model(x), lambda y: F.cross_entropy(y.view(-1, vocabulary), t))


@train("GPT 4 layers, 4 heads, 128, block 64, batch 12, AdamW")
def gpt_small(torch: Any) -> Work:
    return _gpt(torch, 4, 4, 128, 64, 12)


@train("GPT 6 layers, 6 heads, 384, block 256, batch 4, AdamW")
def gpt_larger(torch: Any) -> Work:
    return _gpt(torch, 6, 6, 384, 256, 4)


@train("LSTM 2 layers 128→256, length 64, batch 32, Adam")
def lstm(torch: Any) -> Work:
    nn = torch.nn

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.out = nn.LSTM(128, 256, num_layers=2, batch_first=True), nn.Linear(256, 10)

        def forward(self, x: Any) -> Any:
            return self.out(self.lstm(x)[0][:, -1])

    model, x, t = Model(), torch.randn(32, 64, 128), torch.randint(0, 10, (32,))
    optimizer, criterion = torch.optim.Adam(model.parameters()), nn.CrossEntropyLoss()
    return Work(model, optimizer, lambda model: model(x), lambda y: criterion(y, t))


@train("TransformerEncoder 3 layers, 256/4/1024, batch 8, length 128, Adam")
def encoder(torch: Any) -> Work:
    nn = torch.nn
    layer = nn.TransformerEncoderLayer(256, 4, 1024, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 3)
    x, t = torch.randn(8, 128, 256), torch.randn(8, 128, 256)
    optimizer, criterion = torch.optim.Adam(model.parameters()), nn.MSELoss()
    return Work(model, optimizer, lambda model: model(x), lambda y: criterion(y, t))


@train("DCGAN generator 64×64, batch 16, Adam")
def generator(torch: Any) -> Work:
    nn = torch.nn
    layers: list[Any] = []
    for i, o, stride, padding in [(100, 256, 1, 0), (256, 128, 2, 1), (128, 64, 2, 1), (64, 32, 2, 1)]:
        layers += [nn.ConvTranspose2d(i, o, 4, stride, padding, bias=False), nn.BatchNorm2d(o), nn.ReLU()]
    model = nn.Sequential(*layers, nn.ConvTranspose2d(32, 3, 4, 2, 1, bias=False), nn.Tanh())
    x, t = torch.randn(16, 100, 1, 1), torch.rand(16, 3, 64, 64)
    optimizer, criterion = torch.optim.Adam(model.parameters(), lr=2e-4, betas=(0.5, 0.999)), nn.MSELoss()
    return Work(model, optimizer, lambda model: model(x), lambda y: criterion(y, t))


@train("autoencoder 784-256-64-256-784, batch 128, Adam")
def autoencoder(torch: Any) -> Work:
    nn = torch.nn
    model = nn.Sequential(
        nn.Linear(784, 256),
        nn.ReLU(),
        nn.Linear(256, 64),
        nn.ReLU(),
        nn.Linear(64, 256),
        nn.ReLU(),
        nn.Linear(256, 784),
        nn.Sigmoid(),
    )
    x, optimizer, criterion = torch.rand(128, 784), torch.optim.Adam(model.parameters()), nn.MSELoss()
    return Work(model, optimizer, lambda model: model(x), lambda y: criterion(y, x))


# -- ops -----------------------------------------------------------------------------------------------------------------


def _of(name: str, make: Callable[[Any], Step]) -> None:
    OPS[name] = make


def _binary(name: str, *shape: int) -> None:
    def make(torch: Any) -> Step:
        x, y = torch.randn(*shape), torch.randn(*shape)
        return lambda: x + y

    _of(name, make)


def _product(n: int, k: int, m: int, transposed: bool = False) -> None:
    def make(torch: Any) -> Step:
        x = torch.randn(n, k)
        y = torch.randn(m, k).t() if transposed else torch.randn(k, m)
        return lambda: x @ y

    _of(f"matmul {n}×{k} @ {k}×{m}{' transposed' if transposed else ''}", make)


def _convolution(what: str, x_shape: tuple[int, ...], k: int, size: int, stride: int, padding: int) -> None:
    def make(torch: Any) -> Step:
        conv = torch.nn.Conv2d(x_shape[1], k, size, stride, padding)
        x = torch.randn(*x_shape, requires_grad=True)
        if what == "forward":
            x = x.detach()

            def forward() -> Any:
                with torch.no_grad():
                    return conv(x)

            return forward
        g = torch.randn(*conv(x).shape)
        return lambda: conv(x).backward(g)

    _of(f"conv {what} {'×'.join(map(str, x_shape))} to {k}, {size}×{size} stride {stride}", make)


def _layer(name: str, shape: tuple[int, ...], layer: Callable[[Any], Any]) -> None:
    """Forward and backward."""

    def make(torch: Any) -> Step:
        f, x, g = layer(torch), torch.randn(*shape, requires_grad=True), None
        g = torch.randn(*f(x).shape)
        return lambda: f(x).backward(g)

    _of(f"{name} {'×'.join(map(str, shape))}, forward and backward", make)


_binary("add of 10", 10)
_binary("add of 1000×1000", 1000, 1000)
_product(4, 64, 64)
_product(64, 784, 512)
_product(64, 784, 512, transposed=True)
_product(512, 512, 512)
_product(1024, 1024, 1024)
_convolution("forward", (64, 1, 28, 28), 32, 3, 1, 1)
_convolution("forward", (16, 64, 32, 32), 64, 3, 1, 1)
_convolution("forward and backward", (16, 64, 32, 32), 64, 3, 1, 1)
_convolution("forward and backward", (16, 128, 16, 16), 256, 3, 2, 1)
_convolution("forward and backward", (16, 64, 32, 32), 128, 1, 2, 0)
_layer("linear 64 to 64", (4, 64), lambda torch: torch.nn.Linear(64, 64))
_layer("max_pool 2×2", (64, 16, 28, 28), lambda torch: torch.nn.MaxPool2d(2))
_layer("softmax", (12, 4, 64, 64), lambda torch: torch.nn.Softmax(-1))
_layer("log_softmax", (64, 1000), lambda torch: torch.nn.LogSoftmax(-1))
_layer("layer_norm", (12, 64, 128), lambda torch: torch.nn.LayerNorm(128))
_layer("batch_norm", (16, 64, 32, 32), lambda torch: torch.nn.BatchNorm2d(64))
_layer("relu", (16, 64, 32, 32), lambda torch: torch.nn.ReLU())
_layer("gelu", (12, 64, 512), lambda torch: torch.nn.GELU())


def _loss(torch: Any) -> Step:
    x, t = torch.randn(4, 10, requires_grad=True), torch.randint(0, 10, (4,))
    return lambda: torch.nn.functional.cross_entropy(x, t).backward()


_of("cross_entropy 4×10, forward and backward", _loss)


def _formula(torch: Any) -> Step:
    x, y = (torch.randn(8, 16, requires_grad=True) for _ in range(2))
    return lambda: (x * y + 1).view(-1)[4:].mean().backward()


_of("a product, a sum, a view and a mean of 8×16, forward and backward", _formula)


def _optimizer(name: str, make_optimizer: Callable[[Any, Any], Any]) -> None:
    def make(torch: Any) -> Step:
        params = [torch.nn.Parameter(torch.randn(*shape)) for _ in range(100) for shape in ((64, 64), (64,))]
        for p in params:
            p.grad = torch.randn(*p.shape)
        return make_optimizer(torch, params).step

    _of(f"{name} step, 200 parameters of 64×64 and 64", make)


_optimizer("SGD", lambda torch, p: torch.optim.SGD(p, lr=1e-3))
_optimizer("SGD momentum", lambda torch, p: torch.optim.SGD(p, lr=1e-3, momentum=0.9))
_optimizer("AdamW", lambda torch, p: torch.optim.AdamW(p, lr=1e-3))


def _loader(torch: Any) -> Step:
    data = torch.utils.data
    loader = data.DataLoader(
        data.TensorDataset(torch.randn(2048, 32), torch.randint(0, 10, (2048,))), batch_size=64, shuffle=True
    )
    return lambda: [None for _ in loader]


_of("DataLoader, 32 batches of 64", _loader)
