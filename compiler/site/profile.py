"""Cluster profiles: what sbatch needs to know of a site."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from compiler.cost.prices import TokenPrice
from compiler.errors import UsageError, near
from compiler.frontend.source import parse
from compiler.frontend.validate import validate
from compiler.remote.login import Login
from runtime.fields import Frozen
from runtime.known import one_of
from runtime.slurm.policy import UNASKED, Policy
from runtime.stage import kind_names

PROFILES = Path("~/.config/alignc/clusters")


class Partition(Frozen):
    """What one partition allows and has. What is not said bounds nothing."""

    max_minutes: int | None = Field(None, ge=1, description="longest time limit in minutes")
    nodes: int | None = Field(None, ge=1, description="most nodes of a job")
    cpus: int | None = Field(None, ge=1, description="CPU cores of a node")
    memory_gb: float | None = Field(None, gt=0, description="memory of a node in GiB")
    gpus: int | None = Field(
        None, ge=0, description="GPUs of a node; none: no GPUs, or some where `gpu_type` is said"
    )
    gpu_type: str | None = Field(None, description="type in `--gres=gpu:TYPE:N`")
    gpu_memory_gb: float | None = Field(None, gt=0, description="memory of one GPU in GiB")
    whole_nodes: bool = Field(
        False,
        description="a job is given whole nodes, and pays for them: tasks of an array go side by side on one",
    )
    account: str | None = Field(None, description="account to charge here, in place of the profile's")
    qos: str | None = Field(None, description="quality of service here, in place of the profile's")
    constraint: str | None = Field(None, description="node features here, in place of the profile's")

    @property
    def has_gpus(self) -> bool:
        return self.gpus != 0 if self.gpu_type else bool(self.gpus)

    @model_validator(mode="after")
    def _known_nodes(self) -> Self:
        if self.whole_nodes and (self.cpus is None or (self.has_gpus and self.gpus is None)):
            raise ValueError("`whole_nodes` needs `cpus`, and `gpus` where there are any: what a node has")
        return self


class Rule(Frozen):
    """Resources for jobs of one kind, and for models up to some size."""

    kind: Annotated[str | None, one_of("stage kind", kind_names)] = Field(
        None, description="stage kind; none: every kind"
    )
    up_to_parameters: float | None = Field(
        None, gt=0, description="for models of at most so many parameters (`8e9`); none: for all"
    )
    cpus: int | None = Field(None, ge=1, description="CPU cores of each process")
    gpus: int | None = Field(None, ge=0, description="GPUs")
    memory_gb: float | None = Field(None, gt=0, description="memory in GiB")
    minutes: int | None = Field(None, ge=1, description="time limit in minutes")
    partition: str | None = Field(None, description="partition")
    gpu_memory_gb: float | None = Field(None, gt=0, description="memory that one GPU must have, in GiB")


class Container(Frozen):
    """The image that jobs run in. `$NAME` in its texts is a variable of the node."""

    apptainer: str | None = Field(None, description="image for `apptainer exec`: a file, or a URL")
    pyxis: str | None = Field(None, description="image for `srun --container-image` (Enroot, Pyxis)")
    binds: list[str] = Field(
        default_factory=list,
        description="folders to be seen inside, `FOLDER` or `FOLDER:INSIDE`; the store, "
        "`scratch` and `cache` are in any case",
    )
    options: list[str] = Field(
        default_factory=list, description="more options of `apptainer exec` or `srun`, one word each"
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.apptainer is None) == (self.pyxis is None):
            raise ValueError("a container is one of `apptainer` and `pyxis`")
        return self


class Mail(Frozen):
    """Slurm's own mail."""

    to: str = Field(pattern=r"^\S+$", description="address")
    on: list[Literal["end", "fail"]] = Field(
        default_factory=lambda: ["end"],  # type: ignore[arg-type]
        description="`end`: one mail when all jobs of a submission have ended; `fail`: one for each job "
        "(or array) that fails",
    )


class Webhook(Frozen):
    """An address that is told, in JSON, how an experiment ended. It is a secret, so it stands elsewhere."""

    url_env: str | None = Field(None, description="environment variable that holds the URL at submission")
    url_file: str | None = Field(None, description="file that holds the URL")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.url_env is None) == (self.url_file is None):
            raise ValueError("a webhook is one of `url_env` and `url_file`")
        return self


class Profile(Frozen):
    """One site. Everything is optional: an empty profile submits to the default partition."""

    partition: str | None = Field(
        None, description="partition of jobs that name none; none: the best fitting of `partitions`"
    )
    partitions: dict[str, Partition] = Field(
        default_factory=dict, description="partitions by name, with what they allow and have"
    )
    resources: list[Rule] = Field(
        default_factory=list,
        description="resources by stage kind and model size; what a stage says itself goes before them",
    )
    account: str | None = Field(None, description="account to charge")
    qos: str | None = Field(None, description="quality of service")
    constraint: str | None = Field(None, description="node features to ask for")
    gpu_type: str | None = Field(None, description="type in `--gres=gpu:TYPE:N`; none: any GPU")
    setup: list[str] = Field(default_factory=list, description="shell lines before the job (modules, conda)")
    environment: dict[str, str] = Field(default_factory=dict, description="environment variables of the jobs")
    keys: dict[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")], str] = Field(
        default_factory=dict,
        description="keys of services: the variable that an llm's `api_key_env` names -> a file that holds "
        "the key, which you alone may read (chmod 600)",
    )
    python: str | None = Field(
        None, description="Python on the nodes; none: the one that submits (in a container: `python3`)"
    )
    container: Container | None = Field(None, description="the image that jobs run in")
    scratch: str | None = Field(
        None, description="folder for temporary files (TMPDIR), made if missing; may name `$USER`"
    )
    cache: str | None = Field(
        None,
        description="folder for what libraries download and compile (HF_HOME, XDG_CACHE_HOME, "
        "TORCH_EXTENSIONS_DIR, TRITON_CACHE_DIR), made if missing; may name `$USER`",
    )
    launch: str | None = Field(
        None, description="shell words that start the ranks of a job on several nodes, in place of `srun`"
    )
    network_interface: str | None = Field(
        None, description="interface between nodes (NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME)"
    )
    mail: Mail | None = Field(None, description="who gets mail, and when")
    webhook: Webhook | None = Field(None, description="who is told when an experiment has ended")
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
    gpu_link_gb_s: float | None = Field(
        None, gt=0, description="GB/s that GPUs exchange while they train, for estimates; none: assumed"
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
    retry: Policy = Field(
        UNASKED, description="what is tried again by itself, by the kind of its failure; see docs/slurm.md"
    )
    options: list[str] = Field(default_factory=list, description="more `#SBATCH` options, as written")
    login: Login | None = Field(None, description="login host, to work from a machine without Slurm")

    def at(self, partition: str | None) -> Profile:
        """The profile as it is for a job in `partition`; None: in the profile's own."""
        name = partition or self.partition
        said = self.partitions[name].model_dump(include=PLACES) if name in self.partitions else {}
        told = {field: value for field, value in said.items() if value is not None}
        return self.model_copy(update={**told, "partition": name})


PLACES = {"account", "qos", "constraint", "gpu_type"}


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
