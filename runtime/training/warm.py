"""What opening a model and its tokenizer imports, so that a server of forked jobs has it once for all."""

from __future__ import annotations

import transformers.models.auto.modeling_auto
import transformers.models.auto.tokenization_auto
import transformers.models.llama.modeling_llama  # noqa: F401
