"""Made-up examples of GSM8K and XSum for tests."""

import json
from pathlib import Path

SIZES = {"train": 8, "test": 6}


def sums(first: int, count: int) -> list[dict]:
    return [
        {
            "question": f"What is {n} + 2?",
            "answer": f"{n} + 2 = <<{n}+2={n + 2}>>{n + 2}\n#### {n + 2}",
        }
        for n in range(first, first + count)
    ]


def news(split: str, count: int) -> list[dict]:
    text = "The town of Ova {} has opened a long bridge over the river and many people came."
    return [
        {"document": text.format(n) * 2, "summary": f"Bridge {n} has opened.", "split": split}
        for n in range(count)
    ]


def write(path, rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_folder(folder: Path) -> Path:
    """Write both tasks: XSum in one file with both splits, and with one to be ignored."""
    write(folder / "gsm8k/train.jsonl", sums(0, 12))
    write(folder / "gsm8k/test.jsonl", sums(50, 9))
    write(folder / "xsum/news.jsonl", news("train", 12) + news("validation", 3) + news("test", 9))
    return folder
