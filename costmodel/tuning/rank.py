"""Entry point of the ranks that ``costmodel tune`` starts itself; its options are the argument."""

import signal

# As in live.run.rank: no traceback of a Python that is interrupted while it starts.
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

if __name__ == "__main__":
    import json
    import sys

    from .ranks import measure_there

    sys.exit(measure_there(json.loads(sys.argv[1])))
