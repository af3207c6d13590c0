"""Push against one door, guided by which lines the bytes reach; for whoever wants more than hypothesis finds.

    pip install atheris
    PYTHONPATH=. python tests/fuzz/guided.py DOOR [-max_total_time=60] [further arguments of libFuzzer]

Without a door, it names them. A finding ends it, and is written into the working directory (`crash-...`).
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["shareddata", "cbor2", "json", "zipfile", "ast"]):
    from doors import DOORS, push


def main() -> None:
    """Run libFuzzer on the door that is named."""
    if len(sys.argv) < 2 or sys.argv[1] not in DOORS:
        sys.exit(f"usage: guided.py DOOR [arguments of libFuzzer]; doors: {', '.join(DOORS)}")
    name = sys.argv.pop(1)
    corpus = Path(f"corpus-{name.replace(' ', '-')}")
    corpus.mkdir(exist_ok=True)
    for number, example in enumerate(DOORS[name].examples):
        (corpus / f"example-{number}").write_bytes(example)
    atheris.Setup([*sys.argv, str(corpus)], lambda data: (push(DOORS[name], data), None)[1])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
