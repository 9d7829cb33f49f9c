"""A network whose declaration changed is made anew, and only its own users are stopped for it."""

from __future__ import annotations

from memoryark_lab import deployment
from testinfra.host import Host

CONVERGE = "molecule/networks/converge.yml"


def test_a_network_that_changed_is_made_anew_and_its_users_are_stopped(host: Host, image: str) -> None:
    run = f"podman run --rm --name user --network test-other-net {image}"
    # Podman labels a container with the unit that it finds in its environment, as Quadlet's units set it.
    unit = "--unit=test-user --property=KillMode=mixed --setenv=PODMAN_SYSTEMD_UNIT=test-user.service"
    host.check_output(f"systemd-run --quiet {unit} {run}")
    host.check_output("timeout 60 sh -c 'until podman container exists user; do sleep 0.2; done'")
    done = deployment.deploy_or_fail(
        "molecule", "--extra-vars", "other_subnet=10.99.4.0/24", playbook=CONVERGE
    )
    assert done.changed == 1
    assert host.run("systemctl is-active test-user").failed
    address = host.check_output("ip -4 -o address show test-other; podman network inspect test-other-net")
    assert "10.99.4.0/24" in address
    assert "10.99.2." not in address
    again = deployment.deploy_or_fail(
        "molecule", "--extra-vars", "other_subnet=10.99.4.0/24", playbook=CONVERGE
    )
    assert again.changed == 0
