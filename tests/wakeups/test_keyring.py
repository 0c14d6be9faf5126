"""`manage.py pipeteer_keys`: what it makes, what it never overwrites, what it says."""

from __future__ import annotations

import io
import stat
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from zmq.auth import load_certificate

pytestmark = pytest.mark.once


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def keys(folder: Path, *arguments: str) -> str:
    out = io.StringIO()
    call_command("pipeteer_keys", folder, *arguments, stdout=out)
    return out.getvalue()


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_it_makes(folder: Path) -> None:
    said = keys(folder, "web-1", "--proxy", "queue")
    of_all = {"host.key", "host.key_secret", "proxy.key"}
    of_host = {"proxy.key_secret", "allowed/queue.key", "allowed/web-1.key"}
    assert set(files(folder)) == {
        *("proxy.key", "proxy.key_secret", "allowed/queue.key", "allowed/web-1.key"),
        *(f"hosts/web-1/{name}" for name in of_all),
        *(f"hosts/queue/{name}" for name in of_all | of_host),
    }
    assert f"web-1: {folder}/hosts/web-1\n" in said
    assert f"queue: {folder}/hosts/queue  (may run the proxy)\n" in said
    assert "CURVE_KEYS" in said
    assert "copy there again" in said
    public, secret = load_certificate(folder / "hosts/web-1/host.key_secret")
    assert load_certificate(folder / "allowed/web-1.key") == (public, None)
    assert secret


def test_secrets_are_their_owners_only(folder: Path) -> None:
    keys(folder, "web-1", "--proxy", "queue")
    secrets = list(folder.rglob("*.key_secret"))
    assert len(secrets) == 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.glob("hosts/*"))} == {0o700}


def test_nothing_is_overwritten(folder: Path) -> None:
    keys(folder, "web-1", "--proxy", "queue")
    before = files(folder)
    said = keys(folder, "web-1", "queue", "--proxy", "queue")
    assert files(folder) == before
    assert said.count("has keys already, which were kept") == 2


def test_a_host_is_added_later(folder: Path) -> None:
    keys(folder, "--proxy", "queue")
    before = files(folder)
    keys(folder, "web-2")
    after = files(folder)
    assert before.items() <= after.items()
    assert after["hosts/queue/allowed/web-2.key"] == after["hosts/web-2/host.key"]


def test_a_host_is_removed_and_made_anew(folder: Path) -> None:
    keys(folder, "web-1", "web-2", "--proxy", "queue")
    before = files(folder)
    assert "web-1: removed.\n" in keys(folder, "--remove", "web-1")
    assert set(before) - set(files(folder)) == {
        *("allowed/web-1.key", "hosts/queue/allowed/web-1.key"),
        *(f"hosts/web-1/{name}" for name in ("host.key", "host.key_secret", "proxy.key")),
    }
    keys(folder, "web-1")
    assert files(folder)["hosts/web-1/host.key"] != before["hosts/web-1/host.key"]


def test_removing_and_adding_in_one_call_changes_a_hosts_keys(folder: Path) -> None:
    keys(folder, "web-1", "--proxy", "queue")
    before = files(folder)
    keys(folder, "web-1", "--remove", "web-1")
    after = files(folder)
    assert after.keys() == before.keys()
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {
        *("allowed/web-1.key", "hosts/queue/allowed/web-1.key", "hosts/web-1/host.key", "hosts/web-1/host.key_secret"),
    }


def test_removing_a_host_that_knew_the_proxys_key_says_what_that_means(folder: Path) -> None:
    keys(folder, "web-1", "--proxy", "queue")
    assert "knew the proxy's secret key" in keys(folder, "--remove", "queue")
    assert "No host may run the proxy yet" in keys(folder)


def test_without_names_it_lists(folder: Path) -> None:
    with pytest.raises(CommandError, match="has keys of no host"):
        keys(folder)
    assert not folder.exists()
    keys(folder, "web-1")
    before = files(folder)
    assert "web-1: " in keys(folder)
    assert files(folder) == before


@pytest.mark.parametrize("name", ["../web", "a/b", "", ".hidden", "x" * 64, "a b", "a\n"])
def test_names_that_are_no_file_names(folder: Path, name: str) -> None:
    with pytest.raises(CommandError, match="cannot be a host's name"):
        keys(folder, name)
    assert not folder.exists()


def test_a_host_that_is_not_there_cannot_be_removed(folder: Path) -> None:
    keys(folder, "web-1")
    with pytest.raises(CommandError, match=r"no keys of 'web-2'\. It has those of: web-1"):
        keys(folder, "--remove", "web-2")


def test_a_strange_key_in_the_list_is_not_overwritten(folder: Path) -> None:
    keys(folder, "--proxy", "queue")
    copied = folder / "hosts/queue/allowed/queue.key"
    copied.write_text("somebody's")
    with pytest.raises(CommandError, match=r"holds another key.*Nothing was overwritten"):
        keys(folder, "web-1")
    assert copied.read_text() == "somebody's"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CommandError, match="cannot be made"):
        keys(tmp_path / "file", "web-1")
