"""A program written for PyTorch runs on Lockstep, without PyTorch, without a change."""

import subprocess
import sys

import pytest

from tests import jobs

PROGRAM = '''
import sys
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.distributed as dist
import torch.optim as optim
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler
from torch.export import export               # not ours, and not used
import torch.jit.frontend                      # not ours, and not used

dist.init_process_group("gloo")
rank, size = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)
data = TensorDataset(torch.randn(32, 4), torch.randint(0, 3, (32,)))
model = DDP(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))
optimizer = optim.SGD(model.parameters(), lr=0.1)
loader = DataLoader(data, batch_size=32 // size, sampler=DistributedSampler(data))
for epoch in range(3):
    for x, y in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
dist.all_reduce(loss.data, op=dist.ReduceOp.AVG)
if rank == 0:
    print(sys.argv[1:], torch.tensor([1.0], dtype=torch.float64), torch.nn.functional is F, hasattr(torch, "no_such"))
    print(f"loss {loss.item():.6f}")
dist.destroy_process_group()
'''


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "train.py"
    path.write_text(PROGRAM)
    return path


def test_alone_and_in_twos_print_the_same(program):
    alone = jobs.run([sys.executable, "-m", "launch.as_torch", str(program), "a", "--b"]).stdout.splitlines()
    twos = jobs.run([sys.executable, "-m", "launch", "-n", "2", "--as-torch", str(program), "a", "--b"]).stdout
    assert alone[0] == "['a', '--b'] tensor([1.], dtype=torch.float64) True False"
    assert alone[1].startswith("loss 1.")
    assert twos.replace("[0] ", "").splitlines() == alone


USES = {
    "torch.export.export": "from torch.export import export\nexport(1)",
    "torch.nn.NoSuchLayer": "import torch.nn as nn\nnn.NoSuchLayer(3)",
    "torch.no_such": "from torch import no_such\nclass A(no_such): pass",
    "torch.ao.quantization.QConfig": "import torch.ao.quantization as q\ndef f(x: q.QConfig | None): pass\nq.QConfig(1)",
    "torch.quantization": "import torch\ntorch.quantization.quantize_dynamic(1)",
    "torch._inductor.run": "import torch._inductor\ntorch._inductor.config.debug = True\ntorch._inductor.run()",
    "torch.jit.frontend.thing": "import torch.jit.frontend\ntorch.jit.frontend.thing(2)",
}


@pytest.mark.parametrize("name", USES)
def test_what_is_missing_is_named_when_it_is_used(name, tmp_path):
    path = tmp_path / "uses.py"
    path.write_text(USES[name])
    done = subprocess.run(
        [sys.executable, "-m", "launch.as_torch", str(path)], capture_output=True, text=True, timeout=60, env=jobs.environment()
    )
    assert done.returncode == 1
    assert name in done.stderr.splitlines()[-1] and "lacks" in done.stderr.splitlines()[-1]


def test_a_module_runs_too(tmp_path):
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("")
    (tmp_path / "pack" / "main.py").write_text("import torch, sys\nprint(torch.ones(2), sys.argv[1:])")
    done = jobs.run([sys.executable, "-m", "launch.as_torch", "-m", "pack.main", "x"], cwd=tmp_path)
    assert done.stdout == "tensor([1., 1.]) ['x']\n"


CHILDREN = """
import multiprocessing, subprocess, sys
import torch, torch.nn

def work(x):
    import torchvision
    return (x * 2).tolist(), torch.nn.Linear.__module__, torchvision.__name__

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply(work, (torch.ones(2),)))
    code = "import torch.nn.functional as F, torchvision, torch; print(F.relu(torch.tensor([-1.0, 2.0])), torch.__version__)"
    print(subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=True).stdout)
"""


def test_python_processes_that_the_program_starts_find_lockstep_too(tmp_path):
    path = tmp_path / "children.py"
    path.write_text(CHILDREN)
    spawned, started, _ = jobs.run([sys.executable, "-m", "launch.as_torch", str(path)]).stdout.splitlines()
    assert spawned == "([2.0, 2.0], 'core.nn.modules.linear', 'torchvision')"
    assert started.startswith("tensor([0., 2.]) ") and started.endswith("+lockstep")


def test_nothing_to_run():
    done = subprocess.run([sys.executable, "-m", "launch.as_torch"], capture_output=True, text=True, timeout=60, env=jobs.environment())
    assert done.returncode == 2 and "arguments are required: script.py or module" in done.stderr
