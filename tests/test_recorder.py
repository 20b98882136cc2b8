"""The flight recorder, the doctor that reads it, the timeline, the sentinel."""

import json
import re
import subprocess
import sys
import time

import numpy as np
import pytest

import core
import core.nn as nn
import ddp
from core.errors import CoreError
from ddp import timeline
from ddp.doctor import diagnose
from ddp.recorder import Recorder
from tests import jobs


def records(folder):
    return {int(p.stem.split("-")[1]): json.loads(p.read_text()) for p in folder.glob("rank-*.json")}


def test_a_call_is_recorded_with_all_that_is_known(tmp_path):
    def body():
        model = ddp.DistributedDataParallel(nn.Linear(3, 2))
        model(core.ones(1, 3)).sum().backward()
        ddp.broadcast(core.ones(2), src=1)  # this line
        ddp.dump_recorder(tmp_path / "rank-{rank}.json")

    ddp.run_threads(2, body)
    mine, theirs = records(tmp_path)[0], records(tmp_path)[1]
    assert (mine["rank"], mine["size"], mine["reason"], mine["groups"]) == (0, 2, "asked for", {"0": [0, 1]})
    assert set(mine["meaning"]) <= {*mine, *(f"calls[].{k}" for k in mine["calls"][0])}
    last = mine["calls"][-1]
    assert (last["name"], last["dtype"], last["count"], last["detail"], last["state"]) == (
        "broadcast",
        "float32",
        2,
        "root=1",
        "done",
    )
    assert "test_recorder.py" in last["site"] and last["site"].endswith("in body")
    assert last["made"] <= last["begun"] <= last["ended"] <= time.time()
    bucket = next(c for c in mine["calls"] if c["about"])
    assert (
        bucket["about"] == "bucket 0 (bias … weight)" and bucket["step"] == 1 and "test_recorder.py" in bucket["site"]
    )
    assert [c["number"] for c in mine["calls"]] == [c["number"] for c in theirs["calls"]]


def test_the_ring_says_what_it_lost(monkeypatch):
    monkeypatch.setenv("LOCKSTEP_RECORD_CALLS", "5")

    def body():
        for _ in range(8):
            ddp.barrier()
        return ddp.distributed._group(None).lane.recorder.snapshot("test")

    for record in ddp.run_threads(2, body):
        assert record["overwritten"] == 3 and [c["number"] for c in record["calls"]] == [4, 5, 6, 7, 8]


def test_recording_is_cheap():
    recorder = Recorder(0, 1)

    def calls(n):
        began = time.perf_counter()
        for i in range(n):
            e = recorder.call("all_reduce", "float32", 1, "sum", 0)
            recorder.begins(e, i)
            recorder.ends(e)
        return (time.perf_counter() - began) / n

    assert min(calls(2000) for _ in range(10)) < 4e-6  # 1.1 us where nothing else runs


def fails(act, size, folder, monkeypatch, message=".*"):
    """Let the ranks do something that fails, and diagnose it."""
    monkeypatch.setenv("LOCKSTEP_RECORD_DIR", str(folder))

    def body():
        with pytest.raises(CoreError, match=message):
            for _ in range(3):
                ddp.barrier()
            act(ddp.get_rank())
            ddp.barrier()

    ddp.run_threads(size, body, timeout_s=20)
    return diagnose([folder])


def different(rank):
    if rank == 1:
        ddp.all_reduce(core.ones(3))
    else:
        ddp.all_reduce(core.ones(2))


def absent(rank):
    if rank == 2:
        time.sleep(1)
    ddp.monitored_barrier(timeout=0.3)


FAILURES = {
    "another call": (
        different, 3, r"rank 1 is at fault: it made another call than the others at #4: rank 1: all_reduce #4 \(float32\[3\], sum\) at ",
    ),
    "one of two": (different, 2, r"ranks \[0, 1\] made different calls at #4: "),
    "late": (absent, 3, r"rank 2 is at fault"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILURES)
def test_diagnosis(name, tmp_path, monkeypatch):
    act, size, verdict = FAILURES[name]
    text = fails(act, size, tmp_path, monkeypatch)
    assert len(records(tmp_path)) == size
    assert re.match(verdict, text), text
    assert all(f"  rank {r}: " in text for r in range(size))


PROGRAM = """
import os, signal, sys, time
import core, ddp
ddp.init_process_group(timeout=20)
me = ddp.get_rank()
for _ in range(3):
    ddp.all_reduce(core.ones(4))
if me == 1:
    {act}
ddp.all_reduce(core.ones(4))
"""
ACTS = {
    "leave": (
        "sys.exit()",
        [0, 2],
        r"rank 1 is at fault: it ended in good order while others went on; ranks \[0, 2\] lost it in",
    ),
    "kill": (
        "os.kill(os.getpid(), signal.SIGKILL)",
        [0, 2],
        r"rank 1 is at fault: it left no record, so it was killed",
    ),
    "raise": ("raise KeyError('lost my way')", [0, 1, 2], r"rank 1 is at fault: it raised KeyError: 'lost my way'"),
}


@pytest.mark.parametrize("name", ACTS)
def test_processes_that_die(name, tmp_path):
    act, there, verdict = ACTS[name]
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(act=act))
    folder = tmp_path / "records"
    env = {**jobs.environment(), "LOCKSTEP_RECORD_DIR": str(folder)}
    subprocess.run([*jobs.LAUNCHERS["ddprun"](3), str(program)], capture_output=True, timeout=40, env=env)
    assert sorted(records(folder)) == there
    assert re.match(verdict, diagnose([folder])), diagnose([folder])


def test_where_a_rank_hangs(tmp_path):
    program = tmp_path / "program.py"
    hang = "def forever():\n        while True: time.sleep(1)\n    forever()"
    program.write_text(PROGRAM.format(act=hang).replace("timeout=20", "timeout=2"))
    folder = tmp_path / "records"
    done = subprocess.run(
        [*jobs.LAUNCHERS["ddprun"](3), "--log-dir", str(folder), str(program)],
        capture_output=True,
        text=True,
        timeout=40,
        env=jobs.environment(),
    )
    assert done.returncode == 1 and "ddprun doctor" in done.stderr, done.stderr
    text = diagnose([folder])
    assert re.match(
        r'rank 1 is at fault: it was in no call but in File ".*program\.py", line \d+ in forever; ranks \[0, 2\]', text
    ), text
    assert re.search(r"\nrank 1 was here when it was ended:\n.*thread", text)
    assert [path.name for path in folder.glob("*.stack")] == [
        "rank-1.stack"
    ]  # those that ended by themselves leave none


FORKED = """
import os, signal, sys, time, core, ddp
ddp.init_process_group(timeout=20)
ddp.all_reduce(core.ones(2))
for end in ("return", "raise", "term"):
    if not (child := os.fork()):
        if end == "raise":
            raise KeyError("a child's own")
        if end == "term":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        sys.exit(0)
    os.waitpid(child, 0)
    ddp.all_reduce(core.ones(2))
folder = os.environ["LOCKSTEP_RECORD_DIR"]
print(sorted((f, os.path.getsize(os.path.join(folder, f))) for f in os.listdir(folder) if "out" not in f and "err" not in f))
"""


def test_a_forked_child_ends_without_a_word(tmp_path):
    """Neither goodbye nor recording: the rank that forked it goes on."""
    program = tmp_path / "program.py"
    program.write_text(FORKED)
    argv = [*jobs.LAUNCHERS["ddprun"](2), "--log-dir", str(tmp_path / "l"), "--timeline", str(tmp_path / "t.json")]
    done = jobs.run([*argv, str(program)])
    assert done.stderr.count("timeline of 2 ranks") == 1
    assert re.search(r"\[\('rank-0\.stack', 0\), \('rank-1\.stack', 0\)\]", done.stdout), done.stdout
    assert json.loads((tmp_path / "t.json").read_text())["traceEvents"]


def test_a_file_that_is_no_record(tmp_path):
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ValueError, match="expected a lockstep flight record of version 1"):
        diagnose([tmp_path])
    with pytest.raises(ValueError, match="got no file"):
        diagnose([])


# -- timeline ----------------------------------------------------------------------------------------------------------


def test_timeline(tmp_path):
    def body():
        model = ddp.DistributedDataParallel(
            nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)), bucket_cap_mb=0.01
        )
        opt = core.optim.SGD(model.parameters(), lr=0.1)
        timeline.start(tmp_path / "out.json")
        for _ in range(3):
            opt.zero_grad()
            model(core.ones(8, 64)).sum().backward()
            opt.step()
        return timeline.stop()

    summaries = ddp.run_threads(2, body)
    for s in summaries:
        assert 0 <= s["hidden"] <= 1 and s["communication"] > 0
        assert all(s[k] > 0 for k in ("forward", "backward", "wait for gradients", "optimizer, data and all else"))
    merged = timeline.merge(sorted(tmp_path.glob("out.rank-*.json")), tmp_path / "out.json")
    assert list(merged) == ["rank 0", "rank 1"]
    rows = json.loads((tmp_path / "out.json").read_text())["traceEvents"]
    for rank in (0, 1):
        mine = [r for r in rows if r["pid"] == rank and r["ph"] == "X"]
        assert sum(r["name"] == "backward" for r in mine) == 3
        buckets = [r for r in mine if r["name"].startswith("all_reduce bucket ")]
        assert buckets and all(r["args"]["about"] and r["ts"] >= 0 and r["dur"] > 0 for r in buckets)


def test_waiting_for_a_late_rank_is_waiting_and_not_backward():
    def body():
        model = ddp.DistributedDataParallel(nn.Linear(4, 4))
        recorder = ddp.distributed._default().lane.recorder
        t = timeline.Timeline(recorder, "unused.json")
        y = model(core.ones(2, 4)).sum()
        if ddp.get_rank() == 1:
            time.sleep(0.5)
        y.backward()
        return t.summary()

    waited, _ = ddp.run_threads(2, body)
    assert waited[timeline.WAIT] > 0.3 > waited["backward"] and waited["hidden"] < 0.3


def test_hidden_share_is_what_the_script_did_not_wait_for():
    recorder = Recorder(0, 1)
    t = timeline.Timeline(recorder, "unused.json")
    recorder.about = lambda: "bucket 0"
    for begun, ended in ((0, 10), (10, 30)):
        e = recorder.call("all_reduce", "float32", 1, "avg", 0)
        e.begun, e.ended = begun, ended
        t.events.append((e.name, begun, ended, e))
    t.events.append((timeline.WAIT, 15, 40, None))
    assert t.summary()["hidden"] == pytest.approx(0.5)


def test_timeline_by_environment(tmp_path):
    code = "import core, ddp; ddp.init_process_group(); ddp.all_reduce(core.ones(2)); ddp.destroy_process_group()"
    env = {**jobs.environment(), "LOCKSTEP_TIMELINE": str(tmp_path / "t.json")}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=40, env=env)
    assert any(r["name"] == "all_reduce" for r in json.loads((tmp_path / "t.json").read_text())["traceEvents"])


TRAIN = """
import os, sys, core, core.nn as nn, ddp
ddp.init_process_group(timeout=20)
model = ddp.DistributedDataParallel(nn.Linear(4, 2))
for step in range(3):
    model(core.ones(1, 4)).sum().backward()
    if len(sys.argv) > 1 and step == 1 and ddp.get_rank() == 1:
        os._exit(3)
"""


def train(tmp_path, argv, *args, **env):
    (tmp_path / "train.py").write_text(TRAIN)
    return subprocess.run(
        [*argv, str(tmp_path / "train.py"), *args],
        capture_output=True,
        text=True,
        timeout=60,
        env=jobs.environment() | env,
    )


@pytest.mark.parametrize("launcher", ["ddprun", pytest.param("mpiexec", marks=jobs.needs_mpi)])
def test_a_job_leaves_one_timeline_of_all_ranks_on_one_clock(launcher, tmp_path):
    out = tmp_path / "o" / "out.json"
    argv = jobs.LAUNCHERS[launcher](3)
    if launcher == "ddprun":
        done = train(tmp_path, [*argv, "--timeline", str(out)])
    else:
        done = train(tmp_path, argv, LOCKSTEP_TIMELINE=str(out))
    assert done.returncode == 0 and f"timeline of 3 ranks: {out}" in done.stderr, done.stderr
    assert [path.name for path in out.parent.iterdir()] == ["out.json"]
    rows = json.loads(out.read_text())["traceEvents"]
    assert all({"ph", "ts", "pid", "tid", "name"} <= row.keys() for row in rows)
    buckets: dict[int, list] = {}
    for row in rows:
        if row["ph"] == "X" and row["name"].startswith("all_reduce bucket"):
            buckets.setdefault(row["args"]["number"], []).append((row["ts"], row["ts"] + row["dur"]))
    assert len(buckets) == 3
    for spans in buckets.values():  # an all-reduce ends nowhere before it has begun everywhere
        assert len(spans) == 3 and max(begun for begun, _ in spans) <= min(ended for _, ended in spans)
    for rank in range(3):
        names = [row["name"] for row in rows if row["pid"] == rank]
        assert names.count("forward") == names.count("backward") == names.count(timeline.WAIT) == 3


def test_the_timelines_of_survivors_stay_apart_and_can_be_merged(tmp_path):
    (tmp_path / "out.rank-1.json").write_text(json.dumps({"traceEvents": [], "otherData": {}, "run": "before"}))
    done = train(tmp_path, [*jobs.LAUNCHERS["ddprun"](3), "--timeline", str(tmp_path / "out.json")], "die")
    assert done.returncode == 3 and "timeline of" not in done.stderr
    parts = [tmp_path / f"out.rank-{rank}.json" for rank in (0, 2)]
    assert all(part.exists() for part in parts) and not (tmp_path / "out.json").exists()
    merge = [sys.executable, "-m", "ddp.timeline", str(tmp_path / "out.json")]
    told = subprocess.run([*merge, *map(str, parts)], capture_output=True, text=True, timeout=40)
    assert told.stdout == f"{tmp_path / 'out.json'}: rank 0, rank 2\n"
    assert {row["pid"] for row in json.loads((tmp_path / "out.json").read_text())["traceEvents"]} == {0, 2}
    (tmp_path / "x.json").write_text("{}")
    told = subprocess.run([*merge, str(tmp_path / "x.json")], capture_output=True, text=True, timeout=40)
    assert told.returncode == 2 and "expected timelines of ranks" in told.stderr


def test_the_clocks_of_other_hosts_are_measured(tmp_path, monkeypatch):
    ahead = {0: 0.0, 1: 5.0, 2: -7.0}
    real = time.time

    class Clock:
        perf_counter_ns = time.perf_counter_ns

        def time(self):
            return real() + ahead[ddp.get_rank()]

    monkeypatch.setattr(timeline, "time", Clock())
    monkeypatch.setattr(timeline, "_host", lambda: f"host {ddp.get_rank()}")
    monkeypatch.setenv(timeline.VARIABLE, str(tmp_path / "out.json"))

    def body():
        begun = timeline.start_if_asked(ddp.distributed._group(None))
        return begun.ahead_s, begun.run

    found = ddp.run_threads(3, body)
    assert [each[0] for each in found] == pytest.approx([0.0, 5.0, -7.0], abs=0.1) and len(
        {run for _, run in found}
    ) == 1
    monkeypatch.setattr(timeline, "_host", lambda: "one")
    assert [each[0] for each in ddp.run_threads(3, body)] == [0.0] * 3


# -- progress ----------------------------------------------------------------------------------------------------------


def test_progress_of_a_job_that_says_nothing(tmp_path):
    done = train(tmp_path, [*jobs.LAUNCHERS["ddprun"](2), "--progress"])
    assert re.search(r"^\[0\] step 3, [\d.]+ steps/s, \d+% of the time waiting for gradients", done.stderr, re.M)
    assert "[1] step" not in done.stderr


def test_progress_bar(capfd):
    def body():
        bar = ddp.ProgressBar([3, 4, 5, 6], text="epoch 1")
        assert len(bar) == 4
        for each in bar:
            bar.note(loss=1 / each, rank=ddp.get_rank())
            if each == 5:
                break

    ddp.run_threads(2, body)
    last = capfd.readouterr().err.splitlines()[-1].rpartition("\r")[2]
    assert re.fullmatch(r"epoch 1 \[#{15}\.{15}\] 2/4, [\d.]+/s, \d+ s left, loss 0\.2, rank 0 *", last)
    assert list(ddp.ProgressBar(iter("ab"))) == ["a", "b"]
    assert re.search(r"2, [\d.]+/s *$", capfd.readouterr().err)
    with pytest.raises(TypeError, match="give total"):
        len(ddp.ProgressBar(iter("ab")))


# -- sentinel ----------------------------------------------------------------------------------------------------------


def flipped(array, place, bit):
    array.reshape(-1).view(np.uint32)[place] ^= np.uint32(1 << bit)


@pytest.mark.parametrize(
    "size, expected",
    [
        (
            3,
            r"step 4: .*in 1 of 4 tensors; rank 1 diverged from the majority: 2\.weight: rank 1 \(1 of 16 elements, the first at 5: ",
        ),
        (2, r"no majority says which rank is right: 2\.weight: rank 1 \(1 of 16"),
    ],
)
def test_a_flipped_bit_is_found(size, expected):
    def body():
        core.manual_seed(0)
        model = ddp.DistributedDataParallel(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
        opt = core.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        opt.register_step_post_hook(ddp.Sentinel(model.module, every=2))
        for step in range(4):
            if step == 3 and ddp.get_rank() == 1:
                flipped(model.module[2].weight._a, 5, 3)
            opt.zero_grad()
            model(core.ones(1, 4)).sum().backward()
            if step < 3:
                opt.step()
            else:
                with pytest.raises(RuntimeError, match=expected):
                    opt.step()

    ddp.run_threads(size, body)


def test_the_optimizers_state_is_watched_if_asked():
    def body():
        model = nn.Linear(2, 2)
        model = ddp.DistributedDataParallel(model)
        opt = core.optim.Adam(model.parameters())
        model(core.ones(1, 2)).sum().backward()
        opt.step()
        ddp.Sentinel(model, optimizer=opt).check()
        if ddp.get_rank() == 2:
            opt.state[model.module.bias]["exp_avg"][0] += 1
        ddp.Sentinel(model).check()
        with pytest.raises(RuntimeError, match=r"rank 2 diverged from the majority: exp_avg of module\.bias: rank 2"):
            ddp.Sentinel(model, optimizer=opt).check()

    ddp.run_threads(3, body)
