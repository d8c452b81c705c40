"""Entry point of the ranks that ``costmodel measure`` starts itself; its options are the argument.

They come as a JSON object by option name, so that a rank needs no command line parser.
"""

import signal

# Ctrl-C during start-up ends a rank without a word: the process that started it says what happened,
# and held the signal until here. Once the rank is up, its watchdog answers signals.
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

if __name__ == "__main__":
    import json
    import sys

    from .launch import measure

    sys.exit(measure(json.loads(sys.argv[1])))
