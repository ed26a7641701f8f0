"""Back up every repository of an owner as git bundles, and give every state back."""

__version__ = "0.1.0"
