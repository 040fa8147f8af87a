"""The classifiers of the library `common` that ship with the package: `python -m leanlens.score.shipped` writes them.

With them, prompts about its things are judged although no drawing of them is on disk.
"""

from leanlens.scenes.icons import Library, library
from leanlens.scenes.names import Concept, pluralize
from leanlens.score.crosscheck.naming import SHIPPED, crosscheck_network, ship_names
from leanlens.score.features import CONCEPTS, STYLES, picture_network, ship_gallery
from leanlens.score.packed import read_packed


def shipped_library() -> Library:
    """The things and styles of `common` without a drawing: it can be judged with, but nothing can be drawn from it.

    Raises:
        ValueError: the package was built without its classifiers.
    """
    shipped = read_packed(CONCEPTS)
    if shipped is None:
        raise ValueError(f"{CONCEPTS} is missing; run python -m leanlens.score.shipped")
    concepts = {
        name: Concept(name, category, pluralize(name), (), (), name)
        for name, category in shipped.facts["categories"].items()
    }
    return Library(CONCEPTS.parent, shipped.library, concepts, shipped.facts["phrases"], {})


def ship() -> None:
    """Fit both scorers to `common`, unless their fits are kept already, and pack them.

    Raises:
        ValueError: the full library is not on disk.
    """
    common = library("common")
    ship_gallery(common, picture_network(), CONCEPTS, STYLES)
    ship_names(common, crosscheck_network(), SHIPPED)


if __name__ == "__main__":
    ship()
