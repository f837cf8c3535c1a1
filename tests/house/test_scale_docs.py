"""Commands and manifest of docs/scale.md parse, and agree with what `train.py` takes."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

import train
from vit_jax.processes import ADDRESS, COUNT, INDEX

PAGE = (Path(__file__).parents[2] / "docs" / "scale.md").read_text()
SPEC = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0])["spec"]
(JOB,) = SPEC["replicatedJobs"]
(CONTAINER,) = JOB["template"]["spec"]["template"]["spec"]["containers"]


def test_every_command_of_the_page_is_one_that_train_takes():
    shell = re.findall(
        r"train\.py ([^\"\n]*)", "\n".join(re.findall(r"```bash(.*?)```", PAGE, re.S))
    )
    commands = [shlex.split(line) for line in shell]
    commands.append(CONTAINER["command"][2:])
    assert len(commands) == 3
    for command in commands:
        name, recipe = train.parse(command)
        assert name == "article" and recipe.out and recipe.distributed == "auto"


def test_the_manifest_starts_as_many_processes_as_it_announces():
    job = JOB["template"]["spec"]
    variables = {entry["name"]: entry for entry in CONTAINER["env"]}
    assert set(variables) == {ADDRESS, COUNT, INDEX}
    assert int(variables[COUNT]["value"]) == job["parallelism"] == job["completions"]
    assert job["completionMode"] == "Indexed"
    name, subdomain = "vitwin", SPEC["network"]["subdomain"]
    address = f"{name}-{JOB['name']}-0-0.{subdomain}:"  # JobSet's law of host names
    assert variables[ADDRESS]["value"].startswith(address)
    selector = job["template"]["spec"]["nodeSelector"]
    rows, columns = map(int, selector["cloud.google.com/gke-tpu-topology"].split("x"))
    chips = int(CONTAINER["resources"]["limits"]["google.com/tpu"])
    assert chips * job["parallelism"] == rows * columns


def test_a_command_that_train_does_not_take_is_noticed():
    with pytest.raises(SystemExit):
        train.parse(["article", "--mesh.pipeline", "2"])
