"""Which AITER is played, and what goes wrong on request."""

import os
import re
from importlib import metadata


def _stated():
    try:
        return os.environ.get("AITER_STANDIN_VERSION") or metadata.version("amd-aiter")
    except metadata.PackageNotFoundError:
        return "0.1.18"


VERSION = _stated()
_numbers = re.match(r"(\d+)\.(\d+)\.(\d+)(?:\.post(\d+))?", VERSION)
RELEASE = tuple(int(n or 0) for n in _numbers.groups()) if _numbers else (9, 9, 9, 9)

#: Read in C++, once.
LL_DISABLED = os.environ.get("AITER_CUSTOM_AR_DISABLE_LL") == "1"

FAULTS = set(filter(None, os.environ.get("AITER_STANDIN_FAULT", "").split(",")))


def since(*release):
    return (*RELEASE,) >= (*release, *(0,) * (4 - len(release)))
