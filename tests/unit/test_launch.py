"""Whom a command runs as, and which file it is."""

from __future__ import annotations

import os

import pytest

from ebpfaudit.errors import LaunchError, UsageError
from ebpfaudit.launch import Launcher, choose_user


def test_the_user_asked_for_by_name_or_number():
    assert choose_user("nobody", {}).uid == 65534
    assert choose_user("65534", {}).name == "nobody"
    assert choose_user("nobody", {"SUDO_UID": "1"}).name == "nobody"


def test_an_unknown_user_is_a_usage_error():
    with pytest.raises(UsageError, match="no user 'nemo'"):
        choose_user("nemo", {})


def test_nobody_asked_for_means_no_change():
    assert choose_user(None, {}) is None
    assert choose_user(None, {"SUDO_UID": "0"}) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root drops to the one who called sudo")
def test_under_sudo_it_is_whoever_called_it():
    user = choose_user(None, {"SUDO_UID": "65534", "SUDO_GID": "65534", "SUDO_USER": "nobody"})
    assert (user.uid, user.gid) == (65534, 65534)
    assert 65534 in user.groups


def test_a_program_that_is_nowhere_in_path_is_not_even_forked(tmp_path):
    with pytest.raises(LaunchError, match="cannot execute 'true'") as failure:
        Launcher(["true"], None, {"PATH": str(tmp_path)})
    assert failure.value.exit_code == 127
