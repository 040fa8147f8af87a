"""Counts the edits between two strings."""


def edit_distance(a: str, b: str) -> int:
    """The smallest number of characters to insert, delete or replace that turns one string into the other.

    Source: Hyyrö, "A Bit-Vector Algorithm for Computing Levenshtein and Damerau Edit Distances" (2003), section 3.
    """
    if not a:
        return len(b)
    places: dict[str, int] = {}
    for index, letter in enumerate(a):
        places[letter] = places.get(letter, 0) | 1 << index
    mask, last = (1 << len(a)) - 1, 1 << len(a) - 1
    more, less, distance = mask, 0, len(a)  # where the column of the table rises and falls
    for letter in b:
        same = places.get(letter, 0)
        diagonal = (((same & more) + more) ^ more) | same | less
        rises, falls = less | (mask & ~(diagonal | more)), more & diagonal
        distance += bool(rises & last) - bool(falls & last)
        rises, falls = (rises << 1 | 1) & mask, (falls << 1) & mask
        more, less = falls | (mask & ~(diagonal | rises)), rises & diagonal
    return distance
