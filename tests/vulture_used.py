"""Names that nothing in the program's own text uses, and why they are there all the same.

vulture reads this file; nobody runs it. A name that comes into use, or goes, is taken out here.
"""

import click
from rich.progress import Task
from urllib3 import PoolManager

from backup import connections
from backup.config import Config
from backup.config.syntax import Span
from backup.destinations.memory import MemoryDestination
from backup.doors import lambda_entry, words
from backup.errors import PartialFailure
from backup.git.http import bearer
from backup.git.pktline import Special
from backup.git.upload_pack import HEADS_TAGS_NOTES
from backup.limits import LIMITS
from backup.report import terminal
from backup.sources import one_server
from backup.sources.github import api
from backup.sources.github.credentials import Live
from backup.vault import documents, fields


def inputs_of_later_commands(config: Config, span: Span) -> tuple[object, ...]:
    """Parsed and checked from the first release on; read by number, by name, or later."""
    return (
        config.api_url,
        config.forks,
        config.gists,
        config.hide_private_names,
        config.html,
        config.keep_daily,
        config.keep_hourly,
        config.keep_monthly,
        config.keep_within,
        config.keep_weekly,
        config.keep_yearly,
        config.max_age_hours,
        config.oauth_secret,
        config.object_lock_days,
        config.object_lock_mode,
        config.push,
        config.sample_percent,
        config.server_url,
        config.snippets,
        config.visibility,
        config.wikis,
        span.unit,
    )


def fields_of_documents(
    entry: documents.Entry,
    bundle: documents.BundleLine,
    record: documents.Record,
    drill: documents.DrillLine,
    head: documents.HeadLine,
) -> tuple[object, ...]:
    """Written for readers of the vault, or by forges' sources; format 1 has them from the start."""
    return (
        documents.STORED,
        fields.Part.model_config,
        documents.RefLine._check_name,
        documents.Record._check_chain,
        head._check_name,
        record._check_chain,
        entry.changes.added,
        entry.changes.deleted,
        entry.changes.moved,
        entry.changes.rewritten,
        entry.not_selected,
        bundle.check_detail,
        bundle.header_bytes,
        bundle.lfs_scanned,
        bundle.retain_until,
        bundle.storage_class,
        record.fallback,
        drill.ok,
    )


def heads(manifest: documents.Manifest) -> tuple[object, ...]:
    return (manifest.source.owner_id, manifest.totals.skipped, manifest.writer)


def of_later_adapters() -> tuple[object, ...]:
    return (PartialFailure, bearer)


def protocol() -> tuple[object, ...]:
    """Known so that it is refused by its name, and for servers that list too much."""
    return (Special.RESPONSE_END, HEADS_TAGS_NOTES)


def called_by_libraries(
    task: Task, context: click.Context, manager: PoolManager
) -> tuple[object, ...]:
    program = words.make_program()
    return (
        program.list_commands(context),
        program.format_options,
        terminal._Amount().render(task),
        terminal.OpenConsole.on_broken_pipe,
        lambda_entry._Invocations.do_POST,
        lambda_entry._Invocations.protocol_version,
        Live.token_type,
        api._Connection.getresponse,
        api._Response.getheaders,
        connections._Pool.ConnectionCls,
        one_server.OneServerSession("").max_redirects,
        manager.pool_classes_by_scheme,
    )


def for_documents() -> tuple[object, ...]:
    return (LIMITS,)


def for_tests() -> tuple[object, ...]:
    return (MemoryDestination,)


_ = (
    inputs_of_later_commands,
    fields_of_documents,
    heads,
    of_later_adapters,
    protocol,
    called_by_libraries,
    for_documents,
    for_tests,
)
