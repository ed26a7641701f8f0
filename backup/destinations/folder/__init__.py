"""A destination in a folder of this machine."""

from backup.destinations.folder.destination import FolderDestination

__all__ = ["FolderDestination"]
