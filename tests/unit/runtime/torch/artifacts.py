"""Run with PyTorch: `python artifacts.py FOLDER` writes an artifact of each kind, and what its module answers.

`FOLDER/answers.json` has, by artifact, the outputs that the module itself gives, before it was saved, for the inputs
that it holds beside them.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch

ROWS = torch.tensor([[0.5, -1.0, 2.0], [3.0, 0.25, -0.5], [0.0, 1.0, 1.5]])
CODES = torch.tensor([0, 2, 1])
ROW_AXIS = torch.export.Dim("rows")

NET = '''
import torch


class Net(torch.nn.Module):
    """Two outputs a row, dropout before them: what it answers tells whether it was put into eval mode."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)
        self.drop = torch.nn.Dropout(0.9)

    def forward(self, rows):
        return self.drop(self.layer(rows))


class State(torch.nn.Module):
    """Says how it is run."""

    def forward(self, rows):
        flags = [torch.get_num_threads(), torch.is_inference_mode_enabled(), self.training]
        return torch.tensor([flags] * len(rows), dtype=torch.int64)
'''


class Two(torch.nn.Module):
    """Two inputs of different types, and outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(3, 3)

    def forward(self, numbers: torch.Tensor, code: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return a score and a class a row."""
        scores = numbers * self.table(code)
        return {"score": scores.sum(1), "top": scores.argmax(1)}


class Pair(torch.nn.Module):
    """A tuple of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 4)

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits and their place."""
        logits = self.layer(rows)
        return logits, logits.argmax(1)


class Image(torch.nn.Module):
    """One input that is no row of features."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return a number a channel."""
        return image.mean((2, 3))


class WritesAtLoad(torch.nn.Module):
    """TorchScript that writes the file `written` into the working folder when it is loaded."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the rows."""
        return rows

    @torch.jit.export
    def __getstate__(self) -> tuple[bool]:
        """Return what torch asks for."""
        return (self.training,)

    @torch.jit.export
    def __setstate__(self, state: tuple[bool]) -> None:
        """Write a file."""
        self.training = state[0]
        torch.save(torch.ones(1), "written")


def write_all(folder: Path) -> dict[str, Any]:
    """Write every artifact into a folder of its name; return the answers."""
    torch.manual_seed(7)
    net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1)).eval()
    answers: dict[str, Any] = {}

    def place(name: str, *answer: Any) -> Path:
        (folder / name).mkdir(parents=True)
        if answer:
            answers[name] = [part.tolist() for part in answer]
        return folder / name

    def export(name: str, module: Any, example: Any, *answer: Any, **options: Any) -> None:
        torch.export.save(torch.export.export(module, example, **options), place(name, *answer) / "model.pt2")

    with torch.no_grad():
        export("program", net, (ROWS,), net(ROWS)[:, 0], dynamic_shapes=({0: ROW_AXIS},))
        export("one-row", net, (ROWS[:1],), net(ROWS)[:, 0])
        export("two-rows", net, (ROWS[:2],))
        half = torch.nn.Linear(3, 2).bfloat16().eval()
        half_answer = half(ROWS.bfloat16()).float()
        export("bfloat16", half, (ROWS.bfloat16(),), half_answer, dynamic_shapes=({0: ROW_AXIS},))
        two = Two().eval()
        both = two(ROWS, CODES)
        export("two", two, (ROWS, CODES), both["score"], both["top"], dynamic_shapes=({0: ROW_AXIS}, {0: ROW_AXIS}))

        pair = Pair().eval()
        torch.jit.script(pair).save(place("script", *pair(ROWS)) / "net.pt")
        declare(folder / "script", "rows", "FP32", [-1, 3])
        torch.jit.trace(net, ROWS).save(place("bare-script", net(ROWS)[:, 0]) / "net.pt")
        torch.jit.script(two).save(place("two-script") / "net.ts")
        picture = torch.arange(96.0).reshape(2, 3, 4, 4)
        torch.jit.script(Image()).save(place("image", picture, Image()(picture)) / "model.pt")
        declare(folder / "image", "image", "FP32", [-1, 3, 4, 4])
        torch.jit.script(Image()).save(place("wrong-signature") / "model.pt")
        declare(folder / "wrong-signature", "image", "FP32", [-1, 3])
        torch.jit.script(WritesAtLoad()).save(place("writes") / "model.pt")

        write_modules(folder, place)
        write_broken(folder, place)
    return answers


def write_modules(folder: Path, place: Any) -> None:
    """Write pickles: of modules with their code beside them, and of what can't be served."""
    beside = folder / "code"
    beside.mkdir()
    (beside / "net.py").write_text(NET)
    sys.path.insert(0, str(beside))
    import net as code  # type: ignore[import-not-found] # written a line ago

    module = code.Net()
    saved = place("module", module.eval()(ROWS))
    torch.save(module.train(), saved / "model.pt")
    declare(saved, "features", "FP32", [-1, 3])
    (saved / "net.py").write_text(NET)
    again = place("module-again", 2 * module.eval()(ROWS))
    torch.save(module, again / "model.pt")
    (again / "net.py").write_text(NET.replace("self.drop(self.layer(rows))", "2 * self.layer(rows)"))
    state = place("how-it-runs")
    torch.save(code.State(), state / "model.pth")
    (state / "net.py").write_text(NET)
    torch.save(module, place("without-code") / "model.pt")
    torch.save(torch.nn.Linear(3, 1), place("old") / "model.pt", _use_new_zipfile_serialization=False)
    torch.save(module.state_dict(), place("state-dict") / "model.pt")
    torch.save([1, 2], place("list") / "model.pt")


def write_broken(folder: Path, place: Any) -> None:
    """Write an exported program whose graph is damaged, and signatures that can't be used."""
    broken = place("damaged") / "model.pt2"
    with ZipFile(folder / "program" / "model.pt2") as whole, ZipFile(broken, "w") as made:
        for name in whole.namelist():
            made.writestr(name, b"{}" if name.endswith("models/model.json") else whole.read(name))
    for name, datatype, shape in (("odd-datatype", "FLOAT", [-1, 3]), ("fixed-signature", "FP32", [1, 3])):
        shutil.copy(folder / "bare-script" / "net.pt", place(name))
        declare(folder / name, "x", datatype, shape)
    shutil.copy(folder / "bare-script" / "net.pt", place("bad-signature"))
    (folder / "bad-signature" / "signature.json").write_text('{"inputs": [{"name": "x"}]}')


def declare(folder: Path, name: str, datatype: str, shape: list[int]) -> None:
    """Write signature.json."""
    (folder / "signature.json").write_text(
        json.dumps({"inputs": [{"name": name, "datatype": datatype, "shape": shape}]})
    )


if __name__ == "__main__":
    target = Path(sys.argv[1])
    (target / "answers.json").write_text(json.dumps(write_all(target)))
