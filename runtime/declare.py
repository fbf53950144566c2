"""What a spec declares beside stages: models, llms and sources."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from runtime.fields import Frozen, nothing, result, speed
from runtime.known import TOKENIZER, ChatFormat
from runtime.parsers import Parser
from runtime.world import FAMILIES, chosen

PACKAGE = "package:"  # before the name of an installed Python package, in whose folder a path begins

# ---------------------------------------------------------------- models


class Architecture(Frozen):
    """A causal language model with random weights, for small worlds and tests (Llama-shaped)."""

    hidden_size: int = result(128, doc="width", ge=8)
    layers: int = result(3, doc="blocks", ge=1)
    heads: int = result(4, doc="attention heads", ge=1)
    intermediate_size: int = result(256, doc="width of the feed-forward layers", ge=8)
    max_positions: int = result(256, doc="longest sequence in tokens", ge=16)
    tie_embeddings: bool = result(True, doc="share input and output embeddings")
    vocab_size: int = result(
        128, doc="tokenizer size; the tokenizer is trained on the data of the first training stage", ge=32
    )
    init_std: float = result(
        0.02,
        doc="standard deviation of the initial weights; small models learn sooner "
        "with about 1 / sqrt(hidden_size)",
        gt=0,
    )
    seed: int = result(0, doc="seed of the initial weights")


class ModelDecl(Frozen):
    """A base model: exactly one of `path`, `hub` and `init`."""

    path: str | None = nothing(
        None, doc="a Hugging Face directory; `package:NAME` is the folder of an installed Python package"
    )
    gguf: str | None = result(None, doc="a GGUF file inside `path` to load the weights from")
    hub: str | None = result(None, doc="a model id on the Hugging Face hub")
    revision: str | None = result(None, doc="commit of the hub model; pin it for a reproducible study")
    init: Architecture | None = result(None, doc="random weights of this shape")
    chat: ChatFormat = result(None, doc="chat format of this model; a stage that trains it may set another")
    parameters: float | None = nothing(
        None, doc="number of parameters, for estimates of cost where no file at hand tells", gt=0
    )

    @model_validator(mode="after")
    def _one_origin(self) -> ModelDecl:
        if sum(x is not None for x in (self.path, self.hub, self.init)) != 1:
            raise ValueError("give exactly one of `path`, `hub` and `init`")
        if self.init is not None and self.chat == TOKENIZER:
            raise ValueError(
                "the `chat` format `tokenizer` needs a tokenizer with one, and `init` makes a new one"
            )
        return self


# ---------------------------------------------------------------- sources


class _File(Frozen):
    """A file of rows: exactly one of `path` and `hub`."""

    path: str | None = nothing(None, doc="file, relative to the spec that names it")
    hub: str | None = result(None, later=True, doc="a data set on the Hugging Face hub that holds the file")
    file: str | None = result(None, later=True, doc="the file's place in the data set `hub`")
    revision: str | None = result(
        None, later=True, doc="commit of the hub data set; pin it for a reproducible study"
    )
    rows: int | None = nothing(None, doc="number of rows, for estimates where the file is not at hand", ge=1)

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.hub is None) == (self.path is None) or (self.hub is None) != (self.file is None):
            raise ValueError("give either `path`, or `hub` and the `file` in it")
        return self


class JsonlSource(_File):
    """JSON lines (also .gz) with a prompt and, where there is one, a completion or a list of messages."""

    kind: Literal["jsonl"] = result(doc="source kind")
    prompt: str = result("prompt", doc="field of the prompt")
    completion: str | None = result(None, doc="field of the completion; none: prompts only")
    messages: str | None = result(
        None, doc="field of a list of {role, content}: the first user and assistant turns"
    )
    answer: str | None = result(None, doc="field of the true answer, for exact-match accuracy")


class ShareGptSource(_File):
    """ShareGPT's JSON: the first human -> gpt exchange of each conversation."""

    kind: Literal["sharegpt"] = result(doc="source kind")


class AlpacaEvalSource(_File):
    """Outputs in AlpacaEval's form: {instruction, output, generator}, as JSON or JSON lines (also .gz)."""

    kind: Literal["alpaca_eval"] = result(doc="source kind")


class PreferencesSource(Frozen):
    """Preference pairs, of which `prepare` makes preferences: exactly one of `hub` and `path`.

    Rows of `prompt, chosen, rejected` as text or as lists of {role, content}, the prompt apart or in both
    sides; two transcripts of `Human:` and `Assistant:`; or AlpacaEval's annotations. Ties are left out, and
    counted.
    """

    kind: Literal["preferences"] = result(doc="source kind")
    path: str | None = nothing(
        None, doc="JSON or JSON lines (also .gz), or what `datasets` reads: Parquet, a folder saved to disk"
    )
    hub: str | None = result(None, doc="id on the Hugging Face hub")
    subset: str | None = result(None, doc="configuration name of the data set")
    split: str = result("train", doc="split of the data set")
    revision: str | None = result(None, doc="commit of the hub data set; pin it for a reproducible study")
    prompt: str = result("prompt", later=True, doc="column of the prompt, where it stands apart")
    chosen: str = result("chosen", later=True, doc="column of the better answer")
    rejected: str = result("rejected", later=True, doc="column of the worse answer")
    turns: Literal["one", "joined"] = result(
        "one",
        later=True,
        doc="prompts of several turns, or with a system message: `one` leaves them out, and counts them; "
        "`joined` makes one text of them, in which the chat format `human_assistant` sees the conversation",
    )

    @model_validator(mode="after")
    def _one_origin(self) -> PreferencesSource:
        if (self.hub is None) == (self.path is None):
            raise ValueError("give exactly one of `hub` and `path`")
        return self


class DatasetsSource(Frozen):
    """A data set that Hugging Face `datasets` can load: exactly one of `hub` and `path`."""

    kind: Literal["datasets"] = result(doc="source kind")
    hub: str | None = result(None, doc="id on the Hugging Face hub")
    path: str | None = nothing(None, doc="file or folder, also one saved to disk, relative to the spec")
    subset: str | None = result(None, doc="configuration name")
    split: str = result("train", doc="split of the data set")
    revision: str | None = result(None, doc="commit of the hub data set; pin it for a reproducible study")
    prompt: str = result("prompt", doc="column of the prompt")
    completion: str | None = result(None, doc="column of the completion; none: prompts only")
    messages: str | None = result(None, doc="column of a list of {role, content}")
    answer: str | None = result(None, doc="column of the true answer")

    @model_validator(mode="after")
    def _one_origin(self) -> DatasetsSource:
        if (self.hub is None) == (self.path is None):
            raise ValueError("give exactly one of `hub` and `path`")
        return self


class AlpacaEvalLengthsSource(Frozen):
    """AlpacaEval's files of length control, for `evaluate`: its data set's folder on the Hugging Face hub.

    It holds instruction_difficulty.csv, df_gamed.csv (both may be gzipped) and the instructions in their
    order, as alpaca_eval.json or alpaca_eval.jsonl.
    """

    artifact: ClassVar[str] = "Lengths"

    kind: Literal["alpaca_eval_lengths"] = result(doc="source kind")
    path: str = nothing(doc="folder, relative to the spec that names it")


def _families(names: tuple[str, ...] | None) -> tuple[str, ...] | None:
    chosen(names)
    return names


_KNOWN = {"type": "array", "items": {"enum": list(FAMILIES)}, "minItems": 1}
Families = Annotated[
    tuple[str, ...] | None,
    AfterValidator(_families),
    WithJsonSchema({"anyOf": [_KNOWN, {"type": "null"}]}),
]


class WorldSource(Frozen):
    """The built-in small world: verifiable tasks over short strings and numbers (see docs/world.md)."""

    kind: Literal["world"] = result(doc="source kind")
    what: Literal["tasks", "documents"] = result(
        "tasks", doc="`tasks`: prompts with true answers; `documents`: plain text that states such facts"
    )
    families: Families = result(None, doc="task families; none: all of them")
    evaluation: bool = result(
        False, doc="tasks about inputs that are held out: no other task and no document mentions them"
    )
    size: int = result(6000, doc="number of rows", ge=1)
    seed: int = result(0, doc="seed of the rows")


Source = Annotated[
    JsonlSource
    | ShareGptSource
    | AlpacaEvalSource
    | AlpacaEvalLengthsSource
    | PreferencesSource
    | DatasetsSource
    | WorldSource,
    Field(discriminator="kind"),
]


# ---------------------------------------------------------------- llms


class Limits(Frozen):
    """How hard one may press a provider; never changes what it answers."""

    concurrency: int = speed(32, doc="most requests in flight", ge=1)
    requests_per_minute: int | None = speed(
        None, doc="requests a minute; none: by the server's headers", ge=1
    )
    tokens_per_minute: int | None = speed(None, doc="tokens a minute; none: by the server's headers", ge=1)
    timeout_s: float = speed(300.0, doc="seconds before one attempt is given up", gt=0)
    stall_s: float = speed(120.0, doc="seconds without a byte before an attempt is given up", gt=0)
    attempts: int = speed(6, doc="tries before a request is recorded as failed", ge=1)


BATCH_SHARE = 0.5  # of a live token's price, with both vendors


class _Asked(Frozen):
    model: str = result(doc="the provider's model name; pin a dated snapshot")
    mode: Literal["live", "batch"] = speed(
        "live", doc="`batch`: through the provider's batch API, at half the price, within a day"
    )
    base_url: str | None = nothing(None, doc="another server that speaks the same protocol")
    system: str | None = result(None, doc="system prompt")
    limits: Limits = speed(Limits(), doc="rates and timeouts")
    shared: bool = speed(True, doc="whether answers are shared by all jobs of the store; see docs/llms.md")
    usd_per_million_input: float | None = nothing(None, doc="price of input tokens, asked live", ge=0)
    usd_per_million_output: float | None = nothing(None, doc="price of output tokens, asked live", ge=0)
    usd_per_million_cached_input: float | None = nothing(
        None, doc="price of input tokens read from the provider's cache; none: that of the others", ge=0
    )

    @property
    def price_share(self) -> float:
        """What a token costs in this mode, as a share of its price."""
        return BATCH_SHARE if self.mode == "batch" else 1.0


class OpenAiLLM(_Asked):
    """Asked over the OpenAI chat protocol: OpenAI, vLLM, llama.cpp, `transformers serve`, gateways."""

    provider: Literal["openai"] = result(doc="provider")
    api_key_env: str = nothing("OPENAI_API_KEY", doc="environment variable that holds the key; never stored")


class AnthropicLLM(_Asked):
    """Asked over the Anthropic messages protocol."""

    provider: Literal["anthropic"] = result(doc="provider")
    api_key_env: str = nothing(
        "ANTHROPIC_API_KEY", doc="environment variable that holds the key; never stored"
    )


class LocalLLM(Frozen):
    """A transformers model, run in the job itself."""

    provider: Literal["local"] = result(doc="provider")
    model: ModelDecl = result(doc="the model")
    system: str | None = result(None, doc="system prompt")
    batch_size: int = speed(8, doc="requests generated together", ge=1)


class SimulatedLLM(Frozen):
    """A programmatic teacher, critic or evaluator of the small world, with stated faults.

    As a teacher it answers a task of a family it `knows` rightly; any other gets its `habit`'s
    systematic error. As a critic or evaluator it prefers the right answer, erring at `error_rate`.
    """

    provider: Literal["simulated"] = result(doc="provider")
    knows: Families = result(None, doc="families answered rightly; none: all of them")
    habit: Literal["truncate", "copy", "shift"] = result(
        "truncate", doc="systematic error on the other families"
    )
    habit_rate: float = result(1.0, doc="share of their prompts on which the habit shows", ge=0, le=1)
    error_rate: float = result(
        0.0, doc="share of otherwise right answers or verdicts that are wrong", ge=0, le=1
    )
    position_bias: float = result(
        0.0, doc="share of verdicts that pick the first answer shown, unread", ge=0, le=1
    )
    length_bias: float = result(0.0, doc="share of verdicts that pick the longer answer, unread", ge=0, le=1)
    seed: int = result(0, doc="seed of the errors; an error is a pure function of seed and request")


class ReplayLLM(Frozen):
    """Recorded answers: a ledger (or JSON lines of {prompt, reply}) asked again without its provider."""

    provider: Literal["replay"] = result(doc="provider")
    path: str = nothing(doc="file, relative to the spec that names it")


LLM = Annotated[
    OpenAiLLM | AnthropicLLM | LocalLLM | SimulatedLLM | ReplayLLM, Field(discriminator="provider")
]

# ---------------------------------------------------------------- wordings


class TemplateWording(Frozen):
    """A Jinja template of your own, given `prompt`, `first`, `second` and `tag`.

    Each block is a message, named by its role (`system`, `user`); without blocks it is one message of the
    user. `tag` differs for each pair: put into the marks around an answer, it keeps any answer from ending
    its own part.
    """

    kind: Literal["template"] = result(doc="kind of wording")
    path: str = nothing(doc="file, relative to the spec that names it")
    parser: Parser | None = result(
        None, doc="how replies are read; none: as the template's block `parser` says"
    )
    temperature: float | None = result(None, doc="instead of the stage's `judge_temperature`", ge=0)
    max_tokens: int | None = result(None, doc="instead of the stage's `judge_max_tokens`", ge=1)


class AlpacaEvalWording(Frozen):
    """The wording, parser and settings of an annotator of AlpacaEval, to the letter.

    They are read from the data files of its package; `pip install --no-deps alpaca-eval==0.6.6` is enough.
    """

    kind: Literal["alpaca_eval"] = result(doc="kind of wording")
    name: str = result(
        doc="the annotator: `alpaca_eval_gpt4`, `claude`, `weighted_alpaca_eval_gpt4_turbo`, `gpt4` ..."
    )
    path: str = nothing("package:alpaca_eval", doc="the package, or a folder with its `evaluators_configs`")
    temperature: float | None = result(
        None, doc="instead of upstream's: some models take none but 1, and repeats need one above 0", ge=0
    )
    max_tokens: int | None = result(None, doc="instead of upstream's", ge=1)

    def files(self, folder: Path) -> list[Path]:
        """What of the folder the wording is made of."""
        from runtime.wordings import upstream_files

        return upstream_files(folder, self.name)


Wording = Annotated[TemplateWording | AlpacaEvalWording, Field(discriminator="kind")]
