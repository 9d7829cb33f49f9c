"""Podman is Debian 13's, runs containers on nftables, and replaces nothing by itself."""

from __future__ import annotations

import json

from testinfra.host import Host


def test_version_is_debians(host: Host) -> None:
    assert host.check_output("podman version --format '{{.Client.Version}}'").startswith("5.4.")


def test_networks_are_made_by_netavark_on_nftables(host: Host) -> None:
    info = json.loads(host.check_output("podman info --format json"))
    assert info["host"]["networkBackend"] == "netavark"
    assert info["host"]["logDriver"] == "journald"
    host.check_output("podman network create --interface-name test-probe probe-net")
    host.check_output("podman network rm probe-net")
    merged = host.check_output(
        "podman info --debug 2>&1; cat /etc/containers/containers.conf.d/memoryark.conf"
    )
    assert 'firewall_driver = "nftables"' in merged


def test_the_kernel_forwards_also_after_sysctl_is_applied_again(host: Host) -> None:
    host.check_output("systemctl restart systemd-sysctl")
    assert host.check_output("cat /proc/sys/net/ipv4/ip_forward") == "1"


def test_podman_never_updates_images_by_itself(host: Host) -> None:
    for unit in ("podman-auto-update.timer", "podman-auto-update.service"):
        assert host.run(f"systemctl is-enabled {unit}").stdout.strip() == "masked"
        assert host.run(f"systemctl start {unit}").failed


def test_short_image_names_are_not_guessed(host: Host) -> None:
    refused = host.run("podman pull --quiet redis")
    assert refused.failed
    assert "short-name" in refused.stderr


def test_the_quadlet_generator_works(host: Host) -> None:
    assert host.run("/usr/libexec/podman/quadlet -dryrun").succeeded
