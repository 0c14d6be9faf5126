"""docs/deployment holds together: its files agree with each other, with the code, and with the guide."""

from __future__ import annotations

import configparser
import re
import shlex
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
import yaml
from django.core.management import load_command_class

from pipeteer_django.conf import Settings

pytestmark = pytest.mark.once
DOCS = Path(__file__).resolve().parent.parent / "docs"
FILES = DOCS / "deployment"
UNITS = sorted(FILES.glob("*.service"))
MANIFESTS = list(yaml.safe_load_all((FILES / "kubernetes.yaml").read_text()))
WORKING = [each for each in MANIFESTS if each["kind"] in ("Deployment", "Job")]
USUAL = Settings()


def settings(monkeypatch: pytest.MonkeyPatch, **environment: str) -> dict[str, Any]:
    for name, value in ({"DATABASE_PASSWORD": "secret"} | environment).items():
        monkeypatch.setenv(name, value)
    return run_path(str(FILES / "settings.py"))


def pod(manifest: dict[str, Any]) -> dict[str, Any]:
    return manifest["spec"]["template"]["spec"]


def name(manifest: dict[str, Any]) -> str:
    return str(manifest["metadata"]["name"])


def option(unit: Path, key: str) -> str:
    (value,) = re.findall(rf"^{key}=(.*)$", unit.read_text(), re.MULTILINE)
    return str(value)


def parses(command: list[str]) -> Any:
    """What the command of ours makes of its arguments; it raises if it does not know one."""
    name, *arguments = command[command.index("manage.py") + 1 :]
    parser = load_command_class("pipeteer_django", name).create_parser("manage.py", name)
    return parser.parse_args(arguments)


def pgbouncer() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(comment_prefixes=(";",))
    parser.read(FILES / "pgbouncer.ini")
    return parser


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit(unit: Path) -> None:
    command = option(unit, "ExecStart").replace("${PROCESSES}", "2").replace("$PIPELINES", "")
    if "manage.py" in command:
        parses(shlex.split(command))
    assert option(unit, "Restart") == "always"
    assert option(unit, "StartLimitIntervalSec") == "0"
    if "pipeteer_worker" in command:
        assert int(option(unit, "TimeoutStopSec")) > USUAL.GRACE
        assert option(unit, "KillMode") == "mixed"


@pytest.mark.parametrize("manifest", WORKING, ids=name)
def test_a_manifest(manifest: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    containers = [*pod(manifest).get("initContainers", []), *pod(manifest)["containers"]]
    volumes = {volume["name"] for volume in pod(manifest)["volumes"]}
    for container in containers:
        assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes
        given = {each["name"]: str(each.get("value", "secret")) for each in container.get("env", [])}
        if not given:
            continue
        assert all(variable in (FILES / "settings.py").read_text() for variable in given)
        made = settings(monkeypatch, **given)["PIPETEER"]
        assert {"PUB_URL": made["PUB_URL"], "CURVE_KEYS": made["CURVE_KEYS"]} == {
            "PUB_URL": given.get("PIPETEER_PUB_URL", made["PUB_URL"]),
            "CURVE_KEYS": given.get("PIPETEER_KEYS", made["CURVE_KEYS"]),
        }
    command = pod(manifest)["containers"][0]["command"]
    if "manage.py" in command and "pipeteer" in " ".join(command):
        parses(command)
    if "pipeteer_worker" in command:
        assert pod(manifest)["terminationGracePeriodSeconds"] > USUAL.GRACE
    if manifest["kind"] == "Deployment":
        assert manifest["spec"]["selector"]["matchLabels"] == manifest["spec"]["template"]["metadata"]["labels"]


def test_the_proxys_service() -> None:
    (service,) = (each for each in MANIFESTS if each["kind"] == "Service")
    (proxy,) = (each for each in WORKING if name(each) == service["metadata"]["name"])
    assert service["spec"]["selector"] == proxy["spec"]["selector"]["matchLabels"]
    container = pod(proxy)["containers"][0]
    ports = [each["port"] for each in service["spec"]["ports"]]
    assert ports == [each["containerPort"] for each in container["ports"]]
    addresses = {each["name"]: each.get("value", "") for each in container["env"]}
    said = [addresses[f"PIPETEER_{which}_URL"].rsplit(":", 1)[1] for which in ("PUB", "SUB")]
    assert said == [str(port) for port in ports]


def test_the_way_to_the_primary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Django asks PgBouncer, which asks HAProxy, which asks Patroni."""
    database = settings(monkeypatch)["DATABASES"]["default"]
    bouncer, proxy = pgbouncer(), (FILES / "haproxy.cfg").read_text()
    listens = bouncer["pgbouncer"]
    patroni = yaml.safe_load((FILES / "patroni.yml").read_text())
    assert (database["HOST"], database["PORT"]) == (listens["listen_addr"], listens["listen_port"])
    target = dict(each.split("=") for each in bouncer["databases"][database["NAME"]].split())
    assert f"bind {target['host']}:{target['port']}" in proxy
    assert f"server db-1 {patroni['postgresql']['connect_address']} " in proxy
    assert f"check port {patroni['restapi']['listen'].rsplit(':')[1]}" in proxy


def test_numbers() -> None:
    """Enough connections for all, renewals that do not wait for long, and no two primaries."""
    bouncer = pgbouncer()["pgbouncer"]
    dcs = yaml.safe_load((FILES / "patroni.yml").read_text())["bootstrap"]["dcs"]
    assert bouncer["pool_mode"] == "transaction"
    assert int(bouncer["default_pool_size"]) >= 2 * (USUAL.THREADS + 2)
    assert 3 * int(bouncer["default_pool_size"]) < dcs["postgresql"]["parameters"]["max_connections"] - 20
    assert int(bouncer["query_wait_timeout"]) <= USUAL.RESERVE.total_seconds() / 2
    assert dcs["ttl"] >= dcs["loop_wait"] + 2 * dcs["retry_timeout"]
    assert dcs["synchronous_mode"] is True


def test_the_guide_says_what_the_files_say() -> None:
    every = "\n".join(path.read_text() for path in FILES.iterdir() if path.is_file())
    tables = [
        line.split("|")[1] for line in (DOCS / "production.md").read_text().splitlines() if line.startswith("| `")
    ]
    said = [each for cell in tables for each in re.findall(r"`([^`]+[=:] ?[^`]+)`", cell)]
    assert len(said) > 8
    assert [each for each in said if each not in every] == []
