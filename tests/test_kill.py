"""A sync that is killed, really and at many moments, loses nothing and doubles nothing."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from llm_twin.twin import Twin

PROGRAM = "import sys; from llm_twin.twin import Twin; Twin.open(sys.argv[1]).sync()"
KILLS = 12


def test_killed_syncs_end_in_the_same_state_as_an_undisturbed_one(tmp_path: Path) -> None:
    posts = tmp_path / "posts"
    posts.mkdir()
    _write_posts(posts, random.Random(7), count=60)
    calm = Twin.init(tmp_path / "calm", addresses=["../posts"])
    started = time.monotonic()
    calm.sync()
    whole_s = time.monotonic() - started

    stormy = tmp_path / "stormy"
    Twin.init(stormy, addresses=["../posts"]).close()
    rng = random.Random(11)
    completed = 0
    for kill in range(KILLS):
        if kill == KILLS // 2:  # an edit, a new post and a removal arrive between two kills
            (posts / "post-3.md").write_text("# Post 3\n\nRewritten from the ground up, about sailing and knots.\n")
            (posts / "new.md").write_text("# New\n\nA post that was not there before, about growing tomatoes.\n")
            (posts / "post-5.md").unlink()
        completed += _sync_killed_after(rng.uniform(0.2, whole_s + 2.0), stormy)
    assert completed < KILLS, "every sync finished before it was killed: the delays test nothing"

    calm.sync()
    with Twin.open(stormy) as twin:
        twin.sync()
        assert twin.index.digests() == calm.index.digests()
        assert twin.warehouse.document_hashes() == calm.warehouse.document_hashes()
        assert twin.warehouse.feature_fingerprints() == calm.warehouse.feature_fingerprints()
        assert twin.warehouse.embedding_keys() == calm.warehouse.embedding_keys()
        again = twin.sync()
        assert (again.embedded, again.documents["unchanged"]) == (0, 60)
        folders = [path.name for path in (stormy / ".twin" / "index").iterdir() if path.is_dir()]
        assert not [name for name in folders if name.startswith(("draft-", "gone-"))], "killed writers left drafts"
        # A writer killed between the flip and the clearing leaves the generation before, until the next one is written.
        assert len(folders) <= 2
    calm.close()


def _sync_killed_after(seconds: float, workspace: Path) -> bool:
    """Run a sync in another process and kill it; whether it had already finished."""
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(workspace)], env=dict(os.environ))
    try:
        return process.wait(timeout=seconds) == 0
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return False


def _write_posts(folder: Path, rng: random.Random, *, count: int) -> None:
    """Posts of made-up sentences, different enough that none is a near-duplicate of another."""
    nouns = [
        "compiler",
        "garden",
        "index",
        "river",
        "parser",
        "kitchen",
        "cache",
        "window",
        "query",
        "bridge",
        "cursor",
    ]
    verbs = ["grows", "fails", "waits", "matters", "breaks", "returns", "scales", "holds", "drifts", "settles"]
    ways = ["slowly", "without a warning", "in the dark", "every spring", "under load", "by design", "for no reason"]
    for number in range(count):
        subjects = [(rng.choice(nouns), rng.choice(nouns), rng.randrange(999)) for _ in range(rng.randrange(8, 60))]
        sentences = [
            f"The {first} of {second} {mark} {rng.choice(verbs)} {rng.choice(ways)}."
            for first, second, mark in subjects
        ]
        text = "\n\n".join(" ".join(sentences[start : start + 5]) for start in range(0, len(sentences), 5))
        (folder / f"post-{number}.md").write_text(f"# Post {number}\n\n{text}\n", encoding="utf-8")
