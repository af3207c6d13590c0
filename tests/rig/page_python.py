"""Run a page's Python blocks, one after another, in one namespace: the program that `page_run` talks to.

Requests come as JSON lines on standard input, answers (an error's text, or null) go to the descriptor named as first
argument. What the blocks print goes to standard output. Blocks with `>>>` are doctested.
"""

import doctest
import json
import os
import sys
import traceback
from typing import Any

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def run(text: str, page: str, line: int, namespace: dict[str, Any]) -> None:
    """Run one block; its lines in a traceback are the page's."""
    if not any(part.startswith(">>>") for part in text.splitlines()):
        exec(compile("\n" * (line - 1) + text, page, "exec"), namespace)
        return
    test = doctest.DocTestParser().get_doctest(text, namespace, os.path.basename(page), page, line - 1)
    test.globs = namespace
    report: list[str] = []
    doctest.DocTestRunner(optionflags=FLAGS).run(test, out=report.append, clear_globs=False)
    if report:
        raise AssertionError("".join(report))


def main() -> None:
    """Answer requests until standard input ends."""
    requests, answers = os.fdopen(os.dup(0), "r"), os.fdopen(int(sys.argv[1]), "w")
    os.set_inheritable(answers.fileno(), False)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.path.insert(0, "")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for request in map(json.loads, requests):
        os.environ.clear()
        os.environ.update(request["environ"])
        error = None
        try:
            run(request["text"], request["page"], request["line"], namespace)
        except BaseException:  # noqa: BLE001 - whatever a block raises is the answer
            error = traceback.format_exc()
        sys.stdout.flush()
        answers.write(json.dumps(error) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
