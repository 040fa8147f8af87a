"""Make leanlens/reason/looks.txt and names.txt again, from the full library of drawings.

    leanlens scenes sources && python docs/make_looks.py

looks.txt: the mean colour of each known thing over the five styles of the library "common". names.txt: the things that
the full library has beside those.
"""

from leanlens.files import whole_file
from leanlens.reason.looks import LOOKS
from leanlens.reason.words import NAMES, known_things
from leanlens.scenes.icons import Library, library


def main() -> None:
    common, full = library("common"), library("full")
    looks = {name: look for name in sorted(known_things()) if (look := _mean_color(common, name)) is not None}
    with whole_file(LOOKS) as path:
        path.write_text("".join(f"{name}: {r} {g} {b}\n" for name, (r, g, b) in looks.items()), encoding="utf-8")
    names = sorted(set(full.concepts) - set(known_things()))
    with whole_file(NAMES) as path:
        path.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def _mean_color(icons: Library, name: str) -> tuple[int, int, int] | None:
    """Over the styles that have the thing; None where none has, as for signs."""
    means = [icons.find(name, style).facts.mean for style in icons.styles if name in icons.bitmaps[style]]
    if not means:
        return None
    red, green, blue = (round(sum(channel) / len(means)) for channel in zip(*means, strict=True))
    return red, green, blue


if __name__ == "__main__":
    main()
