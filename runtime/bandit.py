"""A bandit with known rewards: imitation of a strong teacher against feedback on a weak student.

The toy of Sharma et al. 2024 (A Critical Evaluation of AI Feedback, Figure 6). An action's true reward is
its number. Everything is computed in float64 over all actions at once; a sample enters by its counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runtime.draws import uniforms

if TYPE_CHECKING:
    from runtime.stages.bandit import Bandit, Bell, Fit

Vector = NDArray[np.float64]  # [actions]


def bell(actions: int, shape: Bell) -> Vector:
    """A policy: probabilities in proportion to exp(-(action - mean)^2 / scale)."""
    return softmax(-((np.arange(actions, dtype=np.float64) - shape.mean) ** 2) / shape.scale)


def softmax(logits: Vector) -> Vector:
    raised = np.exp(logits - logits.max())
    return raised / raised.sum()


def draw(policy: Vector, seed: int, name: str, count: int) -> NDArray[np.int64]:
    """`count` actions of a policy."""
    mass = policy.cumsum()
    return np.searchsorted(mass / mass[-1], uniforms(seed, name, count), side="right")


def preferred(config: Bandit, student: Vector) -> NDArray[np.float64]:
    """Shares [chosen, rejected] of all pairs of two of the student's actions; the larger one is chosen.

    A pair of equal actions has no share, but counts as a pair.
    """
    if config.exact:
        return np.tril(2 * np.outer(student, student), -1)
    pairs = draw(student, config.seed, "pairs", 2 * config.pairs).reshape(-1, 2)
    counts = np.zeros((config.actions, config.actions))
    np.add.at(counts, (pairs.max(axis=1), pairs.min(axis=1)), 1.0)
    return np.tril(counts, -1) / config.pairs


def fit_reward(pairs: NDArray[np.float64], fit: Fit) -> Vector:
    """A reward for each action from 0: gradient descent on -log sigmoid(r[chosen] - r[rejected])."""
    reward = np.zeros(len(pairs))
    for _ in range(fit.steps):
        wrong = pairs / (1 + np.exp(reward[:, None] - reward[None, :]))
        reward += fit.learning_rate * (wrong.sum(axis=1) - wrong.sum(axis=0))
    return reward


def imitate(config: Bandit, teacher: Vector) -> Vector:
    """A policy's logits from 0: gradient descent on the cross-entropy of the teacher's actions."""
    shares = teacher
    if not config.exact:
        drawn = draw(teacher, config.seed, "demonstrations", config.demonstrations)
        shares = np.bincount(drawn, minlength=config.actions) / config.demonstrations
    logits = np.zeros(config.actions)
    for _ in range(config.sft.steps):
        logits += config.sft.learning_rate * (shares - softmax(logits))
    return softmax(logits)


def improve(student: Vector, reward: Vector, beta: float) -> Vector:
    """The policy that has most reward less beta times its divergence from the student."""
    return softmax(np.log(student) + reward / beta)


def play(config: Bandit) -> dict[str, Vector]:
    """Policies by name, and the learned reward."""
    teacher, student = bell(config.actions, config.teacher), bell(config.actions, config.student)
    reward = fit_reward(preferred(config, student), config.reward)
    return {
        "teacher": teacher,
        "student": student,
        "sft": imitate(config, teacher),
        "rlaif": improve(student, reward, config.beta),
        "learned reward": reward,
    }


def scores(played: Mapping[str, Vector]) -> dict[str, float | int]:
    """Expected true reward and its standard deviation under each policy, and marks of the learned reward."""
    told: dict[str, float | int] = {}
    for name in ("teacher", "student", "sft", "rlaif"):
        policy, worth = played[name], np.arange(len(played[name]))
        expected = float(policy @ worth)
        told[f"{name}_reward"] = expected
        told[f"{name}_spread"] = float(np.sqrt(policy @ (worth - expected) ** 2))
        told[f"{name}_mode"] = int(policy.argmax())
        told[f"{name}_peak"] = float(policy.max())
    reward = played["learned reward"]
    lowest = reward.min()
    return {
        **told,
        "sft_first": float(played["sft"][0]),
        "learned_range": float(reward.max() - lowest),
        "learned_argmin": int(reward.argmin()),
        "learned_argmax": int(reward.argmax()),
        "learned_first": float(reward[0] - lowest),
        "learned_last": float(reward[-1] - lowest),
    }


def figure(played: Mapping[str, Vector]) -> dict[str, Any]:
    """The paper's figure: the policies, and the learned reward."""
    names = {"teacher": "teacher", "student": "student", "sft": "SFT", "rlaif": "RLAIF"}

    def line(label: str, values: Vector) -> dict[str, Any]:
        return {"label": label, "y": values.tolist()}

    axis = {"x": "action = its true reward"}
    policies = [line(label, played[name]) for name, label in names.items()]
    return {
        "panels": [
            {"title": "Policies", "y": "probability", **axis, "lines": policies},
            {
                "title": "Learned reward",
                "y": "reward",
                **axis,
                "lines": [line("learned reward", played["learned reward"])],
            },
        ]
    }
