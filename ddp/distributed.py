"""torch.distributed: one process's part in the job.

Contract: without a launcher the world is this process alone and every call works, so a script has no `if
distributed`. `init_process_group` is the first thing here that opens anything. A rank that ends by an exception tells
the others, who then raise instead of waiting. Not here: torch.distributed's pickled objects; what crosses the wire is
arrays, and data made of them (`ddp.objects`).
"""

from __future__ import annotations

import atexit
import datetime
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlparse

import numpy as np

from core._tensor import Tensor, wrap
from core.backend.threads import set_num_threads
from core.errors import ArgumentError, unknown_name
from ddp import timeline
from ddp.env import World, world_from_env, world_of_script
from ddp.errors import DDPError, WorldError
from ddp.group import NON_GROUP_MEMBER, WORLD, Lane, ProcessGroup, Work, _seconds
from ddp.recorder import OURS
from ddp.transport import TRANSPORTS, open_transport
from ddp.transport.one_host import placed
from ddp.transport.threads import run as _run_threads

DEFAULT_TIMEOUT_S = 600.0
# A rank that stops because of another ends this much later, so that the other is seen to end first.
AFTER_THE_CULPRIT_S = 0.5
# torch's errors, as far as scripts catch them
DistError = DistBackendError = DistNetworkError = DistStoreError = DDPError
default_pg_timeout = datetime.timedelta(seconds=DEFAULT_TIMEOUT_S)

# who started us -> what we talk over, unless told
_BY_LAUNCHER = {"openmpi": "mpi", "mpich": "mpi", "pmix": "mpi", "slurm": "mpi"}
# torch's backends that a script may name: what they do, ours do
ALIASES = {"gloo": None, "nccl": None, "ucc": None}


class ReduceOp:
    """How a reduction combines elements."""

    SUM = "sum"
    PRODUCT = "product"
    MIN = "min"
    MAX = "max"
    BAND = "band"
    BOR = "bor"
    BXOR = "bxor"
    AVG = "avg"


reduce_op = ReduceOp  # its name before torch 1.0


class GroupMember:
    """Names for `group=`: WORLD is every rank."""

    WORLD = WORLD
    NON_GROUP_MEMBER = NON_GROUP_MEMBER


class Backend(str):
    """The name of a backend, in lower case."""

    MPI, ZMQ, GLOO, NCCL, UCC, UNDEFINED = "mpi", "zmq", "gloo", "nccl", "ucc", "undefined"

    def __new__(cls, name: str) -> Backend:
        return super().__new__(cls, name.lower())


class _State(threading.local):
    """The default group: of the process, unless this thread is a rank of its own (`run_threads`)."""

    own: ProcessGroup | None = None


_state = _State()
_process: ProcessGroup | None = None
_groups_made: dict[int, int] = {}  # id of a lane -> groups made on it, the world included


def init_process_group(
    backend: str | None = None,
    init_method: str | None = None,
    timeout: Any = None,
    world_size: int = -1,
    rank: int = -1,
    store: Any = None,
    group_name: str = "",
    pg_options: Any = None,
    device_id: Any = None,
) -> None:
    """Join the job that the environment (ddprun, mpirun, srun, torchrun's variables) or `rank`, `world_size` and
    `init_method` describe.

    `backend`: "mpi", "zmq", or None for what suits the launcher ("gloo" and "nccl" mean None). `timeout` (seconds or
    a timedelta) bounds every wait. A `store` or file:// is not used: where a launcher started the ranks none is needed.
    Errors: WorldError, an unknown backend, a missing library, DeadlineError naming who did not come.
    """
    global _process
    if _default() is not None:
        raise DDPError(
            "init_process_group: trying to initialize the default process group twice; call destroy_process_group() first"
        )
    timeout_s = DEFAULT_TIMEOUT_S if timeout is None else _seconds(timeout)
    world = _world(init_method if store is None else "file:", world_size, rank)
    name = _backend_name(backend)
    if name is not None and name not in TRANSPORTS and name not in ALIASES:
        raise ArgumentError(unknown_name("init_process_group", "backend", name, ["mpi", "zmq"]))
    if name is not None and not (name == "nccl" and _gpu_is_available()):  # with a GPU it is what it says
        name = ALIASES.get(name, name)
    from ddp import progress  # which counts what is recorded here

    if name is None:
        name = "loopback" if world.size == 1 else _BY_LAUNCHER.get(world.launcher, "zmq")
    if name == "zmq":
        world = placed(world)
    transport = open_transport(name, world, timeout_s)
    _process = _first_group(Lane(transport), world, timeout_s)
    _process.lane.timeline = timeline.start_if_asked(_process)
    _process.lane.recorder.watch_sigterm()
    _process.lane.progress = progress.start_if_asked(_process.lane.recorder)
    if world.size > 1:
        _tell_others_of_exceptions(_process)
    _share_cores(world)
    atexit.register(_leave)


def _share_cores(world: World) -> None:
    """The ranks of a host divide its cores, unless somebody has decided (ddprun does, by the same variable)."""
    if world.local_size > 1 and "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        set_num_threads(max(1, cores // world.local_size))


def _world(init_method: str | None, world_size: int, rank: int) -> World:
    if init_method in (None, "env://") and (rank < 0) and (world_size < 0):
        return world_from_env()
    url = urlparse(init_method or "env://")
    if url.scheme not in ("env", "tcp", "file"):
        raise WorldError(f"init_process_group: expected init_method env:// or tcp://host:port, got {init_method!r}")
    world = World(launcher="tcp") if url.scheme == "tcp" else world_from_env()
    if url.scheme == "file" and world.launcher == "none":
        raise WorldError(
            "init_process_group: expected ranks that ddprun, mpirun or srun started to meet by file:// or a store, got none of these; "
            "use one of them, or init_method tcp://host:port"
        )
    size = world_size if world_size >= 0 else world.size
    me = rank if rank >= 0 else world.rank
    if not 0 <= me < size:
        raise WorldError(f"init_process_group: expected 0 <= rank < world_size, got rank {me}, world_size {size}")
    if url.scheme == "tcp":
        told = {"MASTER_ADDR": url.hostname or "", "MASTER_PORT": str(url.port or "")}
        return world_of_script(me, size, {**os.environ, **told})
    return world if (world.rank, world.size) == (me, size) else world_of_script(me, size)


def _backend_name(backend: str | None) -> str | None:
    """Of "cpu:gloo,cuda:nccl" the one for the device that there is."""
    if not backend or ":" not in backend:
        return backend.lower() if backend else None
    by_device = dict(each.strip().split(":", 1) for each in backend.lower().split(","))
    return by_device.get("cuda" if _gpu_is_available() else "cpu", next(iter(by_device.values())))


def _gpu_is_available() -> bool:
    from core.backend.cuda import is_available  # most worlds need not load that room

    return is_available()


def _first_group(lane: Lane, world: World, timeout_s: float) -> ProcessGroup:
    _groups_made[id(lane)] = 1
    return ProcessGroup(lane, world, range(world.size), 0, timeout_s)


def _tell_others_of_exceptions(pg: ProcessGroup) -> None:
    """An exception that nobody catches ends this rank only; without a word the others would wait for it."""
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if isinstance(error, DDPError):  # what went wrong is told by its message, and is not in our own lines
            _cut_to_script(trace)
        previous(kind, error, trace)
        sys.stderr.flush()
        if _process is pg and os.getpid() == pg.lane.pid:
            text = f"{kind.__name__}: {error}"
            pg.lane.recorder.write_on_failure(
                text, getattr(error, "rank", None) if isinstance(error, DDPError) else pg.rank
            )
            if pg.lane.timeline is not None:
                timeline.stop()  # now: over MPI the next line ends this process
            pg.lane.transport.abort(text)
            if isinstance(error, DDPError) and getattr(error, "rank", pg.rank) not in (None, pg.rank):
                time.sleep(AFTER_THE_CULPRIT_S)  # whoever started us calls the first that ends the cause

    sys.excepthook = hook


def _cut_to_script(trace: Any) -> None:
    """Let a traceback end at the last line that is outside of our packages, if there is one."""
    last = None
    while trace is not None:
        if not trace.tb_frame.f_code.co_filename.startswith(OURS):
            last = trace
        trace = trace.tb_next
    if last is not None:
        last.tb_next = None


def _leave() -> None:
    if _process is not None and os.getpid() == _process.lane.pid:  # and not a child that this process has forked
        destroy_process_group()


def destroy_process_group(group: ProcessGroup | None = None) -> None:
    """Leave the job: the others see a goodbye. A sub-group only ends here."""
    global _process
    pg = _default()
    if pg is None:
        raise DDPError("destroy_process_group: expected a process group, got none; call init_process_group() first")
    if group is not None and group is not pg:
        return
    _groups_made.pop(id(pg.lane), None)
    if pg.lane.timeline is not None:
        timeline.stop()
    if pg.lane.progress is not None:
        pg.lane.progress.end()
    pg.lane.recorder.end()
    if _state.own is pg:
        _state.own = None
    else:
        _process = None
    pg.lane.close()


def run_threads(size: int, fn: Callable[[], Any], timeout_s: float = 60.0) -> list[Any]:
    """Run fn() on `size` threads, each a rank of a world of its own, for tests and debugging. Returns the results by
    rank.
    """

    def main(transport: Any) -> Any:
        world = World(rank=transport.rank, size=size, local_rank=transport.rank, local_size=size, launcher="threads")
        _state.own = pg = _first_group(Lane(transport), world, timeout_s)
        pg.lane.enter = lambda: setattr(_state, "own", pg)  # for callbacks, which run in the lane's thread
        try:
            return fn()
        finally:
            _state.own = None
            if pg.lane._thread is not None:
                pg.lane._queue.put(None)

    return _run_threads(size, main, timeout_s)


# -- who am I
# ------------------------------------------------------------------------------------------------------------


def _default() -> ProcessGroup | None:
    return _state.own or _process


def _group(group: Any) -> ProcessGroup:
    pg = _default() if group is None else group
    if pg is None:
        raise DDPError("Default process group has not been initialized: expected init_process_group() before this call")
    if not isinstance(pg, ProcessGroup):
        raise ArgumentError(f"group: expected a process group that this rank is a member of, got {pg!r}")
    return pg


def is_initialized() -> bool:
    """Whether this process (or thread) has joined a job."""
    return _default() is not None


def get_pg_count() -> int:
    """How many process groups this job has made."""
    return _groups_made[id(_group(None).lane)]


def get_rank(group: Any = None) -> int:
    """This process's rank in the group, from 0."""
    return int(_group(group).rank)


def get_world_size(group: Any = None) -> int:
    """How many ranks the group has."""
    return int(_group(group).size)


def get_backend(group: Any = None) -> str:
    """The name of the transport."""
    return _group(group).backend


def get_backend_config(group: Any = None) -> str:
    """The transport by device, as torch writes it."""
    name = _group(group).backend
    return f"cpu:{name},cuda:{name}"


def get_default_backend_for_device(device: Any) -> str:
    """The transport that moves tensors of this device: the same for all."""
    return _group(None).backend if is_initialized() else "zmq"


def get_node_local_rank(fallback_rank: int | None = None) -> int:
    """This process's rank among those of its host."""
    return get_world().local_rank if is_initialized() else (fallback_rank or world_from_env().local_rank)


def get_world() -> World:
    """This process's place in the job, as the launcher described it."""
    return _group(None).world


def new_group(ranks: Sequence[int] | None = None, timeout: Any = None, backend: Any = None, **_: Any) -> Any:
    """A group of some ranks. Every rank of the world calls it, in the same order; those outside get
    `group.NON_GROUP_MEMBER`.
    """
    pg = _group(None)
    number = _groups_made[id(pg.lane)]
    _groups_made[id(pg.lane)] += 1
    members = sorted(range(pg.world.size) if ranks is None else ranks)
    if pg.world.rank not in members:
        return NON_GROUP_MEMBER
    return ProcessGroup(pg.lane, pg.world, members, number, pg.timeout_s if timeout is None else _seconds(timeout))


def new_subgroups(
    group_size: int | None = None, group: Any = None, timeout: Any = None, backend: Any = None, **_: Any
) -> tuple[ProcessGroup, list[Any]]:
    """The world in groups of `group_size` neighbours (None: those of a host): this rank's, and all of them."""
    world = _group(None).world
    size = world.local_size if group_size is None else group_size
    if size < 1 or world.size % size:
        raise ArgumentError(
            f"rank {world.rank}: new_subgroups: expected a group_size that divides the world size {world.size}, got {size}"
        )
    cuts = [list(range(start, start + size)) for start in range(0, world.size, size)]
    return new_subgroups_by_enumeration(cuts, timeout)


def new_subgroups_by_enumeration(
    ranks_per_subgroup_list: Sequence[Sequence[int]], timeout: Any = None, backend: Any = None, **_: Any
) -> tuple[Any, list[Any]]:
    """A group for each list of ranks: this rank's (`group.NON_GROUP_MEMBER` if it is in none), and all of them."""
    groups = [new_group(ranks, timeout) for ranks in ranks_per_subgroup_list]
    return next((g for g in groups if g is not NON_GROUP_MEMBER), NON_GROUP_MEMBER), groups


def get_group_rank(group: ProcessGroup, global_rank: int) -> int:
    """A rank of the world as a rank of the group."""
    return group.group_rank(global_rank, "get_group_rank")


def get_global_rank(group: ProcessGroup, group_rank: int) -> int:
    """A rank of the group as a rank of the world."""
    return group.ranks[group_rank]


def get_process_group_ranks(group: Any = None) -> list[int]:
    """The world's ranks in the group."""
    return list(_group(group).ranks)


# -- collectives: torch.distributed's signatures; ranks are the world's
# -------------------------------------------------------


def all_reduce(tensor: Tensor, op: str = ReduceOp.SUM, group: Any = None, async_op: bool = False) -> Work | None:
    """Every rank's tensor becomes the reduction over all. In place."""
    return _group(group).all_reduce(tensor, op, async_op)


def reduce(
    tensor: Tensor, dst: int = 0, op: str = ReduceOp.SUM, group: Any = None, async_op: bool = False,
    group_dst: int | None = None,
) -> Work | None:  # fmt: skip
    """The tensor of `dst` becomes the reduction over all. In place there."""
    pg = _group(group)
    return pg.reduce(tensor, _root(pg, dst, group_dst, "reduce"), op, async_op)


def broadcast(
    tensor: Tensor, src: int = 0, group: Any = None, async_op: bool = False, group_src: int | None = None
) -> Work | None:
    """Every rank's tensor becomes that of `src`. In place."""
    pg = _group(group)
    return pg.broadcast(tensor, _root(pg, src, group_src, "broadcast"), async_op)


def all_gather(tensor_list: Sequence[Tensor], tensor: Tensor, group: Any = None, async_op: bool = False) -> Work | None:
    """tensor_list[r] becomes the tensor of rank r, on every rank."""
    return _group(group).all_gather(tensor_list, tensor, async_op)


def all_gather_into_tensor(
    output_tensor: Tensor, input_tensor: Tensor, group: Any = None, async_op: bool = False
) -> Work | None:
    """output (size·n, *) or (size, n, *) becomes all the inputs (n, *), in rank order."""
    pg = _group(group)
    return pg.all_gather(_blocks(output_tensor, input_tensor, pg, "all_gather_into_tensor"), input_tensor, async_op)


def gather(
    tensor: Tensor, gather_list: Sequence[Tensor] | None = None, dst: int = 0, group: Any = None, async_op: bool = False,
    group_dst: int | None = None,
) -> Work | None:  # fmt: skip
    """gather_list[r] becomes the tensor of rank r, on `dst`."""
    pg = _group(group)
    return pg.gather(tensor, gather_list, _root(pg, dst, group_dst, "gather"), async_op)


def scatter(
    tensor: Tensor,
    scatter_list: Sequence[Tensor] | None = None,
    src: int = 0,
    group: Any = None,
    async_op: bool = False,
    group_src: int | None = None,
) -> Work | None:
    """The tensor of rank r becomes scatter_list[r] of `src`."""
    pg = _group(group)
    return pg.scatter(tensor, scatter_list, _root(pg, src, group_src, "scatter"), async_op)


def all_reduce_coalesced(
    tensors: Sequence[Tensor], op: str = ReduceOp.SUM, group: Any = None, async_op: bool = False
) -> Work | None:
    """`all_reduce` of each tensor, as one call. In place."""
    return _group(group).all_reduce_coalesced(tensors, op, async_op)


def all_gather_coalesced(
    output_tensor_lists: Sequence[Sequence[Tensor]], input_tensor_list: Sequence[Tensor], group: Any = None,
    async_op: bool = False,
) -> Work | None:  # fmt: skip
    """output[r][i] becomes input i of rank r, on every rank."""
    pg = _group(group)
    if len(output_tensor_lists) != pg.size:
        raise ArgumentError(
            f"rank {pg.world.rank}: all_gather_coalesced: expected {pg.size} lists, one for each rank, got {len(output_tensor_lists)}"
        )
    work: Work | None = None
    for i, t in enumerate(input_tensor_list):  # the last one ends last
        work = pg.all_gather([theirs[i] for theirs in output_tensor_lists], t, async_op)
    return work


def reduce_scatter(
    output: Tensor, input_list: Sequence[Tensor], op: str = ReduceOp.SUM, group: Any = None, async_op: bool = False
) -> Work | None:
    """The output of rank r becomes the reduction of input_list[r] over all ranks."""
    return _group(group).reduce_scatter(output, input_list, op, async_op)


def reduce_scatter_tensor(
    output: Tensor, input: Tensor, op: str = ReduceOp.SUM, group: Any = None, async_op: bool = False
) -> Work | None:
    """The output (n, *) of rank r becomes block r of the reduction of the inputs (size·n, *)."""
    pg = _group(group)
    return pg.reduce_scatter(output, _blocks(input, output, pg, "reduce_scatter_tensor"), op, async_op)


def all_to_all(
    output_tensor_list: Sequence[Tensor], input_tensor_list: Sequence[Tensor], group: Any = None, async_op: bool = False
) -> Work | None:
    """output[s] on rank r becomes input[r] of rank s. Sizes may differ."""
    return _group(group).all_to_all(output_tensor_list, input_tensor_list, async_op)


def all_to_all_single(
    output: Tensor, input: Tensor, output_split_sizes: Sequence[int] | None = None,
    input_split_sizes: Sequence[int] | None = None, group: Any = None, async_op: bool = False,
) -> Work | None:  # fmt: skip
    """`all_to_all` of the blocks of one tensor: rows by the split sizes, by default equally many. All ranks give sizes, or none does."""
    pg, where = _group(group), "all_to_all_single"
    if output_split_sizes is None and input_split_sizes is None:
        return pg.all_to_all_equal(_split(output, None, pg, where), _split(input, None, pg, where), async_op)
    return pg.all_to_all(
        _split(output, output_split_sizes, pg, where), _split(input, input_split_sizes, pg, where), async_op
    )


def barrier(group: Any = None, async_op: bool = False, device_ids: Any = None, timeout: Any = None) -> Work | None:
    """Return when every rank has come here."""
    return _group(group).barrier(async_op, None if timeout is None else _seconds(timeout))


def monitored_barrier(group: Any = None, timeout: Any = None, wait_all_ranks: bool = False) -> None:
    """`barrier` with a deadline of its own; the error names who is missing, as that of every call here does."""
    _group(group).barrier(False, None if timeout is None else _seconds(timeout))


def send(tensor: Tensor, dst: int = 0, group: Any = None, tag: int = 0, group_dst: int | None = None) -> None:
    """Send to a rank, which calls `recv` with the same tag."""
    pg = _group(group)
    pg.send(tensor, _root(pg, dst, group_dst, "send"), tag)


def recv(tensor: Tensor, src: int = 0, group: Any = None, tag: int = 0, group_src: int | None = None) -> int:
    """Receive from a rank, in place. Returns the source."""
    pg = _group(group)
    source = _root(pg, src, group_src, "recv")
    pg.recv(tensor, source, tag)
    return pg.ranks[source]


def isend(tensor: Tensor, dst: int = 0, group: Any = None, tag: int = 0, group_dst: int | None = None) -> Work:
    """`send` without waiting."""
    pg = _group(group)
    return pg.send(tensor, _root(pg, dst, group_dst, "isend"), tag, async_op=True)


def irecv(tensor: Tensor, src: int = 0, group: Any = None, tag: int = 0, group_src: int | None = None) -> Work:
    """`recv` without waiting."""
    pg = _group(group)
    return pg.recv(tensor, _root(pg, src, group_src, "irecv"), tag, async_op=True)


def _root(pg: ProcessGroup, rank: int, group_rank: int | None, where: str) -> int:
    """One of the group's ranks, which is told as one of the world or as one of the group."""
    if group_rank is None:
        if rank is None:
            raise ArgumentError(f"rank {pg.world.rank}: {where}: expected the rank at the other end, got None; name it")
        return pg.group_rank(rank, where)
    if not 0 <= group_rank < pg.size:
        raise ArgumentError(
            f"rank {pg.world.rank}: {where}: expected a group rank below {pg.size}, got {group_rank}; ranks count from 0"
        )
    return group_rank


def _blocks(whole: Tensor, part: Tensor, pg: ProcessGroup, where: str) -> list[Tensor]:
    """`whole`, which holds one `part` for each rank, as views of them."""
    if whole._a.size != part._a.size * pg.size or not whole._a.flags.c_contiguous:
        raise ArgumentError(
            f"rank {pg.world.rank}: {where}: expected a contiguous tensor of {pg.size} × {part._a.size} elements, "
            f"got shape {tuple(whole.shape)}"
        )
    return [wrap(a) for a in whole._a.reshape(pg.size, *part._a.shape)]


def _split(whole: Tensor, sizes: Sequence[int] | None, pg: ProcessGroup, where: str) -> list[Tensor]:
    """Rows of a tensor, so many for each rank, as views."""
    rows = whole._a.shape[0] if whole._a.ndim else -1
    told = [rows // pg.size] * pg.size if sizes is None else list(sizes)
    if len(told) != pg.size or sum(told) != rows or min(told) < 0 or not whole._a.flags.c_contiguous:
        raise ArgumentError(
            f"rank {pg.world.rank}: {where}: expected a contiguous tensor whose first dimension divides into "
            f"{pg.size if sizes is None else told}, got shape {tuple(whole.shape)}"
        )
    return [wrap(a) for a in np.split(whole._a, np.cumsum(told)[:-1])]
