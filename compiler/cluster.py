"""Cluster profiles: what sbatch needs to know of a site."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from compiler.cost.prices import TokenPrice
from compiler.errors import UsageError, near
from compiler.login import Login
from compiler.source import parse
from compiler.validate import validate
from runtime.fields import Frozen

PROFILES = Path("~/.config/alignc/clusters")


class Profile(Frozen):
    """One site. Everything is optional: an empty profile submits to the default partition."""

    partition: str | None = Field(None, description="partition of jobs that name none")
    account: str | None = Field(None, description="account to charge")
    qos: str | None = Field(None, description="quality of service")
    constraint: str | None = Field(None, description="node features to ask for")
    gpu_type: str | None = Field(None, description="type in `--gres=gpu:TYPE:N`; none: any GPU")
    setup: list[str] = Field(default_factory=list, description="shell lines before the job (modules, conda)")
    environment: dict[str, str] = Field(default_factory=dict, description="environment variables of the jobs")
    python: str | None = Field(None, description="Python on the nodes; none: the one that submits")
    max_array_size: int | None = Field(
        None, ge=1, description="most tasks in one array; none: as many as Slurm allows (MaxArraySize)"
    )
    max_gpus: int | None = Field(
        None, ge=1, description="most GPUs in use at once by one array (its tasks at once times their GPUs)"
    )
    parallel_tasks: int | None = Field(None, ge=1, description="most tasks of an array at once (`%N`)")
    gpu_peak_tflops: float | None = Field(
        None, gt=0, description="peak of one GPU in TFLOP/s, for estimates; none: the maker's, by `gpu_type`"
    )
    mfu: float | None = Field(
        None,
        gt=0,
        le=1,
        description="share of the peak that training reaches; none: history, or assumed",
    )
    sampling_mfu: float | None = Field(
        None,
        gt=0,
        le=1,
        description="share of the peak that sampling reaches; none: history, or assumed",
    )
    prices: str | dict[str, TokenPrice] | None = Field(
        None, description="prices of models: a file like templates/prices.yaml, or `model: {input, output}`"
    )
    warning_s: int = Field(
        120,
        ge=1,
        le=65535,
        description="seconds before the time limit at which a job is told to save its state and take "
        "another turn; a quarter of the limit at most",
    )
    options: list[str] = Field(default_factory=list, description="more `#SBATCH` options, as written")
    login: Login | None = Field(None, description="login host, to work from a machine without Slurm")


def _folders(spec: Path) -> list[Path]:
    return [spec.parent / "clusters", spec.parent.parent / "clusters", PROFILES.expanduser()]


def find_profile(name: str, spec: Path) -> Path:
    """The file of a profile: a path, or a name beside the spec or in the user's configuration."""
    if name.endswith((".yaml", ".yml")):
        path = Path(name) if Path(name).exists() else spec.parent / name
        if path.exists():
            return path
        raise UsageError(f"there is no cluster profile {name}")
    for folder in _folders(spec):
        if (folder / f"{name}.yaml").exists():
            return folder / f"{name}.yaml"
    known = sorted({p.stem for folder in _folders(spec) for p in folder.glob("*.yaml")})
    places = ", ".join(str(f) for f in _folders(spec))
    raise UsageError(f"there is no cluster profile {name!r} in {places}; {near(name, known)}")


def load_profile(name: str | None, spec: Path) -> Profile:
    """The named profile; the empty one where none is named. Raises UsageError for a bad one."""
    if name is None:
        return Profile.model_validate({})
    path = find_profile(name, spec)
    tree, problems = parse(path.read_text(encoding="utf-8"), str(path))
    profile = None
    if tree is not None:
        profile, more = validate(Profile, tree, "the cluster profile")
        problems = [*problems, *more]
    if profile is None or problems:
        raise UsageError("\n".join(f"{p.span}: {p.message}  {p.hint}" for p in problems))
    assert isinstance(profile, Profile)
    if isinstance(profile.prices, str):  # beside the profile that names it
        prices = path.resolve().parent / Path(profile.prices).expanduser()
        profile = profile.model_copy(update={"prices": str(prices)})
    return profile
