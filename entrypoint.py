#!/usr/bin/env python3
"""The image's entry; what it does is `backup.doors.action`."""

import sys

from backup.doors.action import main

if __name__ == "__main__":
    sys.exit(main())
