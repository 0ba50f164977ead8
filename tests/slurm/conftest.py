"""One SLURM for the whole suite, and what its tests train on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from laconvnet.launch import cli
from laconvnet.launch.graph.stages import Stage
from tests.slurm.cluster import Cluster, Unavailable, install
from tests.slurm.suite import SITE, Limited, Work
from tests.slurm.trained import train_stages, trained

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slurm: starts a real SLURM on this machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("slurm")


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """A SLURM with two nodes, and this process speaks to it."""
    try:
        install()
        cluster = Cluster()
    except Unavailable as reason:
        pytest.skip(f"no SLURM here: {reason}")
    try:
        cluster.start()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in cluster.variables.items():
                patch.setenv(name, value)
            yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the command line of `program.py`, for PYTHONPATH."""
    folder = tmp_path_factory.mktemp("lib")
    (folder / "slurm_entry.py").write_text((HERE / "program.py").read_text())
    return folder


@pytest.fixture(scope="session")
def limited(slurm: Cluster, library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Limited]:
    """Stages that reach their time limits, of whole minutes, from the first test on while others are at work."""
    work = Work(tmp_path_factory.mktemp("limited"), slurm)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(library))
        patch.chdir(work.folder)
        long, endless, many = work.stages(
            """
            long: {run: [count, "{here}", 250, 0.5], minutes: 2}
            endless: {run: [count, "{here}", 100000, 0.5], minutes: 1}
            many: {run: [share, "{here}", "{task}", limit], array: 2, minutes: 1}
            """
        ).values()
        assert work.submit(SITE + "max_timeouts: 4\n") == 0
    yield work, long, endless, many
    work.leave()


@pytest.fixture
def work(
    slurm: Cluster, limited: Limited, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Work]:
    """The current folder of the test, from which it submits; nothing of it is left in the queue."""
    monkeypatch.setenv("PYTHONPATH", str(library))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    here = Work(tmp_path, slurm)
    yield here
    here.leave()


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few images in the original layouts."""
    folder = tmp_path_factory.mktemp("raw")
    assert cli.main(["shards", "generate", "--out", str(folder), "--pictures", "64", "--json"]) == 0
    return folder


@pytest.fixture(scope="session")
def refcoco(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as shards."""
    out = tmp_path_factory.mktemp("data") / "refcoco"
    assert cli.main(["shards", "build", "refcoco", "--root", f"{raw}/refer", "--out", str(out), "--json"]) == 0
    return out


@pytest.fixture(scope="session")
def undisturbed(refcoco: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that the stages of `graph` train, without SLURM."""
    return trained(tmp_path_factory.mktemp("undisturbed") / "run", refcoco)


@pytest.fixture
def graph(work: Work, refcoco: Path) -> dict[str, Stage]:
    """A training on two nodes, and a stage after it."""
    return train_stages(work, refcoco)


@pytest.fixture(autouse=True)
def _project_root_is_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    assert os.environ.get("SLURM_JOB_ID") is None, "the suite starts a SLURM of its own and may not run in a job"
