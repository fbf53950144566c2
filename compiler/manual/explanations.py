"""What each code of a finding means: a few words, an example that gives it, the same example repaired.

The texts stand in explanations.md. The examples lie over PRELUDE, as if they included it, unless they
say `experiment` themselves; a line `# --set A.B=C` stands for that option.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from textwrap import indent

from compiler.errors import CODES

PRELUDE = """\
models: {tiny: {init: {}}, chatty: {hub: org/name, chat: chatml}}
llms: {weak: {provider: simulated}, judge: {provider: simulated}}
sources: {tasks: {kind: world}}
stages:
  prompts: {kind: prepare, source: tasks, split: {sft: 40%, aif: 40%, val: 10%, test: 10%}}
  answers: {kind: demonstrate, prompts: prompts.sft, teacher: weak}
  tuned: {kind: sft, model: tiny, data: answers, chat: chatml, epochs: 2, learning_rate: 1e-3}
"""
WRONG, RIGHT = "Wrong", "Right"
HEAD = f"""\
<!-- generated from compiler/explanations.md: `make docs` -->
# Error codes

`alignc explain-error CODE` prints one of these. Codes are stable. AC0xx: reading; AC1xx: names and
shapes; AC2xx: axes; AC3xx: types and protocol; AC4xx: tables; AC5xx: the world outside; AC6xx:
warnings, which stop nothing. The examples lie over these lines, as if they included them:

```yaml
{PRELUDE}```
"""
_EXAMPLE = re.compile(r"^(\S+):\n\n```yaml\n(.*?)```\n", re.S | re.M)


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a code means. `examples` are by caption: WRONG, RIGHT, or the name of a file beside them."""

    code: str
    text: str
    examples: dict[str, str]

    @property
    def title(self) -> str:
        return f"{self.code}: {CODES[self.code]}"

    def for_terminal(self) -> str:
        shown = [f"{caption}:\n\n{indent(text, '    ')}" for caption, text in self.examples.items()]
        return "\n".join([self.title, "", self.text, "", *shown]).rstrip()

    def as_markdown(self) -> str:
        shown = [f"{caption}:\n\n```yaml\n{text}```\n" for caption, text in self.examples.items()]
        return "\n".join([f"{self.text}\n", *shown])


@cache
def explanations() -> dict[str, Explanation]:
    """All explanations, by code."""
    page = Path(__file__).with_suffix(".md").read_text(encoding="utf-8")
    found: dict[str, Explanation] = {}
    for section in page.split("\n## ")[1:]:
        code, _, body = section.partition("\n")
        text = _EXAMPLE.sub("", body).strip()
        found[code] = Explanation(code, text, dict(_EXAMPLE.findall(body)))
    return found


def error_reference() -> str:
    """The whole page, as Markdown."""
    parts = [f"## {e.title}\n\n{e.as_markdown()}" for _, e in sorted(explanations().items())]
    return "\n".join([HEAD, *parts])


if __name__ == "__main__":
    print(error_reference(), end="")
