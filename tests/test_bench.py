"""`ddp.bench` prints what it measured; the table that it keeps is used by all ranks, or refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
from xml.etree import ElementTree

import pytest

import core
from core.errors import ArgumentError
from ddp import bench, plot, scaling
from ddp.bench import KB, MB, Row
from ddp.transport import tuning
from ddp.transport.tuning import Tuning
from tests import jobs


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "lockstep" / "tuning.json"


def bench_job(*args, cache="", n=2):
    argv = [sys.executable, "-m", "launch", "-n", str(n), "-m", "ddp.bench", *args]
    env = jobs.environment() | ({"XDG_CACHE_HOME": str(cache)} if cache else {})
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, env=env)


def test_the_table_of_a_job():
    done = bench_job("--max-mb", "0.01", "--turns", "1")
    lines = [line.partition("] ")[2] for line in done.stdout.splitlines()]
    assert lines[0] == "zmq, 2 ranks" and lines[2] == "| op | size | time | GB/s |", done.stdout + done.stderr
    rows = [line.split(" | ")[:2] for line in lines[4:]]
    assert rows == [[f"| {op}", "4 KB"] for op in bench.OPS]


def test_the_scaling_of_a_model_is_told_and_drawn(tmp_path):
    done = bench_job("--scaling", "mlp", "--turns", "1", "--plot", str(tmp_path / "d" / "mlp.svg"))
    lines = [line.partition("] ")[2] for line in done.stdout.splitlines()]
    assert lines[0] == "mlp over zmq" and lines[2] == "| ranks | samples/s | a step | efficiency |", (
        done.stdout + done.stderr
    )
    rows = [line.strip("| ").split(" | ") for line in lines[4:6]]
    assert [row[0] for row in rows] == ["1", "2"] and rows[0][3] == "1.00"
    one, two = (float(row[1].replace(",", "")) for row in rows)
    assert float(rows[1][3]) == pytest.approx(two / (2 * one), abs=0.01) and one > 0 and two > 0
    drawn = ElementTree.parse(tmp_path / "d" / "mlp.svg").getroot()
    names = [each.text for each in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert {"mlp: samples/s", "ranks", "samples/s", "measured", "k times one rank"} <= set(names)


@pytest.mark.parametrize("model", scaling.MODELS)
def test_models_that_scale_can_be_trained(model):
    network, x, target = scaling.MODELS[model]()
    core.nn.functional.cross_entropy(network(x), target).backward()
    assert all(p.grad is not None for p in network.parameters()) and len(x) == len(target)


def test_a_chart_has_its_points_where_they_belong():
    drawn = ElementTree.fromstring(plot.svg("a < b", "x", "y", {"one": [(0, 0), (2, 5), (4, 10)]}))
    line = drawn.find("{http://www.w3.org/2000/svg}polyline").get("points")
    assert line == "80.0,370.0 350.0,205.0 620.0,40.0"
    assert [plot._ticks(most)[-1] for most in (0, 0.3, 1, 7, 81, 4096)] == pytest.approx([1, 0.3, 1, 7, 100, 5000])


def test_a_chart_that_cannot_be_drawn_is_refused_before_the_measurement(monkeypatch, tmp_path):
    with pytest.raises(ArgumentError, match=r"expected a file \.svg or \.png, got x\.jpg"):
        bench.main(["--plot", "x.jpg"])
    monkeypatch.setattr(plot, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        bench.main(["--plot", "x.png"])
    with pytest.raises(ArgumentError, match="expected points, got none"):
        plot.save(tmp_path / "x.svg", "", "", "", {})


def test_bandwidths_are_drawn_for_both():
    rows = [Row("broadcast", 4 * KB, 1e-5, 1e-3), Row("broadcast", 8 * KB, 2e-5, None)]
    lines = bench.bandwidths(rows)
    assert list(lines) == ["broadcast", "broadcast, Gloo"]
    assert lines["broadcast"] == [(12, pytest.approx(0.4096)), (13, pytest.approx(0.4096))]
    assert lines["broadcast, Gloo"] == [(12, pytest.approx(0.004096))]


def test_a_peer_is_set_beside_us(monkeypatch):
    monkeypatch.setattr(bench.ddp, "get_backend", lambda: "zmq")
    monkeypatch.setattr(bench.ddp, "get_world_size", lambda: 2)
    text = bench.table([Row("broadcast", 4 * KB, 1e-5, 1e-3), Row("broadcast", 2 * MB, 2e-3, 1e-3)])
    assert text.splitlines()[2].endswith("| Gloo | Gloo GB/s | Gloo's time / ours |")
    assert text.splitlines()[4] == "| broadcast | 4 KB | 10 µs | 0.41 | 1.00 ms | 0.00 | 100.0 |"
    assert text.splitlines()[5] == "| broadcast | 2 MB | 2.00 ms | 1.05 | 1.00 ms | 2.10 | 0.5 |"


def test_a_peer_that_is_no_python_with_torch_is_named():
    done = bench_job("--max-mb", "0.01", "--op", "broadcast", "--peer-python", "/bin/true")
    assert done.returncode != 0 and "bench: expected a Python with PyTorch at --peer-python" in done.stderr


def test_what_is_saved_is_loaded(cache):
    assert tuning.load() == Tuning()
    table = Tuning(direct_bytes=1 << 14, slot_bytes=1 << 19)
    assert tuning.save(table) == cache and tuning.load() == table
    assert [path.name for path in cache.parent.iterdir()] == ["tuning.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 0, "direct_bytes": -1}'])
def test_half_a_file_or_another_version_is_as_good_as_none(cache, text):
    cache.parent.mkdir()
    cache.write_text(text)
    assert tuning.load() == Tuning()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"direct_bytes": -1}, "expected direct_bytes in 0 … 1048576, got -1; run ddprun tune again"),
        ({"slot_bytes": 1 << 40}, "expected slot_bytes in 4096 … 16777216, got"),
        ({"ring_bytes": 1.5}, "expected ring_bytes in .* got 1.5"),
        ({"speed": 1}, "expected the entries direct_bytes, slot_bytes, ring_bytes, got"),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(cache, entry, message):
    tuning.save(Tuning())
    cache.write_text(json.dumps(json.loads(cache.read_text()) | entry))
    with pytest.raises(ArgumentError, match=message):
        tuning.load()


def test_tuning_is_kept_and_used(cache, monkeypatch, tmp_path):
    done = bench_job("--tune", "--turns", "1", cache=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{cache}: " in done.stdout and tuning.load().slot_bytes == Tuning().slot_bytes
    tuning.save(Tuning(slot_bytes=1 << 14))
    program = tmp_path / "program.py"
    program.write_text(
        "import core, ddp\n"
        "ddp.init_process_group(timeout=20)\n"
        "x = core.ones(1 << 16)\n"
        "ddp.all_reduce(x)\n"
        "print(ddp.distributed._process.transport.tuning.slot_bytes, x.sum().item())\n"
    )
    env = jobs.environment() | {"XDG_CACHE_HOME": str(tmp_path)}
    done = jobs.run([*jobs.LAUNCHERS["ddprun"](2), str(program)], env=env)
    assert sorted(done.stdout.splitlines()) == [f"[{rank}] 16384 131072.0" for rank in range(2)]
