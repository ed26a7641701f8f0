"""The expressions of workflows, as far as ours have them."""

import re
from collections.abc import Mapping


def evaluated(text: str, context: Mapping[str, str]) -> str:
    """Put values in place of expressions, of which there are only plain names."""

    def value(match: re.Match[str]) -> str:
        return context[match[1]]

    return re.sub(r"\$\{\{ ([\w.-]+) \}\}", value, text)
