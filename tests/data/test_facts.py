"""Facts from a folder: the filter, the subjects, the errors, and the balanced samples."""

import json
import shutil

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repro import paper
from repro.data import atlas, facts
from repro.errors import ConfigError, DataError

SIZES = st.dictionaries(st.sampled_from(sorted(paper.TOPICS)), st.integers(0, 30), max_size=6)


@pytest.fixture(scope="module")
def real_facts(real_data):
    return facts.load(real_data)


@pytest.mark.real
def test_real_data_gives_the_papers_totals_exactly(real_facts):
    counts = real_facts["split"].value_counts()
    assert counts["train"] == 75_944
    assert counts["test"] == 9_555
    assert counts["testood"] == 11_613
    assert list(counts.index.sort_values()) == sorted(paper.SPLITS)


@pytest.mark.real
def test_real_totals_are_those_of_every_model_in_tables_1_and_8(real_facts):
    published = paper.table("distribution").groupby(["model", "split"])["count"].sum()
    ours = real_facts["split"].value_counts()
    assert all(ours[split] == count for (_, split), count in published.items())


@pytest.mark.real
def test_real_facts_are_whole(real_facts):
    assert list(real_facts) == facts.COLUMNS
    assert real_facts["fact_id"].is_unique
    assert not real_facts.duplicated(["split", "question"]).any()
    assert real_facts["object"].str.strip().ne("").all()
    domains = real_facts["topic"].map(lambda t: paper.TOPICS[t].domain)
    assert (domains.eq("out") == real_facts["split"].eq("testood")).all()


@pytest.mark.real
def test_real_folder_matches_the_pinned_sums(real_data, monkeypatch):
    monkeypatch.delenv("REPRO_DATA", raising=False)
    assert facts.data_hash(real_data) == facts.data_hash()


@pytest.mark.real
def test_question_templates_are_the_datasets_own(real_data):
    path = real_data / "relation_query_templates.json"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    templates = json.loads(path.read_text(encoding="utf-8"))
    for topic in paper.TOPICS.values():
        assert topic.question == templates[topic.id].replace("[X]", "{subject}")


@pytest.mark.real
def test_one_changed_letter_changes_the_hash(real_data, tmp_path):
    for raw in ("train", "dev", "test"):
        shutil.copytree(real_data / raw, tmp_path / raw, copy_function=shutil.copyfile)
    assert facts.data_hash(tmp_path) == facts.data_hash(real_data)
    path = tmp_path / "test" / "P17.test.json"
    path.write_bytes(path.read_bytes().replace(b"France", b"Frances", 1))
    assert facts.data_hash(tmp_path) != facts.data_hash(real_data)


def test_tiny_folder_loads_with_its_filter(tiny_data):
    frame = facts.load(tiny_data)
    assert frame["split"].value_counts().to_dict() == {
        "train": 36,
        "dev": 36,
        "test": 36,
        "testood": 24,
    }
    first = frame.iloc[0]
    assert first["fact_id"] == "P17-train-00000"
    assert first["subject"] == "Ovavale P17"
    assert first["question"] == "Which country is Ovavale P17 located in?"
    assert first["object"] == "Arvenia"
    assert not frame["fact_id"].str.endswith(("-00012", "-00013")).any()


def test_row_numbers_count_the_rows_that_are_filtered_out(tmp_path):
    rows = [
        {"question": "Where was A born?", "answers": ["X", "Y"]},
        {"question": "Where was B born?", "answers": ["X"]},
        {"question": "Where was B born?", "answers": ["Y"]},
        {"question": "Where was C born?", "answers": ["Z"]},
    ]
    write(tmp_path / "dev" / "P19.dev.json", json.dumps(rows))
    frame = facts.load(tmp_path)
    assert list(frame["fact_id"]) == ["P19-dev-00001", "P19-dev-00003"]
    assert list(frame["object"]) == ["X", "Z"]


def test_one_question_in_two_topics_stays_with_the_papers_first(tmp_path):
    rows = json.dumps([{"question": "Where is Ovavale located?", "answers": ["X"]}])
    write(tmp_path / "test" / "P276.test.json", rows)
    write(tmp_path / "test" / "P131.test.json", rows)
    write(tmp_path / "train" / "P276.train.json", rows)
    assert list(facts.load(tmp_path)["fact_id"]) == ["P276-train-00000", "P131-test-00000"]


def test_folder_comes_from_the_environment(tiny_data, monkeypatch):
    monkeypatch.setenv("REPRO_DATA", str(tiny_data))
    assert facts.load().equals(facts.load(tiny_data))
    assert facts.data_hash() == facts.data_hash(tiny_data)


def test_short_file_names_load_alike(tiny_data):
    before, digest = facts.load(tiny_data), facts.data_hash(tiny_data)
    for path in list(tiny_data.glob("*/P*.json")):
        path.rename(path.with_name(path.name.split(".")[0] + ".json"))
    assert facts.load(tiny_data).equals(before)
    assert facts.data_hash(tiny_data) == digest


def test_atlas_is_in_no_folder(tiny_data, monkeypatch):
    monkeypatch.delenv("REPRO_DATA", raising=False)
    expected, digest = facts.load(world="atlas"), facts.data_hash(world="atlas")
    assert expected.equals(atlas.load())
    assert digest == atlas.digest(atlas.world())
    monkeypatch.setenv("REPRO_DATA", str(tiny_data))
    assert facts.load(world="atlas").equals(expected)
    assert facts.data_hash(world="atlas") == digest != facts.data_hash()
    monkeypatch.setenv("REPRO_DATA", str(tiny_data / "nowhere"))
    assert facts.load(world="atlas").equals(expected)


def test_what_a_caller_does_to_the_facts_of_atlas_stays_his():
    before = facts.load(world="atlas")
    before["subject"] = "nobody"
    assert "nobody" not in set(facts.load(world="atlas")["subject"])


def test_a_folder_for_atlas_is_refused(tiny_data):
    for call in (facts.load, facts.data_hash):
        with pytest.raises(ConfigError, match=r"would not be used: atlas is made.*--data") as error:
            call(tiny_data, world="atlas")
        assert str(tiny_data) in one_line(error)


def test_an_unknown_world_lists_the_known_ones():
    for call in (facts.load, facts.data_hash):
        with pytest.raises(ConfigError, match="'mars': use one of entityquestions, atlas"):
            call(world="mars")


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_folder(tmp_path):
    for call in (facts.load, facts.data_hash):
        with pytest.raises(DataError, match=r"does not exist.*REPRO_DATA") as error:
            call(tmp_path / "nowhere")
        one_line(error)


def test_folder_without_topics(tmp_path):
    write(tmp_path / "train" / "notes.json", "[]")
    for call in (facts.load, facts.data_hash):
        with pytest.raises(DataError, match=r"has no P\*\.json") as error:
            call(tmp_path)
        one_line(error)


def test_truncated_json_names_the_file(tiny_data):
    path = tiny_data / "train" / "P19.train.json"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(
        DataError, match=r"train/P19\.train\.json is truncated or not JSON"
    ) as error:
        facts.load(tiny_data)
    one_line(error)


@pytest.mark.parametrize(
    "text",
    [
        '[{"question": "Where was A born?"}]',
        '[{"question": 3, "answers": ["X"]}]',
        '[{"question": "Where was A born?", "answers": "X"}]',
        '[{"question": "Where was A born?", "answers": [1]}]',
        '[{"question": "Where was A born?", "answers": [" "]}]',
        '["Where was A born?"]',
    ],
)
def test_row_of_the_wrong_type_is_named(tmp_path, text):
    write(tmp_path / "test" / "P19.test.json", text)
    with pytest.raises(DataError, match=r"P19\.test\.json, row 0: expected") as error:
        facts.load(tmp_path)
    one_line(error)


@pytest.mark.parametrize("content", ["{}", "3", "null", "[" * 100_000])
def test_file_that_is_not_a_list(tmp_path, content):
    write(tmp_path / "test" / "P19.test.json", content)
    with pytest.raises(DataError, match=r"P19\.test\.json") as error:
        facts.load(tmp_path)
    one_line(error)


def test_file_that_is_not_text(tmp_path):
    write(tmp_path / "test" / "P19.test.json", "").write_bytes(b'["\xff\xfe\xfa"]')
    with pytest.raises(DataError, match=r"P19\.test\.json is truncated or not JSON"):
        facts.load(tmp_path)


@pytest.mark.parametrize(
    "question", ["Where did A die?", "Where was born?", "Where was  born?", "Where was A born? "]
)
def test_question_that_does_not_fit_its_template(tmp_path, question):
    rows = [
        {"question": "Where was A born?", "answers": ["X"]},
        {"question": question, "answers": ["X"]},
    ]
    write(tmp_path / "test" / "P19.test.json", json.dumps(rows))
    with pytest.raises(DataError, match=r"P19\.test\.json, row 1: .*does not fit") as error:
        facts.load(tmp_path)
    assert repr(question) in one_line(error)


def test_no_usable_question(tmp_path):
    write(tmp_path / "test" / "P19.test.json", "[]")
    with pytest.raises(DataError, match="no question with exactly one answer"):
        facts.load(tmp_path)


@settings(deadline=None)
@given(SIZES, st.data())
def test_balanced_takes_exactly_n_evenly_and_never_less_for_more(sizes, data):
    pool = sum(sizes.values())
    n = data.draw(st.integers(0, pool))
    taken = facts.balanced(sizes, n)
    assert list(taken) == list(sizes)
    assert sum(taken.values()) == n
    assert all(0 <= taken[t] <= sizes[t] for t in sizes)
    room = [taken[t] for t in sizes if taken[t] < sizes[t]]
    if room:
        assert max(taken.values()) <= min(room) + 1
    if n < pool:
        one_more = facts.balanced(sizes, n + 1)
        assert all(one_more[t] >= taken[t] for t in sizes)


def test_balanced_spreads_what_a_small_topic_lacks():
    assert facts.balanced({"P17": 2, "P19": 100, "P20": 100}, 30) == {
        "P17": 2,
        "P19": 14,
        "P20": 14,
    }
    assert facts.balanced({"b": 9, "a": 9}, 5) == {"b": 2, "a": 3}


@pytest.mark.parametrize("n", [-1, 2.5, "7", True])
def test_balanced_refuses_what_is_no_number(n):
    with pytest.raises(ConfigError, match="whole number"):
        facts.balanced({"P17": 9}, n)


def test_balanced_refuses_more_than_there_is():
    with pytest.raises(ConfigError, match="11 facts were asked for, but there are 10"):
        facts.balanced({"P17": 4, "P19": 6}, 11)


COUNTS = {"train": 20, "dev": 7, "testood": 5}


def test_select_is_balanced_and_leaves_out_what_is_not_named(tiny_data):
    chosen = facts.select(facts.load(tiny_data), COUNTS, seed=0)
    assert chosen["split"].value_counts().to_dict() == COUNTS
    train = chosen[chosen["split"] == "train"]["topic"].value_counts()
    assert sorted(train) == [6, 7, 7]


def test_select_all(tiny_data):
    frame = facts.load(tiny_data)
    chosen = facts.select(frame, {"train": None, "test": "all", "dev": 0}, seed=0)
    expected = frame[frame["split"].isin(["train", "test"])]
    assert set(chosen["fact_id"]) == set(expected["fact_id"])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_select_does_not_depend_on_the_order_of_rows(seed, shuffle):
    frame = made_up(topics=4, each=9)
    mixed = frame.sample(frac=1, random_state=shuffle)
    chosen = facts.select(frame, {"train": 15}, seed)
    assert chosen.equals(facts.select(mixed, {"train": 15}, seed))


@settings(max_examples=20, deadline=None)
@given(st.integers(), st.integers(0, 36), st.integers(0, 36))
def test_larger_sample_contains_the_smaller_one(seed, one, other):
    frame = made_up(topics=4, each=9)
    small, large = (facts.sample(frame, n, seed) for n in sorted((one, other)))
    assert set(small["fact_id"]) <= set(large["fact_id"])


def test_seeds_choose_differently_and_repeat_exactly():
    frame = made_up(topics=4, each=200)
    first, again, other = (facts.sample(frame, 80, seed) for seed in (1, 1, 2))
    assert first.equals(again)
    assert set(first["fact_id"]) != set(other["fact_id"])


def test_every_fact_is_chosen_about_equally_often():
    frame = made_up(topics=2, each=10)
    picks = pd.concat([facts.sample(frame, 10, seed) for seed in range(400)])
    # Each fact is picked with probability 1/2: 200 ± 10 of 400, five deviations wide.
    assert picks["fact_id"].value_counts().between(150, 250).all()
    assert picks["fact_id"].nunique() == 20


def test_select_names_the_split_that_is_wrong(tiny_data):
    frame = facts.load(tiny_data)
    with pytest.raises(ConfigError, match=r"split 'dev': 37 facts .* there are 36"):
        facts.select(frame, {"train": 1, "dev": 37}, seed=0)
    with pytest.raises(ConfigError, match="unknown split 'devood'"):
        facts.select(frame, {"devood": 1}, seed=0)


def made_up(topics, each):
    rows = [
        (f"T{t}-train-{row:05d}", f"T{t}", "train", f"s{row}", "o", f"q{row}")
        for t in range(topics)
        for row in range(each)
    ]
    return pd.DataFrame(rows, columns=facts.COLUMNS)
