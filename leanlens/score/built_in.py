"""The scorers of scenes by name, for `open_scorer`: the scorer `scene`, and the second checker `crosscheck`."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from leanlens.score.protocol import Scorer

if TYPE_CHECKING:
    from leanlens.scenes.icons import Library


def scene_scorers(library: "Library") -> dict[str, Callable[[], Scorer]]:
    """Name -> what opens the scorer of scenes that knows the things and styles of a library."""

    def scene() -> Scorer:
        from leanlens.score.scene import SceneScorer

        return SceneScorer(library)

    def crosscheck() -> Scorer:
        from leanlens.score.crosscheck.scorer import Crosscheck

        return Crosscheck(library)

    return {"scene": scene, "crosscheck": crosscheck}
