"""A study of the profile `real`, small: interrupted, resumed, exported, shown without more code.

The bundled micro-s is studied as a model of real text would be. The profile is made smaller before
anything runs; the facts, the scores, the mastery and every record are the true ones.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import chosen
import pytest

from repro.book import front_page, overview, pages, substitutions
from repro.claims import by_model, claims, claims_page
from repro.claims.sources import of_study
from repro.report import across_models, choice, mastery, single_answers, transitions
from repro.study import open_study, profiles
from repro.study.requests import missing

# Starts the study again and again; each time it is killed once it has kept so many blocks of scores
# and of mastery together (0: it runs to its end). Then once more, undisturbed on an empty cache.
RUNS = """
import json, os, signal, sys
from pathlib import Path
import torch
import chosen
from repro.measures import blocks, mastery, scores
from repro.study import open_study, profiles

folder = Path(sys.argv[1])
torch.set_num_threads(1)
scores.BLOCK, mastery.BLOCK = 200, 100
profiles._profiles()["profiles"]["real"] = chosen.SMALL_REAL
write = blocks.write

def run(last, cache):
    reader, writer = os.pipe()
    if child := os.fork():
        os.close(writer)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return status, os.read(reader, 1000).decode()
    written = 0

    def write_and_die(path, table):
        nonlocal written
        write(path, table)
        written += 1
        if written == last:
            os.kill(os.getpid(), signal.SIGKILL)

    blocks.write = write_and_die
    os.environ["REPRO_CACHE"] = str(cache)
    new = open_study("micro-s", "real").run(workers=1)
    os.write(writer, json.dumps([new, written]).encode())
    os._exit(0)

def state(cache):
    kept = sorted(path.name for path in cache.glob("partial/*/*.csv"))
    records = {path.stem: path.stat().st_mtime_ns for path in cache.glob("records/*/*.json")}
    return {"partial": kept, "records": records}

for last in (2, 4, 0, 0):
    status, text = run(last, folder / "cache")
    print(json.dumps([status, text, state(folder / "cache")]), flush=True)
print(json.dumps([*run(0, folder / "alone"), state(folder / "alone")]))
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return the folder of the caches, and what each run left: (status, output, state)."""
    folder = tmp_path_factory.mktemp("real")
    environment = os.environ | {"REPRO_RESULTS": str(folder / "results")}
    environment |= {"PYTHONPATH": os.pathsep.join([str(Path(chosen.__file__).parent), *sys.path])}
    command = [sys.executable, "-c", RUNS, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return folder, [json.loads(line) for line in done.stdout.splitlines()]


def kinds(state: dict, cache: Path) -> set[str]:
    return {path.parent.name for path in cache.glob("records/*/*.json") if path.stem in state}


def results(cache: Path) -> dict[str, tuple]:
    """Return parameters and result of every record, without the seconds it took."""
    records = {p.stem: json.loads(p.read_text()) for p in cache.glob("records/*/*.json")}
    return {
        key: (r["params"], {k: v for k, v in r["result"].items() if k != "seconds"})
        for key, r in records.items()
    }


def test_killed_while_it_scores_it_goes_on_with_the_blocks_that_are_missing(runs):
    folder, (first, second, *_) = runs
    status, _, state = first
    assert status == -9 and len(state["partial"]) == 2 and not state["records"]
    status, _, state = second  # the other two blocks of scores, then two of mastery
    assert status == -9 and len(state["partial"]) == 2
    assert kinds(state["records"], folder / "cache") == {"score"}
    assert not set(first[2]["partial"]) & set(state["partial"])


def test_killed_while_it_measures_mastery_it_goes_on_and_ends_as_if_undisturbed(runs):
    folder, (_, second, third, _, alone) = runs
    status, text, state = third
    new, written = json.loads(text)
    assert status == 0 and not state["partial"]
    assert new == len(state["records"]) - 1  # all but the scores
    assert written == json.loads(alone[1])[1] - 4 - 2  # mastery less the two blocks that were kept
    assert second[2]["records"].items() <= state["records"].items()  # the scores are as they were
    assert results(folder / "cache") == results(folder / "alone")
    tables = [
        {p.name: p.read_bytes() for p in (folder / name).glob("records/*/*.csv")}
        for name in ("cache", "alone")
    ]
    assert tables[0] == tables[1] and len(tables[0]) == 2


def test_a_second_start_does_nothing(runs):
    _, (_, _, third, fourth, _) = runs
    assert fourth[0] == 0 and json.loads(fourth[1]) == [0, 0]
    assert fourth[2] == third[2]


@pytest.fixture(scope="module")
def study(runs):
    """Return the study, exported; `results/` holds nothing else."""
    folder, _ = runs
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(profiles._profiles()["profiles"], "real", chosen.SMALL_REAL)
        patch.setenv("REPRO_RESULTS", str(folder / "results"))
        patch.setenv("REPRO_CACHE", str(folder / "cache"))
        open_study("micro-s", "real").export()
        patch.setenv("REPRO_CACHE", str(folder / "empty"))
        yield open_study("micro-s", "real")
        assert not (folder / "empty" / "records").exists()  # nothing was computed to show it


def test_the_exported_study_is_whole_without_a_cache(study):
    assert not missing(study.all_requests())
    assert {"score", "mastery", "accuracy", "finetune"} <= set(study.records()["kind"])


def test_tables_1_and_8_show_the_estimate_beside_the_drawn(study):
    scored, ours = study.results.scored(), study.results.distribution()
    estimated = study.results.natural_distribution()
    shares = mastery.level_shares(ours, estimated)
    assert shares.groupby("split")["estimated"].all().to_dict() == {
        "dev": False,
        "test": True,
        "testood": True,
        "train": True,
    }
    assert "Facts drawn; below" in mastery.tables(ours, "micro-s", estimated).html
    assert len(choice.bands(scored, study.choice.edges)) == 6
    assert "were scored" in choice.filling(study, scored)
    assert "over-represented" in choice.how(study, scored)


def test_the_transitions_are_by_score(study):
    answered = single_answers.gather(study)
    assert answered.measure == "score (nats)" and answered.facts["before"].lt(0).all()
    assert set(answered.answers["restored_percent"]) == {0, 20}
    assert "chosen by score" in transitions.about([answered])


def test_another_book_shows_it_everywhere(study):
    """On the claims page, across models, and on the cards of the front page."""
    other = open_study("micro-s", "smoke")  # opened only, for what stands first in a book
    (shown_study,) = claims.others(other)
    assert (shown_study.model.name, shown_study.profile.name) == ("micro-s", "real")
    judged = claims.findings([of_study(shown_study)])
    assert judged["side"].unique().tolist() == ["micro-s, real"]
    assert (judged["verdict"] != claims.NOT_TESTABLE).any()
    assert "micro-s" in claims_page.page(judged, "Claims").html
    comparisons = by_model.of_models([shown_study])
    effects = across_models.effects(comparisons, by_model.of_papers_models())
    assert "micro-s, real" in set(effects.query("phenomenon == 'helps'")["model"])
    cards = front_page.cards(shown_study)
    assert cards.count('<th scope="row">micro-s</th>') >= 2
    assert front_page.models(shown_study) == "micro-s"


def test_its_own_book_has_its_numbers(study):
    ours = substitutions.of_study(study)
    estimated = study.results.natural_distribution()
    assert estimated.query("level == 0")["share"].between(0, 100).all()
    assert 0 < float(ours["level_0"]) < 100
    table = overview.overview(study).set_index("item")
    share = estimated.query("split == 'train' and level == 0")["share"].item()
    assert table.loc["Table 1", "ours"] == f"{share:.2f}"
    assert "score" in pages.status_records(study.records())


def test_two_studies_of_a_model_are_told_apart(study):
    other = open_study("micro-s", "smoke")
    assert by_model.names([study]) == ["micro-s"]
    assert by_model.names([study, other]) == ["micro-s, real", "micro-s, smoke"]
    assert by_model.repeated([study, other]) == {"micro-s, smoke"}
    sides = ["paper", "micro-s, real", "micro-s, full", "micro-m, full"]
    short = [claims_page._short(side, sides) for side in sides]
    assert short == ["paper", "micro-s, real", "micro-s, full", "micro-m"]
