"""GitHub: the repositories of an organisation or user, by a token or a GitHub App."""

from backup.sources.github.api import PUBLIC_SERVER, api_of
from backup.sources.github.credentials import AccessToken, App, Credentials
from backup.sources.github.listing import GitHubSource, token_scopes

__all__ = [
    "PUBLIC_SERVER",
    "AccessToken",
    "App",
    "Credentials",
    "GitHubSource",
    "api_of",
    "token_scopes",
]
