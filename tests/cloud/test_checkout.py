"""What a machine clones is what is here, or the difference is told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ASK = "from trainer.cloud import pushed_commit; print(pushed_commit())"


def test_the_commit_must_be_at_origin_and_what_is_not_committed_is_named(tmp_path: Path) -> None:
    clone = tmp_path / "clone"

    def git(*words: str) -> str:
        settings = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.check_output(["git", "-C", clone, *settings, *words], text=True).strip()

    def ask() -> tuple[str, str]:
        env = {**os.environ, "PYTHONPATH": str(clone)}
        done = subprocess.run([sys.executable, "-c", ASK], cwd=clone, env=env, capture_output=True, text=True)
        return done.stdout.strip(), done.stderr

    clone.mkdir()
    git("init", "--quiet")
    for name in ("cloud/_checkout.py", "errors.py"):
        file = clone / "trainer" / name
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_text((ROOT / "trainer" / name).read_text())
        (file.parent / "__init__.py").touch()
    (clone / "trainer" / "cloud" / "__init__.py").write_text(
        "from trainer.cloud._checkout import pushed_commit"
    )
    git("add", ".")
    git("commit", "--quiet", "--message=first")
    for name in ("origin", "other"):
        subprocess.run(["git", "init", "--quiet", "--bare", tmp_path / name], check=True)
        git("remote", "add", name, str(tmp_path / name))
    git("push", "--quiet", "origin", "HEAD:main")
    assert ask() == (git("rev-parse", "HEAD"), "")

    (clone / "trainer" / "errors.py").write_text((ROOT / "trainer" / "errors.py").read_text() + "# changed")
    assert ask() == (
        git("rev-parse", "HEAD"),
        "not committed, and so not on the machine: trainer/errors.py\n",
    )

    git("commit", "--quiet", "--all", "--message=second")
    git("push", "--quiet", "other", "HEAD:main")
    commit, refusal = ask()
    assert commit == ""
    assert "is not at origin, as far as git knows; git push it" in refusal
