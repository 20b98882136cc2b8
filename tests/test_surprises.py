"""What real scripts do that a tidy engine would not expect: old spellings, aliases, assignments to attributes, other libraries' hands
on a tensor."""

from __future__ import annotations

import collections
import copy
import pickle

import numpy as np
import pytest

import core
from core.autograd import Variable


def test_accelerator_without_a_gpu() -> None:
    assert core.accelerator.is_available() in (True, False)
    if not core.accelerator.is_available():
        assert core.accelerator.current_accelerator() is None
        assert core.accelerator.device_count() == 0


@pytest.mark.parametrize("name", ["FloatTensor", "DoubleTensor", "LongTensor", "ByteTensor", "BoolTensor"])
def test_type_constructors_are_functions_and_types(name: str) -> None:
    make = getattr(core, name)
    x = make([1, 0, 3])
    assert isinstance(x, make) and isinstance(x, core.Tensor) and make(2, 3).shape == (2, 3)
    assert x.type() == f"core.{name}" and core.ones(2).type(make).dtype is x.dtype


def test_variable_is_a_tensor() -> None:
    x = Variable(core.ones(2), requires_grad=True)
    (x * x).sum().backward()
    assert isinstance(x, core.Tensor) and x.grad.tolist() == [2.0, 2.0] and Variable(x).data.tolist() == [1.0, 1.0]


def test_attributes_that_are_assigned() -> None:
    x = core.ones(3, requires_grad=True)
    x.data = core.zeros(2)
    assert x.shape == (2,) and x.is_leaf
    x.data -= 1
    x.data[0] = 5.0
    assert x.tolist() == [5.0, -1.0]
    x.grad = core.ones(2)
    x.grad.data.zero_()
    assert x.grad.tolist() == [0.0, 0.0]
    x.grad = None
    x.requires_grad = False
    assert not x.requires_grad and x.grad is None


def test_numpys_words() -> None:
    x = core.arange(6.0).reshape(2, 3)
    assert x.sum(axis=1, keepdims=True).shape == (2, 1) and x.mean(axis=0).tolist() == [1.5, 2.5, 3.5]
    assert core.max(x, axis=1).values.tolist() == x.max(1)[0].tolist() == [2.0, 5.0]
    assert core.stack([x, x], axis=0).shape == (2, 2, 3) and x.std(axis=0, keepdims=True).shape == (1, 3)
    assert x.ndim == x.ndimension() == x.dim() == 2 and x.nelement() == x.numel() == 6
    assert core.absolute(-x).equal(x.clip(0, 9)) and core.concatenate([x, x]).shape == (4, 3)


def test_numpy_functions_take_tensors() -> None:
    x = core.tensor([1.0, 4.0])
    assert np.mean(x.numpy()) == 2.5 and np.array(x).tolist() == [1.0, 4.0] and np.asarray([x, x]).shape == (2, 2)
    assert isinstance(np.sqrt(x), core.Tensor) and (np.float64(2) * x).tolist() == [2.0, 8.0]
    assert isinstance(np.float32(2) * x, core.Tensor)


def test_dlpack_both_ways() -> None:
    a = np.arange(3.0)
    x = core.from_dlpack(a)
    a[0] = 7
    assert x[0] == 7 and np.from_dlpack(x).tolist() == [7.0, 1.0, 2.0]


def test_arrays_of_numpys_kinds(tmp_path) -> None:
    np.arange(6, dtype=np.uint16).tofile(tmp_path / "x.bin")
    data = np.memmap(tmp_path / "x.bin", dtype=np.uint16, mode="r")
    rows = core.stack([core.from_numpy(data[i : i + 3].astype(np.int64)) for i in core.tensor([0, 2])])
    assert rows.tolist() == [[0, 1, 2], [2, 3, 4]]


def test_view_says_why_it_cannot() -> None:
    with pytest.raises(RuntimeError, match="size is not compatible"):
        core.ones(2, 3).t().view(6)
    assert core.ones(2, 3).t().reshape(6).shape == (6,)


def test_in_place_errors_that_torch_raises_too() -> None:
    w = core.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
        w += 1
    y = w.exp()
    y += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    with core.no_grad():
        w += 1
    assert w.tolist() == [2.0, 2.0]


def test_views_in_place() -> None:
    x = core.arange(6.0).reshape(2, 3)
    assert x.unsqueeze_(0).shape == (1, 2, 3) and x.squeeze_().shape == (2, 3) and x.t_().shape == (3, 2)
    y = (core.ones(2, 3, requires_grad=True) * 2).transpose_(0, 1)
    assert y.shape == (3, 2)
    y.sum().backward()


def test_composed_functions_in_place_have_gradients() -> None:
    x = core.ones(3, requires_grad=True)
    y = x * 2
    y.clamp_min_(1.0).index_add_(0, core.tensor([0, 0]), core.ones(2)).addmv_(core.eye(3), x)
    y.sum().backward()
    assert x.grad.tolist() == [3.0, 3.0, 3.0] and y.tolist() == [5.0, 3.0, 3.0]


def test_lazy_sampler_of_very_many() -> None:
    class Endless(core.utils.data.Dataset):
        def __len__(self) -> int:
            return 10**10

        def __getitem__(self, i: int) -> int:
            return i

    sampler = core.utils.data.RandomSampler(Endless(), replacement=True, num_samples=10**10)
    assert 0 <= next(iter(sampler)) < 10**10


def test_module_paths() -> None:
    from core.nn.modules import linear, loss
    from core.nn.modules.container import Sequential

    assert linear.Linear is core.nn.Linear and loss.MSELoss is core.nn.MSELoss and Sequential is core.nn.Sequential


def test_einops_knows_our_tensor() -> None:
    einops = pytest.importorskip("einops")
    backends = pytest.importorskip("einops._backends")
    x = core.arange(24.0).reshape(2, 3, 4)
    if not any("core" in str(getattr(b, "framework_name", "")) for b in backends._loaded_backends.values()):
        pytest.skip("einops looks for the module torch: see test_as_torch")
    assert einops.rearrange(x, "a b c -> b (a c)").shape == (3, 8)


def test_sparse_products_have_gradients() -> None:
    values = core.tensor([1.0, 2.0, 3.0], requires_grad=True)
    a = core.sparse_coo_tensor([[0, 1, 1], [1, 0, 1]], values, (2, 2))
    x = core.randn(2, 3, requires_grad=True)
    for y in (core.spmm(a, x), core.sparse.mm(a, x), core.mm(a, x), a @ x):
        assert core.allclose(y, a.to_dense() @ x)
    core.spmm(a, x).sum().backward()
    assert core.allclose(x.grad, a.to_dense().detach().t() @ core.ones(2, 3)) and core.allclose(
        values.grad, x.detach().sum(1)[core.tensor([1, 0, 1])]
    )
    assert a.is_sparse and a.coalesce().indices().shape == (2, 3) and a.t().to_dense().equal(a.to_dense().t())
    assert core.eye(2).to_sparse().to_dense().equal(core.eye(2)) and (a + a).to_dense().equal(a.to_dense() * 2)
    with pytest.raises(core.errors.DTypeError, match="to_dense"):
        a.exp()


def test_tensors_survive_copy_and_pickle() -> None:
    x = core.randn(3, requires_grad=True)
    assert copy.deepcopy(x).requires_grad and pickle.loads(pickle.dumps(x)).equal(x)


def test_inference_mode_refuses_a_backward() -> None:
    w = core.ones(2, requires_grad=True)
    with core.inference_mode():
        y = w * 2
    assert y.is_inference() and not y.requires_grad
    with pytest.raises(RuntimeError, match="Inference tensors"):
        w * y
    (w * y.clone()).sum().backward()
    assert w.grad.tolist() == [2.0, 2.0]


def test_saved_values_by_torchs_names() -> None:
    a, b = core.randn(2, requires_grad=True), core.randn(2, requires_grad=True)
    assert (a * b).grad_fn._saved_self is a and (a * b).grad_fn._saved_other is b
    y = a.exp()
    assert y.grad_fn._saved_result.equal(y)
    with pytest.raises(AttributeError):
        _ = y.grad_fn._saved_nonsense


def test_questions_that_scripts_ask() -> None:
    x = core.ones(2, 3)
    assert (
        x.is_signed()
        and not x.is_conj()
        and not x.is_pinned()
        and x.pin_memory() is x
        and x.get_device() == -1
        and x.is_cpu
    )
    assert (
        not x.is_xpu
        and not x.is_mps
        and x.layout is core.strided
        and x.itemsize == 4
        and x.nbytes == 24
        and x.storage_offset() == 0
    )
    assert (
        core.is_nonzero(core.tensor(1.0))
        and x.is_same_size(core.zeros(2, 3))
        and x.type_as(core.zeros(1, dtype=core.int64)).dtype is core.int64
    )
    assert (
        core.broadcast_shapes((2, 1), (3,)) == (2, 3)
        and core.typename(x) == "core.FloatTensor"
        and not core.is_autocast_enabled()
    )
    assert core.get_num_threads() >= 1 and core.backends.cudnn.enabled and not core.backends.mps.is_available()


def test_hub_says_what_to_do() -> None:
    with pytest.raises(core.errors.CoreError, match="load_state_dict"):
        core.hub.load("pytorch/vision", "resnet18")


def test_trees_of_containers() -> None:
    from core.utils import _pytree as trees

    Pair = collections.namedtuple("Pair", "a b")
    tree = {
        "x": [1, (2, 3)],
        "y": Pair(4, None),
        "z": collections.OrderedDict(q=5),
        "d": collections.defaultdict(int, w=6),
    }
    leaves, spec = trees.tree_flatten(tree)
    assert leaves == [1, 2, 3, 4, None, 5, 6] and spec.num_leaves == 7
    again = trees.tree_unflatten(leaves, spec)
    assert again == tree and [type(v) for v in again.values()] == [type(v) for v in tree.values()]
    assert trees.tree_map(lambda a, b: a + b, [1, (2,)], [10, (20,)]) == [11, (22,)]
    assert trees.tree_map_only(int, str, [1, "a", {"k": 2.0}]) == ["1", "a", {"k": 2.0}]
    assert trees.tree_leaves([(1, 2), 3], is_leaf=lambda x: isinstance(x, tuple)) == [(1, 2), 3]
    with pytest.raises(ValueError, match="expected trees of one shape"):
        trees.tree_map(lambda a, b: a, [1], (1,))
    with pytest.raises(ValueError, match="expected 7 leaves, got 1"):
        trees.tree_unflatten([1], spec)

    class Box:
        def __init__(self, inside: int):
            self.inside = inside

    trees.register_pytree_node(Box, lambda b: ([b.inside], "context"), lambda children, context: Box(*children))
    try:
        assert trees.tree_map(lambda v: v + 1, {"b": Box(1)})["b"].inside == 2
    finally:
        del trees._NODES[Box]


def test_benchmark_timer() -> None:
    from core.utils.benchmark import Measurement, Timer

    ticks = iter(range(1000))
    t = Timer("x += 1", "x = 0", timer=lambda: float(next(ticks)), label="add", num_threads=1)
    threads = core.get_num_threads()
    m = t.timeit(4)
    assert m.times == [0.25] and m.mean == m.median == 0.25 and m.iqr == 0.0 and core.get_num_threads() == threads
    assert t.repeat(3, 2).raw_times == [1.0] * 3
    assert Measurement(2, [2.0, 4.0, 6.0]).median == 2.0 and Measurement(1, [1.0, 2.0, 3.0]).iqr == 1.0
    assert repr(m).startswith("add\n  Median: 250.00 ms\n")
    assert t.blocked_autorange(min_run_time=3.0).raw_times == [1.0] * 3
    assert Timer("core.ones(3)", globals={"core": core}).timeit(10).mean > 0


def test_what_scripts_ask_of_other_companies_devices() -> None:
    assert not core.xpu.is_available() and core.xpu.device_count() == 0
    assert core.version.hip is None and isinstance(core.version.__version__, str)
    assert core.version.cuda is None or core.cuda.is_available()
    assert issubclass(core.cuda.OutOfMemoryError, MemoryError)


def test_attention_kernels_may_be_chosen_and_change_nothing() -> None:
    from core.nn.attention import SDPBackend, sdpa_kernel

    q = core.randn(1, 2, 3, 4)
    plain = core.nn.functional.scaled_dot_product_attention(q, q, q)
    before = core.backends.cuda.cudnn_sdp_enabled()
    for choice in (SDPBackend.MATH, [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]):
        with sdpa_kernel(choice):
            assert core.backends.cuda.cudnn_sdp_enabled() is (choice is not SDPBackend.MATH)
            assert core.nn.functional.scaled_dot_product_attention(q, q, q).equal(plain)
    assert core.backends.cuda.cudnn_sdp_enabled() is before
    with pytest.raises(ValueError, match="expected one SDPBackend or more"):
        sdpa_kernel([]).__enter__()


def test_onnx_can_be_imported_and_says_what_to_do() -> None:
    import core.onnx

    assert not core.onnx.is_in_onnx_export()
    with pytest.raises(core.errors.CoreError, match=r"onnx\.export.*save the weights"):
        core.onnx.export(core.nn.Linear(1, 1), core.ones(1, 1), "model.onnx")


def test_hooks_lie_where_programs_look_for_them() -> None:
    """Tools read `_forward_hooks` and its like: dicts from a handle's number to the hook itself, also where there is none."""
    m = core.nn.Linear(2, 2)
    assert (
        list(m._forward_hooks.values()) == list(m._forward_pre_hooks.values()) == list(m._backward_hooks.values()) == []
    )
    seen = []

    def pre(module, args):
        seen.append("pre")

    def post(module, args, kwargs, output):
        seen.append(sorted(kwargs))

    before, after = m.register_forward_pre_hook(pre), m.register_forward_hook(post, with_kwargs=True)
    assert list(m._forward_pre_hooks.items()) == [(before.id, pre)] and m._forward_hooks[after.id] is post
    m(input=core.ones(1, 2))
    assert seen == ["pre", ["input"]]
    m._forward_hooks.clear()
    m._forward_pre_hooks = collections.OrderedDict()
    m(core.ones(1, 2))
    assert len(seen) == 2


def test_numbers_are_tensors_too() -> None:
    """0-d tensors: NumPy's operators make scalars of them."""
    x = core.tensor(0.7)
    for y in (core.bernoulli(x), x.bernoulli(), core.bernoulli(x, 1.0), core.distributions.Bernoulli(0.3).sample()):
        assert isinstance(y, core.Tensor) and y.shape == () and y.item() in (0.0, 1.0)
    assert (
        core.index_select(core.arange(3), 0, core.tensor(1)).tolist() == [1]
        and x.index_select(0, core.tensor(0)).shape == ()
    )


def test_marks_for_tracers_are_taken_and_traces_refused() -> None:
    import core.fx

    @core.fx.wrap
    def double(x: core.Tensor) -> core.Tensor:
        return x * 2

    assert double(core.ones(1)).item() == 2.0 and not isinstance(core.nn.Linear(1, 1), core.fx.GraphModule)
    for ask in (core.fx.symbolic_trace, core.fx.Tracer, core.fx.GraphModule):
        with pytest.raises(core.errors.CoreError, match="a graph of its operations, which Lockstep does not make"):
            ask(core.nn.Linear(1, 1))
    core._assert(True, "fine")
    with pytest.raises(AssertionError, match="too small"):
        core._assert(False, "too small")
