"""Writes the HTML page of result files to its standard output; `fp4lab report` runs it.

    python3 analysis/report -- RESULT.h5... < REQUEST.json > PAGE.html
    python3 analysis/report --check       # can this Python do it? Exit code 0, or the reason

The request is {"command": how to make the page again, "version": of the program, "default_columns": {task: [column]},
"comparisons": [{"csv": rows beside the paper's or "", "problem": why there are none or ""}, ... one per file]}.
Exit codes: 0, 3 (a file is no whole result), 1 (a fault of ours).
"""
import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing is half done here: end quietly

import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[0] = ROOT  # was this folder, whose names are not meant to be imported from everywhere
sys.dont_write_bytecode = True  # the source tree may be someone else's


def check():
    if sys.version_info < (3, 9):
        sys.exit(f"Python {sys.version.split()[0]} is older than 3.9")
    try:
        import h5py, matplotlib, numpy  # noqa: E401, F401
    except Exception as error:  # a broken installation raises anything
        sys.exit(f"{type(error).__name__}: {error}".splitlines()[0])


def main():
    if sys.argv[1:] == ["--check"]:
        return check()
    if sys.argv[1:2] != ["--"] or len(sys.argv) < 3:
        sys.exit(__doc__)
    page = os.dup(1)
    os.dup2(2, 1)  # what a library prints is a message, not a part of the page
    request = json.load(sys.stdin)
    from analysis.report.page import write_page
    from analysis.report.result import BrokenFile
    try:
        text = write_page(sys.argv[2:], request)
    except BrokenFile as error:
        print(f"fp4lab: {error}", file=sys.stderr)
        sys.exit(3)
    with os.fdopen(page, "wb") as out:
        out.write(text.encode("utf-8", errors="replace"))


if __name__ == "__main__":
    main()
