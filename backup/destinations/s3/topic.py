"""Messages to an SNS topic. The right is ``sns:Publish``."""

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from backup.destinations.s3.role import JobRole, session_of
from backup.errors import AccessDenied, DestinationUnreachable

_SECONDS = 10


def publish(
    arn: str, *, subject: str, message: str, role: JobRole | None = None, unique: str = ""
) -> None:
    """Send a message to everybody who listens to a topic.

    Args:
        arn: the topic's; its region is in it.
        subject: printable ASCII, less than 100 characters.
        message: at most 256 KiB.
        role: to work as; None for what boto3 finds in the environment.
        unique: tells this message from others, for topics that keep an order.

    Raises:
        DestinationError: it was not taken.
    """
    region = arn.split(":")[3]
    config = Config(
        connect_timeout=_SECONDS,
        read_timeout=_SECONDS,
        retries={"mode": "standard", "total_max_attempts": 3},
    )
    in_order = {"MessageGroupId": "repo-backup", "MessageDeduplicationId": unique}
    more = in_order if arn.endswith(".fifo") else {}
    client = session_of(role, region=region).client("sns", region_name=region, config=config)
    try:
        client.publish(TopicArn=arn, Subject=subject, Message=message, **more)
    except ClientError as error:
        said = error.response.get("Error", {})
        raise AccessDenied(
            f"{arn} does not take the message ({said.get('Code')}: {said.get('Message')})",
            hint="the role needs sns:Publish for this topic",
        ) from error
    except BotoCoreError as error:
        raise DestinationUnreachable(f"{arn} cannot be reached: {error}") from error
    finally:
        client.close()
