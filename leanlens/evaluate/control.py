"""Makes the control of an evaluation: the same images, judged as if another thing of the same kind had been asked for.

What a scorer still confirms then, such as a background, holds for any thing, so it says nothing about the thing.
"""

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np

from leanlens.evaluate.metric import Metric
from leanlens.evaluate.suite import Item
from leanlens.scenes.icons import Library


def control_items(items: Sequence[Item], library: Library) -> tuple[Item, ...]:
    """The items with every thing named as another of its kind."""
    return tuple(replace(item, truth=truth_of_kin(item.truth, index, library)) for index, item in enumerate(items))


def truth_of_kin(truth: dict[str, Any], index: int, library: Library) -> dict[str, Any]:
    """A truth with every thing named as another of its category that the truth does not have.

    Args:
        index: number of the item, which decides the choice.
    """
    lot, here = Random(index), {stated["concept"] for stated in truth.get("objects", [])}
    objects = []
    for stated in truth.get("objects", []):
        own = library.concepts.get(stated["concept"])
        category = stated.get("category") or (None if own is None else own.category)
        kin = [name for name, concept in library.concepts.items() if concept.category == category and name not in here]
        objects.append({**stated, "concept": lot.choice(kin)} if kin and category != "sign" else stated)
    names = {old.get("id", old["concept"]): new for old, new in zip(truth.get("objects", []), objects, strict=True)}
    relations = [
        [names[a].get("id", names[a]["concept"]), word, names[b].get("id", names[b]["concept"])]
        for a, word, b in truth.get("relations", [])
    ]
    return {**truth, "objects": objects, **({"relations": relations} if "relations" in truth else {})}


def above_control(metric: Metric, control: Metric) -> Metric:
    """How far a share lies above its control, as a part of what lies between the control and 1."""
    width = metric.sums.shape[1]

    def formula(sums: np.ndarray) -> np.ndarray:
        own, floor = metric.formula(sums[..., :width]), control.formula(sums[..., width:])
        return np.divide(own - floor, 1 - floor, out=np.full(np.shape(own), np.nan), where=floor < 1)

    sums = np.hstack([metric.sums, control.sums])
    return Metric(f"{metric.name} above control", sums, formula, metric.num, metric.failed, metric.unit)
