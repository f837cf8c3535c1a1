"""`python -m benchmarks` lists what there is."""

import ast
from pathlib import Path


def main() -> None:
    """One line for each benchmark."""
    for file in sorted(Path(__file__).parent.glob("[!_]*.py")):
        about = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        print(f"python -m benchmarks.{file.stem:10} {about.splitlines()[0]}")


if __name__ == "__main__":
    main()
