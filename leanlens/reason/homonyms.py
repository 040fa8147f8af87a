"""Words of several meanings, told apart by what stands around them: "orange", the "flower" of "rose flower".

Comes in: the tags of a prompt. Goes out: the same, where a word is surely a colour without the reading of a thing, and
where it only says what a thing is a filler. Where nothing tells, all readings stay, and the phrase decides.
"""

from dataclasses import replace

from leanlens.reason.words import Tag

_COPULAS = ("it's", "it’s", "its", "is", "are", "be", "was", "were", "looks", "they're", "they’re")
_CLASSES = ("flower", "fruit", "animal", "character", "figure", "toy", "shape")


def settle(tags: list[Tag]) -> list[Tag]:
    """The tags with the readings that hold."""
    return _settle_classes(settle_colors(tags))


def _settle_classes(tags: list[Tag]) -> list[Tag]:
    """ "a rose flower", "a cat character", "a toy car" are a rose, a cat and a car."""
    found = list(tags)
    for at, tag in enumerate(found):
        word = tag.text.lower()
        before, after = found[at - 1] if at else None, found[at + 1] if at + 1 < len(found) else None
        follows = before is not None and before.has("thing", "name") and word in _CLASSES
        if follows or (word == "toy" and after is not None and after.has("thing")):
            found[at] = replace(tag, readings={"filler": "filler"})
    return found


def settle_colors(tags: list[Tag]) -> list[Tag]:
    """Leave out the thing where a word is a colour beside other colours, before "one", or after "is"."""
    found = list(tags)
    for at, tag in enumerate(found):
        if not (tag.has("color") and tag.has("thing", "name")) or (tag.get("thing") or tag.get("name"))[1]:
            continue
        if _follows_color(found, at) or _leads_to_color(found, at) or _is_before_one(found, at) or _is_said(found, at):
            found[at] = replace(
                tag, readings={kind: value for kind, value in tag.readings.items() if kind not in ("thing", "name")}
            )
    return found


def _is_plain(tag: Tag) -> bool:
    return tag.has("color") and not tag.has("thing", "name")


def _parts(tag: Tag) -> bool:
    """Whether a tag stands between the members of a list."""
    return (tag.has("and") and not tag.has("part")) or tag.get("break") in (",", "，", "、")


def _follows_color(tags: list[Tag], at: int) -> bool:
    """ "red, orange", "one white and one orange", unlike "a white orange"."""
    before, parted = at - 1, False
    while before >= 0:
        tag = tags[before]
        if _is_plain(tag):
            return parted
        if not (_parts(tag) or tag.has("article", "number")):
            return False
        parted = parted or _parts(tag)
        before -= 1
    return False


def _leads_to_color(tags: list[Tag], at: int) -> bool:
    """ "orange and white", unlike "an orange and a white cat"."""
    after = at + 1
    while after < len(tags) and _parts(tags[after]):
        after += 1
    return at + 1 < after < len(tags) and _is_plain(tags[after])


def _is_before_one(tags: list[Tag], at: int) -> bool:
    return at + 1 < len(tags) and tags[at + 1].text.lower() in ("one", "ones")


def _is_said(tags: list[Tag], at: int) -> bool:
    return at > 0 and (tags[at - 1].text.lower() in _COPULAS)
