import logging
import os
import sys

logger = logging.getLogger("aiter")
if not logger.handlers:
    logger.setLevel(os.environ.get("AITER_LOG_LEVEL", "INFO").upper())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("[%(name)s] %(message)s"))
    logger.addHandler(handler)
    logger.propagate = False
