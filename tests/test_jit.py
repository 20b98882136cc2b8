"""torch.jit and torch.compiler without a compiler: what is scripted, traced or marked stays what it is."""

from __future__ import annotations

import pytest

import core
from core import compiler, jit, nn


class Net(jit.ScriptModule):
    scale: jit.Final[int] = 3

    @jit.script_method
    def forward(self, x):
        return self.extra(x) * self.scale

    @jit.export
    def extra(self, x):
        return x + 1


@jit.script
def doubled(x):
    return x * 2


def test_scripted_and_traced_programs_are_themselves() -> None:
    net, x = Net(), core.ones(2)
    assert isinstance(net, nn.Module) and net(x).tolist() == [6, 6] and doubled(x).tolist() == [2, 2]
    assert jit.script(net) is net and jit.trace(net, x) is net and jit.trace_module(net, {"forward": x}) is net
    assert jit.freeze(net.eval()) is net and jit.optimize_for_inference(net) is net
    with pytest.raises(jit.Error, match="eval"):
        jit.freeze(net.train())

    def called(x):
        raise AssertionError("tracing must not run what would be traced")

    assert jit.trace(called, x) is called and jit.script_if_tracing(called) is called
    assert jit.ignore(called) is called and jit.ignore(drop=True)(called) is called and jit.unused(called) is called
    assert jit.interface(Net) is Net


def test_questions_and_values() -> None:
    assert not jit.is_scripting() and not jit.is_tracing()
    assert jit.annotate(list[int], [1]) == [1] and jit.Attribute(3, int) == 3
    assert jit.isinstance([1], list[int]) and jit.isinstance(1, (int, str)) and not jit.isinstance(1, list[int])
    future = jit.fork(lambda a, b: a + b, 1, b=2)
    assert jit.wait(future) == 3 and future.wait() == future.value() == 3 and future.done()
    with jit.optimized_execution(False):
        jit.set_fusion_strategy([("STATIC", 2)])


def test_compiled_programs_are_errors_that_say_what_to_do(tmp_path) -> None:
    with pytest.raises(jit.Error, match="state_dict"):
        jit.save(Net(), tmp_path / "x.pt")
    with pytest.raises(jit.Error, match="TorchScript"):
        jit.load(tmp_path / "x.pt")
    assert not list(tmp_path.iterdir())
    with pytest.raises(AttributeError, match="nothing_such"):
        jit.nothing_such  # noqa: B018


def test_marks_for_a_compiler() -> None:
    f = lambda x: x
    assert compiler.disable(f) is f and compiler.disable(recursive=False)(f) is f and compiler.allow_in_graph(f) is f
    assert (
        core.compile(f) is f
        and compiler.compile(mode="max-autotune")(f) is f
        and compiler.assume_constant_result(f) is f
    )
    assert not compiler.is_compiling() and not compiler.is_exporting() and not compiler.is_dynamo_compiling()
    assert compiler.list_backends() == [] and compiler.reset() is None and compiler.cudagraph_mark_step_begin() is None
    with compiler.set_stance("force_eager"):
        assert compiler.set_stance("default")(f) is f
