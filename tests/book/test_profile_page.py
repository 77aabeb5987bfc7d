"""The table of profiles."""

from repro.book import profile_page
from repro.study import profiles


def test_every_profile_is_a_column_that_says_what_it_runs():
    table = profile_page.table().set_index("What")
    assert tuple(table.columns) == profiles.PROFILES
    full = table["full"]
    assert full["Mastery (Section 3.3)"] == "21 templates, 10 draws of each, 32 tokens at most"
    assert full["Fine-tuning (Tables 2 and 4)"].startswith("60, 120, 240, 480, 960, 1,920, all")
    assert "train 4,350" in table["real"]["Facts of each split"]  # the sum over the bands
    assert table["quick"]["Layers (Table 11)"] == profile_page.ABSENT
    assert not table.isna().any(axis=None)
