"""`migm` as a process: how soon it answers, its streams, Ctrl-C."""

import os
import shutil
import signal
import subprocess
import sys

import pytest
from commands import ENV, REPOSITORY, migm
from small_model import PROMPT

import migm_core
from migm_core.cli import main


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_do_not_wait_for_torch(option):
    code = f"import sys, migm_core.cli as cli\ntry: cli.main(['{option}'])\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENV)
    assert done.returncode == 0 and done.stdout.endswith("False\n")


def test_the_version_is_the_same_everywhere(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"migm {migm_core.__version__}\n"
    assert f'\nversion = "{migm_core.__version__}"\n' in (REPOSITORY / "pyproject.toml").read_text()
    assert f"\n## [{migm_core.__version__}]" in (REPOSITORY / "CHANGELOG.md").read_text()


def test_as_a_module(small, tmp_path):
    command = [sys.executable, "-m", "migm_core"]
    done = subprocess.run(
        [*command, "generate", PROMPT, "--model", small.folder, "--head", small.head, "--device", "cpu"],
        capture_output=True,
        text=True,
        env=ENV,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "migm.png").exists()
    done = subprocess.run([*command, "inspect", "nowhere"], capture_output=True, text=True, env=ENV, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "migm: nowhere does not exist. Check the path, or download the model first.\n"


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a signal that comes by itself")
def test_ctrl_c_ends_a_run_and_says_what_was_kept(small, tmp_path, capsys):
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 1)
    try:
        status = migm("generate", PROMPT, "--model", small.folder, "--steps", 1024, "--size", "256x256", "--out", tmp_path / "x.png")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert status == 130
    assert capsys.readouterr() == ("", "migm: Stopped. What was finished is kept, and the file that was being written is as it was before.\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="closes streams by a shell")
@pytest.mark.parametrize(("streams", "encoding"), [("", "cp1252"), ("", "ascii"), (">&-", "utf-8"), (">&- 2>&-", "cp1252"), ("| true", "utf-8")])
def test_no_stream_makes_a_good_run_fail(small, tmp_path, streams, encoding):
    model = shutil.copytree(small.folder, tmp_path / "кот")  # letters that cp1252 lacks
    command = [sys.executable, "-m", "migm_core", "inspect", str(model)]
    shell = f'"$@" {streams}; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", shell, "bash", *command], capture_output=True, env={**ENV, "PYTHONIOENCODING": encoding})
    assert done.stderr == b"" and done.returncode in ((0, 1) if "true" in streams else (0,))
