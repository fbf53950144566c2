"""Random numbers as a pure function of a seed and a name, the same in every version of everything."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def uniforms(seed: int, name: str, count: int) -> NDArray[np.float64]:
    """The random stream of a name: `count` numbers in [0, 1).

    Philox's raw words are part of numpy's stability promise; its drawing methods are not.
    """
    key = int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=16).digest(), "big")
    words = np.random.Philox(key=key).random_raw(count)
    return np.asarray((words >> np.uint64(11)) * 2.0**-53, np.float64)


def generator_seed(*told: str | int) -> int:
    """A seed for a library's generator, of 56 bits."""
    name = "/".join(map(str, told))
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest(), "big")
