"""Resolves words with several meanings from their context: "orange", or "flower" in "rose flower".

A word that is certainly a colour loses its reading as a thing, and a word that only qualifies a thing becomes a filler.
If the context does not decide, all readings stay and the phrase grammar decides.
"""

from dataclasses import replace

from leanlens.reason.spelling import fold
from leanlens.reason.words import Tag, Words

_COPULAS = ("it's", "it’s", "its", "is", "are", "be", "was", "were", "looks", "they're", "they’re")
_CLASSES = ("flower", "fruit", "animal", "character", "figure", "toy", "shape")


def settle(tags: list[Tag], words: Words) -> list[Tag]:
    """Keep only the readings that apply."""
    tags = settle_colors(tags)
    return _settle_verbs(_settle_is(_settle_classes(tags), words)) if words.code == "en" else tags


def _settle_is(tags: list[Tag], words: Words) -> list[Tag]:
    """ "the cat's sitting", "the cat's on a chair", unlike "the cat's hat"."""
    found = list(tags)
    for at, tag in enumerate(found[:-1]):
        stem = tag.text[:-2]
        if set(tag.readings) != {"filler"} or not tag.text.lower().endswith(("'s", "’s")) or not stem.isalpha():
            continue
        hit = words.longest([fold(stem)], 0)
        readings = {} if hit is None else hit[1]
        named = "thing" in readings or "name" in readings
        after, last = found[at + 1], found[at + 2] if at + 2 < len(found) else None
        colored = _is_plain(after) and (last is None or (bool(last.readings) and not last.has("thing", "name")))
        says_how = after.has("relation", "article", "not", "and", "preposition") or after.text.lower().endswith("ing")
        if (named or (not readings and at and found[at - 1].has("article"))) and (colored or says_how):
            found[at] = replace(tag, text=stem, readings=readings)
    return found


def _settle_verbs(tags: list[Tag]) -> list[Tag]:
    """ "a dog sleeps under a tree", "a boy kicks a ball": an unknown word in -s after a single thing is a verb that
    connects it with the next one."""
    found = list(tags)
    for at, tag in enumerate(found):
        word = tag.text.lower()
        several = tag.has("thing", "name") and not tag.has("filler")  # "a cat watches a bird"
        if (tag.readings and not several) or not at or not word.endswith("s") or word.endswith("ss") or len(word) < 4:
            continue
        before, after = found[at - 1], found[at + 1] if at + 1 < len(found) else None
        opens = after is not None and after.has("article", "number", "relation", "preposition")
        if before.has("thing", "name"):
            one = not (before.get("thing") or before.get("name"))[1]
            opens = opens and not (several and not (after is not None and after.has("article")))
            is_verb = one and (opens or (not several and _is_begun(found, at - 1)))
        else:
            is_verb = (
                not several
                and not before.readings
                and opens
                and at > 1
                and found[at - 2].has("article", "color", "size")
            )
        if is_verb:
            joins = after is not None and (
                after.has("article", "number", "thing", "name", "color", "size") or not after.readings
            )
            found[at] = replace(tag, readings={"and": "and", "joins": "joins"} if joins else {"filler": "filler"})
    return found


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
    """Drop the reading as a thing if a word is a colour: next to other colours, before "one", or after "is"."""
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
    """Whether a tag separates the members of a list."""
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
    noun = tags[after + 1].get("thing") if after + 1 < len(tags) else None
    if noun and noun[1] and at and tags[at - 1].get("article") == "one":
        return False  # "an orange and red apples"
    return at + 1 < after < len(tags) and _is_plain(tags[after])


def _is_before_one(tags: list[Tag], at: int) -> bool:
    return at + 1 < len(tags) and tags[at + 1].text.lower() in ("one", "ones")


def _is_said(tags: list[Tag], at: int) -> bool:
    return at > 0 and (tags[at - 1].text.lower() in _COPULAS)


def _is_begun(tags: list[Tag], at: int) -> bool:
    """Whether a noun is at the start of the prompt, or a modifier precedes it."""
    return not at or tags[at - 1].has("article", "number", "color", "size", "filler")
