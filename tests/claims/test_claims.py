"""Claims: verdicts on the paper's tables, quotes, the kinds of check, and the page."""

import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import jupytext
import numpy as np
import pandas as pd
import pytest

from repro import paper
from repro.claims import claims, claims_page, digit_checks, phenomena, printed_digits, sources
from repro.claims.sources import Side
from repro.errors import ConfigError
from repro.paper import quotes
from repro.report import locations
from repro.statistics import verdicts
from repro.statistics.verdicts import CONTRADICTED, EXCEPTIONS, HOLDS, SUPPORTED, UNDECIDED
from repro.study import open_study

ROOT = Path(__file__).parents[2]
CLAIMS = claims.load()
# Parts of the text whose every number must be covered, by the titles that they lie between.
SECTIONS = {
    "Abstract": ("Abstract\n", "1 Introduction"),
    "§1": ("1 Introduction", "2 Related Work"),
    "§3.4": ("3.4 Main Results", "4 Token-Level Analysis"),
    "§4.2": ("4.2 Results", "5 Parameter-Level Analysis"),
    "§5.1": ("5.1 Parameter Restoration", "5.2 Results"),
    "§5.2": ("5.2 Results", "6 Conclusion"),
    "§6": ("6 Conclusion", "Limitations\n"),
    "App. C": ("C More Results", "D Data Distribution"),
    "App. E": ("E Discussion", "F Details of Data"),
}
# Numbers that count something else: the two phenomena and findings, the bits a parameter stores,
# the ten logits of Figure 3's caption, and parts of formulas and headings.
OTHER = {"§1": {"1", "2"}, "§3.4": {"3.4", "two", "ten", "1"}, "§4.2": {"4.2", "two"}}
OTHER |= {"§5.1": {"5.1"}, "§5.2": {"5.2"}, "§6": {"6"}, "App. C": {"1", "2", "3"}}
OTHER |= {"App. E": {"1", "2"}}
FOOTNOTES = {"§5.2": {"8", "3", "2"}}


@pytest.fixture(scope="module")
def printed():
    return sources.of_paper()


@pytest.fixture(scope="module")
def findings(printed):
    return claims.findings([printed])


@pytest.fixture(scope="module")
def measured(tmp_path_factory, tiny_model, tiny_facts_folder):
    """Return a computed smoke study of the tiny model, in a cache of its own."""
    folder = tmp_path_factory.mktemp("claims")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_CACHE", str(folder / "cache"))
        patch.setenv("REPRO_RESULTS", str(folder / "results"))
        opened = open_study(tiny_model, "smoke", tiny_facts_folder, learning_rate=1e-3)
        opened.run()
        yield opened


def claim(check=None, value="", **fields):
    return claims.Claim(
        id="c", where=("§1",), says="", check=check or "none", value=value, **fields
    )


def runs(values, half=1.0, **columns):
    """Return a frame of in-domain accuracies by (level, size, restored share)."""
    rows = [(*key, value) for key, value in values.items()]
    names = ["train_level", "train_size", "restored_percent", "accuracy"]
    frame = pd.DataFrame(rows, columns=names).assign(split="test", **columns)
    return frame.assign(low=frame["accuracy"] - half, high=frame["accuracy"] + half)


def ours(**frames):
    return Side("ours", frames)


# --- the claims on the paper's tables -------------------------------------------------------------


@pytest.mark.parametrize("name", CLAIMS)
def test_the_verdict_we_state_is_the_one_computed(name, findings):
    computed, stated = findings.set_index("id").loc[name], CLAIMS[name]
    assert stated.verdict == computed["verdict"]
    n, k = computed["count"]
    assert stated.count == (f"{n} of {k}" if k > 1 else "")
    assert stated.outcome == (computed["outcome"] if stated.kind == "observation" else "")


def test_the_number_of_comparisons_shown_is_the_number_computed(findings):
    for row in findings.itertuples():
        n, k = row.count
        if row.rows.attrs.get("count") is None:  # else cells are counted, not compared
            assert k == len(row.rows) and n == (row.rows["verdict"] == SUPPORTED).sum()
        if k > 1:
            assert claims.said(row).endswith(f"({n} of {k})")
        if len(row.rows) > 2:
            assert row.shows.startswith(f"of {len(row.rows)}: ")


def text_of_the_paper():
    """Return the paper's text without its references and templates; skip where it is not there."""
    texts = sorted((ROOT.parent / "shared" / "paper").glob("*.txt"))
    if not texts:
        pytest.skip("the text of the paper is not beside the repository")
    text = texts[0].read_text(encoding="utf-8")
    appendix = text[text.index("A Prompt for SFT") : text.index("F.2 Topics and Mapping")]
    return text[: text.index("References\n")] + appendix


@pytest.mark.parametrize("name", CLAIMS)
def test_every_claim_quotes_sentences_of_the_paper(name):
    assert CLAIMS[name].quotes
    for place, quote in CLAIMS[name].quotes.items():
        assert quotes.unknown_sentences(quote, quotes.known()) == []
        assert place.startswith(("Abstract", "§", "App. ", "Figure "))


def test_the_sentences_are_those_of_the_text():
    assert set(quotes.fingerprints(text_of_the_paper())) == quotes.known()


def test_a_changed_quote_is_not_found():
    quote = CLAIMS["gain-at-20"].quotes["§5.2"]
    assert quotes.unknown_sentences(quote.replace("9.85%", "9.58%"), quotes.known())
    assert quotes.unknown_sentences("Peak at different data sizes.", quotes.known())


def test_phrases_that_are_compared_are_in_the_quotes():
    for claim in CLAIMS.values():
        if (check := claim.check_of("paper")) and check[0] == "agree":
            text = " ".join(" ".join(claim.quotes.values()).split())
            assert all(phrase in text for phrase in check[1]), claim.id


def test_claims_are_many_and_whole():
    assert len(CLAIMS) >= 30
    notebooks = {path.stem for path in (ROOT / "notebooks").glob("*.py")}
    for claim in CLAIMS.values():
        assert claim.where and claim.text() and "{" not in claim.text()
        assert claim.check_of("paper") or claim.check_of("ours"), claim.id
        assert not claim.notebook or claim.notebook in notebooks, claim.id
        assert bool(claim.value) == bool(claim.quantity), claim.id
        assert not claim.value or claim.value in claim.says or "{value}" in claim.says, claim.id


def test_few_claims_are_contradicted_and_observations_are_told_apart(findings):
    counts = claims.counts(findings).iloc[0]
    assert counts[HOLDS] > 30 and counts[EXCEPTIONS] > 4 and counts[claims.SLIP] > 2
    assert counts.drop("side").sum() == len(CLAIMS)
    contradicted = set(findings.loc[findings["verdict"] == CONTRADICTED, "id"])
    assert contradicted == {
        "training-facts-20",
        "gain-at-40-at-1920",
        "gain-at-40-at-1920-ood",
    }
    observed = {claim.id for claim in CLAIMS.values() if claim.kind == "observation"}
    assert set(findings.loc[findings["verdict"] == claims.OBSERVATION, "id"]) == observed


def numbers_of(text):
    """Return the numbers of a piece of the paper's text, without those of titles and citations."""
    lines = [
        line for line in text.split("\n") if "\t" not in line and not line.startswith("Table ")
    ]
    text = re.sub(r"(?s)\$.*?\$|\\mathcal\S*", " ", "\n".join(lines))
    text = re.sub(r"\([^()]*\b(?:19|20)\d\d[a-z]?\b[^()]*\)", " ", text)
    named = r"(?:Sections?|Tables?|Figures?|Appendix|Findings?|Phenomenon|LLaMA-|and Table)"
    text = re.sub(named + r"\s*\d[\d.]*(?:-?\d*B)?|\b[C-F]\.\d", " ", text)
    words = "two|three|four|five|ten|twenty"
    return set(re.findall(rf"\d[\d,.–]*\d%?|\d%?|\b(?:{words})\b", text))


@pytest.mark.parametrize("section", SECTIONS)
def test_every_number_of_the_text_is_covered(section):
    texts = sorted((ROOT.parent / "shared" / "paper").glob("*.txt"))
    if not texts:
        pytest.skip("the text of the paper is not beside the repository")
    text, (start, end) = texts[0].read_text(encoding="utf-8"), SECTIONS[section]
    first = text.index(start)
    there = numbers_of(text[first : text.index(end, first + len(start))])
    covered = {
        n
        for claim in CLAIMS.values()
        for n in claim.numbers
        if any(part == section or part.startswith(section + ".") for part in claim.where)
    }
    assert there - covered - OTHER.get(section, set()) - FOOTNOTES.get(section, set()) == set()
    assert section in {"§4.2", "App. E"} or there & covered


def cell(level, size, share=0, split="test"):
    t = paper.table("restore").set_index(["split", "train_size", "train_level", "restored_percent"])
    return float(t.loc[(split, size, level, share), "accuracy"])


def shown(findings, name):
    return findings.set_index("id").loc[name, "rows"]


def test_what_contradicts_follows_from_the_tables_by_hand(findings):
    assert shown(findings, "level-0-falls")["estimate"].iloc[0] == pytest.approx(
        cell(0, 1920) - cell(0, 240)
    )
    ratio = (cell(2, 1920) - cell(0, 1920)) / (cell(2, 240) - cell(0, 240))
    assert shown(findings, "gap-ratio")["estimate"].iloc[0] == pytest.approx(ratio)
    assert cell(4, 1920) > cell(4, 240)
    rows = shown(findings, "best-at-240").set_index("claim")
    row = rows.loc["level 4: 1,920 facts are worse than 240"]
    assert row["estimate"] == pytest.approx(cell(4, 1920) - cell(4, 240))
    assert row["low"] < 0 < row["high"] and row["verdict"] == UNDECIDED  # within the spread
    assert cell(3, 1920, 20, "testood") < cell(3, 1920, 0, "testood")
    rows = shown(findings, "fifth-helps-1920-ood").set_index("verdict")
    assert "level 3" in rows.loc[CONTRADICTED, "runs"]
    assert {cell(level, 1920, 40) < cell(level, 1920) for level in (1, 3)} == {True}
    assert (shown(findings, "gain-at-40-at-1920")["verdict"] == CONTRADICTED).sum() == 2


def test_quoted_numbers_are_those_of_the_claims():
    rows = quotes.quoted().set_index("name")
    assert list(rows.index) == ["level_0", "level_0_2", "gap", "gap_ratio"]
    assert rows.loc["level_0", "value"] == float(CLAIMS["level-0-falls"].value) < 0


# --- what digits say ------------------------------------------------------------------------------


def test_means_over_three_runs_fit_three_runs_and_no_others():
    generator, facts = np.random.default_rng(0), pd.Series([556] * 400)
    correct = generator.integers(0, 556, (400, 3)).sum(axis=1)
    cells = pd.DataFrame({"accuracy": (100 * correct / (3 * 556)).round(2)})
    assert printed_digits._fitting(cells, 3 * facts)["fits"].all()
    five_runs = printed_digits._fitting(cells, 5 * facts)
    # A third of them are whole numbers of a single run's facts, which any number of runs fits.
    assert five_runs["fits"].mean() < 0.65
    assert printed_digits._fitting(cells, facts)["fits"].mean() < 0.45


def test_ratios_of_eight_bit_sums_are_recognised():
    generator = np.random.default_rng(0)
    divisors = generator.integers(128, 256, 50)
    whole = generator.integers(128, divisors[:, None] + 1, (50, 7))
    percents = (100 * whole / divisors[:, None]).round(2)
    assert (printed_digits._ratios(percents).max(axis=1) == 7).all()
    random = generator.uniform(70, 99, (200, 7)).round(2)
    assert printed_digits._ratios(random).max() < 6


def test_table_6_is_of_single_runs_and_table_2_of_three():
    assert printed_digits.single_runs()["fits"].all()
    by_runs = printed_digits.by_runs().set_index("runs")
    beyond = by_runs["fit"] - by_runs["by_chance"]
    assert beyond.idxmax() == 3 and beyond[3] > 30


def test_a_spread_larger_than_its_parts_is_found():
    table = printed_digits.spreads()
    beyond = table[table["printed"] > table["most"] + 0.01]
    assert list(beyond["llm"].unique()) == ["LLaMA-3-8B"] and set(beyond["train_level"]) == {1, 3}
    # Whichever runs they are: the deviation of a mean never exceeds the mean of the deviations.
    values = np.random.default_rng(1).normal(size=(1000, 3, 5)) * [1, 2, 3, 4, 5]
    means = values.mean(axis=2).std(axis=1, ddof=1)
    assert (means <= values.std(axis=1, ddof=1).mean(axis=1) + 1e-12).all()


# --- the kinds of check ---------------------------------------------------------------------------

FALL = {"frame": "acc", "first": {"size": 1920}, "second": {"size": 240}, "expected": "below"}


def judged(check, side, **fields):
    return claims.judge(claim({"compare": check}, **fields), side)


def test_a_difference_is_judged_by_its_interval():
    frame = runs({(0, 240, 0): 40, (0, 1920, 0): 30, (1, 240, 0): 40, (1, 1920, 0): 41})
    one = judged(FALL | {"at": {"level": 0}}, ours(acc=frame))
    assert (one.verdict, one.rows["estimate"].tolist()) == (HOLDS, [-10])
    assert judged(FALL | {"at": {"level": 1}}, ours(acc=frame)).verdict == UNDECIDED
    both_levels = judged(FALL | {"at": {"level": [0, 1]}}, ours(acc=frame))
    assert (both_levels.verdict, both_levels.count) == (UNDECIDED, (1, 2))
    upward = judged(FALL | {"at": {"level": 0}, "expected": "above"}, ours(acc=frame))
    assert upward.verdict == CONTRADICTED


def test_runs_that_do_not_exist_are_left_out():
    frame = runs({(0, 240, 0): 40, (0, 1920, 0): 30})
    part = judged(FALL | {"at": {"level": [0, 1, 2]}}, ours(acc=frame))
    assert (part.verdict, part.count) == (HOLDS, (1, 1))
    assert judged(FALL | {"at": {"level": 3}}, ours(acc=frame)).verdict == claims.NOT_TESTABLE
    assert judged(FALL, ours()).verdict == claims.NOT_TESTABLE


@pytest.mark.parametrize(
    "verdicts_found, of, expected",
    [
        ("ssc", "all", CONTRADICTED),
        ("sssc", "all", EXCEPTIONS),
        ("ssu", "all", UNDECIDED),
        ("sss", "all", HOLDS),
        ("ssc", "most", HOLDS),
        ("ccs", "most", CONTRADICTED),
        ("sscc", "most", CONTRADICTED),
        ("sscu", "most", UNDECIDED),
        ("scc", "some", HOLDS),
        ("ccc", "some", CONTRADICTED),
        ("ccu", "some", UNDECIDED),
        ("", "all", UNDECIDED),
        ("", "some", UNDECIDED),
    ],
)
def test_all_most_and_some(verdicts_found, of, expected):
    names = {"s": SUPPORTED, "c": CONTRADICTED, "u": UNDECIDED}
    rows = pd.DataFrame({"verdict": [names[letter] for letter in verdicts_found]})
    assert verdicts.overall(rows, of) == expected


def test_a_difference_can_have_to_exceed_a_number():
    frame = runs({(2, 1920, 0): 50, (0, 1920, 0): 37})
    check = {"frame": "acc", "first": {"level": 2, "less": {"level": 0}}, "at": {"size": 1920}}
    check |= {"than": "value"}
    assert judged(check, ours(acc=frame), value="10").verdict == HOLDS
    assert judged(check, ours(acc=frame), value="12").verdict == UNDECIDED
    assert judged(check, ours(acc=frame), value="20").verdict == CONTRADICTED


def test_gains_use_the_share_chosen_on_dev():
    test = {(0, 240, 0): 30, (0, 240, 5): 40, (0, 240, 20): 34}
    dev = {(0, 240, 0): 30, (0, 240, 5): 31, (0, 240, 20): 39}
    frame = pd.concat([runs(test), runs(dev).assign(split="dev")])
    check = {"frame": "restored", "first": {"restored": "best", "less": {"restored": 0}}}
    check |= {"at": {"level": 0, "size": 240}}
    assert judged(check, ours(restored=frame)).rows["estimate"].tolist() == [4]
    without = judged(check, ours(restored=runs(test)))
    assert without.rows["estimate"].tolist() == [10]


def test_where_nothing_is_best_there_is_no_gain_and_no_verdict():
    frame = runs({(0, 240, 0): 30, (0, 240, 5): 20})
    check = {"frame": "restored", "first": {"restored": "best", "less": {"restored": 0}}}
    check |= {"at": {"level": 0, "size": 240}}
    (row,) = judged(check, ours(restored=frame)).rows.to_dict("records")
    assert (row["estimate"], row["low"], row["high"], row["verdict"]) == (0, 0, 0, UNDECIDED)
    # Nothing was restored, so the width of zero decides nothing else either.
    assert judged(check | {"than": 10}, ours(restored=frame)).verdict == UNDECIDED


def test_a_whole_pool_is_no_sampled_size():
    frame = runs({(0, 240, 0): 40, (0, 1920, 0): 30}, size_label=["240", "1920"])
    pool = runs({(0, 1920, 0): 20}, size_label="All")
    side = ours(acc=pd.concat([frame, pool]))
    assert judged(FALL | {"at": {"level": 0}}, side).rows["estimate"].tolist() == [-10]
    whole = FALL | {"at": {"level": 0}, "first": {"size": "All"}}
    assert judged(whole, side).rows["estimate"].tolist() == [-20]


def test_paired_answers_make_the_interval():
    levels, ones = np.repeat([0, 1], 100), np.ones(200)
    hits = np.tile([0, 1], 100).astype(float)
    more_hits = hits.copy()
    more_hits[np.flatnonzero(hits == 0)[:40]] = 1
    answers = pd.DataFrame(
        [
            (0, size, 0, "test", 0, values, ones, levels)
            for size, values in ((240, more_hits), (1920, hits))
        ],
        columns=[
            *("train_level", "train_size", "restored_percent", "split", "sample"),
            *("values", "sizes", "strata"),
        ],
    )
    frame = runs({(0, 240, 0): 70, (0, 1920, 0): 50}, half=30)
    check = FALL | {"at": {"level": 0}}
    apart = judged(check, ours(acc=frame))
    paired = judged(check, Side("ours", {"acc": frame}, {"acc": answers}))
    assert (apart.verdict, paired.verdict) == (UNDECIDED, HOLDS)
    assert paired.rows["interval"].tolist() == ["paired"]
    assert paired.rows["estimate"].tolist() == [-20]


NUMBER = {"frame": "acc", "readings": [[{"level": 0, "size": 1920}, {"level": 0, "size": 240}]]}


@pytest.mark.parametrize("value, verdict", [("-10.37", HOLDS), ("-8.86", CONTRADICTED)])
def test_a_number_of_the_text_must_come_from_the_tables(value, verdict, printed):
    readings = [[cell | {"source": "Table 4"} for cell in NUMBER["readings"][0]]]
    check = {"number": NUMBER | {"readings": readings}}
    assert claims.judge(claim(check, value), printed).verdict == verdict


def test_of_our_runs_a_number_says_the_sign():
    frame = runs({(0, 240, 0): 40, (0, 1920, 0): 39, (1, 240, 0): 40})
    side = ours(acc=frame.assign(low=frame["accuracy"] - 0.1, high=frame["accuracy"] + 0.1))
    assert claims.judge(claim({"number": NUMBER}, "-8.86"), side).verdict == HOLDS
    assert claims.judge(claim({"number": NUMBER}, "8.86"), side).verdict == CONTRADICTED


def test_of_our_runs_a_ratio_says_whether_it_is_above_one():
    gap = [[{"level": 2, "size": 1920}, {"level": 0, "size": 1920}]]
    over = [{"level": 2, "size": 240}, {"level": 0, "size": 240}]
    check = {"number": {"frame": "acc", "readings": gap, "over": over}}
    values = {(0, 240, 0): 40, (2, 240, 0): 45, (0, 1920, 0): 30, (2, 1920, 0): 50}
    assert claims.judge(claim(check, "1.50"), ours(acc=runs(values))).verdict == HOLDS
    values |= {(0, 1920, 0): 49}
    assert claims.judge(claim(check, "1.50"), ours(acc=runs(values))).verdict == CONTRADICTED


def test_a_rule_is_that_of_the_notebooks():
    frame = runs({(0, 60, 0): 30, (0, 240, 0): 40, (0, 1920, 0): 30})
    rule = {"rule": {"name": "accuracy_falls", "frame": "acc", "split": "test"}}
    rows = claims.judge(claim(rule), ours(acc=frame)).rows
    assert (
        rows["estimate"].tolist() == phenomena.accuracy_falls(frame)["estimate"].tolist() == [-10]
    )
    few = runs({(0, 60, 0): 30, (0, 240, 0): 40})
    assert claims.judge(claim(rule), ours(acc=few)).verdict == claims.NOT_TESTABLE


def test_a_rule_for_a_size_is_not_applied_to_another():
    rule = {"name": "level_0_is_worst", "frame": "acc", "split": "test", "size": 1920}
    values = {(0, 240, 0): 30, (1, 240, 0): 40}
    side = ours(acc=runs(values))
    assert claims.judge(claim({"rule": rule}), side).verdict == claims.NOT_TESTABLE
    assert claims.judge(claim({"rule": rule | {"size": 240}}), side).verdict == HOLDS


def test_statements_that_differ_disagree(printed):
    assert claims.judge(claim({"agree": ["3", "5"]}), printed).verdict == CONTRADICTED
    assert claims.judge(claim({"agree": ["3", "3"]}), printed).verdict == HOLDS


def test_numbers_agree_to_the_printed_digits():
    for value, computed, verdict in (
        ("14", 14.36, SUPPORTED),
        ("14", 14.6, CONTRADICTED),
        ("1.50", 1.497, SUPPORTED),
        ("1.50", 1.51, CONTRADICTED),
    ):
        assert (
            digit_checks.agrees(value, digit_checks.printed_row("", computed))["verdict"] == verdict
        )


@pytest.mark.parametrize(
    "text, message",
    [
        ("- {id: a, says: x}\n- {id: a, says: y}", "two claims are called a"),
        ("- {id: a, says: x, colour: red}", "claim a: .*colour"),
        ("- {id: a, says: x, check: {guess: 1}}", "claim a: no check 'guess'; there are: compare"),
    ],
)
def test_a_wrong_file_is_named(text, message):
    with pytest.raises(ConfigError, match=message):
        claims.parse(text)


# --- sides ----------------------------------------------------------------------------------------


def test_the_papers_frames_are_its_tables(printed):
    frames = printed.frames
    assert len(frames["acc"]) == 20 + 10 + 20  # Table 4 by split, Table 6, Table 2
    assert set(frames["blocks"]["block"]) == set(range(-1, 8))  # −1: nothing restored
    assert frames["blocks"].groupby("train_level")["last"].sum().eq(1).all()
    assert list(frames["layers"]["part"]) == ["first", "last", "middle"]
    lift = frames["module_lift"].set_index("module")["accuracy"]
    assert lift["feed-forward"] < 1 < lift["attention"]
    for name, frame in frames.items():
        assert (frame["low"] < frame["high"]).all(), name


def test_a_lift_is_one_where_the_chosen_are_spread_evenly():
    places = pd.DataFrame(
        [(layer, m, n, n / 5) for layer in range(4) for m, n in (("mlp.up", 30), ("attn.q", 10))],
        columns=["layer", "module", "n", "k"],
    ).assign(sample=0, train_level=0, train_size=240)
    frames = sources._where(places, places, sources.RUN, locations.by_samples)
    assert np.allclose(frames["layers"]["accuracy"], 1)
    assert np.allclose(frames["layer_unevenness"]["accuracy"], 0)
    share = frames["modules"].set_index("module")["accuracy"]
    assert share["feed-forward"] == pytest.approx(75)
    assert np.allclose(frames["module_lift"]["accuracy"], 1)


def test_a_study_is_judged_by_the_same_claims(measured):
    side = sources.of_study(measured)
    assert not side.printed and {"acc", "restored", "levels", "change"} <= set(side.frames)
    rows = claims.findings([side])
    tested = rows[rows["verdict"] != claims.NOT_TESTABLE]
    assert 0 < len(tested) < len(CLAIMS)  # twelve facts are not 240
    without = [c.id for c in CLAIMS.values() if not c.check_of("ours")]
    assert set(rows.set_index("id").loc[without, "verdict"]) == {claims.NOT_TESTABLE}


def test_one_data_sample_leaves_a_share_undecided(measured):
    change = sources.of_study(measured).frames["change"]
    assert change["accuracy"].between(0, 100).all() and change["low"].isna().all()


def test_sides_are_the_paper_the_study_and_no_half_finished_one(measured, tmp_path, monkeypatch):
    (tmp_path / "results/smollm2-135m/smoke").mkdir(parents=True)
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path / "results"))
    sides = claims.sides(measured)
    assert [side.name for side in sides] == ["paper", f"{measured.model.name}, smoke"]


# --- the page -------------------------------------------------------------------------------------


class Parts(HTMLParser):
    """Collects the page's claims and matrix with their classes, its labels and its tags."""

    def __init__(self, text):
        super().__init__()
        self.claims, self.signs, self.unlabelled, self.tags, self.links = [], [], 0, set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.add(tag)
        classes = set(attrs.get("class", "").split())
        if tag == "details" and "claim" in classes:
            self.claims.append(classes)
        if "sign" in classes:
            self.unlabelled += not attrs.get("aria-label")
            self.signs += [attrs["href"]] if tag == "a" else []
        self.links += [attrs["href"]] if tag == "a" else []


@pytest.fixture(scope="module")
def two_sides(printed, findings):
    nothing = claims.findings([ours()])
    return pd.concat([findings, nothing], ignore_index=True)


def test_the_page_has_every_claim_in_the_matrix_and_in_the_list(two_sides):
    page = claims_page.page(two_sides, "Claims").html
    parsed = Parts(page)
    # The made-up side tests nothing, so it has no row in the matrix.
    assert len(parsed.claims) == len(parsed.signs) == len(CLAIMS)
    assert set(parsed.signs) == {f"#claim-{name}" for name in CLAIMS}
    assert parsed.unlabelled == 0 and "http" not in page and "src=" not in page
    for name in CLAIMS:
        assert page.count(f'id="claim-{name}"') == 1
    shown = [
        classes & {f"side0-{v.replace(' ', '-')}" for v in claims.VERDICTS}
        for classes in parsed.claims
    ]
    stated = pd.Series([next(iter(one))[6:] for one in shown]).value_counts()
    computed = (
        two_sides.loc[two_sides["side"] == "paper", "verdict"].str.replace(" ", "-").value_counts()
    )
    assert stated.to_dict() == computed.to_dict()


def test_the_page_shows_quotes_counts_and_what_every_claim_rests_on(two_sides):
    page = html.unescape(claims_page.page(two_sides, "Claims").html)
    for claim in CLAIMS.values():
        assert all(quote.strip() in page for quote in claim.quotes.values()), claim.id
        if claim.count:
            assert f"({claim.count})" in page
    assert "mean effect in the claimed direction" in page
    assert "7 of 10 testable cells cannot be means over 5 runs" in page


def test_every_claim_is_in_a_part_of_the_paper():
    assert {claims_page.part_of(claim) for claim in CLAIMS.values()} == set(claims_page.PARTS)


def test_the_downloads_hold_everything(two_sides):
    entries = claims.everything(two_sides)
    json.dumps(entries, allow_nan=False)
    assert [entry["id"] for entry in entries] == list(CLAIMS)
    entry = entries[list(CLAIMS).index("ninety-does-no-harm")]
    paper_side = entry["sides"]["paper"]
    assert (paper_side["as claimed"], paper_side["comparisons"]) == (17, 20)
    rows = claims.long_table(two_sides).set_index(["id", "side"])
    assert len(rows) == (two_sides["verdict"] != claims.NOT_TESTABLE).sum()
    row = rows.loc[("ninety-does-no-harm", "paper")]
    assert (row["as_claimed"], row["comparisons"]) == (17, 20) and "does not harm" in row["quotes"]
    assert row["low"] < row["mean_effect"] < row["high"]
    assert len(paper_side["rows"]) == 20 and entry["quotes"]["§1"].startswith("We observe")


def test_numbers_and_text_are_readable():
    shown = [claims.number(x) for x in (5.0, -10.37, 0.9969, -0.001, 12.0)]
    assert shown == ["5", "−10.37", "0.997", "−0.001", "12"]


def test_a_verdict_says_how_many_comparisons_are_as_claimed(findings):
    said = {row.id: claims.said(row) for row in findings.itertuples()}
    assert said["gain-at-40-at-1920"] == "contradicted (3 of 5)"
    assert said["gain-at-20"] == "holds"
    assert said["tables-2-and-4"] == "our observation: undecided (9 of 10)"
    assert findings.set_index("id").loc["level-0-falls", "shows"] == "−10.37; −9.86"


def test_the_table_to_download_has_one_row_a_claim(two_sides):
    table = claims.table(two_sides)
    assert len(table) == len(CLAIMS) and {"paper", "ours", "paper: rests on"} <= set(table)


@pytest.fixture
def claims_file(two_sides, tmp_path):
    path = tmp_path / "claims.html"
    style = "<style>body{max-width:860px;margin:auto;font-family:sans-serif}</style>"
    head = (
        f"<!doctype html><meta charset=utf-8><meta name=viewport content=width=device-width>{style}"
    )
    path.write_text(head + claims_page.page(two_sides, "Claims").html)
    return path


@pytest.mark.browser
def test_filters_work_without_scripts(two_sides, browser, claims_file):
    page = browser.new_context(java_script_enabled=False, offline=True).new_page()
    page.goto(claims_file.as_uri())
    rows = page.locator("details.claim:visible")
    assert rows.count() == len(CLAIMS)
    for verdict, count in (
        two_sides.loc[two_sides["side"] == "paper", "verdict"].value_counts().items()
    ):
        value = verdict.replace(" ", "-")
        page.locator(f'input[name="verdict"][value="{value}"]').check()
        assert rows.count() == count
    page.locator('input[name="verdict"][value="slip"]').check()
    page.locator('input[name="part"][value="setup"]').check()
    assert rows.count() == 2
    page.locator("button").click()
    assert rows.count() == len(CLAIMS)
    page.context.close()


@pytest.mark.browser
def test_the_choice_is_in_the_address_and_a_named_claim_opens(browser, claims_file):
    page = browser.new_context(offline=True).new_page()
    page.goto(claims_file.as_uri())
    page.locator('input[name="verdict"][value="all"]').focus()
    page.keyboard.press("ArrowRight")  # by keyboard: the next verdict
    rows = page.locator("details.claim:visible")
    few = rows.count()
    assert 0 < few < len(CLAIMS) and "verdict=holds" in page.url
    again = page.context.new_page()
    again.goto(page.url)
    assert again.locator("details.claim:visible").count() == few
    named = page.context.new_page()
    named.goto(claims_file.as_uri() + "#claim-gain-at-20")
    assert named.locator("#claim-gain-at-20").is_visible()
    page.context.close()


@pytest.mark.browser
@pytest.mark.parametrize("width, most", [(1400, 6000), (390, 12000)])
def test_the_closed_page_is_short_and_fits_the_window(browser, claims_file, width, most):
    page = browser.new_context(viewport={"width": width, "height": 900}).new_page()
    page.goto(claims_file.as_uri())
    assert page.evaluate("document.documentElement.scrollHeight") < most
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.context.close()


# --- no result is typed by hand -------------------------------------------------------------------

RESULT = re.compile(r"\d+\.\d+ ?%|\d+\.\d{2,}|\d+\.\d+ (?:points|nats)\b")
NOT_PROSE = re.compile(
    r"(?s)```.*?```|\]\([^)\s]*\)|~~~.*?~~~|\$\$.*?\$\$|\$[^$\n]*\$|`[^`\n]*`|\{\{.*?\}\}"
)


def prose():
    for path in sorted((ROOT / "book").glob("*.md")):
        yield path.name, path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.py")):
        cells = jupytext.read(path, fmt="py:percent").cells
        yield path.name, "\n\n".join(c.source for c in cells if c.cell_type == "markdown")
    for claim in CLAIMS.values():
        yield f"claims.yaml, {claim.id}", f"{claim.says} {claim.note}"


def test_no_page_has_a_result_typed_by_hand():
    typed = [(name, RESULT.findall(NOT_PROSE.sub(" ", text))) for name, text in prose()]
    assert [(name, results) for name, results in typed if results] == []
    assert len(typed) > len(CLAIMS) + 10
    assert RESULT.findall(NOT_PROSE.sub(" ", "falls by 8.86 points; `1.23` and {{ a.b }}")) == [
        "8.86"
    ]
