"""How a notebook's cells become parts of a page: code folded under its own name, claims in one line, pictures for phones.

Works on what MyST-NB made of a cell, at version 1.4; tests/test_site.py counts what comes out.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform

from mamlkit.page.checks import NO_ANSWER
from mamlkit.page.drawn import NARROW

CLAIM = "✓ "
SOLVED = re.compile(r"✓ ex-[\w-]+: solved")
WAITING = re.compile(r"… ex-[\w-]+: not yet \((.*)\)")
PICTURE = re.compile(r'<img [^>]*?src="([^"]*_images/([^"/]+)\.png)"[^>]*>')
CAPTION = re.compile(
    r'(?<=<picture class="stacked">)((?:(?!<figure\b).)*?)(<figcaption>.*?</figcaption>)', re.DOTALL
)
SIDE = re.compile(r"\b(?:Left|Right)\b|(?<=\()(?:left|right)\b")
STACKED = {"Left": "Top", "Right": "Bottom", "left": "top", "right": "bottom"}
MARKS = r"((?:-th|’s)?[.,:;?!)]*)"  # what belongs to the formula before it
OURS = (NARROW, b"zTXt")  # chunks of a stored picture: its narrow twin, its words


class TellCells(SphinxPostTransform):
    """Names what is folded, gathers claims, and moves the line about versions to the foot of the page."""

    default_priority = 150  # before MyST-NB folds, at 199
    formats = ("html",)

    def run(self, **kwargs) -> None:
        cells = [n for n in self.document.findall(nodes.container) if n.get("nb_element") == "cell_code"]
        for i, cell in enumerate(cells):
            parts = {part.get("nb_element"): part for part in cell.children}
            code, output = parts.get("cell_code_source"), parts.get("cell_code_output")
            if i == 0 and output is not None:
                self.document += nodes.paragraph(output.astext(), output.astext(), classes=["versions"])
                cell.remove(output)
                output = None
            folded = cell.get("hide_mode") == "input"
            cell["prompt_show"], cell["prompt_hide"] = self.named(i, output)
            if output is not None and gather(output, code if folded else None):
                cell["hide_mode"] = ""
                cell.remove(code)

    def named(self, i: int, output: nodes.Element | None) -> tuple[str, str]:
        if i == 0:
            return "Setup", "Hide the setup"
        figure = next(output.findall(nodes.figure), None) if output is not None else None
        if figure is None:
            return "Code", "Hide the code"
        numbers = self.env.toc_fignumbers.get(self.env.docname, {}).get("figure", {})
        number = next((numbers[name] for name in figure["ids"] if name in numbers), ())
        name = ".".join(map(str, number))
        return f"Code of Figure {name}".rstrip(), "Hide the code"


def gather(output: nodes.Element, code: nodes.Element | None) -> bool:
    """Mark claims and verdicts in what a cell printed; whether its `code` went along into the line of its claims."""
    moved = False
    for block in list(output.findall(nodes.literal_block)):
        lines = block.astext().rstrip("\n").split("\n")
        claims = [line for line in lines if line.startswith(CLAIM) and not SOLVED.fullmatch(line)]
        verdicts = [line for line in lines if SOLVED.fullmatch(line) or WAITING.fullmatch(line)]
        if not claims and not verdicts:
            continue
        others = [line for line in lines if line not in claims and line not in verdicts]
        new: list[nodes.Node] = []
        if any(line.strip() for line in others):
            kept = block.deepcopy()
            kept.rawsource = "\n".join(others)
            kept.children = [nodes.Text("\n".join(others))]
            new.append(kept)
        # what surrounds the code in the page must be whole, so the line of claims is opened and closed around it
        whole = code is not None and len(output.children) == 1 and not new and len(claims) > 1
        if len(claims) > 1:
            new.append(raw(folded(claims, open_end=whole)))
            if whole:
                new += [code, raw("</details></details>")]
                moved = True
        elif claims:
            new.append(raw(f'<p class="claim">{escape(claims[0])}</p>'))
        for line in verdicts:
            waiting = WAITING.fullmatch(line)
            if not waiting:
                new.append(raw(f'<p class="claim">{escape(line)}</p>'))
            elif waiting[1] != NO_ANSWER:
                new.append(raw(f'<p class="waiting">{escape(line)}</p>'))
        block.parent.replace(block, new or [nodes.comment()])
    return moved


def folded(claims: list[str], *, open_end: bool) -> str:
    items = "".join(f"<li>{escape(claim)}</li>" for claim in claims)
    start = f'<details class="claims"><summary>✓ {len(claims)} checks</summary><ul>{items}</ul>'
    inner = '<details class="checked"><summary>How this is checked</summary>'
    return start + (inner if open_end else "</details>")


def raw(html: str) -> nodes.raw:
    return nodes.raw("", html, format="html")


def chunks(png: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Kind, data and whole of each chunk of a PNG."""
    at = 8
    while at < len(png):
        (n,) = struct.unpack(">I", png[at : at + 4])
        yield png[at + 4 : at + 8], png[at + 8 : at + 8 + n], png[at : at + 12 + n]
        at += 12 + n


def offer_narrow(app, pagename, templatename, context, doctree) -> None:
    """A phone gets the picture that was drawn for it, and where its panels stand below one another the caption says so.

    A picture is fetched when it is nearly in sight; its size keeps the place that it will take.
    """
    if "body" not in context or "_images/" not in context["body"]:
        return
    sources = {Path(name).stem: Path(app.srcdir, source) for source, name in app.builder.images.items()}

    def both(image: re.Match) -> str:
        source = sources.get(image[2])
        twins = [data for kind, data, _ in chunks(source.read_bytes()) if kind == NARROW] if source else []
        if not twins:
            return image[0]
        folder = Path(app.outdir, app.builder.imagedir)
        folder.mkdir(exist_ok=True)
        (folder / f"{image[2]}-narrow.png").write_bytes(twins[0])
        narrow = image[1].replace(".png", "-narrow.png")
        small, large = (size(png) for png in (twins[0], source.read_bytes()))
        stacked = ' class="stacked"' if is_stacked(small, large) else ""
        there = f'media="(max-width: 600px)" srcset="{narrow}" width="{small[0]}" height="{small[1]}"'
        later = image[0].replace("<img", f'<img loading="lazy" width="{large[0]}" height="{large[1]}"')
        return f"<picture{stacked}><source {there}>{later}</picture>"

    context["body"] = CAPTION.sub(
        lambda figure: figure[1] + with_sides(figure[2]), PICTURE.sub(both, context["body"])
    )


def size(png: bytes) -> tuple[int, int]:
    """Width and height, in pixels."""
    return struct.unpack(">II", png[16:24])


def is_stacked(narrow: tuple[int, int], wide: tuple[int, int]) -> bool:
    """Whether a picture's narrow twin has its panels below one another: then it is much higher for its width."""
    return narrow[1] * wide[0] > 2 * wide[1] * narrow[0]


def with_sides(caption: str) -> str:
    """A caption that speaks of left and right where panels stand side by side, of top and bottom where they are stacked."""
    return SIDE.sub(
        lambda side: (
            f'<span class="if-wide">{side[0]}</span><span class="if-narrow">{STACKED[side[0]]}</span>'
        ),
        caption,
    )


def with_marks(text: str, formula: str) -> str:
    """Formulas, which a pattern without groups finds, on one line with the bracket before and the marks behind them."""
    return re.sub(
        rf"(\(?){formula}{MARKS}",
        lambda run: f'<span class="with-mark">{run[0]}</span>' if run[1] or run[2] else run[0],
        text,
    )


def lighten(app, exception) -> None:
    """What pictures carry for the tests and for phones need not be sent with them."""
    for path in Path(app.outdir, "_images").glob("*.png"):
        png = path.read_bytes()
        kept = png[:8] + b"".join(whole for kind, _, whole in chunks(png) if kind not in OURS)
        if len(kept) < len(png):
            path.write_bytes(kept)


def setup(app) -> dict[str, bool]:
    app.add_post_transform(TellCells)
    app.connect("html-page-context", offer_narrow, priority=900)
    app.connect("build-finished", lighten)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
