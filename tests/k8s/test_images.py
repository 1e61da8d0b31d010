"""The Containerfile: linted, and the images that the manifests name are the ones that it builds."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from screening import __version__
from tests.k8s.rendering import K8S, RENDERED, ROOT, all_pods, containers, program, render

CONTAINERFILE = K8S / "images" / "Containerfile"


def targets() -> set[str]:
    return set(re.findall(r"(?m)^FROM .* AS (\w+)$", CONTAINERFILE.read_text()))


def test_containerfile_has_no_complaints() -> None:
    done = subprocess.run(
        [program("hadolint"), str(CONTAINERFILE)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_manifests_use_images_of_the_containerfile_and_of_this_version() -> None:
    used = {
        container["image"].rpartition("/")[2]
        for rendered in RENDERED
        for _, template in all_pods(render(*rendered))
        for container in containers(template)
    }
    ours = {image for image in used if image.startswith("screening-")}
    assert used - ours == {"postgres:17.6", "node-exporter:v1.8.2"}
    for image in ours:
        name, _, tag = image.partition(":")
        assert tag == __version__, image
        assert name.removeprefix("screening-").removesuffix("-cpu") in targets(), image


def test_each_image_of_an_overlay_for_clusters_names_a_registry() -> None:
    """Without one, a node would ask Docker Hub for `screening-mlflow`."""
    for overlay in ("one-gpu", "production"):
        for _, template in all_pods(render(overlay)):
            for container in containers(template):
                image = container["image"]
                assert not image.startswith("screening-"), f"{overlay}: {image}"


def test_images_run_as_the_user_of_the_pods() -> None:
    text = CONTAINERFILE.read_text()
    for stage in re.split(r"(?m)^FROM ", text)[1:]:
        if "ENTRYPOINT" in stage:
            assert stage.index("USER 10001:10001") < stage.index("ENTRYPOINT")
    assert "useradd --uid 10001 --gid 10001" in text


def test_no_image_keeps_build_arguments_in_its_history() -> None:
    """The address of a package index may contain a password."""
    text = CONTAINERFILE.read_text()
    with_arguments = [stage for stage in re.split(r"(?m)^FROM ", text)[1:] if re.search(r"(?m)^ARG ", stage)]
    assert with_arguments
    for stage in with_arguments:
        name = stage.partition("\n")[0].rpartition(" ")[2]
        assert "ENTRYPOINT" not in stage, name
        assert f"FROM {name} " not in text, f"an image begins with the layers of {name}"


def test_every_file_that_is_copied_exists() -> None:
    for sources in re.findall(r"(?m)^COPY (?!--from)(.*) \S+$", CONTAINERFILE.read_text()):
        for source in sources.split():
            assert (ROOT / source).exists(), source


def test_pinned_versions_of_the_mlflow_image_are_those_of_the_project() -> None:
    (server,) = re.findall(r"mlflow==(\S+)", CONTAINERFILE.read_text())
    assert f"mlflow-skinny=={server}\n" in (ROOT / "constraints.txt").read_text()


@pytest.fixture
def trial(tmp_path: Path) -> Path:
    """A copy of `try` whose service only sleeps: it is called ready, and every question fails."""
    images, programs = tmp_path / "k8s" / "images", tmp_path / "bin"
    product = tmp_path / "clients" / "python" / "examples" / "products" / "01"
    for folder in (images, programs, product):
        folder.mkdir(parents=True)
    for name in ("original", *"abcd"):
        (product / f"{name}.jpg").touch()
    stubs = {
        images / "confine": "exec sleep 600",
        programs / "buildah": "echo container",
        programs / "curl": 'case "$*" in */readyz) exit 0 ;; *) exit 22 ;; esac',
    }
    for path, line in stubs.items():
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)
    return Path(shutil.copy(K8S / "images" / "try", images))


@pytest.mark.slow
def test_a_failed_question_ends_the_trial_of_an_image_and_its_service(trial: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    with subprocess.Popen([str(trial), "image"], env=environment, start_new_session=True) as process:
        try:
            assert process.wait(300) == 22
            with pytest.raises(ProcessLookupError):  # none of its processes is left
                os.killpg(process.pid, 0)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert not list(tmp_path.glob("tmp.*")), "its folder is left"
