"""`--cpu`: a program that asks for GPUs gets the CPU; without the option it gets an error that names the option.

PyTorch's public examples of DDP run where a checkout is at hand: PYTORCH_EXAMPLES, PYTORCH_TUTORIALS name its folder.
"""

import inspect
import os
import subprocess
import sys
import textwrap
from importlib import import_module
from pathlib import Path

import pytest

from launch.backends import load_launcher
from launch.backends.base import Session, command
from launch.job import job_from_args
from tests import jobs

DDPRUN = [sys.executable, "-m", "launch", "--as-torch"]
ASKS_FOR_GPUS = r"""
import os, sys
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

def train(rank, world_size):
    torch.cuda.set_device(rank)
    device = torch.device(f"cuda:{rank}")
    dist.init_process_group("cpu:gloo,cuda:nccl", rank=rank, world_size=world_size, device_id=device)
    torch.manual_seed(0)
    torch.cuda.manual_seed_all(0)
    x = torch.randn(32, 4, device="cuda")
    data = TensorDataset(x.cpu(), x.cpu().sum(1, keepdim=True))
    model = DistributedDataParallel(torch.nn.Linear(4, 1).cuda(rank), device_ids=[rank], output_device=rank)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cuda")
    begun, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begun.record()
    for x, y in DataLoader(data, batch_size=4, sampler=DistributedSampler(data), pin_memory=True):
        with torch.autocast("cuda"), torch.cuda.stream(torch.cuda.Stream()):
            loss = torch.nn.functional.mse_loss(model(x.to(rank)), y.to(device, non_blocking=True))
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    ended.record()
    torch.cuda.synchronize()
    assert begun.elapsed_time(ended) > 0
    whole = torch.tensor([loss.item()], device=device)
    dist.all_reduce(whole)
    if rank == 0:
        torch.save(model.module.state_dict(), "model.pt")
    dist.barrier(device_ids=[rank])
    model.module.load_state_dict(torch.load("model.pt", map_location={"cuda:0": f"cuda:{rank}"}))
    where = torch.accelerator.current_accelerator()
    told = torch.cuda.device_count(), torch.cuda.current_device(), where, torch.cuda.get_device_name(), model.module.weight.device
    sys.stdout.write(" ".join(map(str, (rank, *told, whole.item() < 8))) + "\n")  # whole lines: two may write at once
    dist.destroy_process_group()

if __name__ == "__main__":
    assert torch.cuda.is_available() and torch.accelerator.is_available()
    if "LOCAL_WORLD_SIZE" in os.environ and int(os.environ["LOCAL_WORLD_SIZE"]) > 1:
        train(int(os.environ["LOCAL_RANK"]), int(os.environ["WORLD_SIZE"]))
    else:
        os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = "localhost", sys.argv[1]
        mp.spawn(train, (torch.cuda.device_count(),), torch.cuda.device_count())
"""
SAYS = "as_torch: --cpu: the 2 GPUs that the program sees are the CPU; autocast of the GPU computes in float32"


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "train.py"
    path.write_text(ASKS_FOR_GPUS)
    return path


WAYS = {
    "ranks": [*DDPRUN, "--cpu", "-n", "2"],
    "spawned": [*DDPRUN, "--cpu-devices", "2"],
}


@pytest.mark.parametrize("way", WAYS)
def test_it_runs_on_the_cpu_and_says_so(way, program, tmp_path):
    done = jobs.run([*WAYS[way], str(program), str(jobs.free_port())], cwd=tmp_path)
    lines = sorted(
        line.removeprefix(f"[{i}] ") for i in range(2) for line in done.stdout.splitlines() if f"{i} 2 {i}" in line
    )
    assert lines == [f"{rank} 2 {rank} cpu CPU cpu True" for rank in range(2)]
    assert done.stderr.count(SAYS) == 1


def test_without_the_option_the_error_names_it(tmp_path):
    path = tmp_path / "asks.py"
    path.write_text("import torch\nprint(torch.cuda.is_available(), torch.cuda.device_count())\ntorch.zeros(3).to(0)")
    if import_module("core.cuda").is_available():
        pytest.skip("there is a GPU")
    done = subprocess.run([*DDPRUN, str(path)], capture_output=True, text=True, timeout=60, env=jobs.environment())
    assert done.returncode == 1 and done.stdout == "False 0\n"
    assert "device 'cuda'" in done.stderr and "ddprun --as-torch --cpu …" in done.stderr


@pytest.mark.parametrize("room, names", [("core.cuda", "CUDA"), ("core.accelerator", "ACCELERATOR")])
def test_what_stands_in_is_called_like_the_original(room, names):
    on_cpu, original = import_module("core.cuda.on_cpu"), import_module(room)
    for name in getattr(on_cpu, names):
        mine, theirs = (list(inspect.signature(getattr(m, name)).parameters) for m in (on_cpu, original))
        assert mine == [n for n in theirs if n != "raw"], name


def test_every_launcher_passes_it_on(tmp_path):
    script = tmp_path / "train.py"
    script.touch()
    for options, words in ((["--cpu"], ["--cpu"]), (["--cpu-devices", "4"], ["--cpu-devices", "4"])):
        job = job_from_args(["--as-torch", *options, str(script)])
        assert list(command(job))[1:] == ["-m", "launch.as_torch", *words, str(script)]
    (tmp_path / "hosts").write_text("a\n")
    for launcher in (
        ["--hostfile", str(tmp_path / "hosts")],
        ["--launcher", "mpijob", "--image", "i"],
        ["--launcher", "srun"],
    ):
        job = job_from_args(["--as-torch", "--cpu", *launcher, str(script)])
        shown = load_launcher(job.launcher).plan(job, Session("0" * 32, 1, "key")).describe()
        assert "as_torch" in shown.replace("-", "_") and "--cpu" in shown


def test_it_is_for_scripts_of_torch(tmp_path, capsys):
    (tmp_path / "train.py").touch()
    with pytest.raises(SystemExit):
        job_from_args(["--cpu", str(tmp_path / "train.py")])
    assert "--cpu: expected --as-torch with it" in capsys.readouterr().err


# -- PyTorch's own -----------------------------------------------------------------------------------------------------

SERIES = "distributed/ddp-tutorial-series"
EXAMPLES = {  # script, its arguments, how it counts its processes, what they print in all
    "ddp": ("distributed/ddp/example.py", [], "-n", "training completed in rank {rank}!"),
    "series, single": (f"{SERIES}/single_gpu.py", ["2", "1"], "", "[GPU0] Epoch 1"),
    "series, spawned": (f"{SERIES}/multigpu.py", ["2", "1"], "--cpu-devices", "[GPU{rank}] Epoch 1"),
    "series, ranks": (f"{SERIES}/multigpu_torchrun.py", ["2", "1"], "-n", "[GPU{rank}] Epoch 1"),
    "series, hosts": (f"{SERIES}/multinode.py", ["2", "1"], "-n", "[GPU{rank}] Epoch 1"),
}
TUTORIAL = "Finished running DDP checkpoint example on rank {rank}."


def checkout(variable: str) -> Path:
    if not os.environ.get(variable):
        pytest.skip(f"needs a checkout of pytorch's repository: set {variable} to its folder")
    return Path(os.environ[variable])


def run_public(script: Path, args: list[str], counts: str, size: int, says: str, cwd: Path) -> None:
    options = ["--cpu", *([counts, str(size)] if counts else [])]
    done = jobs.run([*DDPRUN, *options, str(script), *args], cwd=cwd)
    for rank in range(size if counts else 1):
        assert says.format(rank=rank) in done.stdout, done.stdout


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", EXAMPLES)
def test_public_example(name, size, tmp_path):
    path, args, counts, says = EXAMPLES[name]
    run_public(checkout("PYTORCH_EXAMPLES") / path, args, counts, size, says, tmp_path)


@pytest.mark.parametrize("size", [2, 4])
def test_public_tutorial(size, tmp_path):
    """The program that the tutorial's listings are, up to the one that begins another program."""
    text = (checkout("PYTORCH_TUTORIALS") / "intermediate_source/ddp_tutorial.rst").read_text()
    listings = [textwrap.dedent("\n".join(_indented(part))) for part in text.split(".. code:: python\n")[1:]]
    program = tmp_path / "ddp_tutorial.py"
    program.write_text("\n".join(listings[:-1]))
    run_public(program, [], "--cpu-devices", size, TUTORIAL, tmp_path)


def _indented(text):
    """The lines of the first indented block."""
    for line in text.split("\n"):
        if line.strip() and not line.startswith("    "):
            return
        yield line
