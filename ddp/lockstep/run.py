"""One training run, computed by whoever is there.

The protocol. A run is a sequence of operations, the same for all members: steps, evaluations, saves. Each has two halves. In the first a
member computes and exchanges messages, and changes nothing that lasts: parameters and optimizer are only read, buffers are put back after
each shard, gradients are dropped if it fails. In the second, which needs nobody else, it takes over the result; then the operation is
done (`_done` counts them). So at any time a survivor's state is that before an operation or that after it, and nothing between.

When a member is lost, the others stop waiting, agree on the next generation (`membership`) and begin it by telling each other the number
of operations done and the digest of the state. Nobody can be done with an operation before everybody took part in it, so these numbers
differ by one at most. Who is behind takes over the state of one who is ahead, checks its digest, and has the operation done, too. If
nobody is ahead the operation is begun again, in new shares: the state after it is a function of the state before, so it does not matter
who computes it again. A worker that joins is simply one that is far behind; it is let in when a step has been done.

Invariants
- The bits of a step depend on the state, the step's number and V; never on members, ranks, time, or how often it was tried.
- Members of a generation that have done the same number of operations have the same digest, or DivergenceError names them.
- Every process hands out a step at most once, after it is done: what the loop's body does happens once there. The log file (`log`)
  has each step once however often the leader changes.

Limits. A body that prints on the leader can print a step twice if the leader dies before the others are done with it; the log cannot.
Python's and NumPy's own random numbers in `fn` are not ours to key. Values on a GPU are staged through the host.
"""

from __future__ import annotations

import atexit
import base64
import io
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

import core
from core import backend
from core._tensor import Tensor, wrap
from core.autograd import no_grad
from core.backend.threads import set_num_threads
from core.errors import CheckpointError
from core.philox import PhiloxGenerator, derived_seed, drawing_from
from core.serialize import archive
from ddp.errors import DDPError, DeadlineError, PeerLostError
from ddp.lockstep.buffers import Buffers
from ddp.lockstep.compute import Computation, Part
from ddp.lockstep.digest import digest, digests
from ddp.lockstep.faults import Faults
from ddp.lockstep.fingerprint import check_same, fingerprint
from ddp.lockstep.log import Log
from ddp.lockstep.membership import Link
from ddp.lockstep.phases import ShardGroup
from ddp.lockstep.shards import Cut, Shard, Source
from ddp.lockstep.state import State, is_floating
from ddp.sync_batchnorm import stand_in
from ddp.transport.base import chunks

_VERSION = 1
_UPDATE = 2**32 - 1  # in the place of a shard: random numbers of the optimizer


class DivergenceError(DDPError):
    """Members that did the same steps have different states: something is not deterministic."""


@dataclass(frozen=True)
class Step:
    """A step that is done."""

    number: int  # how many steps are done, this one included
    epoch: int  # that its samples belong to, from 0
    loss: float  # the mean over the batch
    count: int  # samples
    grad_norm: float | None  # before clipping, if that was asked for
    digest: str | None  # of the state after it, every `digest_every` steps and at the last


class Lockstep:
    """A training run. See the package for what it is good for, and the module for how it works.

    `shards` (V) is how finely a batch can be shared out, and part of the experiment, as `batch_size` and `seed` are: another V is another
    rounding. `scheduler` moves on once a step. `clip_norm` bounds the norm of the whole gradient. `drop_last` leaves out the short last
    batch of an epoch. `collate_fn` is as in a DataLoader. `log` names a file (see `ddp.lockstep.log`); `log_parameters` adds a digest of
    every parameter where there is one of the state. `threads` is for BLAS and oneDNN, whatever the machine has, because another number
    rounds otherwise. `timeout_s` bounds every wait for a member that lives.

    Every member builds the same model, and calls `steps`, `evaluate` and `save` in the same order. If they begin with different values,
    all take over those of the first.
    """

    def __init__(
        self, model: Any, optimizer: Any, dataset: Any, *, shards: int = 16, batch_size: int = 256, seed: int = 0, scheduler: Any = None,
        clip_norm: float | None = None, drop_last: bool = False, collate_fn: Callable[[Any], Any] | None = None,
        log: str | os.PathLike[str] | None = None, log_parameters: bool = False, digest_every: int = 100, threads: int = 1,
        timeout_s: float = 600.0,
    ):  # fmt: skip
        set_num_threads(threads)
        self.model, self.optimizer, self.scheduler, self.clip_norm = model, optimizer, scheduler, clip_norm
        self.step = 0  # how many are done
        self.seed = int(seed)
        self._cut = Cut(len(dataset), batch_size, shards, self.seed, drop_last)
        self._source = Source(dataset, self.seed, collate_fn)
        self._state = State(model, optimizer, scheduler)
        self._computation = Computation(self._state, self._cut, self._source, self.seed, self._fault)
        self._buffers = Buffers(self._state, shards)
        self._fingerprint = fingerprint()
        path = os.environ.get("LOCKSTEP_LOG") or log
        self._log = Log(path, {**asdict(self._cut), "fingerprint": self._fingerprint}) if path else None
        self._digest_every, self._log_parameters = digest_every, log_parameters
        self._timeout_s = timeout_s
        self._faults = Faults.planned()
        self._link: Link | None = None
        self._closed = False
        self._agreed = False  # on the state, in this generation
        self._done = 0  # operations
        self._invited: list[int] = []  # members from the next step on
        self._last: Step | None = None
        self._cursor = 0  # the step that the script is at: behind `step` when another's work was taken over
        self._sentinel: str | None = None  # the digest after the last step, if it was taken
        self._results: dict[str, dict[str, float]] = {}  # of evaluations: "step.number" -> name -> value
        self._evaluations = 0  # at `_cursor`

    # -- what users call ----------------------------------------------------------------------------------------------

    @property
    def steps_per_epoch(self) -> int:
        return self._cut.steps_per_epoch

    @property
    def members(self) -> tuple[int, ...]:
        """The numbers of the workers that take part, in the order of their shards."""
        return self._linked().members

    @property
    def leader(self) -> bool:
        """Whether this is the first of the members: the one to print."""
        return self._linked().place == 0

    def steps(self, fn: Callable[[Shard], Tensor], until: int) -> Iterator[Step]:
        """Train until `until` steps are done in all, handing out each.

        `fn(shard)` gives the mean loss over the samples of a shard; it is called anew for every shard. Gradients are those of the mean
        over the whole batch: each shard's counts by its samples, and the division comes once, at the end.
        """
        while True:
            if self._cursor < self.step and self._last is not None and self._cursor < self._last.number <= until:
                self._move_to(self._last.number)
                if self._log:
                    self._log.add(self._line(self._last), write=self.leader)
                yield self._last
            elif self.step >= until:
                self._move_to(max(self._cursor, min(until, self.step)))
                return
            else:
                self._together(lambda: self._train(fn, until))

    def evaluate(
        self, fn: Callable[[Shard], Any], dataset: Any = None, batch_size: int | None = None
    ) -> dict[str, float]:
        """The means over a dataset (default: that of the training), each sample once, on every member the same.

        `fn(shard)` gives a dict of sums over the samples of a shard: {"right": (model(s.x).argmax(1) == s.y).sum()}.
        Inside, the model is in evaluation mode and no graph is recorded.
        """
        source = self._source if dataset is None else Source(dataset, self.seed)
        cut = Cut(len(source.dataset), batch_size or self._cut.batch_size, self._cut.shards, self.seed)
        key = f"{self._cursor}.{self._evaluations}"
        while key not in self._results:  # a worker that joined later has the results of those before it
            self._together(lambda: self._measure(fn, source, cut, key))
        self._evaluations += 1
        return dict(self._results[key])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to a file, by one member, at once: a file that is there is replaced when the new one is whole."""
        if self._cursor >= self.step:  # else it was done before this worker came
            self._together(lambda: self._write(path))

    def resume(self, path: str | os.PathLike[str]) -> bool:
        """Go on from a file, if it is there. With any number of members."""
        if not os.path.exists(path):
            return False
        self.load_state_dict(core.load(path))
        return True

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the run depends on, for `core.save`. Its "model" is `model.state_dict()`."""
        about = {
            **self._settings(),
            "version": _VERSION,
            "step": self.step,
            "digest": self.digest(),
            "fingerprint": self._fingerprint,
            "last": asdict(self._last) if self._last else None,
            "results": self._results,
        }
        return {**self._state.state_dict(), "lockstep": json.dumps(about)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state of the same run (model, optimizer, seed, shards, batch size, samples), made on the same sort of machine."""
        about = json.loads(state["lockstep"])
        where = f"rank {self._link.me if self._link else 0}: Lockstep.load_state_dict"
        mine = self._settings()
        if differ := [name for name in mine if mine[name] != about.get(name)]:
            got = ", ".join(f"{name} {about.get(name)}, not {mine[name]}" for name in differ)
            raise CheckpointError(f"{where}: expected a state of the same run, got {got}; build the run as it was")
        check_same(self._fingerprint, about["fingerprint"], where, "in the state")
        self._state.load_state_dict(state)
        self.step, self._sentinel = about["step"], None
        self._results = {**about["results"]}
        self._last = None
        if (found := self.digest()) != about["digest"]:
            raise CheckpointError(f"{where}: expected the digest {about['digest']}, got {found}; the state is damaged")

    def digest(self) -> str:
        """SHA-256 of parameters, buffers, optimizer, scheduler, seed and position: all that decides how the run goes on."""
        return digest(self._items())

    def close(self) -> None:
        """Leave the run. The process may end without it, but then the others take it for dead."""
        link = self._link
        if link is None or self._closed:
            return
        while not link.leave():  # one of the others has died before it was done, and the rest must go on
            self._agreed = False
            while not self._agreed:
                self._endure(lambda: self._agree(link))
        self._closed = True
        if self._log and link.elastic:
            self._log.finish()
        link.close()

    # -- operations ---------------------------------------------------------------------------------------------------

    def _together(self, act: Callable[[], None]) -> None:
        """Do one operation, with whoever is there, and again until it is done. Or find out that the others have done it."""
        done, link = self._done, self._linked()
        while self._done == done or not self._agreed:
            self._endure((lambda: self._attempt(act)) if self._agreed else (lambda: self._agree(link)))

    def _endure(self, act: Callable[[], None]) -> None:
        """Do it. If a member is lost meanwhile, begin the next generation, in which nothing is agreed upon yet."""
        failure: PeerLostError | DeadlineError | None = None
        try:
            act()
        except (PeerLostError, DeadlineError) as error:
            failure = error
        if failure is not None:
            self._agreed = False
            self._fault("recover")
            self._linked().survive(failure)

    def _attempt(self, act: Callable[[], None]) -> None:
        """Do an operation, or be as before."""
        self._state.keep()
        try:
            act()
        except BaseException:
            self._invited = []
            self._state.take_gradients()
            self._state.taken()
            self._computation.forget()
            raise
        self._done += 1
        if self._invited:
            self._agreed = False
            link = self._linked()
            link.regroup({*link.members, *self._invited})

    def _linked(self) -> Link:
        if self._link is None:
            self._link = Link.open(self._timeout_s)
            if self._link.elastic:
                atexit.register(self.close)  # who comes to its end says so
        return self._link

    def _agree(self, link: Link) -> None:
        """At the beginning of a generation: on the machine, the number of operations done, and the state."""
        self._invited = []
        mine = {
            "done": self._done,
            "step": self.step,
            "digest": self.digest(),
            "late": link.late,
            "fingerprint": self._fingerprint,
        }
        said = [json.loads(each) for each in link.gather("status", json.dumps(mine).encode())]
        known = [place for place, each in enumerate(said) if not each["late"]]
        if not known:
            raise DDPError(
                f"rank {link.me}: Lockstep: expected a member with the state of the run, got {link.members}, who all came later"
            )
        if strangers := {p for p, each in enumerate(said) if each["fingerprint"] != said[known[0]]["fingerprint"]}:
            if not all(said[p]["late"] for p in strangers) or link.place in strangers:
                other = known[0] if link.place in strangers else min(strangers)
                whose = f"on rank {link.members[other]}"
                check_same(self._fingerprint, said[other]["fingerprint"], f"rank {link.me}: Lockstep", whose)
            return link.regroup({member for place, member in enumerate(link.members) if place not in strangers})
        place = max(known, key=lambda p: (said[p]["done"], said[p]["step"], -p))
        ahead = said[place]
        behind = [
            p for p, each in enumerate(said) if (each["done"], each["digest"]) != (ahead["done"], ahead["digest"])
        ]
        apart = [link.members[p] for p in behind if said[p]["done"] == ahead["done"] and not said[p]["late"]]
        if apart and ahead["done"]:
            raise self._diverged(link, self.step, apart)
        if behind:
            self._pass_on(link, place, behind, ahead)
        link.late, self._agreed = False, True

    def _pass_on(self, link: Link, place: int, behind: list[int], ahead: dict[str, Any]) -> None:
        """The state goes from one member to those that are behind."""
        self._fault("join")
        packed = np.empty(0, np.uint8)
        if link.place == place:
            file = io.BytesIO()
            core.save(self.state_dict(), file)
            packed = np.frombuffer(file.getvalue(), np.uint8)
        size = int(link.gather("size", str(packed.size).encode())[place])
        if link.place in behind:
            packed = np.empty(size, np.uint8)
        receive = {place: [packed]} if link.place in behind else {}
        send = {p: [packed] for p in behind} if link.place == place else {}
        link.swap("state", send, receive, "uint8", size)
        if link.place in behind:
            state = core.load(io.BytesIO(packed.data))
            self.load_state_dict(state)
            last = json.loads(state["lockstep"])["last"]
            self._last = Step(**last) if last else None
            self._done, link.late = ahead["done"], False
            assert self.digest() == ahead["digest"], "the digest of the state was checked when it was loaded"

    # -- a step -------------------------------------------------------------------------------------------------------

    def _train(self, fn: Callable[[Shard], Tensor], until: int) -> None:
        link, work = self._linked(), self._computation
        part = work.part(fn, self.step, link)
        last = self.step + 1 == until
        said = self._tell(link, part, last)
        reports = sorted((report for each in said for report in each["shards"]), key=lambda report: report["number"])
        count = sum(report["count"] for report in reports)
        loss = math.fsum(report["loss"] * report["count"] for report in reports) / count
        gradients = work.gradients(link, part, reports, count)
        buffers = self._buffers.mean(link, part.changes, reports, [each["sums"] for each in said])
        self._fault("update")
        step = self.step
        norm = _clip([gradients[i] for i in sorted(gradients)], self.clip_norm)
        self._apply(gradients, buffers, [number for each in said for number in each["ints"]])
        work.release()
        self._invited = said[0]["invited"]
        self._sentinel = self.digest() if last or (self._digest_every and self.step % self._digest_every == 0) else None
        self._last = Step(self.step, self._cut.epoch(self.step - 1), loss, count, norm, self._sentinel)
        self._fault("applied", step)

    def _tell(self, link: Link, part: Part, last: bool) -> list[dict[str, Any]]:
        """What every member has to say of its shards, by place."""
        self._fault("exchange")
        ints: list[dict[str, str]] = []
        for changed in part.changes.values():
            texts = {n: base64.b64encode(v.tobytes()).decode() for n, v in changed.items() if not is_floating(v)}
            if texts not in ints:
                ints.append(texts)
        invited = [] if last else link.newcomers()
        mine = {"shards": part.reports, "ints": ints, "invited": invited, "digest": self._sentinel}
        sums = self._buffers.told(link, part.changes, part.reports)
        heard = [each.partition(b"\n") for each in link.gather("shards", json.dumps(mine).encode() + b"\n" + sums)]
        said = [{**json.loads(text), "sums": sums} for text, _, sums in heard]
        apart = [
            link.members[p]
            for p, each in enumerate(said)
            if self._sentinel and each["digest"] not in (None, self._sentinel)
        ]
        if apart:
            raise self._diverged(link, self.step, apart)
        return said

    def _apply(
        self, gradients: dict[int, np.ndarray], buffers: dict[str, np.ndarray], ints: list[dict[str, str]]
    ) -> None:
        """The second half of a step: nothing here can fail because of another member."""
        if any(texts != ints[0] for texts in ints):
            raise DivergenceError(
                f"rank {self._linked().me}: Lockstep.steps: expected integer buffers that every shard changes alike, got {ints}; "
                "let them depend on the number of calls only"
            )
        for i, g in gradients.items():
            p = self._state.params[i]
            be = backend.of(p._a)
            p._grad = wrap(be.from_numpy(g, be.index_of(p._a)) if be.device_type != "cpu" else g)
        with drawing_from(PhiloxGenerator(self.seed, self.step, _UPDATE)):
            self.optimizer.step()
        self._state.take_gradients()
        if self.scheduler is not None:
            self.scheduler.step()
        self._state.give(buffers)
        for name, text in (ints[0] if ints else {}).items():
            kept = self._state.kept[name]
            self._state.give({name: np.frombuffer(base64.b64decode(text), kept.dtype).reshape(kept.shape)})
        self.step += 1

    # -- evaluation, saving -------------------------------------------------------------------------------------------

    def _measure(self, fn: Callable[[Shard], Any], source: Source, cut: Cut, key: str) -> None:
        link = self._linked()
        owned = chunks(cut.shards, link.size)[link.place]
        mine = []
        with _evaluating(self.model), no_grad():
            for number in range(cut.steps_per_epoch):
                batch = cut.sequential(number)
                for k in range(owned.start, owned.stop):
                    if len(batch[k]):
                        shard = Shard(k, number, 0, batch[k], source.fetch(batch[k], 0))
                        with drawing_from(PhiloxGenerator(derived_seed(self.seed, "evaluate"), number, k)):
                            found = fn(shard)
                        mine.append({name: float(value) for name, value in found.items()})
        self._fault("evaluate")
        said = [values for each in link.gather("values", json.dumps(mine).encode()) for values in json.loads(each)]
        # fsum rounds once, whatever the order
        self._results[key] = {name: math.fsum(values[name] for values in said) / cut.samples for name in said[0]}

    def _write(self, path: str | os.PathLike[str]) -> None:
        link = self._linked()
        if link.place == 0:
            file = io.BytesIO()
            core.save(self.state_dict(), file)
            with archive.replaced(path) as target:
                target.write(file.getbuffer()[: file.tell() // 2])
                self._fault("save")
                target.write(file.getbuffer()[file.tell() // 2 :])
                link.check_in()  # a worker that was stopped here for a while must not replace what the others wrote since
        link.gather("saved", b"")

    # -- parts --------------------------------------------------------------------------------------------------------

    def _settings(self) -> dict[str, Any]:
        return {**asdict(self._cut), "clip_norm": self.clip_norm}

    def _items(self) -> Iterator[tuple[str, Any]]:
        """The state as named values, for digests."""
        yield "run", {**self._settings(), "step": self.step}
        yield from self._state.items()

    def _line(self, step: Step) -> dict[str, Any]:
        """Of the log."""
        fields = {"step": step.number, **{k: v for k, v in asdict(step).items() if k != "number" and v is not None}}
        # a worker that took the step over has its digest, and the state too
        return {**fields, "parameters": digests(self._items())} if self._log_parameters and step.digest else fields

    def _move_to(self, cursor: int) -> None:
        if cursor != self._cursor:
            self._cursor, self._evaluations = cursor, 0

    def _fault(self, phase: str, step: int | None = None) -> None:
        if self._faults is not None:
            link = self._linked()
            self._faults.at(phase, self.step if step is None else step, link.place, link.size)

    def _diverged(self, link: Link, step: int, others: list[int]) -> DivergenceError:
        return DivergenceError(
            f"rank {link.me}: Lockstep: expected the same state on all members after step {step}, got another digest on "
            f"{', '.join(f'rank {other}' for other in others)}; fn, or the loop's body, does something of its own there"
        )


def _clip(gradients: list[np.ndarray], limit: float | None) -> float | None:
    """Scale the gradients in place so that their norm is at most `limit`. Returns the norm: in float64, in the order of the parameters."""
    if limit is None:
        return None
    squares = [
        float(np.sum(np.square(g.reshape(-1), dtype=np.float64 if g.dtype.kind != "c" else None).real))
        for g in gradients
    ]
    norm = math.sqrt(math.fsum(squares)) if all(map(math.isfinite, squares)) else math.nan
    if not norm <= limit:  # also for NaN, which then is everywhere
        for g in gradients:
            g *= np.asarray(limit / (norm + 1e-6), g.dtype)
    return norm


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    stand_in.group = ShardGroup(1)  # a shard by itself
    try:
        yield
    finally:
        stand_in.group = None
        for module, training in before:
            module.training = training
