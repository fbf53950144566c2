"""Which class answers for which `provider:` of a declared llm; the one place to add another."""

from __future__ import annotations

import importlib

from runtime.declare import LLM
from runtime.llms.base import Fatal, Provider

# provider -> (module, class). Imported when asked for: SDKs and torch are heavy.
PROVIDERS = {
    "openai": ("runtime.llms.openai_chat", "OpenAiChat"),
    "anthropic": ("runtime.llms.anthropic_messages", "AnthropicMessages"),
    "local": ("runtime.llms.local", "LocalProvider"),
    "simulated": ("runtime.llms.simulated", "SimulatedProvider"),
    "replay": ("runtime.llms.replay", "ReplayProvider"),
}


def make_provider(declaration: LLM) -> Provider:
    """The provider of a declaration. Raises Fatal where it cannot be used at all (no key, no file)."""
    module, name = PROVIDERS[declaration.provider]
    try:
        made: Provider = getattr(importlib.import_module(module), name)(declaration)
    except ModuleNotFoundError as error:
        raise Fatal(
            f"the provider {declaration.provider!r} needs the Python package {error.name!r}\n"
            "Install it: pip install 'alignc[judge,train]'"
        ) from error
    return made
