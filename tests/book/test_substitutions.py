"""The numbers that the text of the book takes from the paper and from records."""

from repro.book import substitutions


def test_numbers_of_the_paper():
    numbers = substitutions.of_paper()
    assert (numbers["train_facts"], numbers["test_facts"], numbers["testood_facts"]) == (
        "75,944",
        "9,555",
        "11,613",
    )
    assert (numbers["topics"], numbers["in_topics"], numbers["out_topics"]) == ("24", "10", "14")
    # As §5.2 of the paper words them.
    assert (numbers["gain_20_d0"], numbers["best_gain_d0"], numbers["best_gain_d4"]) == (
        "9.85",
        "10.48",
        "3.44",
    )


def test_how_many_answers_the_spelling_of_spaces_decides():
    counts = substitutions.of_spellings()
    assert counts == {"completions": "2,520", "special": "34", "moved": "none"}
