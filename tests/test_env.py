"""`ddp.env` as a table: what each launcher leaves in the environment, and the world that it means."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ddp.env import FLAVOURS, World, world_from_env
from ddp.errors import WorldError

TORCH = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "GROUP_RANK": "1"}
OURS = {
    **TORCH,
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
    "LOCKSTEP_JOB": "ab" * 16,
    "LOCKSTEP_KEY_FILE": "/dev/fd/3",
    "LOCKSTEP_RESTART": "2",
}
OMPI = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "PMIX_RANK": "1",
}
HYDRA = {"PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
BATCH = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
STEP = {
    **BATCH,
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3),1",
    "SLURM_PROCID": "4",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "2",
}
NODES = {**STEP, "SLURM_STEP_ID": "3", "SLURM_STEP_NODELIST": "node[02-03,07],login", "SLURM_JOB_NODELIST": "login"}
AT_NODE_2 = World(4, 7, 0, 2, 2, "slurm", "node02", 20115, "slurm-7.3")

WORLDS = {
    "nothing": ({}, World()),
    "torchrun": (TORCH, World(5, 8, 1, 4, 1, "ddprun")),
    "ddprun": (OURS, World(5, 8, 1, 4, 1, "ddprun", "10.0.0.1", 29500, "ab" * 16, "/dev/fd/3", 2)),
    "torchrun, restarted": ({**TORCH, "TORCHELASTIC_RESTART_COUNT": "1"}, World(5, 8, 1, 4, 1, "ddprun", restart=1)),
    "kubernetes": ({"RANK": "1", "WORLD_SIZE": "2"}, World(1, 2, launcher="ddprun")),
    "mpirun": (OMPI, World(1, 2, 1, 2, launcher="openmpi")),
    "mpiexec.hydra": (HYDRA, World(3, 4, 1, 2, launcher="mpich")),
    "srun": (STEP, World(4, 7, 0, 2, 2, "slurm")),
    "srun, last node": (
        {**STEP, "SLURM_PROCID": "6", "SLURM_NODEID": "3"},
        World(6, 7, 0, 1, 3, "slurm"),
    ),
    "srun, with its nodes": (NODES, AT_NODE_2),
    "srun, the job's nodes": (
        {**NODES, "SLURM_STEP_NODELIST": "", "SLURM_JOB_NODELIST": "a1,b[2-3]"},
        replace(AT_NODE_2, master_addr="a1"),
    ),
    "srun, told where to meet": (
        {**NODES, "MASTER_ADDR": "h", "MASTER_PORT": "99", "LOCKSTEP_JOB": "ab", "LOCKSTEP_KEY_FILE": "/home/me/key"},
        World(4, 7, 0, 2, 2, "slurm", "h", 99, "ab", "/home/me/key"),
    ),
    "srun, told the port alone": ({**NODES, "MASTER_PORT": "99"}, replace(AT_NODE_2, master_port=99)),
    "pmix and an exported size": ({"PMIX_RANK": "1", "WORLD_SIZE": "3"}, World(1, 3, launcher="pmix")),
    "by hand, all on this host": (
        {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1"},
        World(1, 4, 1, 4, launcher="ddprun"),
    ),
    # several that agree
    "srun --mpi=pmi2": ({**STEP, "PMI_RANK": "4", "PMI_SIZE": "7"}, World(4, 7, 0, 2, 2, "mpich")),
    "srun --mpi=pmix": ({**STEP, "PMIX_RANK": "4"}, World(4, 7, 0, 2, 2, "slurm")),
    "sbatch exports WORLD_SIZE": ({**STEP, "WORLD_SIZE": "7"}, World(4, 7, 0, 2, 2, "slurm")),
    "mpirun, wrapper sets RANK": ({**OMPI, "RANK": "1", "WORLD_SIZE": "2"}, World(1, 2, 1, 2, launcher="ddprun")),
    "mpirun, wrapper shows one GPU": (
        {**OMPI, "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"},
        World(1, 2, 0, 1, launcher="ddprun"),
    ),
    "mpirun with our job": (
        {**OMPI, "LOCKSTEP_JOB": "ab", "LOCKSTEP_KEY_FILE": "/k"},
        World(1, 2, 1, 2, launcher="openmpi", job="ab", key_file="/k"),
    ),
    # Slurm as a carrier: its tasks are another launcher's daemons
    "mpirun in a batch script": ({**BATCH, **OMPI}, World(1, 2, 1, 2, launcher="openmpi")),
    "mpirun's daemon in a step": ({**STEP, **OMPI}, World(1, 2, 1, 2, launcher="openmpi")),
    "hydra's proxy in a step": ({**STEP, **HYDRA}, World(3, 4, 1, 2, launcher="mpich")),
    "torchrun in a step": ({**STEP, **TORCH, "TORCHELASTIC_RUN_ID": "none"}, World(5, 8, 1, 4, 1, "ddprun")),
    # not worlds
    "batch script": (BATCH, World()),
    "address alone": ({"MASTER_ADDR": "h", "MASTER_PORT": "1", "LOCAL_RANK": "0"}, World()),
    "empty is absent": ({"RANK": "", "WORLD_SIZE": ""}, World()),
}

ERRORS = {
    "size without rank": ({"WORLD_SIZE": "4"}, r"got WORLD_SIZE=4 alone; .*set RANK too, or unset WORLD_SIZE"),
    "rank without size": ({"RANK": "0"}, r"got RANK=0 alone; .*set WORLD_SIZE too"),
    "empty size": ({"RANK": "0", "WORLD_SIZE": ""}, "got RANK=0 alone"),
    "mpi size alone": ({"OMPI_COMM_WORLD_SIZE": "2"}, "got OMPI_COMM_WORLD_SIZE=2 alone"),
    "pmix alone": ({"PMIX_RANK": "0"}, r"got PMIX_RANK=0 alone; .*WORLD_SIZE"),
    "local rank without size": ({"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}, "LOCAL_WORLD_SIZE too"),
    "not a number": ({"RANK": "one", "WORLD_SIZE": "2"}, "whole number.*RANK='one'"),
    "a fraction": ({"RANK": "0", "WORLD_SIZE": "2.0"}, r"whole number.*WORLD_SIZE='2\.0'"),
    "digits of another script": ({"RANK": "٣", "WORLD_SIZE": "4"}, "whole number"),
    "negative": ({"RANK": "-1", "WORLD_SIZE": "2"}, "0 or more.*RANK='-1'"),
    "rank too big": ({"RANK": "2", "WORLD_SIZE": "2"}, "below.*RANK=2 and WORLD_SIZE=2"),
    "nobody": ({"RANK": "0", "WORLD_SIZE": "0"}, "below.*WORLD_SIZE=0"),
    "local rank too big": ({**TORCH, "LOCAL_RANK": "4"}, "below.*LOCAL_RANK=4 and LOCAL_WORLD_SIZE=4"),
    "port": ({**TORCH, "MASTER_PORT": "http"}, "MASTER_PORT='http'"),
    "exported size and mpirun": (
        {**OMPI, "RANK": "1", "WORLD_SIZE": "1"},
        "agree.*WORLD_SIZE=1 and OMPI_COMM_WORLD_SIZE=2; use one launcher, and unset",
    ),
    "exported rank and mpirun": ({**OMPI, "RANK": "0", "WORLD_SIZE": "2"}, "RANK=0 and OMPI_COMM_WORLD_RANK=1"),
    "exported world and srun": ({**STEP, "RANK": "0", "WORLD_SIZE": "1"}, "RANK=0 and SLURM_PROCID=4"),
    "exported job and srun": ({**STEP, "LOCKSTEP_JOB": "ab", "WORLD_SIZE": "1"}, "SLURM_STEP_NUM_TASKS=7"),
    "two MPIs": ({**OMPI, **HYDRA}, "OMPI_COMM_WORLD_RANK=1 and PMI_RANK=3"),
    "tasks per node": ({**STEP, "SLURM_STEP_TASKS_PER_NODE": "2(x3"}, r"written as in 2\(x3\),1"),
    "node list": ({**NODES, "SLURM_STEP_NODELIST": "node[a-b]"}, r"as in node\[01-03,07\], got .*set MASTER_ADDR"),
    "restart": ({**TORCH, "LOCKSTEP_RESTART": "x"}, "LOCKSTEP_RESTART='x'"),
    "no such node": ({**STEP, "SLURM_NODEID": "4"}, "tasks for node 4"),
}


@pytest.mark.parametrize("environ, world", WORLDS.values(), ids=WORLDS)
def test_world(environ, world):
    assert world_from_env(environ) == world


@pytest.mark.parametrize("environ, message", ERRORS.values(), ids=ERRORS)
def test_error(environ, message):
    with pytest.raises(WorldError, match=message):
        world_from_env(environ)


def test_every_flavour_has_a_row():
    assert {world.launcher for _, world in WORLDS.values()} == {"none", *(row.name for row in FLAVOURS)}


def test_there_and_back():
    world = WORLDS["ddprun"][1]
    assert world.to_env() == OURS
    assert world_from_env(world.to_env()) == world


def test_what_is_not_known_is_not_told():
    assert World(launcher="ddprun").to_env() == {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "GROUP_RANK": "0",
        "LOCKSTEP_RESTART": "0",
    }


def test_the_environment_is_the_default(monkeypatch):
    for row in FLAVOURS:
        for name in (row.rank, row.size):
            monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert world_from_env().rank == 1


FIRST_HOSTS = {
    "one": "one",
    "a.b-c_d,e": "a.b-c_d",
    "node7": "node7",
    "node[01-03,07]": "node01",
    "node[7,9-12],login": "node7",
    "rack[2-3]-node[008-010]": "rack2-node008",
    "n[1-2]x,m": "n1x",
}


@pytest.mark.parametrize("nodes, first", FIRST_HOSTS.items(), ids=FIRST_HOSTS)
def test_first_host(nodes, first):
    assert world_from_env({**NODES, "SLURM_STEP_NODELIST": nodes}).master_addr == first


@pytest.mark.parametrize("nodes", ("[1-2", "node[]", "node[-1]", ",a", "a b"))
def test_no_host(nodes):
    with pytest.raises(WorldError, match="expected nodes"):
        world_from_env({**NODES, "SLURM_STEP_NODELIST": nodes})
