"""FLOPs to seconds: peaks of devices, the share of them that is reached, and what a job takes beside.

Training costs 6 FLOPs a parameter and token (2 forward, 4 backward), sampling 2 a parameter and new
token; attention is left out, which the MFU that training jobs report counts.
"""

from __future__ import annotations

from dataclasses import dataclass

from compiler.cost.amounts import Range, exactly
from compiler.cost.history import History, Speed
from compiler.cost.models import Size
from compiler.site.profile import Profile
from runtime.stage import Resources

TRAIN, FORWARD = 6.0, 2.0  # FLOPs a parameter and token

# Dense peaks in TFLOP/s as the makers state them: bf16 (fp16 where there is none), plain fp32.
PEAKS = {
    "h200": (989.0, 67.0),
    "h100": (989.0, 67.0),
    "gh200": (989.0, 67.0),
    "b200": (2250.0, 75.0),
    "a100": (312.0, 19.5),
    "l40s": (362.0, 91.6),
    "a40": (150.0, 37.4),
    "v100": (125.0, 15.7),
    "a10": (125.0, 31.2),
    "t4": (65.0, 8.1),
}
USUAL = "a100"  # where the profile names no type

# Assumed where neither profile nor history tells; docs/cost.md says from what.
TRAINING_MFU = Range(0.10, 0.35, 0.50)
SAMPLING_MFU = Range(0.01, 0.04, 0.12)  # decoding is bound by memory, not by arithmetic
CPU_TRAINING = Range(5e9, 3e10, 1e11)  # FLOP/s of a core
CPU_SAMPLING = Range(3e8, 4e9, 2e10)
# Python, torch, processes; the low ends are those of `alignc run`, which forks jobs that have these
START_S = Range(0.3, 10, 60)
START_LIGHT_S = Range(0.02, 0.5, 5)
DISK = Range(0.2e9, 0.5e9, 2e9)  # bytes/s at which weights are read and written
MASTER_BYTES = 4  # of a weight on disk
# Bytes/s between the GPUs of a node; 130e9 is what both stated times of the study come to.
LINK = Range(40e9, 130e9, 300e9)
EXCHANGES = 3  # of all weights in a step: gathered forward and backward, gradients reduced


@dataclass(frozen=True, slots=True)
class Machine:
    """What one job runs on: its resources, how many of its GPUs work, and what is known of them."""

    resources: Resources
    working: int
    processes: int
    profile: Profile

    @property
    def gpu(self) -> bool:
        return self.resources.gpus > 0

    @property
    def units(self) -> int:
        """Things that compute side by side: GPUs, else cores."""
        return self.working if self.gpu else self.resources.cpus * self.processes


def machine_of(resources: Resources, processes: int, profile: Profile) -> Machine:
    """One process uses one GPU; more GPUs are paid for, and idle."""
    return Machine(resources, min(resources.gpus, processes), processes, profile.at(resources.partition))


def speed_of(kind: str, size: Size, machine: Machine, precision: str, history: History) -> Speed:
    """FLOP/s of one unit: from the history, else the stated or assumed share of the peak."""
    known = history.speed(kind, machine.gpu, machine.profile.gpu_type, size.active)
    if known is not None:
        return known
    sampling = kind == "sample"
    overhead = START_S + exactly(size.total * MASTER_BYTES) / DISK
    if not machine.gpu:
        rate = CPU_SAMPLING if sampling else CPU_TRAINING
        return Speed(rate, overhead, f"{rate.likely / 1e9:g} GFLOP/s a core, assumed")
    peak, whose = _peak(machine.profile, precision)
    stated = machine.profile.sampling_mfu if sampling else machine.profile.mfu
    share = exactly(stated) if stated else (SAMPLING_MFU if sampling else TRAINING_MFU)
    how = "stated" if stated else "assumed"
    basis = f"{100 * share.likely:.3g} % of {whose} {peak:g} TFLOP/s, {how}"
    return Speed(share * (peak * 1e12), overhead, basis)


def exchange_seconds(size: Size, machine: Machine, steps: Range, precision: str) -> Range:
    """Time in which GPUs exchange weights and gradients: what bounds small batches on many GPUs."""
    if machine.working < 2:
        return exactly(0)
    stated = machine.profile.gpu_link_gb_s
    link = exactly(stated * 1e9) if stated else LINK
    return steps * (EXCHANGES * size.total * (2 if precision == "bf16" else 4)) / link


def _peak(profile: Profile, precision: str) -> tuple[float, str]:
    if profile.gpu_peak_tflops is not None:
        return profile.gpu_peak_tflops, "the profile's"
    named = (profile.gpu_type or USUAL).lower()
    found = next((name for name in PEAKS if name in named), USUAL)
    return PEAKS[found][0 if precision == "bf16" else 1], f"{found.upper()}'s"
