"""The window of sizes that AITER's custom all-reduce takes."""

import os

_MOST_VAR = "AITER_CUSTOM_AR_MAX_SIZE"
_LEAST = 0
_MOST = 8192 * 8192


def _most():
    said = os.environ.get(_MOST_VAR, "").strip()
    if said == "":
        return _MOST
    return int(said)


class CustomAllreduce:
    def __init__(self):
        self.most = _most()
        self.least = int(os.environ.get("AITER_CUSTOM_AR_MIN_SIZE", "0"))

    def should_custom_ar(self, x):
        if x.nbytes <= self.least:
            return False
        return x.nbytes <= self.most
