"""Implements `leanlens evaluate table`, which prints a comparison for a model card, or published numbers."""

from leanlens.cli import options as opt


def table(
    out: opt.ResultsToTabulate = None, metric: opt.ShownMetrics = None, published: opt.PublishedSuite = None
) -> None:
    """Print a comparison as Markdown for a model card, or the numbers that others published for a suite.

    Published numbers are printed apart, with their sources and settings. They are not measured, so they have no place
    in the table of a comparison.
    """
    from leanlens.evaluate.published import published_numbers, render_published
    from leanlens.evaluate.results_file import read_results
    from leanlens.evaluate.table import render_card

    if out is None and published is None:
        raise ValueError("give a folder that `leanlens evaluate` wrote, --published SUITE, or both")
    parts = []
    if out is not None:
        parts.append(render_card(read_results(out), metric or ()))
    if published is not None:
        parts.append(render_published(published_numbers(published)))
    print("\n".join(parts), end="")
