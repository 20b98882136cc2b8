"""Philox: Random123's known answers, the generator's manners, and who draws from whom."""

import threading

import numpy as np
import pytest

import core
import core.nn.functional as F
from core import rng
from core.philox import PhiloxGenerator, derived_seed, drawing_from, philox

# Random123 1.14, tests/kat_vectors: counter, key, words
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def numbers(text):
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize("counter, key, words", KNOWN)
def test_known_answers(counter, key, words):
    many = np.repeat(np.array(numbers(counter), np.uint64)[:, None], 3, axis=1)
    assert philox(many, tuple(numbers(key))).T.tolist() == [numbers(words)] * 3


def test_words_are_named_by_seed_step_shard_and_call():
    drawn = {}
    for seed in (0, 1, 1 << 32):
        for step in (0, 1):
            for shard in (0, 1):
                g = PhiloxGenerator(seed, step, shard)
                for call in (0, 1):
                    drawn[seed, step, shard, call] = tuple(g.words(5).tolist())
    assert len(set(drawn.values())) == len(drawn)
    again = PhiloxGenerator(1, 1, 0)
    again.uniform(1000, np.dtype(np.float32))  # a call is a call, however long
    assert tuple(again.words(5).tolist()) == drawn[1, 1, 0, 1]
    assert derived_seed(1, "order") != derived_seed(1, "data") != derived_seed(2, "data")


def test_distributions():
    g = PhiloxGenerator(3)
    u = g.uniform(40_000, np.dtype(np.float64))
    assert 0 <= u.min() < 1e-3 and 1 - 1e-3 < u.max() < 1 and abs(u.mean() - 0.5) < 0.01
    assert g.uniform(7, np.dtype(np.float32)).dtype == np.float32
    z = g.normal(40_001, np.dtype(np.float32))
    assert z.shape == (40_001,) and abs(z.mean()) < 0.02 and abs(z.std() - 1) < 0.02
    assert set(g.integers(500, -2, 3).tolist()) == {-2, -1, 0, 1, 2}
    order = g.permutation(1000)
    assert order.dtype == np.int64 and sorted(order.tolist()) == list(range(1000)) != order.tolist()
    assert g.words(0).shape == (0,)


def test_state():
    g = PhiloxGenerator(5, 6, 7)
    g.words(3)
    state = g.get_state()
    first = g.words(9).tolist()
    assert PhiloxGenerator(0).set_state(state).words(9).tolist() == first
    with pytest.raises(ValueError, match="expected a state of 32 bytes, got 3"):
        g.set_state(core.zeros(3, dtype=core.uint8))
    with pytest.raises(ValueError, match="expected 0 <= step < 2³², got -1"):
        PhiloxGenerator(0, -1)


def test_stands_in_for_the_default_of_its_thread():
    core.manual_seed(1)
    expected = core.rand(4).tolist()
    core.manual_seed(1)
    elsewhere = []
    with drawing_from(PhiloxGenerator(2)):
        inside = [
            core.rand(3).tolist(),
            F.dropout(core.ones(50)).tolist(),
            core.randn(2).tolist(),
            core.randperm(5).tolist(),
        ]
        other = threading.Thread(target=lambda: elsewhere.append(core.rand(4).tolist()))
        other.start()
        other.join()
        with core.rng.fork_rng():
            core.rand(1)
            core.manual_seed(9)
        assert rng.default_generator.get_state().tolist() != PhiloxGenerator(2).get_state().tolist()
    assert elsewhere == [expected]
    with drawing_from(PhiloxGenerator(2)):
        assert inside == [
            core.rand(3).tolist(),
            F.dropout(core.ones(50)).tolist(),
            core.randn(2).tolist(),
            core.randperm(5).tolist(),
        ]
    assert core.initial_seed() == 1
