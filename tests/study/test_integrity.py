"""Damaged records of a study: named, and computed again to the same digit, where they were."""

import json
from dataclasses import replace

import pytest

from repro import cli
from repro.errors import StoreError
from repro.study import committed, integrity, records, study

RATE = 3e-3


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return the folder that holds this module's cache and results."""
    folder = tmp_path_factory.mktemp("integrity")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_CACHE", str(folder / "cache"))
        patch.setenv("REPRO_RESULTS", str(folder / "results"))
        yield folder


@pytest.fixture(scope="module")
def whole(place, tiny_model, tiny_facts_folder):
    """Return a computed study and the content of every file of its records."""
    opened = study.open_study(tiny_model, "smoke", tiny_facts_folder, learning_rate=RATE)
    opened.run()
    return opened, contents(place)


def again(opened):
    """Return the study as if opened anew, in a process that has read nothing yet."""
    committed.forget()
    return study.open_study(opened.model.folder, "smoke", opened.data, learning_rate=RATE)


def contents(place):
    files = (p for p in (place / "cache" / "records").rglob("*") if p.is_file())
    return {path: path.read_bytes() for path in files}


def results(files):
    """Return what was measured, without dates and times."""
    read = {p: json.loads(t)["result"] if p.suffix == ".json" else t for p, t in files.items()}
    return {p: {**r, "seconds": 0} if isinstance(r, dict) else r for p, r in read.items()}


def words(opened, *options_of_check):
    options = ["--profile", "smoke", "--data", opened.data, "--learning-rate", RATE]
    return [str(word) for word in ("check", opened.model.folder, *options, *options_of_check)]


def cached(place, kind):
    return sorted((place / "cache" / "records" / kind).glob("*.json"))


def test_a_whole_study_has_no_damage(place, whole, capsys):
    opened, before = whole
    assert integrity.check_study(opened) == []
    assert cli.main(words(opened)) == 0
    assert capsys.readouterr().out == "every record is as it was written\n"
    assert contents(place) == before


def test_damaged_records_are_named_and_computed_again(place, whole, capsys):
    opened, before = whole
    answers = cached(place, "accuracy")
    answers[0].write_bytes(answers[0].read_bytes()[:100])
    answers[1].write_bytes(answers[1].read_bytes().replace(b'"total": ', b'"total": 1'))
    cached(place, "finetune")[0].write_text("null")
    refused = [*answers[:2], cached(place, "finetune")[0]]
    with pytest.raises(StoreError, match="repro check MODEL --repair"):
        again(opened).run()
    assert cli.main(words(opened)) == 1
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 3 and all(str(path) in out for path in refused)
    assert cli.main(words(opened, "--repair")) == 0
    assert capsys.readouterr().out.endswith("tiny-llama smoke: 3 records computed again\n")
    assert results(contents(place)) == results(before)
    assert again(opened).run() == 0


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_damaged_mastery_is_counted_again_first(place, whole, capsys, suffix):
    opened, before = whole
    (path,) = (place / "cache" / "records" / "mastery").glob(f"*.{suffix}")
    path.write_bytes(b"\n".join(path.read_bytes().splitlines()[:40]) + b"\n")
    with pytest.raises(StoreError, match=path.name):
        again(opened).results.mastery()
    assert cli.main(words(opened, "--repair")) == 0
    assert capsys.readouterr().out.endswith("tiny-llama smoke: 1 records computed again\n")
    assert results(contents(place)) == results(before)


def test_what_was_in_results_is_written_there_again(place, whole, monkeypatch, capsys, tmp_path):
    opened, _ = whole
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path / "results"))
    again(opened).export()
    folder = tmp_path / "results" / opened.model.name / "smoke"
    exported = {p.name: p.read_bytes() for p in folder.iterdir()}
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "empty"))
    lines = (folder / "accuracy.jsonl").read_bytes().splitlines(keepends=True)
    changed = lines[1].replace(b'"tokens": ', b'"tokens": 1')
    (folder / "accuracy.jsonl").write_bytes(b"".join([lines[0][:30] + b"\n", changed, *lines[2:]]))
    committed.forget()
    assert cli.main(["check", "--results"]) == 1
    out = capsys.readouterr().out
    assert "is not a record" in out and "lacks accuracy-" in out and "was changed after" in out
    assert cli.main(words(opened, "--repair")) == 0
    assert not capsys.readouterr().err.startswith("repro:")
    assert cli.main(["check", "--results"]) == 0
    assert set(exported) == {p.name for p in folder.iterdir()}
    repaired = (folder / "accuracy.jsonl").read_bytes().splitlines(keepends=True)
    assert repaired[2:] == lines[2:]
    for ours, theirs in zip(repaired[:2], lines[:2], strict=True):
        assert json.loads(ours)["result"] == json.loads(theirs)["result"]
    for name in set(exported) - {"accuracy.jsonl", "digests.json"}:
        assert (folder / name).read_bytes() == exported[name]


def test_what_git_can_put_right_is_left_to_it(place, whole, capsys):
    opened, _ = whole
    path = cached(place, "divergence")[0]
    text = path.read_bytes()
    path.write_bytes(b"<<<<<<< HEAD\n" + text + b"=======\n" + text + b">>>>>>> theirs\n")
    assert cli.main(words(opened, "--repair")) == 1
    assert "resolve the merge first" in capsys.readouterr().err
    path.write_bytes(text)
    assert integrity.check_study(again(opened)) == []


def test_answers_to_other_than_the_facts_asked_are_damage(place, whole):
    """A record that fits its own digest but not the facts of its study, as from a faulty run."""
    opened, _ = whole
    request = next(r for r in opened.all_requests() if r.run and r.params.get("split") == "train")
    record = request.record()
    total = record.result["total"] + 1
    digits = "00" * -(-total // 8)
    wrong = {**record.result, "total": total, "correct": 0, "hits": digits}
    records.save(replace(record, result=wrong))
    (damage,) = integrity.check_study(opened)
    assert damage.key == request.key
    assert f"{total} answers" in str(damage.error) and "\n" not in str(damage.error)
    records.save(record)


def test_the_command_wants_a_model_or_all_results(capsys):
    for arguments in (["check"], ["check", "micro-m", "--results"]):
        assert cli.main(arguments) == 1
        assert "give a model" in capsys.readouterr().err
