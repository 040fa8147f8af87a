"""`leanlens evaluate table`."""

from tests.evaluate import comparison


def test_a_comparison_is_printed_for_a_model_card(leanlens, tmp_path):
    folder = comparison.write(tmp_path / "out", comparison.results(2))
    run = leanlens("evaluate", "table", str(folder), "--metric", "count")
    assert run.code == 0
    assert run.out.startswith("### GenEval\n\n| model | count |\n")
    assert "FLUX.1-dev" not in run.out


def test_published_numbers_are_printed_apart(leanlens, tmp_path):
    folder = comparison.write(tmp_path / "out", comparison.results(2))
    run = leanlens("evaluate", "table", str(folder), "--published", "geneval")
    measured, published = run.out.split("GenEval, as published: arXiv 2605.21573v1", 1)
    assert "| lens | 90.0 (85.0 to 95.0) |" in measured
    assert "| FLUX.1-dev | 0.660 |" in published
    assert leanlens("evaluate", "table", "--published", "mjhq").code == 0


def test_wrong_words_are_errors(leanlens, tmp_path):
    for words, message in (
        ([], "give a folder that `leanlens evaluate` wrote, --published SUITE, or both"),
        (["--published", "x"], "no numbers of suite 'x' are kept"),
        ([str(tmp_path)], "expected one that `leanlens evaluate` wrote"),
    ):
        run = leanlens("evaluate", "table", *words)
        assert (run.code, message in run.err) == (2, True), run.err
