"""What is published: sdist and wheel; and the wheel at work in an environment of its own, from an empty folder."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from configparser import ConfigParser
from pathlib import Path

import pytest

import laconvnet

ROOT = laconvnet.ROOT
ROOMS = ("configs", "kernels", "launch", "pipeline", "shards")
Command = Callable[..., str]

pytestmark = pytest.mark.slow


def ran(*command: object, cwd: Path, **environment: str) -> str:
    # No PYTHONPATH: nothing of the checkout may help.
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | environment
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=variables, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, f"{shlex.join(map(str, command))}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the sdist: what the sdist lacks, the wheel lacks."""
    place = tmp_path_factory.mktemp("built")
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, files.split("\0")):  # a copy: building leaves folders in its source
        if (ROOT / name).is_file():
            (place / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, place / "source" / name)
    ran(sys.executable, "-m", "build", "--outdir", place / "dist", place / "source", cwd=place)
    (found,) = (place / "dist").glob("*.whl")
    assert [path.name for path in (place / "dist").glob("*.tar.gz")] == [f"laconvnet-{laconvnet.__version__}.tar.gz"]
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The programs of an environment with the wheel beside Hugging Face's `kernels`; and an empty folder.

    The dependencies are this environment's own: behind a plain path, so that its editable install is not found.
    """
    place = tmp_path_factory.mktemp("environment")
    ran(sys.executable, "-m", "venv", place / "venv", cwd=place)
    bin_ = place / "venv" / "bin"
    ran(bin_ / "pip", "install", "-q", "--no-deps", wheel, "kernels", cwd=place)
    (site,) = (place / "venv" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (place / "empty").mkdir()
    return bin_, place / "empty"


@pytest.fixture
def laconvnet_(installed: tuple[Path, Path]) -> Command:
    bin_, empty = installed
    return lambda *words, **environment: ran(bin_ / "laconvnet", *words, cwd=empty, OMP_NUM_THREADS="2", **environment)


def test_setup_names_every_package(wheel: Path) -> None:
    """Packages are listed by hand, since a finder cannot put a name before what it finds."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = set(setup["options"]["packages"].split())
    there = {"laconvnet", *(f"laconvnet.{'.'.join(init.parent.relative_to(ROOT).parts)}" for init in packages())}
    assert listed == there


def packages() -> list[Path]:
    return [init for room in ROOMS for init in (ROOT / room).rglob("__init__.py")]


def test_the_wheel_holds_every_file_of_the_rooms_and_installs_one_name(wheel: Path) -> None:
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in inside} == {"laconvnet"}
    tracked = subprocess.run(["git", "ls-files", *ROOMS], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    wanted = {f"laconvnet/{name}" for name in tracked.splitlines() if (ROOT / name).is_file()}
    assert wanted - inside == set()


def test_it_stands_beside_hugging_face_s_kernels(installed: tuple[Path, Path]) -> None:
    bin_, empty = installed
    code = "import kernels, laconvnet.kernels; print(kernels.__file__); print(laconvnet.kernels.__file__)"
    theirs, ours = ran(bin_ / "python", "-c", code, cwd=empty).split()
    site = str(bin_.parent / "lib")
    assert theirs.startswith(site)
    assert theirs.endswith("/site-packages/kernels/__init__.py")
    assert ours.startswith(site)
    assert ours.endswith("/site-packages/laconvnet/kernels/__init__.py")


def test_the_doctor_names_the_file_that_the_operator_came_from(
    installed: tuple[Path, Path], laconvnet_: Command
) -> None:
    (row,) = (line for line in laconvnet_("doctor", "--json").splitlines() if '"laconvnet.kernels"' in line)
    assert str(installed[0].parent) in row
    assert "/site-packages/laconvnet/kernels/__init__.py" in row


def test_version_and_a_graph_s_configurations_come_out_of_the_wheel(laconvnet_: Command) -> None:
    assert laconvnet_("--version") == f"laconvnet {laconvnet.__version__}\n"
    plan = laconvnet_("launch", "configs/demo/stages.yaml", "--dry-run")
    assert "pretrain" in plan


def test_the_road_of_the_help_and_a_prediction(installed: tuple[Path, Path], laconvnet_: Command) -> None:
    _, empty = installed
    road = re.findall(r"^  laconvnet (.*)$", laconvnet_("--help"), re.MULTILINE)
    road = [line for line in road if shlex.split(line)[0] in ("shards", "train", "eval", "report")]
    assert len(road) >= 5
    for line in road:
        words = shlex.split(line.replace("--pictures 1000", "--pictures 60"))
        if words[0] == "train":
            words += ["--data.batch", "8", "--schedule.epochs", "0.3"]
        laconvnet_(*words)
    assert (empty / "runs" / "first" / "report.html").is_file()
    image = next((empty / "raw" / "refer").rglob("*.jpg"))
    words = ["--image", str(image), "--text", "the large shape", "--out", "answer.png", "--json"]
    assert '"box"' in laconvnet_("predict", "runs/first", *words)
    assert (empty / "answer.png").is_file()
