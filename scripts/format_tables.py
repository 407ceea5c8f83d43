"""Write what lists the formats, from their declarations: contract.FORMATS, the tables in README.md and docs/formats.md.

`python scripts/format_tables.py` prints what it wrote; with `--check` it writes nothing, prints what is out of date and
fails if anything is. scripts/generate runs it, before the CRDs, whose enum comes from contract.FORMATS.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from modelyard_runtime import formats
from modelyard_runtime.formats.format import Format

ROOT = Path(__file__).resolve().parent.parent


def declared() -> list[Format]:
    """Return the formats, by name: the modules in formats/ that have a FORMAT."""
    names = sorted(module.name for module in pkgutil.iter_modules(formats.__path__))
    modules = [importlib.import_module(f"{formats.__name__}.{name}") for name in names]
    return [module.FORMAT for module in modules if isinstance(getattr(module, "FORMAT", None), Format)]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def between_marks(text: str, new: str) -> str:
    """Return a document with what is between its marks replaced."""
    marks = re.compile(r"(<!-- formats, by scripts/generate -->\n).*?(\n<!-- end of formats -->)", re.DOTALL)
    if not marks.search(text):
        raise SystemExit("the marks <!-- formats, by scripts/generate --> and <!-- end of formats --> are missing")
    return marks.sub(lambda found: found[1] + new + found[2], text)


def generated(found: Sequence[Format]) -> dict[Path, str]:
    """Return each file's new text."""
    contract = ROOT / "runtime/modelyard_runtime/contract.py"
    readme, docs = ROOT / "README.md", ROOT / "docs/formats.md"
    names = ", ".join(f'"{format.name}"' for format in found)
    short = [(f"`{format.name}`", format.artifact, f"`{format.extra}`" if format.extra else "") for format in found]
    full = [
        (f"`{format.name}`", format.artifact, format.prediction, format.probabilities, format.rows) for format in found
    ]
    return {
        contract: re.sub(r"(?m)^FORMATS = \(.*?\)$", f"FORMATS = ({names})", contract.read_text()),
        readme: between_marks(readme.read_text(), table(("format", "artifact", "extra"), short)),
        docs: between_marks(
            docs.read_text(),
            table(("format", "artifact", "prediction", "probabilities", "rows gathered"), full),
        ),
    }


def main() -> None:
    """Write the files, or with --check tell which are out of date."""
    stale = {path: text for path, text in generated(declared()).items() if path.read_text() != text}
    check = sys.argv[1:] == ["--check"]
    for path, text in stale.items():
        print(f"{'out of date:' if check else 'wrote'} {path.relative_to(ROOT)}")
        if not check:
            path.write_text(text)
    raise SystemExit(bool(stale) if check else 0)


if __name__ == "__main__":
    main()
