"""Entry point of one start of ``costmodel measure --starts``; its options are the argument.

It ends with the process that started it, as its ranks end with it.
"""

if __name__ == "__main__":
    import json
    import sys

    from .launch import measure
    from .launcher import end_with_launcher

    end_with_launcher()
    sys.exit(measure({**json.loads(sys.argv[1]), "starts": 1, "launches": True}))
