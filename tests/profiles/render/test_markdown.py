from lavit_deploy.profiles.render.markdown import page, verdict


def test_markdown_holds_the_same_numbers_and_says_that_it_is_incomplete(unfinished_report):
    text = page(unfinished_report)
    assert "incomplete" in text
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    rows = [row for row in cells if row and row[0] == "lavit_micro"]
    assert rows[0][2:] == ["1.33", "-", "0.017", "-"]
    assert rows[1][2:] == [
        "10.0", "100.0", "100.0 - 100.0", "100.0", "100.0", "100.0", "-", "21", "0"
    ]  # fmt: skip
    assert rows[2][2:] == ["8.0", "500.0 \\*", "-", "500.0", "-", "-", "-", "3", "-"]
    widths = {len(row) for row in cells if row}
    assert widths <= {5, 6, 11}  # one width for each kind of table


def test_a_comparison_names_its_winner_or_says_that_there_is_none(unfinished_report):
    won, _ = unfinished_report.comparisons
    assert verdict(won) == "lavit_micro is faster"
    assert verdict(won.model_copy(update={"winner": None})) == "no winner inside the noise"


def test_what_a_report_lacks_has_no_section(unfinished_report):
    bare = unfinished_report.model_copy(update={"models": (), "comparisons": (), "method": None})
    text = page(bare)
    assert "## Batch" not in text
    assert "## Comparisons" not in text
    assert "Timing:" not in text


def test_a_label_cannot_end_a_cell(unfinished_report):
    model = unfinished_report.models[0].model_copy(update={"label": "a|b"})
    text = page(unfinished_report.model_copy(update={"models": (model,), "comparisons": ()}))
    assert "| a\\|b |" in text
