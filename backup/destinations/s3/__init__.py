"""A destination in a bucket: AWS S3, and the stores that speak its language."""

from backup.destinations.s3.destination import S3Destination
from backup.destinations.s3.diagnosis import diagnose
from backup.destinations.s3.identity import caller_identity
from backup.destinations.s3.role import JobRole
from backup.destinations.s3.settings import S3Settings

__all__ = ["JobRole", "S3Destination", "S3Settings", "caller_identity", "diagnose"]
