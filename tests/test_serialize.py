"""core.save and core.load: values come back, damaged files are errors, and nothing in a file runs."""

import base64
import io
import os
import pickle
import random
import signal
import stat
import struct
import subprocess
import sys
import zipfile
from collections import Counter, OrderedDict, defaultdict

import numpy as np
import pytest

import core
import core.nn.functional as F
from core import dtypes, nn, serialize
from core.errors import ArgumentError, CheckpointError, CoreError, DeviceError, DTypeError
from core.serialize import archive, unpickle


def saved(value):
    file = io.BytesIO()
    core.save(value, file)
    return file.getvalue()


def back(value, **options):
    return core.load(io.BytesIO(saved(value)), **options)


def same(a, b):
    """Equal, types and all."""
    if isinstance(a, core.Tensor):
        assert type(a) is type(b) and a.dtype is b.dtype and a.shape == b.shape and a.requires_grad == b.requires_grad
        assert a._a.tobytes() == b._a.tobytes()
    elif isinstance(a, (np.ndarray, np.generic)):
        assert type(a) is type(b) and a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    else:
        assert type(a) is type(b)
        if isinstance(a, dict):
            assert list(a) == list(b)
            for k in a:
                same(a[k], b[k])
        elif isinstance(a, (list, tuple)):
            assert len(a) == len(b)
            for x, y in zip(a, b):
                same(x, y)
        else:
            assert a == b


# -- round trips -------------------------------------------------------------------------------------------------------


def state_dict():
    core.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).state_dict()


def optimizer_state():
    p = nn.Parameter(core.ones(3))
    optimizer = core.optim.Adam([p], amsgrad=True)
    p.grad = core.ones(3)
    optimizer.step()
    return optimizer.state_dict()


ROUND_TRIPS = {
    **{d.name: core.tensor([0, 1, 1, 0, 1]).to(d) for d in dtypes.ALL},
    "0-d": core.tensor(2.5),
    "empty": core.zeros(0, 3),
    "empty-out-of-larger": core.arange(5)[5:],
    "transposed": core.arange(6.0).reshape(2, 3).t(),
    "slice-with-steps": core.arange(24).reshape(2, 3, 4)[:, ::2, 1:3],
    "expanded": core.ones(3, 1).expand(3, 4),
    "requires-grad": core.ones(2).requires_grad_(),
    "parameter": nn.Parameter(core.ones(2, 2)),
    "frozen-parameter": nn.Parameter(core.ones(2, 2), requires_grad=False),
    "atoms": [None, True, False, 0, -1, 255, 256, 65536, -(2**31), 2**62, 2**100, -(2**2100), 1.5, float("inf"), 2 - 3j, "",
        "añ\n\U0001f600"],
    "bytes": [b"", b"a\x00\xff", bytearray(b"xyz"), bytearray()],
    "containers": {"l": [], "d": {}, "t": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)), "s": {1, 2}, "f": frozenset({"a"}),
        "n": {"a": {"b": [{}]}}},
    "keys": {1: "a", "b": 2, (1, (2, None)): 3, 2.5: 4, None: 5, core.float32: 6},
    "collections": [OrderedDict(a=1), defaultdict(list, a=[1]), defaultdict(None, b=2), Counter("hello")],
    "long-list": list(range(3000)),
    "big-dict": {str(i): i for i in range(3000)},
    "size": core.Size([2, 3]),
    "dtypes": list(dtypes.ALL),
    "devices": [core.device("cpu"), core.device("cuda", 1)],
    "numpy": [np.arange(6).reshape(2, 3).astype(d) for d in ("i1", "u2", "i4", "u8", "f2", "f4", "f8", "c8", "c16", "?")],
    "numpy-other": [np.array(3.0), np.zeros((0, 2)), np.asfortranarray(np.arange(6).reshape(2, 3)), np.float32(1.5), np.int64(7),
        np.bool_(True)],
    "numpy-dtype": [np.dtype("f4"), np.dtype(">i8"), np.dtype("?")],
    "state-dict": state_dict(),
    "optimizer": optimizer_state(),
}  # fmt: skip


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_round_trip(name):
    same(ROUND_TRIPS[name], back(ROUND_TRIPS[name]))


@pytest.mark.parametrize("mmap", [False, True])
def test_paths_and_state_dicts(tmp_path, mmap):
    path, state = tmp_path / "m.pth", state_dict()
    core.save(state, path)
    loaded = core.load(str(path), mmap=mmap)
    same(state, loaded)
    assert loaded._metadata == state._metadata
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    model.load_state_dict(loaded)
    same(state, model.state_dict())
    loaded["0.weight"].zero_()  # a mapped tensor is written to in memory only
    same(state, core.load(path))


@pytest.mark.parametrize("mmap", [False, True])
def test_shared_memory_stays_shared(tmp_path, mmap):
    x = core.arange(100000.0).reshape(100, 1000)
    value = {"x": x, "row": x[1], "t": x.t(), "again": x, "other": x.clone()}
    core.save(value, tmp_path / "x.pth")
    assert (tmp_path / "x.pth").stat().st_size < 2 * x._a.nbytes + 3000
    loaded = core.load(tmp_path / "x.pth", mmap=mmap)
    assert loaded["again"] is loaded["x"]
    loaded["row"][5] = -1
    assert loaded["x"][1, 5] == -1 and loaded["t"][5, 1] == -1 and loaded["other"][1, 5] == 1005
    core.save(loaded, tmp_path / "y.pth")
    assert (tmp_path / "y.pth").stat().st_size == (
        tmp_path / "x.pth"
    ).stat().st_size  # what was loaded is known to be shared


def test_one_list_stays_one_list_and_may_hold_itself():
    inner = [1]
    loaded = back([inner, inner])
    assert loaded[0] is loaded[1]
    inner.append(inner)
    loaded = back(inner)
    assert loaded[1] is loaded


def test_attributes_of_tensors():
    x, p = core.ones(2), nn.Parameter(core.ones(2))
    x.note, p.note = "a", {"b": core.ones(1)}
    loaded = back([x, p])
    assert loaded[0].note == "a" and same(p.note, loaded[1].note) is None and type(loaded[1]) is nn.Parameter


def test_negative_strides_and_foreign_strides():
    fields = np.zeros(3, dtype=[("a", "i1"), ("b", "<f4")])
    fields["b"] = [1, 2, 3]
    for array in (
        np.arange(6.0)[::-1],
        fields["b"],
        fields["b"][1, ...],
        np.arange(5, dtype=np.uint8)[:4].view(np.uint16),
    ):
        same(core._tensor.wrap(np.array(array, order="C")), back(core._tensor.wrap(array)))


def test_same_values_same_file():
    assert saved(ROUND_TRIPS["containers"]) == saved(ROUND_TRIPS["containers"])


def test_records_are_stored_aligned_and_named_as_pytorch_names_them(tmp_path):
    core.save([core.ones(3), core.ones(5)], tmp_path / "model.pth")
    with zipfile.ZipFile(tmp_path / "model.pth") as z:
        assert z.testzip() is None
        assert z.namelist() == [
            f"model/{n}"
            for n in ("data.pkl", ".format_version", ".storage_alignment", "byteorder", "data/0", "data/1", "version")
        ]
        data = (tmp_path / "model.pth").read_bytes()
        for e in z.infolist():
            names = struct.unpack("<2H", data[e.header_offset + 26 : e.header_offset + 30])
            assert e.compress_type == zipfile.ZIP_STORED and (e.header_offset + 30 + sum(names)) % 64 == 0


def test_zip64_fields():
    class Far:  # a file that is 5 GB in already, as far as its offsets say
        def __init__(self):
            self.data = io.BytesIO()

        def write(self, data):
            self.data.write(data)

    far = Far()
    z = archive.Writer(far)
    z.position = 5 << 30
    z.add("version", b"3\n")
    z.finish()
    tail = far.data.getvalue()
    offset = struct.unpack("<Q", tail[tail.index(b"PK\1\2") + 46 + len("archive/version") + 4 :][:8])[0]
    assert offset == 5 << 30 and b"PK\6\6" in tail and b"PK\6\7" in tail


# -- where tensors go ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "where",
    [
        "cpu",
        core.device("cpu"),
        {"cpu": "cpu"},
        {"cuda:0": "cpu"},
        {},
        None,
        lambda s, loc: s,
        lambda s, loc: s.cpu(),
        lambda s, loc: None,
    ],
)
def test_map_location(where):
    same(core.ones(2), back(core.ones(2), map_location=where))


def test_map_location_mistakes():
    seen = []
    back([core.ones(2), core.zeros(3)], map_location=lambda s, loc: seen.append((s.nbytes(), loc, str(s.device))))
    assert seen == [(8, "cpu", "cpu"), (12, "cpu", "cpu")]
    with pytest.raises(DeviceError, match="map_location='cpu'"):
        back(core.ones(2), map_location="tpu")
    with pytest.raises(ArgumentError, match="map_location: expected a function"):
        back(core.ones(2), map_location=lambda s, loc: 3)
    with pytest.raises(ArgumentError, match="map_location: expected a device"):
        back(core.ones(2), map_location=3)


@pytest.mark.parametrize(
    "act, text",
    [
        (lambda: core.save(1, 3), "expected a path or a file object"),
        (lambda: core.save(1, io.BytesIO(), pickle_protocol=5), "pickle_protocol=2"),
        (lambda: core.save(lambda x: x, io.BytesIO()), "save a state_dict"),
        (lambda: core.save(np.array([None]), io.BytesIO()), "type of numbers, got object"),
        (lambda: core.save([np.str_("a")], io.BytesIO()), "type of numbers"),
        (lambda: core.load(io.BytesIO(b"")), "got an empty file"),
        (lambda: core.save(1, file := io.BytesIO()) or core.load(file), r"at its end \(f.seek\(0\)\)"),
        (lambda: core.load(io.BytesIO(b"hello world")), "begin with b'hell'"),
        (lambda: core.load(io.BytesIO(pickle.dumps([1], 2))), "got a bare pickle"),
        (lambda: core.load(3), "expected a path or a file object"),
        (lambda: core.load(io.BytesIO(saved(1)), mmap=True), "expected a path for mmap"),
        (lambda: core.load(io.BytesIO(saved(1)), pickle_module=io), "no pickle_module"),
        (lambda: core.load(io.BytesIO(saved(1)), buffers=[]), "no argument but encoding"),
    ],
)
def test_mistakes(act, text):
    with pytest.raises(CoreError, match=text):
        act()


def test_one_memory_under_two_dtypes_is_an_error():
    a = np.zeros(4, dtype=np.float32)
    with pytest.raises(CheckpointError, match=r"to have one dtype, got core.float32 and core.int32; clone"):
        saved([core._tensor.wrap(a), core._tensor.wrap(a.view(np.int32))])


def test_deep_nesting_is_an_error_not_a_crash():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(CheckpointError, match="save"):
        saved(deep)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        core.load(tmp_path / "no.pth")


# -- classes -------------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 3), nn.ReLU())

    def forward(self, x):
        return self.body(x)


class Point:
    __slots__ = ("x",)

    def __init__(self, x):
        self.x = x


def test_whole_models_are_made_of_modules_that_the_program_has():
    net = Net()
    net.activation = F.relu
    data = saved(net)
    x = core.ones(4, 2)
    loaded = core.load(io.BytesIO(data), weights_only=False)
    assert type(loaded) is Net and loaded.activation is F.relu
    same(net(x).detach(), loaded(x).detach())
    with pytest.raises(CheckpointError, match=r"got the class or function .*Net, .*add_safe_globals\(\[Net\]\)"):
        core.load(io.BytesIO(data))  # weights only
    with serialize.safe_globals([Net]), pytest.raises(CheckpointError, match="Sequential"):
        core.load(io.BytesIO(data))  # the layers are not known, either
    named = [Net, nn.Sequential, nn.Linear, nn.ReLU, F.relu]
    with serialize.safe_globals(named):
        same(net(x).detach(), core.load(io.BytesIO(data))(x).detach())
    assert serialize.get_safe_globals() == []
    net.point = Point(3)  # no module
    with pytest.raises(CheckpointError, match="Point"):
        core.load(io.BytesIO(saved(net)), weights_only=False)


def test_a_file_makes_modules_and_calls_nothing():
    """With weights_only=False a file may mention Modules and functions of core.nn.functional; it never calls one."""
    module = "torch.nn.modules.linear.Linear"  # as PyTorch names ours
    empty = core.load(io.BytesIO(zipped(program(g(module), b")\x81}b"))), weights_only=False)
    assert type(empty) is nn.Linear and not hasattr(empty, "weight")  # no __init__
    for harmful in (
        call(module, i(10**9), i(10**9)),
        call("core.nn.functional.relu", i(1)),
        g("core.nn.functional.os"),
    ):
        with pytest.raises(CheckpointError, match=r"only to be mentioned|does not know"):
            core.load(io.BytesIO(zipped(program(harmful))), weights_only=False)
    for name in ("torch.nn.Absent", "torch.nn.modules.linear.Tensor", "os.path.join", f"{__name__}.Point"):
        with pytest.raises(CheckpointError, match="does not know"):
            core.load(io.BytesIO(zipped(program(g(name)))), weights_only=False)


def test_named_classes():
    serialize.add_safe_globals([Point, (Net, "elsewhere.Model")])
    try:
        assert back([Point(3)])[0].x == 3
        assert serialize.get_safe_globals() == [Point, Net]
    finally:
        serialize.clear_safe_globals()
    with pytest.raises(CheckpointError, match="Point"):
        back(Point(3))


# -- atomic replacement ----------------------------------------------------------------------------------------------------


def test_failure_keeps_the_old_file(tmp_path):
    path = tmp_path / "x.pth"
    core.save(core.ones(2), path)

    class Full(Exception):
        pass

    with pytest.raises(Full), archive.replaced(path) as file:
        file.write(b"half")
        raise Full
    same(core.ones(2), core.load(path))
    assert os.listdir(tmp_path) == ["x.pth"]


def test_links_and_modes_are_kept(tmp_path):
    (tmp_path / "real").mkdir()
    path, link = tmp_path / "real" / "x.pth", tmp_path / "link.pth"
    core.save(1, path)
    path.chmod(0o640)
    link.symlink_to(path)
    core.save(2, link)
    assert link.is_symlink() and core.load(path) == 2 and stat.S_IMODE(path.stat().st_mode) == 0o640
    core.save(3, os.devnull)
    assert not os.path.isfile(os.devnull)


KILLED = """
import os, signal, sys
import core
from core.serialize import archive
path, at = sys.argv[1], 0
core.save(core.full((1000,), -1.0), path)

def die(*args):
    os.kill(os.getpid(), signal.SIGKILL)

class Dies(archive.Writer):
    def add(self, name, data):
        if name == self.victim:
            self.file.write(b"PK")
            self.file.flush()
            die()
        super().add(name, data)

def child(act):
    if os.fork() == 0:
        act()
        core.save(core.full((1000,), 7.0), path)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == -signal.SIGKILL
    assert (core.load(path) == -1).all()

def while_writing(name):
    Dies.victim = name
    archive.Writer = Dies

for name in ("data.pkl", "data/0", "version"):
    child(lambda: while_writing(name))
child(lambda: setattr(os, "fsync", die))
child(lambda: setattr(os, "replace", die))
print("fine")
"""


def test_kill_9_while_saving_leaves_the_old_file(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "x.pth")]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=os.path.dirname(os.path.dirname(core.__file__)),
    )
    assert done.stdout == "fine\n", done.stderr
    assert (core.load(tmp_path / "x.pth") == -1).all()


def test_kill_9_at_any_moment(tmp_path):
    code = (
        "import sys, core\ni = 0\nwhile True:\n"
        "    core.save([core.full((200000,), float(i)), core.full((10,), float(i))], sys.argv[1]); i += 1; print(i, flush=True)"
    )
    root = os.path.dirname(os.path.dirname(core.__file__))
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "x.pth")], stdout=subprocess.PIPE, cwd=root)
    for _ in range(5):
        child.stdout.readline()
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    a, b = core.load(tmp_path / "x.pth")
    assert (a == b[0]).all() and b[0] >= 3


# -- damaged files -------------------------------------------------------------------------------------------------------

LEGACY = base64.b85decode(
    "fC7pNZ2X)?`5<bjP#G?O0!`@yE`S1kaR4Y-5C8xGaB^>SZ)0z4Uv_13b7^mGaRE)~16U0J003-hbaZTGUuAA&X<=@00*F`&0001V"
    "d2nT4b7^{Ib8!QGaRew>1poj5b7*gJba4es0$2k8003!jba4ht1Xu(B003-nZf9`^O9XXwE`S1KV{dG1Wn*+{Z*Fr6PjX~sa%E&h"
    "X=8K>aR4b&aRDe;0RR91cyR(_bZ>HFXf9uMbZKmJ3SV+%Vs&Y3WM6b;ZgX#PUv@GIaRVqQSO)+A0CRM2a$#p>aRg&@Z*pU33Px;i"
    "VRTb;Z*pO0WeRZxSPlRH068-_H83<bG&wLiH#atM23P|C003ifb#Vtv22ONw2vJJ_O9q8;2}=QmaSDlO04Y*&3v_V|QgIDf0RR91"
    "c5x1911KnH1ZV|V4gdfEIWsslFf=waIWRdlH#Tt(Xa`FMPIPe)QA+|#0)=rAO96#(5{YO4DN=D0ba50?aTQnr0001RaTa5AZ*pU3"
    "E?;$YX>4-}Uvgz)b!lv5UvOb^VQpn}WpWB}7ia@0C};#@bZ>HFXbMDcbz*E~Q*>`~VP|CuaTr(*0000vGdMLcGdDOkG&wXhFmV}Z"
    "2TKA@ba5I{O8`p(g>f580fliKiD&>RQgI!0aUN1}ABboGDN=DDhjAfNaUxg&0001GaU*C0C@5$IXa!gf0000vGdMLcGdDOjHZ?Uf"
    "HgP0q2TK4>ba5q7O8`p%g>fcJ0fliViD&>RQgJABaVb)9Dp&yk003@rD_wCcC`$oY0RR91VR0>GbuNGcU2y;?SPlRH068-_H83+b"
    "I5jpkH8VDG0ay+I0022NI5jXcH#jylIW#mdaROKl0000vGdMLcG&VFjFgZ6jHgN-GE&u=k0000000IC200000000000002+KL7v#"
    "0002+KL!8*00000000000001hKL7v#KmY(hKmY)MKmY)sKm"
)  # torch.save(OrderedDict(x=x, v=x[2:4], p=Parameter(ones(2, float64)), e=zeros(0), n=[1, "a"]), _use_new_zipfile_serialization=False)


def test_the_format_before_zip():
    loaded = core.load(io.BytesIO(LEGACY))
    same(loaded["x"], core.arange(6.0))
    loaded["x"][2] = 9
    same(loaded["v"], core.tensor([9.0, 3.0]))
    same(loaded["p"], nn.Parameter(core.ones(2, dtype=core.float64)))
    assert loaded["n"] == [1, "a"] and loaded["e"].shape == (0,)


VICTIM = OrderedDict(
    w=core.arange(12.0).reshape(3, 4),
    v=core.arange(12.0)[2:],
    p=nn.Parameter(core.ones(3)),
    n={"step": 3, "name": "abc"},
)


def flipped(data, seed):
    r = random.Random(seed)
    out = bytearray(data)
    for _ in range(r.choice((1, 1, 1, 2, 8))):
        out[r.randrange(len(out))] ^= 1 << r.randrange(8)
    return bytes(out)


def truncated(data, seed):
    return data[: random.Random(seed).randrange(len(data))]


MUTATIONS = [(f, seed) for f in (flipped, truncated) for seed in range(250)]


def test_mutated_zip_files():
    """An error of ours, or the very same values: the checksums see to it."""
    good, errors = saved(VICTIM), 0
    for mutate, seed in MUTATIONS:
        data = mutate(good, seed)
        try:
            loaded = core.load(io.BytesIO(data))
        except CheckpointError as e:
            assert "load('BytesIO')" in str(e) and "expected" in str(e) and "got" in str(e), e
            errors += 1
        else:
            assert mutate is flipped, seed
            same(VICTIM, loaded)
    assert errors > 300


def test_mutated_pickles():
    """The pickle itself, as if its checksum had been made to fit: an error of ours, or data."""
    good, errors = pickle_of(saved(VICTIM)), 0
    records = {f"data/{i}": zip_record(saved(VICTIM), f"data/{i}") for i in range(3)}
    for seed in range(600):
        try:
            core.load(io.BytesIO(zipped(flipped(good, seed), **records)))
        except CoreError:
            errors += 1
    assert errors > 200


@pytest.mark.parametrize("good", ["legacy", "safetensors"])
def test_mutated_files_without_checksums(tmp_path, good):
    path = tmp_path / "x"
    if good == "legacy":
        path.write_bytes(LEGACY)
        read = core.load
    else:
        serialize.save_safetensors({"a": core.ones(3), "b": core.arange(4)}, path, {"k": "v"})
        read = serialize.load_safetensors
    data, errors = path.read_bytes(), 0
    for mutate, seed in MUTATIONS:
        path.write_bytes(mutate(data, seed))
        try:
            read(path)
        except CoreError:
            errors += 1
        else:
            assert mutate is flipped, seed
    assert errors > 250


def test_the_checksum_of_a_storage_is_checked(tmp_path):
    data = bytearray(saved(core.arange(4.0)))
    at = data.index(np.arange(4.0, dtype="f4").tobytes())
    data[at] ^= 1
    with pytest.raises(
        CheckpointError, match=r"record 'data/0': expected checksum \w{8}, got \w{8}; the file is damaged"
    ):
        core.load(io.BytesIO(bytes(data)))


# -- files made to do harm -------------------------------------------------------------------------------------------------


def zipped(program, root="archive", **records):
    file = io.BytesIO()
    z = archive.Writer(file, root)
    z.add("data.pkl", program)
    for name, data in records.items():
        z.add(name, data)
    z.add("version", b"3\n")
    z.finish()
    return file.getvalue()


def zip_record(data, name):
    with zipfile.ZipFile(io.BytesIO(data)) as z:
        return z.read(f"archive/{name}")


def pickle_of(data):
    return zip_record(data, "data.pkl")


def g(path):
    module, _, name = path.rpartition(".")
    return f"c{module}\n{name}\n".encode()


def s(text):
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def i(n):
    return b"\x8a\x09" + n.to_bytes(9, "little", signed=True)


def t(*items):
    return b"(" + b"".join(items) + b"t"


def call(path, *args):
    return g(path) + t(*args) + b"R"


def program(*parts):
    return b"\x80\x02" + b"".join(parts) + b"."


def storage(count=4, key="0", kind="torch.FloatStorage", location="cpu", tag="storage"):
    return t(s(tag), g(kind), s(key), s(location), i(count)) + b"Q"


def tensor(offset=0, size=(4,), stride=(1,), held=None, grad=b"\x89", **where):
    args = [
        held or storage(**where),
        i(offset),
        t(*map(i, size)),
        t(*map(i, stride)),
        grad,
        call("collections.OrderedDict"),
    ]
    return call("torch._utils._rebuild_tensor_v2", *args)


COMMAND = "touch CANARY"
DANGEROUS = [
    "os.system", "posix.system", "nt.system", "subprocess.Popen", "subprocess.check_output", "builtins.eval", "builtins.exec",
    "__builtin__.eval",
    "builtins.open", "builtins.__import__", "builtins.getattr", "builtins.compile", "builtins.breakpoint", "builtins.type",
    "builtins.object",
    "runpy.run_path", "importlib.import_module", "types.FunctionType", "types.CodeType", "functools.partial", "operator.attrgetter",
    "operator.methodcaller", "copyreg._reconstructor", "copyreg.__newobj__", "pickle.loads", "_pickle.loads", "marshal.loads",
    "ctypes.CDLL", "code.interact",
    "webbrowser.open", "socket.create_connection", "shutil.rmtree", "pty.spawn", "timeit.timeit", "cProfile.run", "numpy.load",
    "numpy.save",
    "numpy.f2py.crackfortran.getlincoef", "numpy.testing._private.utils.runstring", "torch.load", "torch.hub.load", "torch.jit.load",
    "torch.ops.load_library",
    "torch._utils._import_dotted_name", "torch.serialization.load", "torch.utils.cpp_extension.load",
    "torch._inductor.codecache.compile_file",
    "torch.storage._load_from_bytes", "torch._dynamo.guards.GuardBuilder.get",
    "torch.fx.experimental.symbolic_shapes.ShapeEnv.evaluate_guards_expression",
    "torch._utils._rebuild_sparse_tensor", "torch._utils._rebuild_qtensor", "torch.distributed.rpc.internal._internal_rpc_pickler",
    "core.load", "core.save", "core.serialize.load", "core.serialize.archive.replaced", "core._tensor._rebuild",
    "core.serialize.table._safe.clear",
    "collections.OrderedDict.fromkeys", "torch.Tensor.__class__", "collections.OrderedDict.__init__.__globals__", "_codecs.lookup",
    "_codecs.decode",
    "__main__.Net", ".eval", "builtins.",
]  # fmt: skip

NUMPY = "numpy._core.multiarray"
EMPTY = call(f"{NUMPY}._reconstruct", g("numpy.ndarray"), t(i(0)), s("b"))
F4 = call("numpy.dtype", s("f4"), b"\x89", b"\x88")

HARMFUL = {
    **{f"call {name}": program(call(name, s(COMMAND))) for name in DANGEROUS},
    **{
        f"stack global {name}": b"\x80\x04" + b"".join(map(s, name.rsplit(".", 1))) + b"\x93" + s(COMMAND) + b"\x85R."
        for name in DANGEROUS[:9]
    },
    "dotted name": b"\x80\x04" + s("collections") + s("OrderedDict.__init__") + b"\x93)R.",
    "dotted name of eval": b"\x80\x04" + s("builtins") + s("eval.__call__") + b"\x93" + s(COMMAND) + b"\x85R.",
    "INST": b"(" + s(COMMAND) + b"ios\nsystem\n.",
    "OBJ": b"(" + g("builtins.set") + s(COMMAND) + b"o.",
    "NEWOBJ of set": program(g("builtins.set"), b")\x81"),
    "NEWOBJ_EX": b"\x80\x04" + g("builtins.set") + b")}\x92.",
    "EXT1": b"\x80\x02\x82\x01.", "EXT4": b"\x80\x02\x84\x01\0\0\0.", "PERSID": b"Pstorage\n.", "NEXT_BUFFER": b"\x80\x05\x97.",
    "READONLY_BUFFER": b"\x80\x05\x98.", "unknown opcode": b"\x80\x02\xff.",
    "call of a string": program(s("eval"), s(COMMAND), b"\x85R"),
    "call of a list's append": program(b"]", s(COMMAND), b"\x85R"),
    "call with a list": program(g("builtins.set"), b"]R"),
    "call of a class only mentioned": program(call("torch.Tensor")),
    "call of a storage type": program(call("torch.FloatStorage", i(10**12))),
    "BUILD on a dict": program(b"}}b"),
    "BUILD on a name": program(g("builtins.set"), b"}", s("__call__"), s("x"), b"sb"),
    "BUILD on a tensor": program(tensor(), b"}", s("_a"), s("x"), b"sb"),
    "BUILD on an OrderedDict": program(call("collections.OrderedDict"), b"}", s("items"), s("x"), b"sb"),
    "BUILD of __class__": program(call("collections.OrderedDict"), b"}", s("__class__"), g("torch.Tensor"), b"sb"),
    "attribute _a": program(call("torch._tensor._rebuild_from_type_v2", g("torch._utils._rebuild_tensor_v2"), g("torch.Tensor"),
                                 t(storage(), i(0), t(i(4)), t(i(1)), b"\x89", b"N"), b"}" + s("_a") + i(1) + b"s")),
    "attribute shape": program(call("torch._tensor._rebuild_from_type_v2", g("torch._utils._rebuild_tensor_v2"), g("torch.Tensor"),
                                    t(storage(), i(0), t(i(4)), t(i(1)), b"\x89", b"N"), b"}" + s("shape") + i(1) + b"s")),
    "from type with another function": program(call("torch._tensor._rebuild_from_type_v2", g("builtins.set"), g("torch.Tensor"), b")",
        b"}")),
    "from type with another class": program(call("torch._tensor._rebuild_from_type_v2", g("torch._utils._rebuild_tensor_v2"),
        g("builtins.set"),
                                                 t(storage(), i(0), t(i(4)), t(i(1)), b"\x89", b"N"), b"}")),
    "a class as value": program(b"]", g("builtins.set"), b"a"),
    "a class as key": program(b"}", g("builtins.set"), b"Ns"),
    "a storage type as value": program(b"]", g("torch.FloatStorage"), b"a"),
    "a storage as value": program(storage()),
    "a list as key": program(b"}]Ns"), "a list in a key": program(b"}]\x85Ns"), "a dict in a set": program(call("builtins.set", b"]}a")),
    "encode as rot13": program(call("_codecs.encode", s(COMMAND), s("rot13"))),
    "encode as zlib": program(call("_codecs.encode", s(COMMAND), s("zlib"))),
    "bytearray of a size": program(call("builtins.bytearray", i(10**15))),
    "bytes of a size": program(call("builtins.bytes", i(10**15))),
    "complex of text": program(call("builtins.complex", s("1j"), s("1"))),
    "set of text": program(call("builtins.set", s("abc"))),
    "OrderedDict of a dict": program(call("collections.OrderedDict", b"}")),
    "defaultdict of a call": program(call("collections.defaultdict", g("collections.OrderedDict"))),
    "Counter of text": program(call("collections.Counter", s("abc"))),
    "size that is negative": program(call("torch.Size", t(i(-1)))),
    "size of text": program(call("torch.Size", t(s("a")))),
    "device of another kind": program(call("torch.device", s("file:///etc"))),
    "device of a list": program(call("torch.device", b"]")),
    # numpy
    "dtype object": program(call("numpy.dtype", s("O8"), b"\x89", b"\x88")),
    "dtype structured": program(call("numpy.dtype", b"](X\x01\0\0\0aX\x02\0\0\0O8ta", b"\x89", b"\x88")),
    "dtype string": program(call("numpy.dtype", s("U5"), b"\x89", b"\x88")),
    "dtype void": program(call("numpy.dtype", s("V8"), b"\x89", b"\x88")),
    "dtype datetime": program(call("numpy.dtype", s("M8[ns]"), b"\x89", b"\x88")),
    "dtype of a name": program(call("numpy.dtype", s("float32"), b"\x89", b"\x88")),
    "dtype with fields": program(F4, t(i(3), s("<"), b"N", t(s("a")), b"}", i(-1), i(-1), i(0)), b"b"),
    "dtype with an item size": program(F4, t(i(3), s("<"), b"N", b"N", b"N", i(1000), i(8), i(0)), b"b"),
    "dtype with flags": program(F4, t(i(3), s("<"), b"N", b"N", b"N", i(-1), i(-1), i(63)), b"b"),
    "array of a subclass": program(call(f"{NUMPY}._reconstruct", g("numpy.memmap"), t(i(0)), s("b"))),
    "array of a set": program(call(f"{NUMPY}._reconstruct", g("builtins.set"), t(i(0)), s("b"))),
    "array with a size": program(call(f"{NUMPY}._reconstruct", g("numpy.ndarray"), t(i(10**12)), s("b"))),
    "array of too few bytes": program(EMPTY, t(i(1), t(i(100)), F4, b"\x89", call("_codecs.encode", s("abcd"), s("latin1"))), b"b"),
    "array of a negative shape": program(EMPTY, t(i(1), t(i(-1), i(-1)), F4, b"\x89", call("_codecs.encode", s("abcd"), s("latin1"))),
        b"b"),
    "array of objects": program(EMPTY, t(i(1), t(i(1)), s("O"), b"\x89", b"]" + s("x") + b"a"), b"b"),
    "array of a list": program(EMPTY, t(i(1), t(i(1)), F4, b"\x89", b"]" + s("x") + b"a"), b"b"),
    "scalar of text": program(call(f"{NUMPY}.scalar", s("O"), s("x"))),
    "scalar of too few bytes": program(call(f"{NUMPY}.scalar", F4, call("_codecs.encode", s("a"), s("latin1")))),
    # tensors
    "offset behind the end": program(tensor(offset=1)), "offset far behind": program(tensor(offset=2**62)),
    "offset before": program(tensor(offset=-1)),
    "size too large": program(tensor(size=(5,))), "size enormous": program(tensor(size=(2**62,))),
    "size negative": program(tensor(size=(-1,))),
    "sizes that overflow": program(tensor(size=(2**32, 2**32, 2**32), stride=(0, 0, 0))),
    "stride too large": program(tensor(stride=(2,))), "stride negative": program(tensor(offset=3, stride=(-1,))),
    "stride that wraps": program(tensor(size=(3,), stride=(2**63 - 1,))), "stride beyond 64 bits": program(tensor(stride=(2**64,))),
    "sizes without strides": program(tensor(stride=())), "65 dimensions": program(tensor(size=(1,) * 65, stride=(1,) * 65)),
    "empty with an offset": program(tensor(offset=10, size=(0,), stride=(1,))),
    "sizes as a list": program(call("torch._utils._rebuild_tensor_v2", storage(), i(0), b"]", b"]", b"\x89", b"N")),
    "requires_grad as text": program(tensor(grad=s("yes"))),
    "integers that require grad": program(tensor(size=(2,), kind="torch.LongStorage", count=2, grad=b"\x88")),
    "lazy conjugation": program(call("torch._utils._rebuild_tensor_v2", storage(), i(0), t(i(4)), t(i(1)), b"\x89", b"N",
        b"}" + s("conj") + b"\x88s")),
    "a tensor of text": program(tensor(held=s("storage"))),
    "an untyped storage as v2": program(tensor(kind="torch.storage.UntypedStorage", count=16)),
    "v3 with text as dtype": program(call("torch._utils._rebuild_tensor_v3", storage(), i(0), t(i(4)), t(i(1)), b"\x89", b"N",
        s("float32"))),
    "v3 with a wide dtype": program(call("torch._utils._rebuild_tensor_v3", storage(), i(0), t(i(4)), t(i(1)), b"\x89", b"N",
        g("torch.float64"))),
    "parameter of text": program(call("torch._utils._rebuild_parameter", s("x"), b"\x88", b"N")),
    "storage too large": program(tensor(count=5)), "storage too small": program(tensor(count=3, size=(3,))),
    "storage enormous": program(tensor(count=2**60)),
    "storage negative": program(tensor(count=-4)), "storage of another width": program(tensor(kind="torch.DoubleStorage")),
    "storage missing": program(tensor(key="7")), "storage by path": program(tensor(key="../../../etc/passwd")),
    "storage data.pkl": program(tensor(key="/../data.pkl")),
    "storage key of other digits": program(tensor(key="٠")), "storage of another tag": program(tensor(tag="module")),
    "storage of a class": program(tensor(kind="builtins.set")), "storage of a quantized type": program(tensor(kind="torch.QInt8Storage")),
    "identity of text": program(s("0"), b"Q"), "identity too short": program(t(s("storage")), b"Q"),
    "one storage, two sizes": program(b"](", tensor(), tensor(count=2, size=(2,)), b"e"),
    "module as identity": program(t(s("module"), g("os.system"), s("a"), s("b"), i(1)), b"Q"),
    # the machine
    "nothing": b"", "only STOP": b".", "no STOP": b"\x80\x02N", "two values": b"\x80\x02NN.", "open mark": b"\x80\x02(N.",
    "bytes behind": b"\x80\x02N.N.",
    "mark missing": b"\x80\x02t.", "stack too short": b"\x80\x02N\x87.", "pop of nothing": b"\x80\x020.", "memo missing": b"\x80\x02h\x09.",
    "long memo missing": b"\x80\x02j\xff\xff\xff\xff.", "put of nothing": b"\x80\x02q\x00.",
    "text too long": b"\x80\x02X\xff\xff\xff\xffa.",
    "bytes enormous": b"\x80\x04\x8e" + b"\xff" * 8 + b".", "bytearray enormous": b"\x80\x05\x96" + b"\xff" * 7 + b"\x7f.",
    "long negative": b"\x80\x02\x8b\xff\xff\xff\xff.",
    "text not UTF-8": b"\x80\x02X\x01\0\0\0\xff.", "name without end": b"\x80\x02cos", "append to a tuple": b"\x80\x02)Na.",
    "items for a list": b"\x80\x02]NNs.",
    "add to a list": b"\x80\x04](N\x90.", "odd items": b"\x80\x02}(Nu.", "global of numbers": b"\x80\x04K\x01K\x02\x93.",
    "deep lists": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".", "deep tuples": b"\x80\x02)" + b"\x85" * 1_000_000 + b".",
    "deep key": b"\x80\x02})" + b"\x85" * 1_000_000 + b"Ns.",
    "key that doubles": b"\x80\x02})" + b"2\x86" * 64 + b"Ns.",
    "sizes that double": program(call("torch.Size", b")" + b"2\x86" * 64)),
    "call that doubles": program(b")" + b"2\x86" * 64 + b")R"),
    "deep frozensets": b"\x80\x04(" + b"\x91(".join([b""] * 1000) + b"N\x91.",
}  # fmt: skip
FOUR = {"data/0": np.arange(4, dtype="f4").tobytes()}


@pytest.mark.parametrize("weights_only", [True, False])
@pytest.mark.parametrize("name", HARMFUL)
def test_harmful_pickles(name, weights_only, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"load\('BytesIO'\).*: .*expected .*got "):
        core.load(io.BytesIO(zipped(HARMFUL[name], **FOUR)), weights_only=weights_only)
    assert os.listdir(tmp_path) == []


def test_harmful_pickles_in_the_format_before_zip(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    head = LEGACY[: LEGACY.index(b"\x80\x02ccollections")]
    for name, bad in HARMFUL.items():
        if bad not in (b"\x80\x02N.N.", b""):
            with pytest.raises(CoreError):
                core.load(io.BytesIO(head + bad + b"\x80\x02]."))
            assert os.listdir(tmp_path) == [], name


def test_the_hand_written_tensor_is_right():
    same(core.arange(4.0), core.load(io.BytesIO(zipped(program(tensor()), **FOUR))))
    assert core.load(io.BytesIO(zipped(b"\x80\x02Nr\xff\xff\xff\xff."))) is None  # a large memo number costs nothing


def test_python_pickles_of_objects_do_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    class Bomb:
        def __reduce__(self):
            return os.system, (COMMAND,)

    for protocol in range(6):
        with pytest.raises(CheckpointError):
            core.load(io.BytesIO(zipped(pickle.dumps({"a": [Bomb()]}, protocol))))
    with pytest.raises(CheckpointError):
        core.load(io.BytesIO(saved([Bomb()])))
    assert os.listdir(tmp_path) == []


def zip_of(*entries, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as z:
        for name, data in entries:
            z.writestr(name, data)
    return file.getvalue()


def overlapping():
    """Two names for the bytes of one record: the way to a small file that holds much."""
    data = bytearray(zip_of(("a/data.pkl", b"\x80\x02N."), ("a/data/0", b"xxxx"), ("a/data/1", b"xxxx")))
    first = data.index(b"PK\3\4", data.index(b"a/data.pkl"))
    last = data.rindex(b"PK\1\2")
    data[last + 42 : last + 46] = struct.pack("<L", first)
    return bytes(data)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_harmful_archives():
    nothing = b"\x80\x02N."
    for data, text in [
        (zip_of(("a/data.pkl", nothing), ("a/data.pkl", program(call("os.system", s(COMMAND))))), "each record once"),
        (zip_of(("a/data.pkl", nothing), ("b/version", b"3")), "under one folder"),
        (
            zip_of(("a/data.pkl", nothing), ("a/data/0", bytes(10**6)), compression=zipfile.ZIP_DEFLATED),
            "stored bytes, got compressed",
        ),
        (zip_of(("a/version", b"3")), "a record 'data.pkl', got none"),
        (zip_of(("a/data.pkl", nothing), ("a/constants.pkl", nothing)), "a TorchScript program"),
        (zip_of(("a/data.pkl", nothing), ("a/byteorder", b"big")), "endian"),
        (overlapping(), "expected"),
    ]:
        with pytest.raises(CheckpointError, match=text):
            core.load(io.BytesIO(data))


def test_keys_of_the_format_before_zip_are_not_hashed():
    end = LEGACY.rindex(b"\x80\x02]")
    deep = b"\x80\x02](" + b")" + b"".join(b"2\x85" for _ in range(100_000)) + b"e."
    with pytest.raises(CheckpointError, match="the keys of"):
        core.load(io.BytesIO(LEGACY[:end] + deep + LEGACY[end:]))


def test_tensors_are_loaded_without_the_layers():
    code = "import sys, core; core.ones(2); core.load; assert not [m for m in sys.modules if m.startswith('core.nn')]"
    root = os.path.dirname(os.path.dirname(core.__file__))
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=root)


def test_every_opcode_rule_is_reached_by_a_name_of_pickle():
    names = {value for name, value in vars(pickle).items() if name.isupper() and isinstance(value, bytes)}
    assert set(unpickle.OPCODES) <= names


# -- safetensors ----------------------------------------------------------------------------------------------------------


def test_safetensors_round_trip(tmp_path):
    tensors = {d.name: core.tensor([0, 1, 1, 0, 1]).to(d) for d in dtypes.ALL if d is not core.complex128}
    tensors |= {
        "0-d": core.tensor(2.0),
        "empty": core.zeros(0, 3),
        "t": core.arange(6).reshape(2, 3).t(),
        "ünï": core.ones(1),
    }
    serialize.save_safetensors(tensors, tmp_path / "x.safetensors", {"format": "pt"})
    loaded = serialize.load_safetensors(tmp_path / "x.safetensors")
    assert set(loaded) == set(tensors) and serialize.safetensors_metadata(tmp_path / "x.safetensors") == {
        "format": "pt"
    }
    for name, tensor in tensors.items():
        same(tensor, loaded[name])
    serialize.save_safetensors({}, tmp_path / "empty")
    assert (
        serialize.load_safetensors(tmp_path / "empty") == {}
        and serialize.safetensors_metadata(tmp_path / "empty") == {}
    )


@pytest.mark.parametrize(
    "act",
    [
        lambda p: serialize.save_safetensors({"a": core.ones(1, dtype=core.complex128)}, p),
        lambda p: serialize.save_safetensors({"a": {"b": core.ones(1)}}, p),
        lambda p: serialize.save_safetensors([core.ones(1)], p),
        lambda p: serialize.save_safetensors({"__metadata__": core.ones(1)}, p),
        lambda p: serialize.save_safetensors({}, p, {"a": 1}),
    ],
)
def test_safetensors_mistakes(act, tmp_path):
    with pytest.raises((DTypeError, CheckpointError), match=r"expected .*got .*;|expected names"):
        act(tmp_path / "x")
    assert os.listdir(tmp_path) == []


def entry(offsets, shape=(2,), dtype="F32"):
    return f'{{"dtype":"{dtype}","shape":{list(shape)},"data_offsets":{list(offsets)}}}'


@pytest.mark.parametrize(
    "header",
    [
        f'{{"a":{entry([0, 8])},"b":{entry([4, 12])}}}',  # overlap
        f'{{"a":{entry([0, 8])},"b":{entry([0, 8])}}}',
        f'{{"a":{entry([0, 8])},"a":{entry([8, 16])}}}',  # twice
        f'{{"a":{entry([0, 8])},"b":{entry([12, 20])}}}',  # gap
        f'{{"a":{entry([0, 8])}}}',  # rest
        f'{{"a":{entry([8, 16])}}}',
        f'{{"a":{entry([0, 16], (4, -1))}}}',
        f'{{"a":{entry([0, 16], (2**40, 2**40))}}}',
        f'{{"a":{entry([0, 2**60], (2**58,))}}}',
        f'{{"a":{entry([16, 0], (4,))}}}',
        f'{{"a":{entry([0, 16], (4.0,))}}}',
        f'{{"a":{entry([0, 16], (4,), "F9")}}}',
        f'{{"a":{entry([0, 16, 16], (4,))}}}',
        '{"a":{"dtype":"F32","shape":[4]}}', '{"a":3}', '{"a":{"dtype":["F32"],"shape":[4],"data_offsets":[0,16]}}',
        '{"__metadata__":{"a":1}}', '{"__metadata__":3}', "[]", "3", "{", '{"a":' * 100_000, " {}",
    ],
)  # fmt: skip
def test_safetensors_that_lie(header, tmp_path):
    text = header.encode()
    (tmp_path / "x").write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))
    with pytest.raises(CheckpointError, match=r"load_safetensors\('.*expected .*got .*"):
        serialize.load_safetensors(tmp_path / "x")


@pytest.mark.parametrize("data", [b"", b"\xff" * 8 + b"{}", b"\0" * 8, b"\x02\0\0\0\0\0\0\0{"])
def test_safetensors_with_a_lying_length(data, tmp_path):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(CheckpointError, match="expected a header of 2 to"):
        serialize.load_safetensors(tmp_path / "x")
