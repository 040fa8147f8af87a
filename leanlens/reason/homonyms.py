"""Words that are a colour as well as a thing, told apart by what stands around them: "orange".

Comes in: the tags of a prompt. Goes out: the same, where such a word is surely a colour without the reading of a thing.
Where nothing tells, both readings stay, and the phrase that it is in decides.
"""

from dataclasses import replace

from leanlens.reason.words import Tag

_COPULAS = ("it's", "it’s", "its", "is", "are", "be", "was", "were", "looks", "they're", "they’re")


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
