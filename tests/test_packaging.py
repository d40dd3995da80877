"""What a wheel installs: one import name, whose commands run beside folders of any name."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
LINKED = ("export", "profiles", "serving")
COMMANDS = ("lavit-export", "lavit-profile", "lavit-serve", "lavit-train")
FOREIGN = 'raise ImportError("a folder of the user was imported in place of lavit_deploy")\n'


def run(*command, **options):
    """Run a program; what it printed, or a failure that shows it."""
    ran = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=300, **options
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The source distribution, and the wheel that is built from it: a folder with both."""
    folder = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT))
    return folder


@pytest.fixture(scope="module")
def wheel(built):
    (file,) = built.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """An environment that holds the wheel, and the dependencies of this one without its project.

    A path in a .pth file brings packages, but not the .pth files beside them: the editable
    installation that the tests run from stays out.
    """
    environment = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", str(environment))
    python = environment / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python))
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel))
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment / "bin"


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """A folder of a user who has packages called export, profiles and serving."""
    folder = tmp_path_factory.mktemp("crowded")
    for name in LINKED:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(FOREIGN)
    return folder


def outside():
    """The environment without what would lead back to this checkout."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.mark.parametrize("name", LINKED)
def test_the_folders_beside_the_package_are_linked_into_it(name):
    link = ROOT / "lavit_deploy" / name
    assert link.is_symlink()
    assert str(link.readlink()) == f"../{name}"


def test_a_wheel_has_one_import_name_and_every_source_file(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"lavit_deploy"}
    sources = {
        str(file.relative_to(ROOT))
        for file in Path(ROOT, "lavit_deploy").rglob("*.py")
        if "__pycache__" not in file.parts
    } | {
        str(Path("lavit_deploy", file.relative_to(ROOT)))
        for part in LINKED
        for file in (ROOT / part).rglob("*.py")
        if "__pycache__" not in file.parts
    }
    assert {name for name in names if name.endswith(".py")} == sources
    data = {".html", ".css", ".js", ".svg", ".cpp", ".hpp", ".S", ".typed"}
    assert {Path(name).suffix for name in names} >= data


def test_a_source_distribution_holds_files_and_no_links(built):
    (file,) = built.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        members = archive.getmembers()
    assert not [member.name for member in members if member.issym() or member.islnk()]
    assert any(member.name.endswith("lavit_deploy/serving/cli.py") for member in members)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_installed_command_runs_beside_folders_of_the_same_names(installed, crowded, command):
    said = run(str(installed / command), "--help", cwd=crowded, env=outside())
    assert f"usage: {command}" in said


def test_installed_modules_run_beside_folders_of_the_same_names(installed, crowded):
    python = str(installed / "python")
    module = "lavit_deploy.export.plugins.compile_kernels"
    assert "usage" in run(python, "-m", module, "--help", cwd=crowded, env=outside())
    code = "import lavit_deploy.serving.ray_app as app; print(app.__file__)"
    where = run(python, "-c", code, cwd=crowded, env=outside()).strip()
    assert Path(where).is_relative_to(installed.parent)


def test_an_installed_export_is_served_beside_folders_of_the_same_names(installed, crowded):
    checkpoint = ROOT / "examples" / "lavit_digits.pth"
    arguments = ["--ckpt", str(checkpoint), "--target", "onnx", "--out", "digits.bundle"]
    run(str(installed / "lavit-export"), *arguments, cwd=crowded, env=outside())
    shown = run(
        str(installed / "lavit-serve"), "digits.bundle", "--show-config", cwd=crowded, env=outside()
    )
    assert "digits.bundle" in shown
